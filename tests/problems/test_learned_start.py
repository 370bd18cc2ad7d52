"""A learned start: the problem inside in everything but where theta begins, which is a tensor of phi."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad

from convergence import MAML, SOBA, MemoryReduced, Oracle, run
from problems import LearnedStart, Minibatch, Noisy, Problem, ProxLogistic, Quadratic, Representation
from tests.independent import Dense, assert_near
from tests.problems.few_shot.tiny import drawn, few_shot
from tests.strategies import normal
from tests.twins import UserRidge

INSIDE = {
    "broadcasts": lambda: Quadratic.random(tasks=4, p=2, q=3, kappa=5.0),
    "matrix": lambda: Representation.random(tasks=4, d=3, rank=2, examples=5),
    "mapped": lambda: ProxLogistic.random(tasks=4, q=3, examples=4),
    "automatic": lambda: UserRidge().to(dtype=torch.float64),
    "noisy": lambda: Noisy(Quadratic.random(tasks=4, p=2, q=3, kappa=5.0), lower=0.5, upper_phi=0.5, cross=0.2),
    "blocks": lambda: Minibatch(ProxLogistic.random(tasks=4, q=3, examples=4), lower=2, upper=2),
}


def somewhere(problem: Problem, seed: int = 0):
    like = problem.phi0(torch.Generator())
    return {name: normal(seed + k, *tensor.shape) for k, (name, tensor) in enumerate(like.items())}


@pytest.mark.parametrize("name", ["noisy", "blocks"])  # on exact objectives it is in test_wrapper.py
def test_samples_are_those_of_the_problem_inside(name):
    inside = INSIDE[name]()
    method = MemoryReduced(lower_steps=2, lower_step_size=0.1, cg_steps=2, upper_step_size=0.05)
    options = {"iterations": 4, "batch": 2, "replicas": 3, "seed": 3, "probes": ()}
    bare, outer = (run(problem, method, **options) for problem in (inside, LearnedStart(inside)))
    for key, tensor in bare.phi.items():
        assert torch.equal(outer.phi[key], tensor)
    assert not outer.phi["start"].any()
    assert outer.examples == bare.examples


@pytest.mark.parametrize("name", ["broadcasts", "matrix", "mapped", "automatic"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_through_the_steps_the_start_has_the_gradient_of_the_k_step_objective(name, steps):
    problem = LearnedStart(INSIDE[name]())
    dense, oracle, phi = Dense(problem), Oracle(problem), somewhere(problem)
    step = MAML(lower_steps=steps, lower_step_size=0.1).step(oracle, phi, oracle.pool, None)

    def phi_k(x):
        start = dense.named(x)["start"].expand(problem.tasks, -1)
        return dense.unrolled(x, lambda _: start, steps=steps, step_size=0.1)

    assert_near(dense.vector(step.direction), grad(phi_k)(dense.vector(phi)), within=1e-12)
    assert float(step.direction["start"].norm()) > 1e-3


@pytest.mark.parametrize("name", ["broadcasts", "mapped", "noisy", "blocks"])
def test_replicas_are_separate_runs_where_the_start_moves(name):
    problem, method = LearnedStart(INSIDE[name]()), MAML(lower_steps=2, lower_step_size=0.1, upper_step_size=0.1)
    together = run(problem, method, iterations=4, batch=2, replicas=3, seed=5, probes=())
    for r in range(3):
        alone = run(problem, method, iterations=4, batch=2, seed=5 + r, probes=())
        for key, tensor in alone.phi.items():
            assert_near(together.phi[key][r], tensor, within=1e-12)
    assert bool(together.phi["start"].any())


def test_a_run_whose_start_is_kept_for_each_task_begins_there():
    problem = LearnedStart(INSIDE["broadcasts"]())
    phi = somewhere(problem)
    method = SOBA(lower_step_size=0.1, upper_step_size=0.1)
    assert torch.equal(method.start(Oracle(problem), phi).theta, phi["start"].expand(4, 3))


def test_the_first_start_is_where_the_problem_inside_starts():
    inside = Quadratic.random(tasks=3, p=3, q=3, kappa=5.0, initialisation=True)
    phi = LearnedStart(inside).phi0(torch.Generator().manual_seed(2))
    assert torch.equal(phi["start"], inside.phi0(torch.Generator().manual_seed(2))["phi"])
    assert phi["start"].data_ptr() != phi["phi"].data_ptr()


def test_a_network_has_a_learned_start_of_its_head():
    problem = LearnedStart(few_shot())
    phi, tasks = problem.phi0(torch.Generator().manual_seed(0)), drawn(problem)
    step = MAML(lower_steps=2, lower_step_size=0.1).step(Oracle(problem), phi, tasks, None)
    assert step.theta.shape == (len(tasks), len(phi["start"]))
    moved = {name for name, tensor in step.direction.items() if bool(tensor.abs().max() > 1e-6)}
    assert {"start", "block1.conv.weight", "block4.norm.weight"} <= moved


@pytest.mark.parametrize("recompute", [False, True])
def test_features_computed_again_in_parts_are_those_of_the_problem_inside(recompute):
    inside = INSIDE["mapped"]()
    found = []
    for problem in (inside, LearnedStart(inside)):
        oracle, phi = Oracle(problem), somewhere(problem)
        theta, v = normal(5, 4, 3), normal(6, 4, 3)
        z = oracle.embed(phi, oracle.pool, recompute=recompute)
        found.append(oracle.hypergradient(z, theta, v, oracle.pool))
    assert torch.equal(found[0]["centre"], found[1]["centre"])
    assert not found[1]["start"].any()


def test_it_moves_to_another_dtype():
    moved = LearnedStart(INSIDE["broadcasts"]()).to(dtype=torch.float32)
    phi = moved.phi0(torch.Generator())
    assert {tensor.dtype for tensor in (*phi.values(), *moved.hypergradient(phi).values())} == {torch.float32}
    assert {tensor.dtype for tensor in moved.upper_solution().values()} == {torch.float32}


def test_a_phi_that_has_a_start_already_is_refused():
    with pytest.raises(ValueError, match="expected a phi without a tensor called start, got that of LearnedStart"):
        LearnedStart(LearnedStart(UserRidge()))
