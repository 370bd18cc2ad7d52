from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import reference
from problems import ProxLogistic, ProxSoftmax
from tests.independent import assert_near
from tests.strategies import normal, seeds


def arguments(**change):
    """Well-formed arrays: two tasks, four examples, d = 3, three classes."""
    given_arrays = {
        "X": normal(0, 2, 4, 3),
        "y": torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]]),
        "X_val": normal(1, 2, 5, 3),
        "y_val": torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]]),
        "classes": 3,
    }
    return given_arrays | change


def mean_loss(X: np.ndarray, y: np.ndarray, theta: np.ndarray) -> float:
    W = theta.reshape(-1, X.shape[1])
    return float(np.mean([np.log(np.exp(W @ x).sum()) - (W @ x)[k] for x, k in zip(X, y, strict=True)]))


@given(
    tasks=st.integers(1, 3),
    classes=st.integers(2, 4),
    features=st.integers(1, 3),
    examples=st.integers(1, 6),
    seed=seeds,
)
def test_the_objectives_equal_sums_over_examples_in_numpy(tasks, classes, features, examples, seed):
    problem = ProxSoftmax.random(
        tasks=tasks, classes=classes, features=features, examples=examples, prox=0.7, regulariser=0.3, seed=seed
    )
    q = classes * features
    assert problem.q == q
    pool, phi, theta = problem.sample(None, torch.Generator()), {"centre": normal(seed, q)}, normal(seed + 1, tasks, q)
    z = problem.embed(phi, pool)
    X, y, X_val, y_val = (problem.data[name].numpy() for name in ("X", "y", "X_val", "y_val"))
    centre, x = phi["centre"].numpy(), theta.numpy()
    lower = [mean_loss(X[i], y[i], x[i]) + 0.35 * np.sum((x[i] - centre) ** 2) for i in range(tasks)]
    upper = [mean_loss(X_val[i], y_val[i], x[i]) + 0.15 * np.sum(centre**2) for i in range(tasks)]
    assert_near(problem.lower(z, theta, pool), torch.tensor(lower, dtype=torch.float64), within=1e-13)
    assert_near(problem.upper(z, theta, pool), torch.tensor(upper, dtype=torch.float64), within=1e-13)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_classes_are_logistic_heads_with_half_the_prox(seed):
    """psi = w_1 - w_0 solves the logistic lower level at phi_1 - phi_0: |w_0|^2 + |w_1|^2 = |psi|^2/2 + |sum|^2/2."""
    binary = ProxSoftmax.random(tasks=3, classes=2, features=4, examples=10, prox=0.6, regulariser=0.0, seed=seed)
    data = {name: 2.0 * tensor - 1 if name.startswith("y") else tensor for name, tensor in binary.data.items()}
    logistic = ProxLogistic(**data, prox=0.3, regulariser=0.0)
    phi = 3 * normal(seed, 2, 4)
    two = reference(binary, {"centre": phi.flatten()}, binary.sample(None, torch.Generator()))
    one = reference(logistic, {"centre": phi[1] - phi[0]}, logistic.sample(None, torch.Generator()))
    W = two.theta.view(3, 2, 4)
    # both references end within 1e-13 kappa of theta*
    assert_near(W[:, 1] - W[:, 0], one.theta, within=1e-11)
    assert_near(W.sum(1), phi.sum(0).expand(3, 4), within=1e-11)
    assert_near(two.value, one.value, within=1e-11)
    gradient = one.hypergradient["centre"]
    assert_near(two.hypergradient["centre"].view(2, 4), torch.stack([-gradient, gradient]), within=1e-11)
    # the same loss seen along (u, -u) / sqrt 2: twice the curvature less lambda, sqrt 8 the third derivative
    left, right = binary.constants, logistic.constants
    assert left.L - left.mu == pytest.approx(2 * (right.L - right.mu), rel=1e-12)
    assert left.rho_2 == pytest.approx(math.sqrt(8) * right.rho_2, rel=1e-12)


def test_a_random_instance_keeps_training_and_validation_apart_and_can_be_learned():
    problem = ProxSoftmax.random(tasks=20, classes=4, features=3, examples=60, prox=0.01, seed=0)
    data = problem.data
    assert data["X"].shape == data["X_val"].shape == (20, 60, 3)
    assert not torch.equal(data["X"], data["X_val"])
    assert set(data["y"].unique().tolist()) == {0, 1, 2, 3}
    pool = problem.sample(None, torch.Generator())
    W = reference(problem, {"centre": torch.zeros(12, dtype=torch.float64)}, pool).theta.view(20, 4, 3)
    hits = (torch.einsum("tkd,tnd->tnk", W, data["X_val"]).argmax(-1) == data["y_val"]).double().mean()
    # 0.1 * 3/4 of the labels are wrong by construction; without learning a quarter would be right
    assert 0.8 < float(hits) < 0.95


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": 1}, "expected classes an integer >= 2, got 1"),
        ({"classes": 2.0}, "expected classes an integer >= 1, got 2.0"),
        ({"classes": 2}, "expected labels of X to be int64 from 0 to 1"),
        ({"y_val": -torch.ones(2, 5, dtype=torch.int64)}, "expected labels of X_val to be int64 from 0 to 2"),
        ({"y": torch.ones(2, 4)}, "expected labels of X to be int64 from 0 to 2"),
        ({"y": torch.ones(2, 3, dtype=torch.int64)}, r"with labels \(M, n\), got \(2, 4, 3\) and \(2, 3\)"),
        ({"prox": -1.0}, "expected prox > 0 and regulariser >= 0, got -1.0 and 0.1"),
    ],
)
def test_malformed_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ProxSoftmax(**arguments(**change))
