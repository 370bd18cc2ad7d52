"""The semidefinite programme against cases solved by hand, and the claim without the package that solves it."""

import math
import sys

import numpy as np
import pytest

from paper_checks import Outcome, Setting, worst_case_sdp
from paper_checks.worst_case_sdp import WITHOUT, Cell, worst_case
from problems import Huber, Zigzag


@pytest.mark.parametrize("kind", [0, 1])
def test_without_a_step_the_gradient_is_as_large_as_smoothness_allows(kind):
    primal, dual = worst_case(Cell(kind, 1.0, 0))
    assert primal == pytest.approx(2, rel=1e-6)  # |g|^2 <= 2 L (f - f*), attained by a parabola
    assert dual == pytest.approx(2, rel=1e-6)


def test_one_step_with_no_information_is_as_bad_as_none():
    # |d - g| <= |g| allows d = 0
    assert worst_case(Cell(0, 0.5, 1, 1.0))[0] == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize(("kind", "make"), [(0, Huber), (1, Zigzag)])
@pytest.mark.parametrize("h", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("N", [1, 4])
def test_the_formula_is_the_law_of_the_instances_that_attain_it(kind, make, h, N):
    assert Cell(kind, h, N).law == pytest.approx(make(horizon=N + 1, relative_step=h).law, rel=1e-14)
    assert Cell(kind, h, N, eps=0.5).law == pytest.approx(make(horizon=N + 1, relative_step=h / 2).law, rel=1e-14)


def test_without_pepit_the_claim_is_inconclusive_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PEPit", None)  # as if it were not installed
    worst_case.cache_clear()
    try:
        evidence = worst_case_sdp.run(Setting())
    finally:
        worst_case.cache_clear()
    assert np.isnan(evidence["sdp"]).all()
    first, *others = worst_case_sdp.judge(evidence)
    assert (first.outcome, first.reason) == (Outcome.INCONCLUSIVE, WITHOUT)
    assert math.isnan(first.measured)
    assert len(others) >= 6
    assert all(comparison.outcome is Outcome.HOLDS for comparison in others)


def test_a_programme_off_its_formula_is_a_violation():
    evidence = worst_case_sdp.run(Setting())
    (found, *_) = worst_case_sdp.judge(evidence | {"sdp": evidence["sdp"] * 1.001})
    assert found.outcome is Outcome.VIOLATED
