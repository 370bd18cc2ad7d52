import numpy as np
import pytest
import torch

from problems.arrays import floating, random_symmetric


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([[1, 2]], torch.float64),
        (np.float32([1.5]), torch.float32),
        (torch.tensor([1, 2]), torch.float64),
        (torch.tensor([1.0, 2.0], dtype=torch.float16, requires_grad=True), torch.float16),
    ],
)
def test_numbers_become_a_floating_point_tensor_that_shares_nothing(value, dtype):
    tensor = floating("A", value)
    assert tensor.dtype == dtype
    assert not tensor.requires_grad
    before = torch.as_tensor(value).detach().clone()
    tensor += 1
    assert torch.equal(torch.as_tensor(value).detach(), before)
    assert torch.equal(tensor - 1, before.to(dtype))


@pytest.mark.parametrize("wrong", ["abc", [[1], [1, 2]], [1j], torch.tensor([1j]), object()])
def test_what_is_no_array_of_real_numbers_is_refused(wrong):
    with pytest.raises(TypeError, match="expected A an array of"):
        floating("A", wrong)


def test_random_matrices_have_the_eigenvalues_asked_for_and_eigenvectors_of_their_own():
    eigenvalues = np.array([-1.0, 2.0, 5.0])
    matrices = random_symmetric(np.random.default_rng(0), 4, eigenvalues)
    np.testing.assert_array_equal(matrices, np.swapaxes(matrices, -1, -2))
    np.testing.assert_allclose(np.linalg.eigvalsh(matrices), np.tile(eigenvalues, (4, 1)), atol=1e-14)
    assert np.abs(matrices[0] - matrices[1]).max() > 0.1
