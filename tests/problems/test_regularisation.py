"""Regularisation selection against numpy, scikit-learn, finite differences; what it finds on the breast cancer data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.func import grad

from convergence import MemoryReduced, run
from problems import LogisticRegularisation, Minibatch, Tasks
from problems.bundled import bundled
from tests.independent import Dense, assert_near
from tests.strategies import normal, seeds


def arrays(seed: int, *, tasks: int = 2, n: int = 6, m: int = 4, d: int = 3) -> dict[str, Tensor]:

    def sign(x):
        return torch.where(x > 0, 1.0, -1.0).double()

    return {
        "X": normal(seed, tasks, n, d),
        "y": sign(normal(seed + 1, tasks, n)),
        "X_val": normal(seed + 2, tasks, m, d),
        "y_val": sign(normal(seed + 3, tasks, m)),
    }


def pool(problem: LogisticRegularisation) -> Tasks:
    return problem.sample(None, torch.Generator())


# ---- the two levels


@given(
    seed=seeds,
    tasks=st.integers(1, 3),
    n=st.integers(1, 5),
    d=st.integers(1, 4),
    pull=st.floats(0, 1),
    ridge=st.floats(0.01, 3),
)
def test_the_objectives_equal_sums_over_examples_in_numpy(seed, tasks, n, d, pull, ridge):
    problem = LogisticRegularisation(**arrays(seed, tasks=tasks, n=n, d=d), ridge=ridge, pull=pull)
    phi, theta = {"log_ridge": normal(seed, d)}, normal(seed + 4, tasks, d)
    z, data = problem.embed(phi, pool(problem)), {name: x.numpy() for name, x in problem.data.items()}
    x, offset = phi["log_ridge"].numpy(), phi["log_ridge"].numpy() - np.log(ridge)

    def loss(i: int, inputs: str, labels: str) -> float:
        return np.log1p(np.exp(-data[labels][i] * (data[inputs][i] @ theta[i].numpy()))).mean()

    lower = [loss(i, "X", "y") + (np.exp(x) * theta[i].numpy() ** 2).sum() / 2 for i in range(tasks)]
    upper = [loss(i, "X_val", "y_val") + pull / 2 * (offset**2).sum() for i in range(tasks)]
    assert_near(problem.lower(z, theta, pool(problem)), torch.tensor(np.array(lower)), within=1e-13)
    assert_near(problem.upper(z, theta, pool(problem)), torch.tensor(np.array(upper)), within=1e-13)


def test_phi_starts_at_the_ridge_given():
    problem = LogisticRegularisation(**arrays(0), ridge=0.25)
    assert_near(problem.phi0(torch.Generator())["log_ridge"].exp(), torch.full((3,), 0.25).double(), within=1e-15)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("drawn", [False, True], ids=["whole", "minibatch"])
def test_the_closed_forms_are_those_of_automatic_differentiation_also_on_blocks_of_examples(seed, drawn):
    problem = LogisticRegularisation(**arrays(seed), pull=0.3)
    tasks = pool(problem)
    if drawn:
        tasks = Minibatch(problem, lower=2, upper=2).draw(tasks, torch.Generator().manual_seed(seed))
        assert tasks.X.shape[1] == tasks.y_val.shape[1] == 2
    phi, theta, v = {"log_ridge": normal(seed, 3)}, normal(seed + 4, 2, 3), normal(seed + 5, 2, 3)
    dense, x, z = Dense(problem, tasks), phi["log_ridge"], problem.embed(phi, tasks)
    assert_near(problem.lower_gradient(z, theta, tasks), dense.each(dense.lower_slope, x, theta), within=1e-13)
    hessian = dense.each(dense.hessian, x, theta)
    assert_near(problem.lower_hvp(z, theta, v, tasks), (hessian @ v[..., None])[..., 0], within=1e-13)
    assert_near(problem.upper_gradient(z, theta, tasks), dense.each(dense.upper_slope, x, theta), within=1e-13)
    crosses = (dense.each(dense.cross, x, theta).mT @ v[..., None])[..., 0]
    expected = (dense.each(grad(dense.f), x, theta) - crosses).mean(0)
    assert_near(problem.surrogate_gradient(phi, z, theta, v, tasks)["log_ridge"], expected, within=1e-13)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_curvature_bounds_the_hessian_and_is_attained(seed):
    problem = LogisticRegularisation(**arrays(seed))
    phi, dense = {"log_ridge": normal(seed, 3)}, Dense(problem)
    mu, L = problem.curvature(problem.embed(phi, pool(problem)), pool(problem))
    for scale in (0.0, 0.3, 3.0, 1e4):
        spectrum = torch.linalg.eigvalsh(
            dense.each(dense.hessian, phi["log_ridge"], scale * normal(seed + 1, 1, 3).expand(2, 3))
        )
        assert bool((spectrum[:, 0] >= mu * (1 - 1e-12)).all())
        assert bool((spectrum[:, -1] <= L * (1 + 1e-12)).all())
        if scale == 0:  # all margins 0: every loss bends by 1/4
            assert_near(spectrum[:, -1], L, within=1e-13)
        if scale == 1e4:  # all margins large: the loss is straight
            assert_near(spectrum[:, 0], mu, within=1e-10)


def test_the_curvature_of_replicas_is_that_of_each():
    problem = LogisticRegularisation(**arrays(0))
    phi = normal(0, 4, 3)
    together = problem.curvature(problem.embed({"log_ridge": phi}, pool(problem)), pool(problem))
    for r in range(4):
        alone = problem.curvature(problem.embed({"log_ridge": phi[r]}, pool(problem)), pool(problem))
        for found, expected in zip(together, alone, strict=True):
            assert_near(found[r], expected, within=1e-14)


# ---- the reference


def test_the_lower_solution_is_that_of_scikit_learn_with_one_ridge():
    problem = LogisticRegularisation.breast_cancer(ridge=0.05)
    found = problem.lower_solution(problem.phi0(torch.Generator()), pool(problem))
    for i in range(5):
        X, y = problem.data["X"][i].numpy(), problem.data["y"][i].numpy()
        # 1/2 |theta|^2 + C sum_j loss_j is g times 1/ridge where C = 1 / (n ridge)
        judge = LogisticRegression(C=1 / (len(y) * 0.05), fit_intercept=False, tol=1e-12, solver="newton-cholesky")
        assert_near(found[i : i + 1], torch.from_numpy(judge.fit(X, y).coef_), within=1e-10)


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_newton_ends_where_the_gradient_written_in_numpy_vanishes(scale):
    problem = LogisticRegularisation.breast_cancer()
    phi = {"log_ridge": scale * normal(0, 31)}
    theta = problem.exact(phi).theta.numpy()
    for i in range(5):
        X, y = problem.data["X"][i].numpy(), problem.data["y"][i].numpy()
        pull = -y / (1 + np.exp(y * (X @ theta[i])))
        slope = pull @ X / len(y) + np.exp(phi["log_ridge"].numpy()) * theta[i]
        assert np.abs(slope).max() <= 1e-13


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_hypergradient_is_the_slope_of_the_value(seed):
    problem = LogisticRegularisation.breast_cancer(seed=seed)
    phi, d = normal(seed, 31) - 2, normal(seed + 1, 31)

    def value(t):
        return float(problem.value({"log_ridge": phi + t * d}))

    h = 1e-2  # Richardson: h^4 times a fifth derivative, and 1e-16 |Phi| / h of rounding
    estimate = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    slope = float(problem.hypergradient({"log_ridge": phi})["log_ridge"] @ d)
    assert slope == pytest.approx(estimate, rel=1e-6)
    assert abs(slope) > 1e-4


def test_a_phi_whose_exponential_overflows_has_no_value_and_harms_no_other_replica():
    problem = LogisticRegularisation.breast_cancer(tasks=2)
    phi = torch.stack([torch.zeros(31), torch.full((31,), 800.0)]).double()
    assert problem.value({"log_ridge": phi}).isnan().tolist() == [False, True]
    with pytest.raises(ArithmeticError, match="is phi too large"):
        problem.lower_solution({"log_ridge": phi[1]}, pool(problem))


# ---- the data


def test_the_folds_validate_on_what_they_leave_out_and_the_test_set_is_apart():
    problem = LogisticRegularisation.breast_cancer(tasks=5, seed=2)
    X, X_val, test = problem.data["X"], problem.data["X_val"], problem.X_test
    assert (tuple(X.shape), tuple(X_val.shape), tuple(test.shape)) == ((5, 364, 31), (5, 91, 31), (114, 31))
    own = X_val.flatten(0, 1)
    assert_near(own[:, :-1].mean(0), torch.zeros(30).double(), within=1e-12)
    assert_near(own[:, :-1].std(0), torch.ones(30).double(), within=1e-12)
    assert bool((torch.cat([own, test])[:, -1] == 1).all())

    def rows(x):
        return {tuple(row) for row in x.tolist()}

    for i in range(5):
        assert rows(X[i]) | rows(X_val[i]) == rows(own)
        assert not rows(X[i]) & rows(X_val[i])
    assert not rows(own) & rows(test)
    inputs, labels = bundled("breast_cancer")
    raw = {tuple(x.tolist()): 2.0 * int(y) - 1 for x, y in zip(inputs, labels, strict=True)}
    order = np.random.default_rng(2).permutation(569)
    everything = torch.cat([problem.data["y_val"].flatten(), problem.y_test])
    assert everything.tolist() == [raw[tuple(inputs[i].tolist())] for i in order]


def test_the_accuracy_counts_test_examples_on_their_side():
    problem = LogisticRegularisation.breast_cancer(tasks=2)
    phi = {"log_ridge": normal(0, 3, 31)}
    theta = problem.lower_solution(phi, pool(problem))
    sides = np.sign(np.einsum("nd,rmd->rmn", problem.X_test.numpy(), theta.numpy())) == problem.y_test.numpy()
    assert_near(problem.accuracy(theta), torch.from_numpy(sides.mean(-1)), within=1e-15)
    assert_near(problem.test_accuracy(phi), torch.from_numpy(sides.mean((-2, -1))), within=1e-15)


def test_memory_reduced_selects_ridges_that_validate_better():
    problem = LogisticRegularisation.breast_cancer()
    method = MemoryReduced(lower_steps=20, cg_steps=10, upper_step_size=100.0)  # alpha from the curvature
    result = run(problem, method, iterations=200, probes=("value", "grad_norm_sq"), probe_every=199)
    value, gradient = result.trace["value"], result.trace["grad_norm_sq"].sqrt()
    # measured: Phi 0.1396 to 0.1029, |grad Phi| 1.1e-2 to 4.5e-6, test accuracy 0.974 to 0.954
    assert float(value[-1]) < 0.8 * float(value[0])
    assert float(gradient[-1]) < 1e-2 * float(gradient[0])
    assert float(problem.test_accuracy(result.phi)) > 0.93


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"X": normal(0, 6, 3)}, r"expected X of shape \(M, n, d\) with labels \(M, n\), got \(6, 3\) and \(2, 6\)"),
        ({"y_val": torch.ones(2, 3)}, r"expected X_val of shape .*, got \(2, 4, 3\) and \(2, 3\)"),
        ({"y": torch.zeros(2, 6)}, r"expected labels of X to be -1 or \+1"),
        ({"X_val": normal(0, 2, 4, 5)}, r"to share M and d, got \(2, 6, 3\) and \(2, 4, 5\)"),
        ({"X": torch.full((2, 6, 3), math.inf)}, "expected finite values in data tensor 'X', got 36"),
        ({"ridge": 0.0}, "expected ridge > 0 and pull >= 0, got 0.0 and 0.001"),
        ({"pull": -1.0}, "expected ridge > 0 and pull >= 0, got 0.1 and -1.0"),
        ({"pull": math.nan}, "expected pull a finite number, got nan"),
    ],
)
def test_malformed_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        LogisticRegularisation(**{**arrays(0), **change})


@pytest.mark.parametrize("change", [{"tasks": 1}, {"tasks": 600}, {"test": 0.0}, {"test": 1.0}])
def test_folds_that_do_not_exist_are_refused(change):
    with pytest.raises(ValueError, match="expected tasks >= 2 and a test share that leaves them examples, got"):
        LogisticRegularisation.breast_cancer(**change)


def test_without_a_test_set_there_is_no_accuracy():
    problem = LogisticRegularisation(**arrays(0))
    with pytest.raises(ValueError, match="expected a problem with a test set"):
        problem.test_accuracy(problem.phi0(torch.Generator()))
