from __future__ import annotations

import pickle
from itertools import pairwise

import pytest

from convergence import MemoryReduced, RunFailed, Status, run
from problems import Quadratic


def test_a_worse_end_is_larger_so_that_the_worst_of_several_is_the_maximum():
    worse = [Status.MAX_ITERATIONS, Status.CONVERGED, Status.BREAKDOWN, Status.NON_FINITE]
    assert all(better < next_one for better, next_one in pairwise(worse))
    assert set(worse) == set(Status)
    assert Status.MAX_ITERATIONS == 0  # the code of a row without failure


def test_breakdown_and_values_that_are_not_finite_are_failures():
    assert {status for status in Status if status.failed} == {Status.BREAKDOWN, Status.NON_FINITE}


@pytest.mark.parametrize("status", Status)
def test_every_status_prints_its_name_and_says_what_to_try_in_one_sentence(status):
    assert str(status) == status.name
    assert status.advice.endswith(".")
    assert status.advice.count(". ") == 0
    if status.failed:
        assert any(word in status.advice for word in ("try", "add"))


@pytest.fixture
def failure() -> RunFailed:
    problem = Quadratic.random(tasks=2, p=2, q=2, kappa=2.0)
    method = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=1e3)
    with pytest.raises(RunFailed) as caught:
        run(problem, method, iterations=1000)
    return caught.value


def test_a_failed_run_says_what_happened_when_and_what_to_try(failure):
    result = failure.result
    assert failure.status is Status.NON_FINITE is result.status
    assert 0 < result.iterations < 1000
    assert str(failure) == f"NON_FINITE after {result.iterations} upper iterations: {Status.NON_FINITE.advice}"


def test_a_failed_run_passes_between_processes(failure):
    again = pickle.loads(pickle.dumps(failure))
    assert str(again) == str(failure)
    assert again.result.iterations == failure.result.iterations
