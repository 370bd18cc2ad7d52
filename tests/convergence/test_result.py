from __future__ import annotations

import pickle

import pytest
import torch

from convergence import MemoryReduced, Result, RunFailed, Status, run
from problems import Quadratic
from tests.independent import assert_near

METHOD = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.2)


@pytest.fixture
def quadratic() -> Quadratic:
    return Quadratic.random(tasks=6, p=3, q=4, kappa=5.0, seed=0)


@pytest.fixture
def failure(quadratic) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        run(quadratic, MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=1e3), iterations=1000)
    return caught.value


def test_a_failed_run_says_what_happened_when_and_what_to_try(failure):
    result = failure.result
    assert failure.status is Status.NON_FINITE is result.status
    assert 0 < result.iterations < 1000
    assert str(failure) == f"NON_FINITE after {result.iterations} upper iterations: {Status.NON_FINITE.advice}"


def test_a_failed_run_passes_between_processes(failure):
    again = pickle.loads(pickle.dumps(failure))
    assert str(again) == str(failure)
    assert (again.status, again.result.iterations) == (failure.status, failure.result.iterations)


@pytest.mark.parametrize("replicas", [None, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"probe_every": 3},
        {"stop_at": {"grad_norm_sq": 0.05}},
        {"stop_at": {"direction_norm_sq": 0.05}},
        {"phi0": {"phi": torch.full((3,), 1e300, dtype=torch.float64)}, "raise_on_failure": False},
    ],
    ids=["to-the-end", "every-third", "stopped-by-phi", "stopped-by-the-step", "failed"],
)
def test_every_trace_has_one_entry_for_each_probed_iteration(quadratic, options, replicas):
    probes = ("grad_norm_sq", "direction_norm_sq")
    result: Result = run(quadratic, METHOD, iterations=40, probes=probes, replicas=replicas, **options)
    assert result.probed_at.dtype == torch.int64
    for name in probes:
        assert result.trace[name].shape == (len(result.probed_at), *(() if replicas is None else (replicas,)))


def test_the_state_of_a_replica_is_that_of_its_separate_run(quadratic):
    options = {"iterations": 60, "stop_at": {"grad_norm_sq": 0.05}}
    together = run(quadratic, METHOD, seed=1, replicas=3, **options)
    assert len(set(together.iterations_of)) > 1  # some stop before the others
    for r in range(3):
        alone = run(quadratic, METHOD, seed=1 + r, **options)
        for stored, single in zip(together.state, alone.state, strict=True):
            assert_near(stored[r], single, within=1e-12)


def test_no_iteration_leaves_an_empty_trace_of_the_same_types(quadratic):
    result = run(quadratic, METHOD, iterations=0)
    assert (result.trace["grad_norm_sq"].shape, result.trace["grad_norm_sq"].dtype) == ((0,), torch.float64)
    assert (result.probed_at.shape, result.probed_at.dtype) == ((0,), torch.int64)
