"""Tasks a few at a time: the same d, the memory of those few, whatever K, N and the number of tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convergence import FOMAML, ITDBiO, MemoryReduced, Oracle, peak_bytes
from convergence.chunks import Direction, direction_in_chunks
from convergence.linear_solvers import Direct
from convergence.memory import saved_bytes
from convergence.method import Method
from convergence.methods import ClosedForm
from problems import PROBLEMS, Parameters, Problem, Quadratic, Tasks
from problems.few_shot import Conv4, FewShot, RidgeHead, WholeNetwork
from tests.independent import assert_near
from tests.problems.few_shot.tiny import drawn, episodes, few_shot, start
from tests.strategies import normal

METHOD = MemoryReduced(lower_steps=3, cg_steps=2, warm_start=False)
UNROLLED = ITDBiO(lower_steps=3, lower_step_size=0.1)


def direction(
    method: Method, problem: Problem, tasks: Tasks, *, chunk: int, phi: Parameters | None = None
) -> Direction:
    oracle, phi = Oracle(problem), phi or start(problem)
    return direction_in_chunks(method, oracle, phi, tasks, method.start(oracle, phi), chunk=chunk)


# ---- the same direction


@given(count=st.integers(1, 6), chunk=st.integers(1, 7), unrolled=st.booleans())
def test_chunks_of_any_size_give_the_direction_of_one_step(count, chunk, unrolled):
    problem = few_shot()
    method, tasks, oracle = UNROLLED if unrolled else METHOD, drawn(problem, count), Oracle(problem)
    whole = method.step(oracle, start(problem), tasks, method.start(oracle, start(problem)))
    found = direction(method, problem, tasks, chunk=chunk)
    for name, tensor in whole.direction.items():
        assert_near(found.direction[name], tensor, within=1e-12)
        assert found.direction[name].dtype == torch.float64


@pytest.mark.parametrize("warm_start", [True, "theta"])
def test_a_warm_state_is_that_of_one_step(warm_start):
    problem = Quadratic.random(tasks=5, p=3, q=4, kappa=5.0)
    method = dataclasses.replace(METHOD, warm_start=warm_start)
    phi, oracle = {"phi": normal(0, 3)}, Oracle(problem)
    state = method.step(oracle, phi, oracle.pool, method.start(oracle, phi)).state  # no zeros
    tasks = problem.select(torch.tensor([3, 0, 4]))
    whole = method.step(oracle, phi, tasks, state)
    found = direction_in_chunks(method, oracle, phi, tasks, state, chunk=2)
    assert_near(found.direction["phi"], whole.direction["phi"], within=1e-13)
    for part, expected in zip(found.state, whole.state, strict=True):
        assert (part is None) == (expected is None)
        if part is not None:
            assert_near(part, expected, within=1e-13)


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize(
    "make", [lambda: METHOD, lambda: UNROLLED, lambda: dataclasses.replace(METHOD, recompute=True)]
)
def test_the_mean_of_f_comes_with_it(make, chunk):
    problem, method = few_shot(), make()
    phi, tasks, oracle = start(problem), drawn(problem, 5), Oracle(problem)
    theta = method.step(oracle, phi, tasks, method.start(oracle, phi)).theta
    expected = problem.upper(problem.embed(phi, tasks), theta, tasks).mean()
    found = direction(method, problem, tasks, chunk=chunk)
    assert not found.upper.requires_grad
    assert float(found.upper) == pytest.approx(float(expected), rel=1e-12)


def test_the_mean_of_f_is_unknown_where_a_closed_form_took_the_last_line():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=2.0)
    phi, oracle = {"phi": normal(0, 2)}, Oracle(problem)
    assert bool(direction_in_chunks(METHOD, oracle, phi, oracle.pool, METHOD.start(oracle, phi), chunk=2).upper.isnan())


def test_the_calls_are_those_of_all_tasks():
    problem, oracle = few_shot(), Oracle(few_shot())
    direction_in_chunks(METHOD, oracle, start(problem), drawn(problem, 5), METHOD.start(oracle, {}), chunk=2)
    assert oracle.calls == METHOD.declared_calls(5)


# ---- failures


class Broken(FewShot):
    """The lower Hessian of the tasks marked here is -1, or not a number."""

    marks: Tensor

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        factor = self.marks[tasks.index]
        return torch.where(factor.unsqueeze(-1) == 1, super().lower_hvp(features, theta, v, tasks), v / factor[:, None])


@pytest.mark.parametrize("chunk", [1, 2, 6])
@pytest.mark.parametrize(
    ("marks", "worst", "failed"),
    [
        ([1, 1, 1, 1, 1, 1], 0, 0),
        ([1, -1, 1, 1, -1, 1], 2, 2),
        ([1, -1, 1, torch.nan, -1, 1], 3, 3),
        ([torch.nan, 1, 1, 1, 1, 1], 3, 1),
        ([1, 1, 1, 1, 1, -1], 2, 1),
    ],
)
def test_the_worst_code_and_the_number_of_failures_are_those_of_all_chunks(marks, worst, failed, chunk):
    problem = Broken(episodes(), embedding=Conv4(4), head=few_shot().head)
    problem.marks = torch.tensor(marks, dtype=torch.float64)
    tasks = problem.episodes.draw(range(6))
    found = direction(METHOD, problem, tasks, chunk=chunk)
    assert (int(found.failure), int(found.failed)) == (worst, failed)


# ---- memory


def peaks(methods: Sequence[Method], problem: Problem, *, counts: tuple[int, ...] = (2,), chunk: int = 1) -> set[int]:
    """Peak bytes of the methods on two tasks, and of the first one on as many as are named."""
    phi = start(problem, dtype=torch.float32)

    def peak(method: Method, count: int) -> int:
        tasks = drawn(problem, count)
        return peak_bytes(lambda: direction(method, problem, tasks, chunk=chunk, phi=phi))

    return {peak(methods[0], count) for count in counts} | {peak(method, counts[0]) for method in methods[1:]}


def varied(method: MemoryReduced, *, other: type[MemoryReduced] | None = None) -> list[MemoryReduced]:
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return [
        (other or type(method))(**(fields | {"lower_steps": K, "cg_steps": N})) for K, N in ((1, 1), (7, 20), (40, 40))
    ]


class KeepsItsSteps(MemoryReduced):
    """A planted error: the graph of the lower steps is kept until the step is over."""

    def step(self, oracle, phi, tasks, state):
        z = oracle.embed(phi, tasks, keep_graph=True)
        theta = oracle.theta0(phi, tasks)
        for _ in range(self.lower_steps):
            theta = theta - 0.1 * oracle.lower_gradient(z, theta, tasks, keep_graph=True)
        found = super().step(oracle, phi, tasks, state)
        return found._replace(theta=theta.detach())


@pytest.mark.parametrize("recompute", [False, True], ids=["graph", "recompute"])
@pytest.mark.parametrize(("bn", "head"), [("task", None), ("support", None), ("task", RidgeHead(way=3))])
def test_the_peak_is_one_number_whatever_k_n_and_the_number_of_tasks(recompute, bn, head):
    problem, method = few_shot(head, bn=bn), dataclasses.replace(METHOD, recompute=recompute)
    assert len(peaks(varied(method), problem, counts=(2, 8))) == 1
    assert len(peaks(varied(method, other=KeepsItsSteps)[:2], problem)) == 2  # the check can fail


def test_computing_again_takes_less_memory_and_chunks_bound_it():
    problem = few_shot(embedding=Conv4(8))
    (graph,), (again,), (two,) = (
        peaks([method], problem, counts=(4,), chunk=chunk)
        for method, chunk in ((METHOD, 1), (dataclasses.replace(METHOD, recompute=True), 1), (METHOD, 2))
    )
    assert again < 0.7 * graph  # half of the network, and as many tensors of phi
    assert 1.6 * graph < two < 2.1 * graph
    assert len(peaks([METHOD], problem, counts=(2, 4), chunk=8)) == 2  # all tasks at once


def test_the_tape_does_not_depend_on_k_and_n_and_that_of_methods_that_unroll_does():
    problem = few_shot()
    tasks = drawn(problem, 2)

    def tape(method: Method, problem: Problem = problem) -> int:
        return saved_bytes(lambda: direction(method, problem, tasks, chunk=1))

    for recompute in (False, True):
        assert len({tape(m) for m in varied(dataclasses.replace(METHOD, recompute=recompute))}) == 1
    assert len({tape(m) for m in varied(METHOD, other=KeepsItsSteps)}) > 1
    unrolled = [tape(dataclasses.replace(UNROLLED, lower_steps=K)) for K in (2, 4, 8)]
    assert unrolled[2] - unrolled[1] == 2 * (unrolled[1] - unrolled[0]) > 0
    first = FOMAML(lower_steps=3, lower_step_size=0.1)
    assert len({tape(dataclasses.replace(first, lower_steps=K)) for K in (2, 4, 8)}) == 1


def test_the_peak_of_maml_grows_by_the_network_of_each_step():
    whole = WholeNetwork(episodes(), embedding=Conv4(4))
    of_steps = [peaks([dataclasses.replace(UNROLLED, lower_steps=K)], whole).pop() for K in (1, 2, 3)]
    (flat,) = peaks([METHOD], few_shot())
    assert of_steps[2] - of_steps[1] == pytest.approx(of_steps[1] - of_steps[0], rel=0.05)
    assert of_steps[1] - of_steps[0] > 0.5 * flat
    first = FOMAML(lower_steps=3, lower_step_size=0.1)
    assert len(peaks([dataclasses.replace(first, lower_steps=K) for K in (2, 8)], whole)) == 1


# ---- what is refused


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True])
def test_a_chunk_is_at_least_one_task(chunk):
    problem = few_shot()
    with pytest.raises(ValueError, match=f"expected chunk an integer >= 1, got {chunk}"):
        direction(METHOD, problem, drawn(problem), chunk=chunk)


def test_a_method_that_takes_the_upper_step_and_replicas_are_refused():
    problem = few_shot()
    phi, tasks = start(problem), drawn(problem)
    with pytest.raises(ValueError, match="expected upper_step_size=None with chunks of tasks, got a MemoryReduced"):
        direction(dataclasses.replace(METHOD, upper_step_size=0.1), problem, tasks, chunk=1)
    with pytest.raises(ValueError, match="expected replicas=None with chunks of tasks, got 2"):
        direction_in_chunks(
            METHOD, Oracle(problem, replicas=2), phi, tasks, METHOD.start(Oracle(problem), phi), chunk=1
        )


@pytest.mark.parametrize("name", PROBLEMS)
def test_any_problem_and_any_solver_may_be_taken_in_chunks(name):
    problem = PROBLEMS[name](0)
    phi, oracle = {n: normal(1, *x.shape) for n, x in problem.phi0(torch.Generator()).items()}, Oracle(problem)
    method = MemoryReduced(lower_steps=2, lower_step_size=0.05, linear_solver=Direct(), warm_start=False)
    whole = method.step(oracle, phi, oracle.pool, method.start(oracle, phi)).direction
    found = direction_in_chunks(method, oracle, phi, oracle.pool, method.start(oracle, phi), chunk=2).direction
    for n, tensor in whole.items():
        assert_near(found[n], tensor, within=1e-10)


@pytest.mark.gpu
def test_on_a_gpu_the_peak_does_not_depend_on_k_and_n():
    problem = few_shot(embedding=Conv4(32), source=episodes(32))
    phi = {name: tensor.cuda() for name, tensor in start(problem, dtype=torch.float32).items()}
    tasks = drawn(problem, 4).to("cuda")
    direction(METHOD, problem, tasks, chunk=1, phi=phi)  # libraries take their workspace
    found = [
        peak_bytes(lambda m=method: direction(m, problem, tasks, chunk=1, phi=phi), device="cuda")
        for method in varied(METHOD)
    ]
    assert max(found) <= 1.02 * min(found)


def test_the_closed_form_and_the_automatic_path_of_a_problem_agree_in_chunks():
    problem = few_shot(RidgeHead(way=3))
    tasks = drawn(problem)
    closed = direction(ClosedForm(), problem, tasks, chunk=2).direction
    solved = dataclasses.replace(METHOD, lower_steps=2000, cg_steps=40)
    implicit = direction(solved, problem, tasks, chunk=2).direction
    for name, tensor in closed.items():
        assert_near(implicit[name], tensor, within=1e-8)
