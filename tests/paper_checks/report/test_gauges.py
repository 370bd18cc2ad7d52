"""What a small picture says is what the numbers say."""

import math
import re
from dataclasses import replace

import pytest

from paper_checks.claim import Outcome, at_least, at_most, equal, missing
from paper_checks.report.gauges import gauge, pair, share


def filled(picture: str) -> float:
    return float(re.search(r'class="fill" y="3" width="([\d.]+)"', picture)[1]) / 128


def mark(picture: str) -> float:
    return float(re.search(r'class="mark" d="M([\d.]+)', picture)[1]) / 128


def test_a_share_of_a_bound_is_that_far_along_the_way_to_its_mark():
    found = gauge(at_most("x", 0.25, 0.5))
    assert found.said == "0.5 of the bound"
    assert filled(found.picture) == pytest.approx(0.5 * mark(found.picture), abs=1e-3)
    over = gauge(at_most("x", 4.0, 0.5))
    assert filled(over.picture) == 1 > mark(over.picture)
    assert "arrow" in over.picture
    assert 'class="VIOLATED"' in over.picture


def test_agreement_is_counted_in_digits():
    found = gauge(equal("x", 1 + 1e-12, 1.0, relative=1e-8))
    assert found.said == "12 digits agree, 8 needed" or found.said == "11 digits agree, 8 needed"
    assert filled(found.picture) == pytest.approx(12 / 16, abs=1e-2)
    assert mark(found.picture) == pytest.approx(8 / 16)
    assert gauge(equal("x", 3.0, 3.0)).said == "equal"
    assert gauge(equal("x", 9.0, 1.0, relative=1e-8)).said == "not one digit agrees, 8 needed"


def test_an_interval_lies_around_its_prediction_or_beside_it():
    mean = replace(at_least("x", 2.0, 1.0), interval=(1.5, 2.5))
    assert gauge(mean).said == "interval above 1"
    assert gauge(replace(mean, predicted=3.0)).said == "interval below 3"
    assert gauge(replace(mean, predicted=2.1)).said == "interval around 2.1"
    assert gauge(replace(mean, interval=(-math.inf, 2.5))) is None


@pytest.mark.parametrize(
    "comparison",
    [missing("x", 1.0, "no data"), at_most("x", -1.0, 1.0), at_most("x", 1.0, 0.0), at_most("x", 1.0, math.inf)],
)
def test_nothing_is_drawn_where_nothing_can_be(comparison):
    assert gauge(comparison) is None


def test_two_intervals_stand_above_each_other():
    mean = replace(at_least("x", 2.0, 1.0), interval=(1.5, 2.5))
    assert pair(mean, replace(mean, measured=4.0, interval=(3.5, 4.5)), True).picture.count("<rect") == 2
    assert pair(mean, at_least("x", 2.0, 1.0), True) is None
    assert pair(None, mean, True) is None


def test_what_a_search_found_is_a_share():
    assert share(0.9999999, Outcome.HOLDS).said == "1.0000 of the bound"
    assert share(2.5e8, Outcome.VIOLATED).said == "2e8 of the bound"
