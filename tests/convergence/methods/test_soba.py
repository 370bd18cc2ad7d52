"""SOBA against its equations in numpy, its fixed point, its mean, and the floor that its noise leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convergence import SOBA, run
from convergence.methods.single_loop import State
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
from tests.twins import Endless, UserRidge


@pytest.mark.parametrize("batch", [None, 1, 2])
@pytest.mark.parametrize("sizes", [(None, None, 0.0, 0.0), (0.2, 0.3, 0.5, 0.25)])
def test_a_run_replays_the_three_steps_written_in_numpy(batch, sizes):
    rho, rho_v, slower, slower_above = sizes
    problem = quadratic()
    tasks, known = tasks_of(problem), step_size_of(problem)
    theta, v = np.zeros((2, 3, 4))

    def visit(t, i, phi):
        task, decay = tasks[i], (t + 1) ** -slower
        D_theta = task.lower_slope(phi, theta[i])
        D_v = task.A @ v[i] - task.upper_slope(theta[i])
        d = task.direction(phi, v[i])
        theta[i] -= (rho or known) * decay * D_theta
        v[i] -= (rho_v or known) * decay * D_v
        return d

    options = {"lower_step_size": rho, "linear_step_size": rho_v, "lower_decay": slower, "upper_decay": slower_above}
    method = SOBA(upper_step_size=0.3, **options)
    result = assert_replays(problem, method, visit, lambda t: 0.3 * (t + 1) ** -slower_above, batch=batch)
    assert_near(result.state.theta, torch.from_numpy(theta), within=1e-12)
    assert_near(result.state.v, torch.from_numpy(v), within=1e-12)


def test_at_the_solution_nothing_moves():
    problem = quadratic()
    phi = problem.upper_solution()
    x = phi["phi"].numpy()
    theta = torch.from_numpy(np.stack([task.star(x) for task in tasks_of(problem)]))
    v = torch.linalg.solve(problem.data["A"], (problem.data["Q"] @ (theta - problem.data["u"])[..., None])[..., 0])
    step = step_from(SOBA(upper_step_size=0.3), problem, phi, State(0, theta, v))
    for moved, rest in ((step.phi["phi"], phi["phi"]), (step.theta, theta), (step.v, v)):
        assert_near(moved, rest, within=1e-14)


def test_the_mean_of_a_noisy_step_is_the_exact_one():
    levels = {"lower": 0.5, "upper": 0.5, "upper_phi": 0.5, "hessian": 0.3, "cross": 0.3}
    state = State(0, normal(1, 3, 4), normal(2, 3, 4))
    assert_unbiased(SOBA(upper_step_size=0.3), quadratic(), levels, state, {"phi": normal(3, 2)})


def test_noise_leaves_a_floor_that_shrinks_with_the_steps_and_none_is_left_without_it():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=3.0, seed=1)
    floors = []
    for noise, scale in ((0.0, 1.0), (0.5, 1.0), (0.5, 0.2)):
        steps = {"lower_step_size": 0.3 * scale, "linear_step_size": 0.3 * scale, "upper_step_size": 0.2 * scale}
        options = {"iterations": round(250 / scale), "replicas": 20, "probe_every": 5}
        noisy = Noisy(problem, lower=noise, upper=noise)
        floors.append(float(run(noisy, SOBA(**steps), **options).trace["grad_norm_sq"][-10:].mean()))
    assert floors[0] < 1e-16
    assert 1e-5 < floors[2] < 0.4 * floors[1]


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (LassoLower.random(tasks=3, p=2, q=2, lasso=0.5), "twice differentiable in theta for SOBA, got LassoLower"),
        (Endless(), "expected a finite pool of tasks for SOBA, got Endless"),
        (UserRidge(), "expected lower_step_size a number, got None with UserRidge, which gives no constants mu, L"),
    ],
)
def test_a_problem_without_what_it_needs_is_refused(problem, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(problem, SOBA(upper_step_size=0.1), iterations=1, batch=2, probes=())


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("linear_step_size", 0.0, "expected linear_step_size a finite number > 0, got 0.0"),
        ("lower_step_size", -1.0, "expected lower_step_size a finite number > 0, got -1.0"),
        ("upper_step_size", float("inf"), "expected upper_step_size a finite number > 0, got inf"),
        ("lower_decay", -0.5, "expected lower_decay a finite number >= 0, got -0.5"),
        ("upper_decay", float("nan"), "expected upper_decay a finite number >= 0, got nan"),
    ],
)
def test_impossible_hyperparameters_are_refused(field, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        SOBA(**{field: value})


def test_a_task_that_diverges_fails_alone():
    problem = quadratic()
    theta = normal(1, 3, 4)
    theta[1, 2] = torch.inf
    step = step_from(SOBA(upper_step_size=0.3), problem, {"phi": normal(3, 2)}, State(0, theta, torch.zeros(3, 4)))
    assert step.failure.tolist() == [0, 3, 0]


def test_the_step_size_of_each_task_is_that_of_its_own_curvature_where_there_are_no_constants():
    class Curved(Quadratic):
        constants = None

        def curvature(self, features, tasks):
            eigenvalues = torch.linalg.eigvalsh(tasks.A)
            return eigenvalues[..., 0], eigenvalues[..., -1]

    base = quadratic()
    scale = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)[:, None, None]
    problem = Curved(**{**base.data, "A": scale * base.data["A"]})
    tasks, phi = tasks_of(problem), normal(3, 2)
    theta, v = normal(1, 3, 4), normal(2, 3, 4)
    step = step_from(SOBA(upper_step_size=0.3), problem, {"phi": phi}, State(0, theta, v))
    for i, task in enumerate(tasks):
        size = 2 / (np.linalg.eigvalsh(task.A)[[0, -1]].sum())
        expected = theta[i].numpy() - size * task.lower_slope(phi.numpy(), theta[i].numpy())
        assert_near(step.theta[i], torch.from_numpy(expected), within=1e-13)
