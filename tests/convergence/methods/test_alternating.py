"""What BSA, stocBiO, TTSA and ALSET share: the mean over the terms drawn, costs, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convergence import ALSET, BSA, TTSA, Oracle, StocBiO, run
from convergence.methods.alternating import State
from problems import LassoLower, Noisy, Problem
from tests.convergence.methods.in_numpy import TERMS, all_terms, quadratic, step_from, tasks_of
from tests.strategies import normal
from tests.twins import Endless, UserRidge

SAMPLED = {"BSA": BSA, "TTSA": TTSA, "ALSET": ALSET}


def state_of(method, problem: Problem) -> State:
    return State(0, normal(1, problem.tasks, problem.q) if method.declared.warm else None)


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("name", SAMPLED)
def test_the_mean_over_the_terms_drawn_is_that_of_the_series(name, noise):
    problem, count = quadratic(), 10_000
    make = SAMPLED[name]
    options = {} if make is TTSA else {"lower_steps": 1}
    method = make(terms=TERMS, lower_step_size=0.2, linear_step_size=0.15, upper_step_size=0.1, **options)
    phi = normal(3, 2)
    state = state_of(method, problem)
    start = np.zeros((3, 4)) if state.theta is None else state.theta.numpy()
    expected = np.zeros(2)
    for theta, task in zip(start, tasks_of(problem), strict=True):
        theta = theta - 0.2 * task.lower_slope(phi.numpy(), theta)
        v = all_terms(task, task.upper_slope(theta), 0.15)
        v -= 0.15 * np.linalg.matrix_power(np.eye(4) - 0.15 * task.A, TERMS) @ task.upper_slope(theta)  # Q terms
        expected += task.direction(phi.numpy(), v) / 3
    many = None if state.theta is None else state.theta.expand(count, 3, 4)
    noisy = Noisy(problem, lower=noise, upper=noise, hessian=noise, cross=noise)
    oracle = Oracle(noisy, replicas=count, seeds=range(count))
    drawn = method.step(oracle, {"phi": phi.expand(count, 2)}, oracle.pool, State(0, many)).direction["phi"]
    error = drawn.std(0) / count**0.5
    assert float(error.max()) < 0.04 * float(np.abs(expected).max())
    assert float(((drawn.mean(0) - torch.from_numpy(expected)) / error).abs().max()) < 6


# ---- around them


@pytest.mark.parametrize(("name", "hvp", "lower"), [("BSA", 3, 2), ("ALSET", 3, 2), ("TTSA", 3, 1), ("stocBiO", 4, 2)])
def test_the_declared_cost_is_that_of_the_docstring(name, hvp, lower):
    make = (SAMPLED | {"stocBiO": StocBiO})[name]
    made = make(terms=TERMS, **({} if make is TTSA else {"lower_steps": 2}))
    assert made.declared_calls(5) == {
        "lower_gradient": 5 * lower, "hvp": 5 * hvp, "cross_product": 5, "upper_gradient": 5,
    }  # fmt: skip


def test_new_tasks_are_adapted_by_the_lower_steps_from_theta0():
    problem = quadratic()
    oracle, phi = Oracle(problem), {"phi": normal(0, 2)}
    method = BSA(lower_steps=3, terms=TERMS, upper_step_size=0.1)
    theta = method.adapt(oracle, oracle.features(phi, oracle.pool), phi, oracle.pool)
    assert torch.equal(theta, step_from(method, problem, phi, State(0, None)).theta)


def test_only_a_method_that_keeps_theta_needs_a_pool():
    options = {"lower_step_size": 0.5, "linear_step_size": 0.5, "upper_step_size": 0.1, "lower_steps": 1}
    assert run(Endless(), BSA(**options), iterations=2, batch=2, probes=()).iterations == 2
    with pytest.raises(ValueError, match="expected a finite pool of tasks for ALSET, got Endless"):
        run(Endless(), ALSET(**options), iterations=2, batch=2, probes=())


@pytest.mark.parametrize("make", [BSA, ALSET, StocBiO])
def test_a_kink_and_unknown_step_sizes_are_refused(make):
    kinked = LassoLower.random(tasks=3, p=2, q=2, lasso=0.5)
    with pytest.raises(ValueError, match=f"twice differentiable in theta for {make.__name__}, got LassoLower"):
        run(kinked, make(lower_steps=1, upper_step_size=0.1), iterations=1)
    with pytest.raises(ValueError, match="expected linear_step_size a number, got None with UserRidge, which gives no"):
        run(UserRidge(), make(lower_steps=1, lower_step_size=0.1, upper_step_size=0.1), iterations=1)


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (BSA, {"lower_steps": -1}, "expected lower_steps an integer >= 0, got -1"),
        (BSA, {"lower_steps": 1, "lower_growth": -0.5}, "expected lower_growth a finite number >= 0, got -0.5"),
        (ALSET, {"lower_steps": 1, "terms": 0}, "expected terms an integer >= 1, got 0"),
        (ALSET, {"lower_steps": 1.5}, "expected lower_steps an integer >= 0, got 1.5"),
        (StocBiO, {"lower_steps": True}, "expected lower_steps an integer >= 0, got True"),
        (TTSA, {"linear_step_size": -1.0}, "expected linear_step_size a finite number > 0, got -1.0"),
    ],
)
def test_impossible_hyperparameters_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)
