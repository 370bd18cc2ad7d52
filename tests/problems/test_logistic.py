from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems import ProxLogistic
from tests.independent import assert_near
from tests.strategies import normal, seeds


def arguments(**change) -> dict[str, torch.Tensor]:
    """Well-formed arrays: two tasks, four examples, q = 3."""
    given_arrays = {
        "X": normal(0, 2, 4, 3),
        "y": torch.ones(2, 4),
        "X_val": normal(1, 2, 5, 3),
        "y_val": -torch.ones(2, 5),
    }
    return given_arrays | change


def mean_loss(X: np.ndarray, y: np.ndarray, theta: np.ndarray) -> float:
    return float(np.mean([np.log1p(np.exp(-label * (row @ theta))) for row, label in zip(X, y, strict=True)]))


@given(tasks=st.integers(1, 3), q=st.integers(1, 4), examples=st.integers(1, 6), seed=seeds, prox=st.floats(0.1, 10))
def test_the_objectives_equal_sums_over_examples_in_numpy(tasks, q, examples, seed, prox):
    problem = ProxLogistic.random(tasks=tasks, q=q, examples=examples, prox=prox, regulariser=0.3, seed=seed)
    pool, phi, theta = problem.sample(None, torch.Generator()), {"centre": normal(seed, q)}, normal(seed + 1, tasks, q)
    z = problem.embed(phi, pool)
    X, y, X_val, y_val = (problem.data[name].numpy() for name in ("X", "y", "X_val", "y_val"))
    centre, x = phi["centre"].numpy(), theta.numpy()
    lower = [mean_loss(X[i], y[i], x[i]) + prox / 2 * np.sum((x[i] - centre) ** 2) for i in range(tasks)]
    upper = [mean_loss(X_val[i], y_val[i], x[i]) + 0.3 / 2 * np.sum(centre**2) for i in range(tasks)]
    assert_near(problem.lower(z, theta, pool), torch.tensor(lower, dtype=torch.float64), within=1e-13)
    assert_near(problem.upper(z, theta, pool), torch.tensor(upper, dtype=torch.float64), within=1e-13)


def test_a_random_instance_keeps_training_and_validation_apart_and_flips_a_tenth_of_the_labels():
    problem = ProxLogistic.random(tasks=40, q=3, examples=50, seed=0)
    data = problem.data
    assert {name: tuple(tensor.shape) for name, tensor in data.items()} == {
        "X": (40, 50, 3),
        "y": (40, 50),
        "X_val": (40, 50, 3),
        "y_val": (40, 50),
    }
    assert not torch.equal(data["X"], data["X_val"])
    # a linear rule fits all labels but the flipped: 4000 of them, a tenth within 4 standard deviations (0.019);
    # the best rule that is found on noisy labels may follow a few of them
    wrong = 0
    for X, y in (
        (torch.cat([data["X"][i], data["X_val"][i]]), torch.cat([data["y"][i], data["y_val"][i]])) for i in range(40)
    ):
        rule = torch.linalg.lstsq(X, y.unsqueeze(-1)).solution
        wrong += int((((X @ rule).squeeze(-1) >= 0) != (y > 0)).sum())
    assert 0.08 < wrong / 4000 < 0.16


def test_phi_starts_standard_normal_from_the_generator_in_the_dtype_of_the_data():
    problem = ProxLogistic.random(tasks=1, q=2000, examples=1, seed=0)

    def draw(seed):
        return problem.phi0(torch.Generator().manual_seed(seed))["centre"]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert abs(float(draw(1).mean())) < 4 / math.sqrt(2000)
    assert abs(float(draw(1).var()) - 1) < 4 * math.sqrt(2 / 2000)
    assert problem.to(dtype=torch.float32).phi0(torch.Generator())["centre"].dtype == torch.float32


def test_the_constants_follow_the_data_and_the_regularisers():
    weak = ProxLogistic.random(tasks=3, q=3, examples=10, prox=0.5, regulariser=0.0, seed=0).constants
    strong = ProxLogistic.random(tasks=3, q=3, examples=10, prox=2.0, regulariser=1.0, seed=0).constants
    assert (weak.mu, weak.L_c, strong.mu, strong.L_c) == (0.5, 0.5, 2.0, 2.0)
    assert weak.L - weak.mu == pytest.approx(strong.L - strong.mu, rel=1e-12)
    assert (weak.rho_2, weak.ell, weak.B) == (strong.rho_2, strong.ell, strong.B)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"X": normal(0, 4, 3)}, r"expected X of shape \(M, n, d\) with labels \(M, n\), got \(4, 3\) and \(2, 4\)"),
        (
            {"y": torch.ones(2, 3)},
            r"expected X of shape \(M, n, d\) with labels \(M, n\), got \(2, 4, 3\) and \(2, 3\)",
        ),
        ({"y_val": torch.ones(2, 4)}, r"expected X_val of shape .* got \(2, 5, 3\) and \(2, 4\)"),
        ({"y": torch.zeros(2, 4)}, r"expected labels of X to be -1 or \+1"),
        ({"y_val": torch.full((2, 5), math.nan)}, r"expected labels of X_val to be -1 or \+1"),
        ({"X_val": normal(0, 2, 5, 4)}, r"X and X_val to share M and d, got \(2, 4, 3\) and \(2, 5, 4\)"),
        ({"X": normal(0, 3, 4, 3), "y": torch.ones(3, 4)}, r"to share M and d, got \(3, 4, 3\) and \(2, 5, 3\)"),
        ({"X": torch.full((2, 4, 3), math.inf)}, "expected finite values in data tensor 'X', got 24 that are not"),
        ({"prox": 0.0}, "expected prox > 0 and regulariser >= 0, got 0.0 and 0.1"),
        ({"prox": math.nan}, "expected prox a finite number, got nan"),
        ({"regulariser": -1.0}, "expected prox > 0 and regulariser >= 0, got 1.0 and -1.0"),
    ],
)
def test_malformed_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ProxLogistic(**arguments(**change))
