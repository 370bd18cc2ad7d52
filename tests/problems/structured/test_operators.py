"""Products, solves, spectra against numpy on the matrix itself, written out from what defines it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jacrev, vmap

from convergence import peak_bytes
from problems import Circulant, DiagonalPlusLowRank, Operator, Sparse
from tests.independent import EPS, assert_near
from tests.strategies import normal, seeds

# ---- instances, each with the matrix that it stands for


def low_rank(seed: int, q: int) -> tuple[Operator, np.ndarray]:
    rng = np.random.default_rng(seed)
    D, F = rng.uniform(0.5, 2.0, q), rng.standard_normal((min(3, q), q))
    return DiagonalPlusLowRank(D, F), np.diag(D) + F.T @ F


def circulant(seed: int, q: int) -> tuple[Operator, np.ndarray]:
    """(A x)_k = sum_l kernel_(k - l) x_l on a periodic grid, with an even kernel that dominates at 0."""
    rng = np.random.default_rng(seed)
    grid = (q,) if seed % 2 else (2, q // 2) if q % 2 == 0 else (q, 1)
    kernel = rng.standard_normal(grid)
    kernel = kernel + np.roll(np.flip(kernel), (1,) * len(grid), tuple(range(len(grid))))  # even
    kernel.flat[0] = 1.5 * np.abs(kernel).sum()
    index = np.stack(np.unravel_index(np.arange(q), grid), 1)
    apart = (index[:, None] - index[None]) % np.array(grid)
    return Circulant(np.fft.fftn(kernel).real), kernel[tuple(apart[..., k] for k in range(len(grid)))]


def sparse(seed: int, q: int) -> tuple[Operator, np.ndarray]:
    """A pattern without diagonals in it, unless q is small."""
    rng = np.random.default_rng(seed)
    W = np.where(rng.random((q, q)) < 2 / q, rng.standard_normal((q, q)), 0.0)
    W = np.triu(W, 1) + np.triu(W, 1).T
    A = W + np.diag(np.abs(W).sum(0) + rng.uniform(0.5, 1.5, q))
    return Sparse(scipy.sparse.csr_matrix(A)), A


def grid(seed: int, q: int) -> tuple[Operator, np.ndarray]:
    """Diagonals at the offsets 1 and 3 alone."""
    rng = np.random.default_rng(seed)
    W = sum(np.diag(rng.standard_normal(q - o), o) for o in (1, 3) if o < q) + np.zeros((q, q))
    W = W + W.T
    A = W + np.diag(np.abs(W).sum(0) + rng.uniform(0.5, 1.5, q))
    return Sparse(A), A


MAKERS = [low_rank, circulant, sparse, grid]
made = pytest.mark.parametrize("make", MAKERS)


@made
@given(seed=seeds, q=st.integers(1, 12))
def test_products_and_solves_are_those_of_the_matrix(make, seed, q):
    operator, A = make(seed, q)
    x = normal(seed, 2, 3, q)
    matrix = torch.from_numpy(A)
    shifted = matrix @ matrix + 0.3 * torch.eye(q, dtype=torch.float64)
    # products of at most 12 terms; solves of conditioning below 1e3, 1e6 for the square
    scale = float(matrix.abs().sum(0).max())
    assert_near(operator.dense() / scale, matrix / scale, within=20 * EPS)
    assert_near(operator.product(x) / scale, x @ matrix / scale, within=50 * EPS)
    assert_near(operator.solve(x), torch.linalg.solve(matrix, x.unsqueeze(-1)).squeeze(-1), within=1e-12)
    exact = torch.linalg.solve(shifted, x.unsqueeze(-1)).squeeze(-1)
    assert_near(operator.solve_shifted_square(x, 0.3), exact, within=1e-11)
    assert torch.equal(operator.product(x[0, 0]), operator.product(x[0, :1])[0])


@made
@given(seed=seeds, q=st.integers(1, 12))
def test_all_eigenvalues_lie_within_the_spectrum_and_both_ends_are_exact_where_it_is_said(make, seed, q):
    operator, A = make(seed, q)
    eigenvalues = np.linalg.eigvalsh(A)
    low, high = operator.spectrum
    allowed = 1e-13 * eigenvalues[-1] * max(q, 4)
    assert 0 < low <= eigenvalues[0] + allowed
    assert high >= eigenvalues[-1] - allowed
    if not isinstance(operator, Sparse):
        assert low == pytest.approx(eigenvalues[0], abs=allowed)
        assert high == pytest.approx(eigenvalues[-1], abs=allowed)


@pytest.mark.parametrize("q", [1, 2, 5, 9])
def test_the_spectrum_of_a_multiple_of_the_identity_plus_low_rank_is_exact_at_its_pole(q):
    factor = normal(q, 2, q)
    operator = DiagonalPlusLowRank(torch.full((q,), 2.0, dtype=torch.float64), factor)
    eigenvalues = torch.linalg.eigvalsh(2 * torch.eye(q, dtype=torch.float64) + factor.T @ factor)
    assert operator.spectrum == pytest.approx((float(eigenvalues[0]), float(eigenvalues[-1])), rel=1e-13)
    assert DiagonalPlusLowRank([1.0, 2.0, 3.0], np.zeros((1, 3))).spectrum == pytest.approx((1.0, 3.0), rel=1e-15)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 6), (4, 4), (3, 5)])
def test_the_laplacian_of_a_grid_attains_the_lower_bound_and_with_equal_weights_nearly_the_upper(rows, columns):
    operator = Sparse.grid(rows, columns, kappa=5.0, rng=np.random.default_rng(0))
    A = operator.dense()
    low, high = operator.spectrum
    assert float(torch.linalg.eigvalsh(A)[0]) == pytest.approx(low, abs=1e-13)
    assert low == pytest.approx(1.0, abs=1e-13)
    assert high <= 5.0 + 1e-12
    ones = torch.ones(rows * columns, dtype=torch.float64)
    assert_near(operator.product(ones), ones, within=20 * EPS)
    assert int((A != 0).sum()) == rows * columns + 2 * (rows * (columns - 1) + (rows - 1) * columns)


@pytest.mark.parametrize("kappa", [1.0, 7.0])
def test_random_instances_have_the_conditioning_asked_for(kappa):
    def rng() -> np.random.Generator:
        return np.random.default_rng(1)

    for operator in (
        DiagonalPlusLowRank.random(40, rank=3, kappa=kappa, rng=rng()),
        Circulant.random((5, 8), kappa=kappa, rng=rng()),
        Circulant.random((1, 1), kappa=kappa, rng=rng()),
        Sparse.grid(5, 8, kappa=kappa, rng=rng()),
    ):
        eigenvalues = torch.linalg.eigvalsh(operator.dense())
        assert float(eigenvalues[0]) >= 1 - 1e-12
        assert float(eigenvalues[-1]) <= kappa * (1 + 1e-12)
    whole = Circulant.random((5, 8), kappa=kappa, rng=rng()).spectrum
    assert whole == pytest.approx((1.0, kappa), rel=1e-14)


@made
@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 4)])
def test_rows_one_by_one_give_the_same_product(make, lead, monkeypatch):
    operator, _ = make(3, 10)
    x = normal(0, *lead, 10)
    together = operator.product(x)
    monkeypatch.setattr("problems.structured.operators._WIDE", 1)
    assert_near(operator.product(x), together, within=50 * EPS)
    assert_near(operator.product(x.expand(2, *x.shape)), together.expand(2, *x.shape), within=50 * EPS)


# ---- which layout


def test_sparse_matrices_are_laid_out_by_diagonals_where_these_are_few():
    assert grid(0, 12)[0].offsets == (1, 3)
    irregular = sparse(3, 40)[0]
    assert irregular.offsets is None
    assert irregular.columns.dtype == torch.int32
    assert Sparse.grid(4, 5, kappa=3.0, rng=np.random.default_rng(0)).offsets == (1, 5)


@given(seed=seeds, q=st.integers(2, 30))
def test_both_layouts_give_the_same_product(seed, q):
    _, A = grid(seed, q)
    order = np.random.default_rng(seed).permutation(q)
    x = normal(seed, q)
    shuffled = Sparse(A[np.ix_(order, order)])
    assert_near(shuffled.product(x[order]), Sparse(A).product(x)[order], within=50 * EPS)


# ---- derivatives


@made
def test_a_call_is_differentiable_twice_and_mapped(make):
    operator, A = make(4, 6)
    matrix = torch.from_numpy(A)
    x, d = normal(0, 3, 6), normal(1, 3, 6)

    def cube(x: Tensor) -> Tensor:
        return (operator(x) ** 3).sum()

    def written_out(x: Tensor) -> Tensor:
        return ((x @ matrix) ** 3).sum()

    within = 1e-12  # cubes of sums of six numbers below 100
    assert_near(grad(cube)(x[0]), grad(written_out)(x[0]), within=within)
    assert_near(jacrev(grad(cube))(x[0]), jacrev(grad(written_out))(x[0]), within=within)
    assert_near(vmap(grad(cube))(x), vmap(grad(written_out))(x), within=within)
    assert_near(vmap(cube, in_dims=1)(x.T.contiguous()), vmap(written_out)(x), within=within)
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cube(y), y, create_graph=True)
    (second,) = torch.autograd.grad((slope * d).sum(), y)
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(written_out(z), z, create_graph=True)
    assert_near(second, torch.autograd.grad((slope * d).sum(), z)[0], within=within)


@made
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch, of itself
def test_a_call_is_differentiable_in_forward_mode(make):
    operator, A = make(4, 6)
    x, d = normal(0, 2, 3, 6)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(operator(forward_ad.make_dual(x, d))).tangent
    assert_near(tangent, d @ torch.from_numpy(A), within=1e-12)


# ---- memory, dtype, device


def test_wide_rows_need_the_scratch_of_one():
    q, rows, rng = 2**13, 8, np.random.default_rng(0)
    laplacian, order = Sparse.grid(64, 128, kappa=3.0, rng=rng).matrix, rng.permutation(q)
    for operator in (
        DiagonalPlusLowRank.random(q, rank=2, kappa=3.0, rng=rng),
        Circulant.random((64, 128), kappa=3.0, rng=rng),
        Sparse(laplacian),
        Sparse(laplacian.tocsr()[order][:, order]),
    ):
        x = normal(0, rows, q)
        # 64 x 65 complex numbers are the transform of 64 x 128 real ones
        assert peak_bytes(lambda operator=operator, x=x: operator.product(x)) <= (rows * q + 2 * 64 * 65) * 8


@pytest.mark.parametrize(("make", "vectors"), [(low_rank, 1), (circulant, 2), (sparse, 2), (grid, 1)])
def test_a_product_makes_its_result_and_what_it_says_besides(make, vectors):
    operator, _ = make(1, 64)
    x = normal(0, 64)
    # 3 numbers for the factor's products; two numbers more in a transform
    assert 64 * 8 * vectors <= peak_bytes(lambda: operator.product(x)) <= (64 * vectors + 3) * 8


@made
def test_a_copy_in_single_precision_leaves_the_original(make):
    operator, A = make(2, 8)
    single = operator.to(dtype=torch.float32)
    x = normal(0, 8)
    for form in (single.product, single.solve, lambda x: single.solve_shifted_square(x, 1.0)):
        assert form(x.float()).dtype == torch.float32
    scale = float(np.abs(A).sum(0).max())
    assert_near(single.product(x.float()).double() / scale, operator.product(x) / scale, within=1e-6)
    assert operator.product(x).dtype == torch.float64
    assert single.spectrum == pytest.approx(operator.spectrum, rel=1e-5)


@pytest.mark.gpu
@made
def test_on_a_gpu_products_and_solves_are_those_on_the_cpu(make):
    operator, _ = make(5, 12)
    moved, x = operator.to("cuda"), normal(0, 3, 12)
    for name in ("product", "solve"):
        assert_near(getattr(moved, name)(x.cuda()).cpu(), getattr(operator, name)(x), within=1e-12)


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiagonalPlusLowRank([1.0, 0.0], [[1.0, 1.0]]), "expected a diagonal of positive numbers, got shape"),
        (lambda: DiagonalPlusLowRank([1.0, 1.0], [[1.0]]), r"expected a factor of shape \(r, 2\) .* got \(1, 1\)"),
        (lambda: DiagonalPlusLowRank([1.0], [[np.nan]]), r"expected a factor of shape \(r, 1\) with finite values"),
        (lambda: Circulant([1.0, -1.0]), "expected positive eigenvalues on a grid, got shape"),
        (lambda: Circulant([1.0, 2.0, 3.0]), r"expected eigenvalues with lambda\(-k\) = lambda\(k\)"),
        (lambda: Sparse(np.ones((2, 3))), r"expected a square matrix of finite values, got shape \(2, 3\)"),
        (lambda: Sparse([[2.0, 1.0], [0.0, 2.0]]), "expected a symmetric sparse matrix, got one that is not"),
        (lambda: Sparse([[1.0, 2.0], [2.0, 1.0]]), "expected a strictly diagonally dominant .* the rest by -1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
