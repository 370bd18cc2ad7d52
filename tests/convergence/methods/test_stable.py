"""STABLE against its recursion in numpy; its averages, its correction of theta, its projection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import grad, jacrev

from convergence import STABLE, Oracle, run
from convergence.methods.stable import Kept, State, lifted
from problems import LassoLower, Minibatch, Quadratic
from tests.convergence.methods.in_numpy import (
    LeastSquares,
    assert_replays,
    assert_unbiased,
    batches_of,
    derivatives,
    numbers,
    quadratic,
    step_from,
    tasks_of,
)
from tests.independent import assert_near
from tests.strategies import normal
from tests.twins import Twin

STEPS = {"lower_step_size": 0.2, "upper_step_size": 0.1}


@pytest.mark.parametrize("batch", [None, 2])
def test_on_exact_objectives_a_run_replays_the_step_with_true_second_derivatives(batch):
    problem = quadratic()
    tasks, last = tasks_of(problem), {}
    theta = np.zeros((3, 4))  # after the step, before the correction

    def visit(t, i, phi):
        task = tasks[i]
        if i in last:
            theta[i] += np.linalg.solve(task.A, task.C @ (phi - last[i]))  # X = -C
        last[i] = phi
        v = np.linalg.solve(task.A, task.upper_slope(theta[i]))
        d = task.direction(phi, v)
        theta[i] -= 0.2 * task.lower_slope(phi, theta[i])
        return d

    assert_replays(problem, STABLE(**STEPS), visit, lambda t: 0.1, batch=batch)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_on_blocks_a_run_replays_the_recursive_averages_written_in_numpy(batch, tau):
    problem = Minibatch(LeastSquares(), lower=2, upper=2)
    rows_of, kept = batches_of(problem, batch), {}
    theta = np.zeros((3, 2))
    unit = np.eye(2)

    def second(i, j):
        """H and X of a block: columns of products with unit vectors."""
        at = [derivatives(problem.problem, i, unit[0], unit[0], v, j, 0) for v in unit]
        return np.stack([a.product for a in at], -1), np.stack([a.cross for a in at], -1).T

    def visit(t, i, phi):
        lower, upper = numbers(t, len(rows_of[t]), 3, 3)
        place = rows_of[t].index(i)
        j, k = lower[place], upper[place]
        H, X = second(i, j)
        if i in kept:
            old_H, old_X, old_phi = kept[i]
            theta[i] -= np.linalg.solve(old_H, old_X @ (phi - old_phi))
            # second derivatives of a block are the same at the point before
            H, X = (1 - tau) * (old_H - H) + H, (1 - tau) * (old_X - X) + X
        kept[i] = H, X, phi
        at = derivatives(problem.problem, i, phi, theta[i], np.zeros(2), j, k)
        v = np.linalg.solve(H, at.upper)
        theta[i] -= 0.2 * at.slope
        return at.direct - X.T @ v

    assert_replays(problem, STABLE(**STEPS, averaging=tau), visit, lambda t: 0.1, batch=batch)


def test_with_second_derivatives_that_change_the_old_point_is_seen_with_the_new_sample():
    problem = Minibatch(Quartic(LeastSquares()), lower=2, upper=2)
    oracle = Oracle(problem)
    method = STABLE(**STEPS, averaging=0.3)
    phi = {"phi": normal(0, 2)}
    first = method.step(oracle, phi, oracle.pool, method.start(oracle, phi))
    oracle.begin(1)
    second = method.step(oracle, first.phi, oracle.pool, first.state)
    oracle.begin(1)
    _, sample = oracle.draw(oracle.features(phi, oracle.pool), oracle.pool)
    theta = first.theta
    old, new = (
        second_derivatives(problem, sample, phi, theta),
        second_derivatives(problem, sample, first.phi, second.theta),
    )
    expected = 0.7 * (first.state.kept.hessian - old) + new
    assert_near(second.state.kept.hessian, expected, within=1e-12)
    assert float((old - new).abs().max()) > 1e-2


class Quartic(Twin):
    """With a quartic in theta, whose second derivatives change with theta and from block to block."""

    examples = LeastSquares.examples

    def lower(self, features, theta, tasks):
        return super().lower(features, theta, tasks) + theta.pow(4).sum(-1) * tasks.X.square().mean((-1, -2))


def second_derivatives(problem, tasks, phi, theta):
    """d2g/dtheta2 of each task, one after the other."""
    each = []
    for point, task in zip(theta, tasks, strict=True):

        def lower(x, task=task):
            return problem.lower(phi, x[None], task)[0]

        each.append(jacrev(grad(lower))(point))
    return torch.stack(each)


def test_however_phi_moves_theta_keeps_only_what_its_own_steps_leave_of_the_error():
    problem = Quadratic.random(tasks=3, p=2, q=4, kappa=5.0, seed=1)
    oracle, rho = Oracle(problem), 0.2
    A = problem.data["A"]
    phi = {"phi": normal(0, 2)}
    state = STABLE(**STEPS).start(oracle, phi)
    error = state.kept.theta - problem.lower_solution(phi, oracle.pool)
    for t in range(6):
        step = STABLE(**STEPS).step(oracle, phi, oracle.pool, state)
        assert_near(step.theta - problem.lower_solution(phi, oracle.pool), error, within=1e-12)
        error = error - rho * (A @ error.unsqueeze(-1)).squeeze(-1)
        phi, state = {"phi": 10 * normal(t + 1, 2)}, step.state  # wherever phi goes


def test_at_the_solution_nothing_moves():
    problem = quadratic()
    phi = problem.upper_solution()
    start = STABLE(**STEPS).start(Oracle(problem), phi)
    theta = torch.from_numpy(np.stack([task.star(phi["phi"].numpy()) for task in tasks_of(problem)]))
    step = step_from(STABLE(**STEPS), problem, phi, State(0, start.kept._replace(theta=theta, stepped=theta)))
    assert_near(step.phi["phi"], phi["phi"], within=1e-14)
    assert_near(step.theta, theta, within=1e-14)
    assert_near(step.state.kept.stepped, theta, within=1e-14)


def test_the_mean_of_a_step_with_noise_in_the_upper_level_is_the_exact_one():
    # in the lower level noise enters H^-1 X and H^-1 grad f, which are not linear in it; theta moves by lower noise
    problem, phi = quadratic(), {"phi": normal(3, 2)}
    start = STABLE(**STEPS).start(Oracle(problem), phi)
    state = State(0, start.kept._replace(theta=normal(1, 3, 4), stepped=normal(1, 3, 4)))
    assert_unbiased(STABLE(**STEPS), problem, {"upper": 0.5, "upper_phi": 0.5}, state, phi, of=("direction",))


def test_averages_shrink_the_noise_of_the_second_derivatives():
    problem = Minibatch(LeastSquares(examples=12), lower=2, upper=12)
    spread = {}
    whole = STABLE(**STEPS).step
    oracle = Oracle(problem.problem)
    phi = problem.phi0(torch.Generator())
    H = whole(oracle, phi, oracle.pool, STABLE(**STEPS).start(oracle, phi)).state.kept.hessian
    for tau in (0.1, 1.0):
        result = run(problem, STABLE(**STEPS, averaging=tau), iterations=60, replicas=40, probes=())
        spread[tau] = float((result.state.kept.hessian - H).square().mean())
    # E|H_t - H|^2 = tau / (2 - tau) of that of one sample in the limit, (1 - tau)^120 of the first one beside it
    assert spread[0.1] == pytest.approx(0.1 / 1.9 * spread[1.0], rel=0.3)


def test_eigenvalues_below_mu_are_lifted_and_rows_that_are_not_finite_left():
    H = torch.stack([torch.diag(torch.tensor([-1.0, 3.0])), torch.full((2, 2), torch.nan), 2 * torch.eye(2)]).double()
    found = lifted(H, 0.5)
    assert_near(found[0], torch.diag(torch.tensor([0.5, 3.0])).double(), within=1e-15)
    assert bool(found[1].isnan().all())
    assert_near(found[2], H[2], within=1e-15)
    assert_near(lifted(H[:1], torch.tensor([[1.0]]))[0], torch.diag(torch.tensor([1.0, 3.0])).double(), within=1e-15)
    assert torch.equal(lifted(H[:1], None), H[:1])


def test_a_task_that_diverges_fails_alone():
    problem = quadratic()
    phi = {"phi": normal(3, 2)}
    start = STABLE(**STEPS).start(Oracle(problem), phi)
    theta = normal(1, 3, 4)
    theta[1, 2] = torch.nan
    step = step_from(STABLE(**STEPS), problem, phi, State(0, start.kept._replace(stepped=theta)))
    assert step.failure.tolist() == [0, 3, 0]


def test_what_is_kept_has_the_sizes_of_the_docstring():
    problem = quadratic()
    kept: Kept = STABLE().start(Oracle(problem), {"phi": normal(0, 2)}).kept
    M, q, p = 3, 4, 2
    sizes = (kept.phi["phi"], kept.theta, kept.stepped, kept.hessian, kept.cross["phi"])
    assert sum(tensor.numel() for tensor in sizes) == M * (q * q + q * p + 2 * q + p)


@pytest.mark.parametrize("batch", [None, 2])
def test_calls_are_known_with_the_size_of_theta(batch):
    result = run(quadratic(), STABLE(**STEPS), iterations=3, batch=batch, probes=())
    declared = STABLE(**STEPS, size=4).declared_calls(batch or 3)
    assert result.calls == {name: 3 * count for name, count in declared.items()}
    assert declared["hvp"] == declared["cross_product"] == 8 * (batch or 3)
    with pytest.raises(ValueError, match="expected size, the entries of theta, for calls of STABLE"):
        STABLE(**STEPS).declared_calls(2)


def test_a_kink_is_refused():
    with pytest.raises(ValueError, match="twice differentiable in theta for STABLE, got LassoLower"):
        run(LassoLower.random(tasks=3, p=2, q=2, lasso=0.5), STABLE(**STEPS), iterations=1)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("averaging", 0.0, r"expected averaging a number in \(0, 1\], got 0.0"),
        ("averaging", 1.5, r"expected averaging a number in \(0, 1\], got 1.5"),
        ("averaging", True, r"expected averaging a number in \(0, 1\], got True"),
        ("size", 0, "expected size None or an integer >= 1, got 0"),
    ],
)
def test_impossible_hyperparameters_are_refused(field, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        STABLE(**{field: value})
