"""Comparisons judge the worst cell, and a verdict is no better than its control."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence import MemoryReduced, Status, run
from convergence.rates import Mean, Slope
from paper_checks.claim import (
    Claim,
    Outcome,
    Setting,
    Verdict,
    at_least,
    at_most,
    equal,
    mean_at_least,
    mean_equals,
    mean_vector_equals,
    missing,
    parse,
    slope_at_most,
    slope_is,
    worst,
)
from problems import Quadratic

HOLDS, VIOLATED, INCONCLUSIVE = Outcome.HOLDS, Outcome.VIOLATED, Outcome.INCONCLUSIVE
cells = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6)
HOLDING = at_most("x", 0.0, 1.0)
FAILING = at_most("x", 2.0, 1.0)


@given(cells, st.integers(0, 5), st.floats(2e-6, 1.0))
def test_equal_is_decided_by_its_worst_cell(values, k, error):
    values = np.array(values)
    assert equal("x", values, values, relative=1e-6).outcome is HOLDS
    k %= len(values)
    off = values.copy()
    off[k] *= 1 + error
    found = equal("x", off, values, relative=1e-6, cells=[f"cell {i}" for i in range(len(values))])
    assert found.outcome is VIOLATED
    assert found.cell == f"cell {k}"
    assert found.measured == off[k]
    assert found.predicted == values[k]


def test_equal_compares_vectors_by_norm_and_integers_exactly():
    assert equal("d", [[3.0, 4.0]], [[3.0, 4.0 + 1e-11]], relative=1e-10).outcome is HOLDS
    assert equal("d", [[3.0, 4.0]], [[4.0, 3.0]], relative=1e-10).outcome is VIOLATED  # equal norms, unequal vectors
    assert equal("calls", 7, 7).outcome is HOLDS
    assert equal("calls", [7, 8], [7, 7]).outcome is VIOLATED


@given(cells, cells)
def test_bounds_are_judged_by_the_extreme_and_never_by_the_average(low, high):
    highest, lowest = max(low + high), min(low + high)
    assert at_most("x", low + high, highest).outcome is HOLDS
    assert at_most("x", low + high, highest * (1 - 1e-12)).outcome is VIOLATED
    assert at_least("x", low + high, lowest).outcome is HOLDS
    assert at_least("x", low + high, lowest * (1 + 1e-12)).outcome is VIOLATED


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_never_accepted(value):
    assert equal("x", [1.0, value], [1.0, 1.0], relative=0.5).outcome is VIOLATED
    assert at_most("x", [0.0, value], 1.0).outcome is VIOLATED
    assert at_least("x", [2.0, value], 1.0).outcome is VIOLATED
    assert mean_equals("x", [Mean(value, 0.01)], [1.0]).outcome is VIOLATED


def test_a_mean_is_accepted_refuted_or_called_too_coarse():
    fine, coarse = 0.01, 0.05
    assert mean_equals("F", [Mean(1.03, fine)], [1.0]).outcome is HOLDS
    assert mean_equals("F", [Mean(1.05, fine)], [1.0]).outcome is VIOLATED
    assert mean_equals("F", [Mean(1.05, coarse)], [1.0]).outcome is INCONCLUSIVE
    assert mean_equals("F", [Mean(1.0, fine), Mean(1.5, coarse)], [1.0, 1.0]).outcome is VIOLATED


def test_the_mean_of_vectors_is_judged_in_its_worst_cell():
    samples = np.random.default_rng(0).standard_normal((2, 500, 3)) + 7
    mean = np.full(3, 7.0)
    assert mean_vector_equals("d", samples, mean).outcome is HOLDS
    samples[1, :, 2] += 0.5  # eleven standard errors
    found = mean_vector_equals("d", samples, mean, cells=["first", "second"])
    assert (found.outcome, found.cell) == (VIOLATED, "second")
    assert found.measured > found.predicted
    samples[0] = 7.0
    found = mean_vector_equals("d", samples, mean, cells=["first", "second"])
    assert (found.outcome, found.cell) == (VIOLATED, "first")
    assert "singular covariance" in found.reason
    assert mean_vector_equals("d", samples * np.nan, mean).outcome is VIOLATED


def test_a_slope_is_accepted_refuted_or_called_too_wide():
    assert slope_is("s", Slope(1.0, 0.99, 1.01, 1.0), 1.0, half_width=0.02).outcome is HOLDS
    assert slope_is("s", Slope(0.9, 0.89, 0.91, 1.0), 1.0, half_width=0.02).outcome is VIOLATED
    assert slope_is("s", Slope(1.0, 0.9, 1.1, 1.0), 1.0, half_width=0.02).outcome is INCONCLUSIVE


def test_a_slope_below_its_bound_is_accepted_and_one_whole_interval_above_it_refuted():
    assert slope_at_most("s", Slope(-1.0, -1.01, -0.99, 1.0), -0.5, half_width=0.02).outcome is HOLDS
    assert slope_at_most("s", Slope(-0.495, -0.505, -0.485, 1.0), -0.5, half_width=0.02).outcome is HOLDS
    assert slope_at_most("s", Slope(-0.4, -0.41, -0.39, 1.0), -0.5, half_width=0.02).outcome is VIOLATED
    assert slope_at_most("s", Slope(-1.0, -1.1, -0.9, 1.0), -0.5, half_width=0.02).outcome is INCONCLUSIVE
    assert slope_at_most("s", Slope(math.nan, math.nan, math.nan, 1.0), -0.5, half_width=0.1).outcome is VIOLATED


def test_a_slope_that_is_not_a_number_is_refuted_and_recorded_without_it():
    comparison = slope_is("s", Slope(math.nan, math.nan, math.nan, 1.0), 1.0, half_width=0.1)
    assert comparison.outcome is VIOLATED
    verdict = Verdict("claim", (comparison,), (), 0.0, Setting())
    assert verdict.record()["interval"] == [None, None]
    json.dumps(verdict.record(), allow_nan=False)


def test_the_worst_outcome_wins_and_nothing_to_judge_is_inconclusive():
    assert worst([HOLDS, INCONCLUSIVE, VIOLATED]) is VIOLATED
    assert worst([HOLDS, INCONCLUSIVE]) is INCONCLUSIVE
    assert worst([HOLDS]) is HOLDS
    assert worst([]) is INCONCLUSIVE


@pytest.mark.parametrize(
    ("comparisons", "control", "failure", "expected"),
    [
        ([HOLDING], [FAILING], "", HOLDS),
        ([HOLDING, FAILING], [FAILING], "", VIOLATED),
        ([HOLDING], [HOLDING], "", INCONCLUSIVE),  # a check that cannot fail
        ([FAILING], [HOLDING], "", VIOLATED),
        ([], [FAILING], "", INCONCLUSIVE),
        ([], [FAILING], "the run ended", VIOLATED),
    ],
)
def test_a_verdict_holds_only_with_every_comparison_and_a_caught_control(comparisons, control, failure, expected):
    verdict = Verdict("c", tuple(comparisons), tuple(control), 0.0, Setting(), failure)
    assert verdict.outcome is expected
    assert verdict.record()["outcome"] == expected.value
    assert verdict.reason


def test_a_run_that_diverges_is_a_violation_with_its_status():
    problem = Quadratic.random(tasks=2, p=2, q=2, kappa=2.0, seed=0)

    def diverge(setting):
        run(problem, MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=1e6), iterations=200)

    sections = dict.fromkeys(("Statement",), "")
    claim = Claim("c", "t", sections, diverge, lambda evidence: [HOLDING], lambda setting: {})
    verdict, evidence = claim.verdict(Setting())
    assert verdict.outcome is VIOLATED
    assert Status.NON_FINITE.name in verdict.reason
    assert not evidence


def test_a_docstring_without_its_sections_is_refused():
    with pytest.raises(ValueError, match="missing"):
        parse("Title.\n\nStatement.\n    Something.\n")


def test_a_claim_reports_which_cell_it_measures():
    heard = []
    assert list(Setting(report=heard.append).track("ab", "cells")) == ["a", "b"]
    assert heard == ["cells, 1 of 2", "cells, 2 of 2"]


def test_a_mean_reaches_its_bound_by_itself_or_with_its_whole_interval():
    near, far = [0.98, 1.0, 1.08], [1.98, 2.0, 2.02]
    assert mean_at_least("x", near, 1.0).outcome is HOLDS
    assert mean_at_least("x", near, 1.0, whole=True).outcome is INCONCLUSIVE
    assert mean_at_least("x", far, 1.0, whole=True).outcome is HOLDS
    for whole in (False, True):
        assert mean_at_least("x", far, 3.0, whole=whole).outcome is VIOLATED
        assert mean_at_least("x", [math.nan, 2.0], 1.0, whole=whole).outcome is VIOLATED
    low, high = mean_at_least("x", far, 1.0).interval
    assert (low + high) / 2 == pytest.approx(2.0)
    assert high - low == pytest.approx(2 * 4.302653 * 0.02 / math.sqrt(3), rel=1e-6)  # Student's t of 2 degrees
    assert mean_at_least("x", [2.0], 1.0).interval == (-math.inf, math.inf)


def test_what_was_not_measured_is_inconclusive_with_its_reason():
    comparison = missing("q", 2.0, "no solver: install one")
    assert (comparison.outcome, comparison.reason) == (INCONCLUSIVE, "no solver: install one")
    assert math.isnan(comparison.measured)
