from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad

from convergence import MemoryReduced, Oracle, Status, peak_bytes, run
from convergence.methods import ClosedForm
from problems import Noisy, Quadratic
from tests.independent import Dense, assert_near
from tests.problems.few_shot.tiny import few_shot
from tests.strategies import normal, quadratics
from tests.twins import Twin, UserRidge

METHOD = ClosedForm(upper_step_size=0.2)


class Solved(Twin):
    """A quadratic by automatic differentiation, and its theta* = A^-1 (C phi + b) as a function of the features."""

    def lower_argmin(self, features, tasks):
        return torch.linalg.solve(tasks.A, features["linear"])


def solved(**options) -> Solved:
    return Solved(Quadratic.random(**({"tasks": 4, "p": 3, "q": 4, "kappa": 5.0} | options)))


@given(problem=quadratics())
def test_the_direction_is_the_gradient_of_the_upper_objective_at_the_minimiser(problem):
    twin = Solved(problem)
    dense, oracle, phi = Dense(twin), Oracle(twin), {"phi": normal(0, problem.p)}
    step = METHOD.step(oracle, phi, oracle.pool, METHOD.start(oracle, phi))
    data = problem.data

    def composed(x: Tensor) -> Tensor:
        star = torch.linalg.solve(data["A"], (data["C"] @ x[..., None])[..., 0] + data["b"])
        return dense.each(dense.f, x, star).mean()

    assert_near(step.direction["phi"], grad(composed)(phi["phi"]), within=1e-10)
    assert_near(step.direction["phi"], problem.hypergradient(phi)["phi"], within=1e-10)
    assert_near(step.theta, problem.lower_solution(phi, oracle.pool), within=1e-11)
    assert_near(step.phi["phi"], phi["phi"] - 0.2 * step.direction["phi"], within=1e-14)
    assert not step.v.any()
    assert not step.failure.any()
    assert not any(tensor.requires_grad for tensor in (step.theta, step.phi["phi"], step.direction["phi"]))


def test_a_minimiser_that_is_not_finite_fails_in_its_task_alone():
    class Poisoned(Solved):
        def lower_argmin(self, features, tasks):
            return super().lower_argmin(features, tasks) * torch.where(tasks.index == 1, torch.nan, 1.0).unsqueeze(-1)

    problem = Poisoned(Quadratic.random(tasks=3, p=3, q=4, kappa=5.0))
    oracle, phi = Oracle(problem), {"phi": normal(0, 3)}
    step = METHOD.step(oracle, phi, oracle.pool, None)
    assert step.failure.tolist() == [0, Status.NON_FINITE, 0]
    assert not bool(step.direction["phi"].isfinite().all())


def test_it_runs_as_the_paper_s_algorithm_does_with_a_converged_lower_level():
    problem = solved()
    implicit = MemoryReduced(lower_steps=300, lower_step_size=2 / 6, cg_steps=30, upper_step_size=0.2, warm_start=False)
    ends = [run(problem, method, iterations=6, batch=2, seed=1).phi["phi"] for method in (METHOD, implicit)]
    assert_near(ends[0], ends[1], within=1e-11)


@given(batch=st.sampled_from([None, 1, 3]), iterations=st.integers(0, 3))
def test_the_declared_calls_are_those_counted(batch, iterations):
    result = run(solved(), METHOD, iterations=iterations, batch=batch, probes=())
    assert result.calls == {name: iterations * n for name, n in METHOD.declared_calls(batch or 4).items()}
    assert METHOD.declared_calls(3) == {"lower_gradient": 0, "hvp": 0, "cross_product": 0, "upper_gradient": 3}


def test_replicas_together_equal_separate_runs():
    problem = solved()
    together = run(problem, METHOD, iterations=4, batch=2, seed=3, replicas=3)
    for r in range(3):
        alone = run(problem, METHOD, iterations=4, batch=2, seed=3 + r)
        assert_near(together.phi["phi"][r], alone.phi["phi"], within=1e-12)


def test_new_tasks_are_adapted_to_the_minimiser_without_a_graph():
    problem = solved()
    oracle, phi = Oracle(problem), {"phi": normal(0, 3)}
    theta = METHOD.adapt(oracle, oracle.features(phi, oracle.pool), phi, oracle.pool)
    assert not theta.requires_grad
    assert_near(theta, problem.base.lower_solution(phi, oracle.pool), within=1e-12)
    assert peak_bytes(lambda: METHOD.step(oracle, phi, oracle.pool, None)) > 0


def test_a_stochastic_problem_is_seen_through_its_samples():
    problem = solved()
    phi = {"phi": normal(0, 3)}
    oracle = Oracle(Noisy(problem, upper_phi=0.5))
    _, drawn = oracle.draw(oracle.embed(phi, oracle.pool), oracle.pool)
    oracle.begin(0)
    step = METHOD.step(oracle, phi, oracle.pool, None)
    eta = drawn.noise_upper_phi.mean(0)
    assert bool(eta.any())
    assert_near(step.direction["phi"], problem.base.hypergradient(phi)["phi"] + eta, within=1e-11)
    with pytest.raises(ValueError, match="expected undrawn tasks for lower_argmin"):
        run(Noisy(problem, lower=0.5), METHOD, iterations=1)


@pytest.mark.parametrize("problem", [UserRidge(), few_shot()])
def test_a_problem_without_the_minimiser_is_refused(problem):
    name = type(problem).__name__
    with pytest.raises(ValueError, match=f"expected the closed form lower_argmin for ClosedForm, got {name}, which"):
        run(problem, METHOD, iterations=1, batch=2)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), True])
def test_impossible_hyperparameters_are_refused(size):
    with pytest.raises(ValueError, match=f"expected upper_step_size a finite number > 0, got {size}"):
        ClosedForm(upper_step_size=size)


def test_a_step_may_be_left_to_an_optimiser():
    problem = solved()
    oracle, phi = Oracle(problem), {"phi": normal(0, 3)}
    assert ClosedForm().step(oracle, phi, oracle.pool, None).phi is phi
