from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad

from convergence import ITDBiO, MemoryReduced, Oracle, peak_bytes, run
from problems import PROBLEMS, ProxLogistic, Quadratic
from tests.convergence.methods.instances import Initialised
from tests.independent import Dense, assert_near
from tests.problems.few_shot.tiny import few_shot
from tests.strategies import normal
from tests.twins import Twin, UserRidge


def instance(name: str):
    if name == "prox-logistic-initialisation":
        return Initialised.random(tasks=4, q=3, examples=8)
    return PROBLEMS[name](1)


STARTS = ["quadratic", "quadratic-initialisation", "prox-logistic", "prox-logistic-initialisation"]


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_direction_is_the_gradient_of_the_objective_after_k_steps(name, steps):
    problem = instance(name)
    dense, oracle = Dense(problem), Oracle(problem)
    phi = {n: normal(1, *tensor.shape) for n, tensor in dense.like.items()}
    method = ITDBiO(lower_steps=steps, lower_step_size=0.1, upper_step_size=0.3)
    step = method.step(oracle, phi, oracle.pool, method.start(oracle, phi))

    def start(x):
        return problem.theta0(dense.named(x), dense.tasks)

    def phi_k(x):
        return dense.unrolled(x, start, steps=steps, step_size=0.1)

    x = dense.vector(phi)
    assert_near(dense.vector(step.direction), grad(phi_k)(x), within=1e-12)
    differences = [(phi_k(x + e) - phi_k(x - e)) / 2e-5 for e in 1e-5 * torch.eye(len(x), dtype=x.dtype)]
    assert_near(dense.vector(step.direction), torch.stack(differences), within=1e-8)  # of third derivatives times 1e-10
    assert_near(dense.vector(step.phi), x - 0.3 * dense.vector(step.direction), within=1e-14)
    assert not any(t.requires_grad for t in (step.theta, *step.phi.values(), *step.direction.values(), *phi.values()))


@pytest.mark.parametrize("name", ["quadratic-initialisation", "prox-logistic-initialisation"])
def test_the_derivative_of_the_start_is_in_the_direction(name):
    problem = instance(name)
    fixed = Twin(problem)
    phi = {n: normal(1, *tensor.shape) for n, tensor in problem.phi0(torch.Generator()).items()}
    start = problem.theta0(phi, problem.sample(None, torch.Generator()))
    fixed.theta0 = lambda phi, tasks: start  # the same numbers, without their dependence on phi
    method = ITDBiO(lower_steps=2, lower_step_size=0.1, upper_step_size=0.3)
    steps = [method.step(oracle, phi, oracle.pool, None) for oracle in (Oracle(problem), Oracle(fixed))]
    assert torch.equal(steps[0].theta, steps[1].theta)
    gap = [(steps[0].direction[n] - steps[1].direction[n]).abs().max() for n in phi]
    assert max(gap) > 1e-3


@pytest.mark.parametrize("name", STARTS)
def test_replicas_together_equal_separate_runs(name):
    problem = instance(name)
    method = ITDBiO(lower_steps=3, lower_step_size=0.1, upper_step_size=0.2)
    options = {"iterations": 3, "batch": 2, "probes": ()}
    together = run(problem, method, replicas=3, seed=4, **options)
    for r in range(3):
        alone = run(problem, method, seed=4 + r, **options)
        for n, tensor in alone.phi.items():
            assert_near(together.phi[n][r], tensor, within=1e-12)


@given(steps=st.integers(0, 4), batch=st.sampled_from([None, 1, 3]), iterations=st.integers(0, 3))
def test_the_declared_calls_are_those_counted(steps, batch, iterations):
    problem = Quadratic.random(tasks=5, p=2, q=3, kappa=5.0)
    method = ITDBiO(lower_steps=steps, upper_step_size=0.1)
    result = run(problem, method, iterations=iterations, batch=batch, probes=())
    declared = method.declared_calls(batch or 5)
    assert result.calls == {name: iterations * count for name, count in declared.items()}


def test_its_memory_grows_with_the_lower_steps_and_that_of_the_paper_does_not():
    problem = ProxLogistic.random(tasks=4, q=6, examples=9)
    options = {"lower_step_size": 0.1, "upper_step_size": 0.1}

    def peak(method) -> int:
        return peak_bytes(lambda: run(problem, method, iterations=2, probes=()))

    unrolled = [peak(ITDBiO(lower_steps=K, **options)) for K in (10, 20, 40)]
    assert unrolled[2] - unrolled[1] == 2 * (unrolled[1] - unrolled[0]) > 0
    flat = [peak(MemoryReduced(lower_steps=K, cg_steps=3, warm_start=False, **options)) for K in (10, 40)]
    assert flat[0] == flat[1] < unrolled[0]


def test_with_many_lower_steps_it_takes_the_paper_s_steps():
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=3.0, seed=1)
    unrolled = run(problem, ITDBiO(lower_steps=60, upper_step_size=0.3), iterations=5, probes=())
    implicit = MemoryReduced(lower_steps=60, cg_steps=4, upper_step_size=0.3, warm_start=False)
    assert_near(unrolled.phi["phi"], run(problem, implicit, iterations=5, probes=()).phi["phi"], within=1e-13)


def test_the_step_size_is_two_over_l_plus_mu_where_none_is_given():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=4.0)
    given_one = ITDBiO(lower_steps=2, lower_step_size=2 / 5, upper_step_size=0.1)
    default = ITDBiO(lower_steps=2, upper_step_size=0.1)
    ends = [run(problem, method, iterations=2, probes=()).phi["phi"] for method in (given_one, default)]
    assert_near(ends[0], ends[1], within=1e-14)
    with pytest.raises(ValueError, match="expected lower_step_size a number, got None with UserRidge"):
        run(UserRidge(), default, iterations=1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lower_steps": -1}, "expected lower_steps an integer >= 0, got -1"),
        ({"upper_step_size": 0.0}, "expected upper_step_size a finite number > 0, got 0.0"),
        ({"lower_step_size": np.inf}, "expected lower_step_size a finite number > 0, got inf"),
    ],
)
def test_impossible_hyperparameters_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ITDBiO(**({"lower_steps": 1, "upper_step_size": 0.1} | change))


def test_new_tasks_are_adapted_by_the_same_steps_without_a_graph():
    problem = instance("prox-logistic-initialisation")
    oracle, phi = Oracle(problem), {n: normal(1, *x.shape) for n, x in problem.phi0(torch.Generator()).items()}
    method = ITDBiO(lower_steps=3, lower_step_size=0.1)
    step = method.step(oracle, phi, oracle.pool, None)
    assert step.phi is phi
    theta = method.adapt(oracle, oracle.features(phi, oracle.pool), phi, oracle.pool)
    assert not theta.requires_grad
    assert_near(theta, step.theta, within=1e-14)


def test_a_step_size_for_each_task_is_refused_where_steps_are_unrolled():
    with pytest.raises(ValueError, match="expected lower_step_size a number, got None, which lets each task have its"):
        run(few_shot(), ITDBiO(lower_steps=2, upper_step_size=0.1), iterations=1, batch=2)
