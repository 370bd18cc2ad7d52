"""F2SA against its loop in numpy, its limit in closed form, and problems that only gradients can be taken of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from convergence import F2SA, Oracle, run
from convergence.methods.f2sa import State
from problems import LassoLower, Noisy, Quadratic
from tests.convergence.methods.in_numpy import (
    assert_replays,
    assert_unbiased,
    quadratic,
    step_from,
    step_size_of,
    tasks_of,
)
from tests.independent import assert_near
from tests.strategies import normal
from tests.twins import Endless


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize(("K", "growth"), [(1, 0.0), (3, 0.5)])
def test_a_run_replays_the_loop_written_in_numpy(batch, K, growth):
    problem = quadratic()
    tasks, rho = tasks_of(problem), step_size_of(problem)
    theta, y = np.zeros((2, 3, 4))

    def visit(t, i, phi):
        task, multiplier = tasks[i], 8 * (t + 1) ** growth
        size = rho / math.sqrt(t + 1)
        for _ in range(K):
            theta[i] -= size * task.lower_slope(phi, theta[i])
            y[i] -= size / multiplier * (multiplier * task.lower_slope(phi, y[i]) + task.upper_slope(y[i]))
        return task.R @ (phi - task.w) - multiplier * task.C.T @ (y[i] - theta[i])  # grad_phi g = -C' theta

    method = F2SA(
        lower_steps=K, multiplier=8.0, multiplier_growth=growth, lower_decay=0.5, upper_step_size=0.1, upper_decay=0.25
    )
    result = assert_replays(problem, method, visit, lambda t: 0.1 * (t + 1) ** -0.25, batch=batch)
    assert_near(result.state.theta, torch.from_numpy(theta), within=1e-12)
    assert_near(result.state.y, torch.from_numpy(y), within=1e-12)


@pytest.mark.parametrize("multiplier", [5.0, 50.0])
def test_it_ends_where_the_docstring_says_in_closed_form(multiplier):
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=3.0, seed=4)
    H, h = np.zeros((2, 2)), np.zeros(2)
    for task in tasks_of(problem):
        S = np.linalg.solve(task.A + task.Q / multiplier, task.Q)
        H += (task.R + task.C.T @ S @ np.linalg.solve(task.A, task.C)) / 3
        h += (task.R @ task.w - task.C.T @ S @ (np.linalg.solve(task.A, task.b) - task.u)) / 3
    limit = torch.from_numpy(np.linalg.solve(H, h))
    method = F2SA(lower_steps=10, multiplier=multiplier, upper_step_size=0.3)
    result = run(problem, method, iterations=200)
    assert_near(result.phi["phi"], limit, within=1e-9)
    exact = problem.hypergradient({"phi": limit})["phi"].square().sum()
    assert float(exact) > 1e-8  # the bias shows
    assert float(result.trace["grad_norm_sq"][-1]) == pytest.approx(float(exact), rel=1e-7)


@pytest.mark.parametrize("multiplier", [5.0, 500.0])
def test_the_bias_at_settled_theta_and_y_is_that_of_the_docstring(multiplier):
    problem, phi = quadratic(), normal(3, 2)
    x = phi.numpy()
    theta, y, gap = [], [], np.zeros(2)
    for task in tasks_of(problem):
        star = task.star(x)
        theta.append(star)
        y.append(np.linalg.solve(task.Q + multiplier * task.A, task.Q @ task.u + multiplier * (task.C @ x + task.b)))
        inner = np.linalg.solve(task.A + task.Q / multiplier, task.upper_slope(star))
        gap -= task.C.T @ np.linalg.solve(task.A, task.Q @ inner) / multiplier / 3
    state = State(0, torch.from_numpy(np.stack(theta)), torch.from_numpy(np.stack(y)))
    step = step_from(F2SA(lower_steps=2, multiplier=multiplier, upper_step_size=0.1), problem, {"phi": phi}, state)
    assert_near(step.theta, state.theta, within=1e-14)
    assert_near(step.state.y, state.y, within=1e-14)
    true = problem.hypergradient({"phi": phi})["phi"]
    assert_near(step.direction["phi"] - true, torch.from_numpy(gap), within=1e-11)


def test_the_direction_is_the_gradient_of_the_penalised_objective_by_finite_differences():
    problem, multiplier = quadratic(), 7.0
    tasks, phi = tasks_of(problem), normal(3, 2)

    def penalised(x):
        total = 0.0
        for t in tasks:
            y = np.linalg.solve(t.Q + multiplier * t.A, t.Q @ t.u + multiplier * (t.C @ x + t.b))

            def g(at, t=t):
                return 0.5 * at @ t.A @ at - at @ (t.C @ x + t.b)

            f = 0.5 * (y - t.u) @ t.Q @ (y - t.u) + 0.5 * (x - t.w) @ t.R @ (x - t.w)
            total += (f + multiplier * (g(y) - g(t.star(x)))) / 3
        return total

    start = State(0, normal(1, 3, 4), normal(2, 3, 4))
    step = step_from(F2SA(lower_steps=300, multiplier=multiplier), problem, {"phi": phi}, start)
    slopes = [(penalised(phi.numpy() + e) - penalised(phi.numpy() - e)) / 2e-4 for e in 1e-4 * np.eye(2)]
    assert_near(step.direction["phi"], torch.tensor(slopes, dtype=torch.float64), within=1e-9)  # rounding / 1e-4


def test_a_growing_multiplier_removes_the_bias():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=3.0, seed=4)
    ends = []
    for growth in (0.0, 1.0):
        method = F2SA(lower_steps=10, multiplier=5.0, multiplier_growth=growth, upper_step_size=0.3)
        result = run(problem, method, iterations=201, probe_every=200)
        ends.append(float(result.trace["grad_norm_sq"][-1]))
    assert ends[1] < 1e-3 * ends[0]


def test_the_mean_of_a_noisy_step_is_the_exact_one():
    levels = {"lower": 0.3, "upper": 0.3, "upper_phi": 0.3, "hessian": 0.3, "cross": 0.05}
    state = State(0, normal(1, 3, 4), normal(2, 3, 4))
    method = F2SA(lower_steps=2, multiplier=5.0, upper_step_size=0.3)
    assert_unbiased(method, quadratic(), levels, state, {"phi": normal(3, 2)})


@pytest.mark.parametrize("level", ["cross", "lower"])
def test_the_noise_of_a_settled_direction_does_not_grow_with_the_multiplier(level):
    problem, start = Noisy(quadratic(), **{level: 0.3}), normal(3, 2)
    oracle, phi = Oracle(problem, replicas=500), {"phi": start.expand(500, 2)}
    variances = []
    for multiplier in (1e2, 1e3):
        method = F2SA(lower_steps=10, multiplier=multiplier, upper_step_size=0.1)
        state = method.start(oracle, phi)
        for t in range(30):
            oracle.begin(t)
            step = method.step(oracle, phi, oracle.pool, state)
            state = step.state
        variances.append(float(step.direction["phi"].var(0).sum()))
    assert variances[1] == pytest.approx(variances[0], rel=0.1)


def test_v_tends_to_that_of_implicit_differentiation_as_the_multiplier_grows():
    problem, phi = quadratic(), {"phi": normal(3, 2)}
    oracle = Oracle(problem)
    theta = problem.lower_solution(phi, oracle.pool)
    v = torch.linalg.solve(problem.data["A"], (problem.data["Q"] @ (theta - problem.data["u"])[..., None])[..., 0])
    gaps = []
    for multiplier in (1e2, 1e3):
        method = F2SA(lower_steps=200, multiplier=multiplier)
        gaps.append(float((method.step(oracle, phi, oracle.pool, State(0, theta, theta)).v - v).abs().max()))
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.05)  # O(1 / lambda)


def test_no_second_derivatives_are_taken_so_a_kink_is_no_obstacle():
    problem = LassoLower.random(tasks=4, p=2, q=3, lasso=0.7, seed=1)
    method = F2SA(lower_steps=5, lower_step_size=0.5, multiplier=50.0, upper_step_size=0.1)
    result = run(problem, method, iterations=20, probes=())
    assert all(bool(tensor.isfinite().all()) for tensor in result.phi.values())
    assert result.calls == {
        "lower_gradient": 20 * 4 * 12, "hvp": 0, "cross_product": 0, "upper_gradient": 20 * 4 * 6,
    }  # fmt: skip
    assert result.calls == {name: 20 * count for name, count in method.declared_calls(4).items()}


def test_a_pool_is_needed():
    with pytest.raises(ValueError, match="expected a finite pool of tasks for F2SA, got Endless"):
        run(Endless(), F2SA(lower_steps=1, lower_step_size=0.1, upper_step_size=0.1), iterations=1, batch=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lower_steps": -1}, "expected lower_steps an integer >= 0, got -1"),
        ({"lower_steps": 1, "multiplier": 0.0}, "expected multiplier a finite number > 0, got 0.0"),
        ({"lower_steps": 1, "multiplier_growth": -1.0}, "expected multiplier_growth a finite number >= 0, got -1.0"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        F2SA(**options)
