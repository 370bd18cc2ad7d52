"""A run within a memory budget: it stays there, it is the same run, and what is too little is refused with what is not.

The judge of bytes is `PeakBytes` around the whole call, measurements included; that of results the run at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import Chunks, MemoryReduced, memory_limit, run
from convergence.budget import Sizes, even, parse, readable, resident, within_caches
from convergence.catalogue import METHODS
from convergence.memory import PeakBytes
from problems import Noisy, Problem, ProxLogistic, Quadratic
from tests.convergence.methods.instances import HEADS, QUADRATICS, SUMS, accepted, batch_of, method
from tests.independent import assert_near

METHOD = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.1)
CPU = torch.device("cpu")
TOGETHER = {"srba", "saba", "bsa", "alset", "ttsa"}  # all tasks, or numbers drawn for them together


def quadratic(tasks: int = 12) -> Quadratic:
    return Quadratic.random(tasks=tasks, p=3, q=6, kappa=4.0, seed=1)


def heads() -> ProxLogistic:
    return ProxLogistic.random(tasks=5, q=6, examples=10, seed=0)


def least(problem: Problem, of: object = METHOD, **options) -> int:
    """The budget that the refusal of one byte names."""
    with pytest.raises(ValueError, match="expected memory of at least") as refused:
        run(problem, of, memory=1, **options)
    return parse(re.search(r"at least (\S+) for", str(refused.value))[1])


def taken(problem: Problem, memory: int, of: object = METHOD, **options):
    with PeakBytes() as meter:
        result = run(problem, of, memory=memory, **options)
    return result, meter.peak + resident(problem, device=CPU)


def same(found, expected, *, within: float = 1e-12) -> None:
    assert (found.seeds, found.statuses, found.iterations_of) == (
        expected.seeds,
        expected.statuses,
        expected.iterations_of,
    )
    assert (found.calls, found.examples, found.status) == (expected.calls, expected.examples, expected.status)
    assert found.probed_at.tolist() == expected.probed_at.tolist()
    for name, tensor in expected.phi.items():
        assert_near(found.phi[name], tensor, within=within)
    for name, trace in expected.trace.items():
        assert bool((trace.isnan() == found.trace[name].isnan()).all())
        assert_near(found.trace[name].nan_to_num(), trace.nan_to_num(), within=within)


# ---- within the budget


@pytest.mark.parametrize(
    ("make", "probes", "replicas", "batch"),
    [
        (quadratic, None, None, 3),
        (quadratic, None, 3, 3),
        (quadratic, None, 3, None),
        (heads, (), None, None),
        (heads, ("direction_norm_sq",), 2, 3),
    ],
)
def test_a_run_stays_within_its_budget_and_is_the_run_at_once(make, probes, replicas, batch):
    problem, options = make(), {"iterations": 3, "batch": batch, "replicas": replicas, "probe_every": 2}
    options["probes"] = probes
    at_once, smallest = run(problem, METHOD, **options), least(problem, **options)
    for share in (1.0, 1.4, 20.0):
        budget = int(share * smallest)
        found, peak = taken(problem, budget, **options)
        assert peak <= budget
        assert found.chunks.peak <= budget
        same(found, at_once)
        for part, whole in zip(found.state, at_once.state, strict=True):
            assert_near(part, whole, within=1e-12)
    assert (found.chunks.replicas, found.chunks.tasks) == (replicas, batch or problem.tasks)


def test_more_memory_takes_larger_chunks_and_most_of_it():
    problem, options = quadratic(), {"iterations": 3, "batch": 8, "replicas": 24, "probes": ()}
    smallest = least(problem, **options)
    found = [taken(problem, share * smallest, **options) for share in (2, 3)]
    sizes = [result.chunks.replicas for result, _ in found]
    assert 1 < sizes[0] < sizes[1] < 24
    for share, (result, peak) in zip((2, 3), found, strict=True):
        assert 0.5 * share * smallest < peak <= share * smallest
        assert peak <= result.chunks.peak


def test_a_budget_below_the_least_is_refused_and_the_least_is_enough():
    problem, options = quadratic(), {"iterations": 3, "batch": 4, "replicas": 3, "probes": ()}
    smallest = least(problem, **options)
    with pytest.raises(ValueError, match=f"at least {readable(smallest)} for one task of one replica at a time, got"):
        run(problem, METHOD, memory=int(0.9 * smallest), **options)
    result, peak = taken(problem, smallest, **options)
    assert result.chunks.replicas < 3
    assert peak <= smallest


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_the_same_in_chunks_or_is_refused_them(name):
    of = method(name)
    problem = accepted(of, {**QUADRATICS, **{f"heads, {key}": make for key, make in HEADS.items()}, **SUMS})
    options = {"iterations": 4, "batch": batch_of(of, 3), "replicas": 3, "seed": 4, "probes": ("direction_norm_sq",)}
    whole = run(problem, of, chunks=Chunks(), **options)
    same(run(problem, of, chunks=Chunks(2), **options), whole)
    if name in TOGETHER:
        with pytest.raises(ValueError, match=r"expected all tasks at once for .+, (which|whose) "):
            run(problem, of, chunks=Chunks(2, 2), **options)
        found = run(problem, of, memory=least(problem, of, **options), **options)
        assert found.chunks.tasks == (options["batch"] or problem.tasks)
    else:
        found = run(problem, of, chunks=Chunks(2, 2), **options)
    same(found, whole)


@given(
    tasks=st.integers(1, 7),
    replicas=st.sampled_from([None, 1, 2, 5]),
    at_a_time=st.integers(1, 6),
    some=st.integers(1, 8),
    replacement=st.booleans(),
    warm=st.sampled_from([True, False, "theta"]),
    seed=st.integers(0, 100),
)
def test_chunks_of_any_size_are_the_run_at_once(tasks, replicas, at_a_time, some, replacement, warm, seed):
    problem = Quadratic.random(tasks=tasks, p=2, q=3, kappa=3.0, seed=seed)
    of = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.1, warm_start=warm)
    batch = min(4, tasks) if seed % 3 else None
    options = {"iterations": 4, "batch": batch, "replicas": replicas, "replacement": replacement, "seed": seed}
    if batch is None:
        options["replacement"] = False
    same(run(problem, of, chunks=Chunks(at_a_time, some), **options), run(problem, of, **options))


def test_replicas_that_stop_at_different_times_are_put_together():
    problem, options = quadratic(), {"iterations": 60, "replicas": 7, "stop_at": {"grad_norm_sq": 0.05}}
    options |= {"probes": ("grad_norm_sq", "direction_norm_sq"), "probe_every": 3, "batch": 6}
    whole = run(problem, METHOD, **options)
    assert len(set(whole.iterations_of)) > 2
    same(run(problem, METHOD, chunks=Chunks(2), **options), whole)


def test_starts_of_replicas_and_an_optimizer_are_cut_with_them():
    problem = quadratic()
    start = {"phi": torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    of = MemoryReduced(lower_steps=2, cg_steps=2)
    options = {"iterations": 6, "batch": 4, "replicas": 5, "phi0": start, "optimizer": torch.optim.Adam}
    same(run(problem, of, chunks=Chunks(2, 3), **options), run(problem, of, **options))


# ---- what is refused


def test_noise_is_drawn_for_all_tasks_and_replicas_alone_are_cut():
    problem, options = Noisy(quadratic(), lower=0.1, upper=0.1), {"iterations": 3, "batch": 4, "replicas": 4}
    with pytest.raises(ValueError, match="expected all tasks at once for Noisy, whose samples are drawn for all"):
        run(problem, METHOD, chunks=Chunks(1, 2), **options)
    needed = least(problem, **options)
    found, peak = taken(problem, needed, **options)
    assert found.chunks.tasks == 4
    assert peak <= needed
    same(found, run(problem, METHOD, **options))


def test_a_certified_accuracy_is_one_of_the_whole_batch():
    of = MemoryReduced(lower_steps=20, cg_steps=6, upper_step_size=0.1, accuracy=0.1)
    with pytest.raises(ValueError, match="expected all tasks at once for MemoryReduced, which decides"):
        run(quadratic(), of, iterations=2, chunks=Chunks(tasks=2))


@dataclass(frozen=True, kw_only=True)
class Normalised(MemoryReduced):
    """A method whose step is no mean over tasks, and which does not say so: phi moves by d / |d|."""

    def step(self, oracle, phi, tasks, state):
        step = super().step(oracle, phi, tasks, state)
        moved = {name: phi[name] - 0.1 * d / d.norm() for name, d in step.direction.items()}
        return step._replace(phi=moved)


def test_a_method_that_is_another_one_in_chunks_is_found_out():
    problem, of = heads(), Normalised(lower_steps=2, cg_steps=2, upper_step_size=0.1)
    needed = least(problem, of, iterations=3)
    with pytest.raises(ValueError, match=r"direction is a mean over tasks .+ got Normalised, which ends elsewhere"):
        run(problem, of, iterations=3, memory=int(1.5 * needed))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"memory": "much"}, 'expected memory in bytes or as "2GiB" or "500MB", got \'much\''),
        ({"memory": 0}, "expected memory an integer >= 1, got 0"),
        ({"memory": 2.5}, "expected memory an integer >= 1, got 2.5"),
        ({"memory": "1GiB", "chunks": Chunks(1)}, "expected memory or chunks, got both"),
        ({"memory": "1GiB", "compile": True}, "expected compile=False with memory or chunks"),
        ({"chunks": Chunks(replicas=0)}, "expected chunks.replicas None or an integer >= 1, got 0"),
        ({"chunks": Chunks(tasks=True)}, "expected chunks.tasks None or an integer >= 1, got True"),
    ],
)
def test_wrong_budgets_are_refused_in_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        run(quadratic(), METHOD, iterations=2, **change)


# ---- its parts


@given(count=st.integers(1, 10**13))
def test_a_readable_budget_is_no_smaller_and_little_larger(count):
    assert count <= parse(readable(count)) <= 1.1 * count + 1


@pytest.mark.parametrize(
    ("text", "count"), [("7", 7), ("2GiB", 2**31), ("1.5 mib", 1.5 * 2**20), ("3 kB", 3000), ("10B", 10), (5, 5)]
)
def test_budgets_are_read_in_their_units(text, count):
    assert parse(text) == count


@given(size=st.integers(1, 100), whole=st.integers(1, 100))
def test_even_chunks_are_as_few_and_differ_by_no_more_than_they_must(size, whole):
    found, size = even(min(size, whole), whole), min(size, whole)
    assert -(-whole // found) == -(-whole // size)
    assert found <= size


def test_a_limit_around_holds_for_every_run_within_and_ends_with_it():
    problem, options = quadratic(), {"iterations": 3, "replicas": 8}
    needed = least(problem, **options)
    with memory_limit(needed):
        assert run(problem, METHOD, **options).chunks.replicas == 1
        assert run(problem, METHOD, memory="1GiB", **options).chunks.replicas == 8
        with pytest.raises(ValueError, match="expected memory of at least"), memory_limit(10):
            run(problem, METHOD, **options)
    assert run(problem, METHOD, **options).chunks == Chunks(8, 12)


def test_what_is_resident_is_counted_once_however_it_is_held():
    problem = quadratic()
    data = sum(tensor.nbytes for tensor in problem.data.values())
    assert resident(problem, device=CPU) == data
    assert resident(problem, problem.to("cpu"), {"phi": problem.data["w"]}, device=CPU) == data
    problem.value(problem.phi0(torch.Generator()))  # keeps its means
    assert resident(problem, device=CPU) == data + 8 * (3 * 3 + 3 + 1)
    assert resident(Noisy(quadratic(), lower=0.1, upper=0.1), device=CPU) == data


# ---- the caches


def test_replicas_that_fit_the_caches_are_the_default_and_change_nothing(monkeypatch):
    problem, options = quadratic(), {"iterations": 64, "batch": 4, "replicas": 256, "probes": ()}
    at_once = run(problem, METHOD, **options)
    assert at_once.chunks.replicas == 256  # of 4 KiB each
    monkeypatch.setattr("convergence.budget.CACHE", 2**18)
    found = run(problem, METHOD, **options)
    assert 16 <= found.chunks.replicas <= 128
    same(found, at_once)
    few = run(problem, METHOD, **{**options, "iterations": 20})
    assert few.chunks.replicas == 256  # not worth looking


def test_the_replicas_in_the_caches_touch_about_as_much_as_these_hold(monkeypatch):
    monkeypatch.setattr("convergence.budget.CACHE", 2**20)

    def bare(replicas: int, tasks: int):
        return run(quadratic(), METHOD, iterations=2, replicas=replicas, chunks=Chunks(), probes=())

    sizes = Sizes(short=bare, bare=bare, replicas=10**9, batch=12, rows=1, shared=0, held=lambda: 0, device=CPU)
    assert 2**19 < sizes.step(within_caches(sizes), 12) < 2**21
