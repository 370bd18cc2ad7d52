from __future__ import annotations

from itertools import pairwise

import pytest

from convergence import Status


def test_a_worse_end_is_larger_so_that_the_worst_of_several_is_the_maximum():
    worse = [Status.CONVERGED, Status.MAX_ITERATIONS, Status.BREAKDOWN, Status.NON_FINITE]
    assert all(better < next_one for better, next_one in pairwise(worse))
    assert set(worse) == set(Status)
    assert min(Status) == 0  # no row without a failure has a code that counts as one


def test_the_advice_on_infinity_holds_for_step_sizes_and_learning_rates():
    assert "a smaller upper step size or learning rate" in Status.NON_FINITE.advice


def test_breakdown_and_values_that_are_not_finite_are_failures():
    assert {status for status in Status if status.failed} == {Status.BREAKDOWN, Status.NON_FINITE}


@pytest.mark.parametrize("status", Status)
def test_every_status_prints_its_name_and_says_what_to_try_in_one_sentence(status):
    assert str(status) == status.name
    assert status.advice.endswith(".")
    assert status.advice.count(". ") == 0
    if status.failed:
        assert any(word in status.advice for word in ("try", "add"))
