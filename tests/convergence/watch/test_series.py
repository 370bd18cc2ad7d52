"""Means over equal stretches, at any length of the run."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.watch import series as module
from convergence.watch.series import Series, sparkline

numbers = st.floats(-1e6, 1e6)


def of(values):
    found = Series()
    for value in values:
        found.add(value)
    return found


@given(values=st.lists(numbers, min_size=1, max_size=60))
def test_extremes_are_those_of_all_values(values):
    found = of(values)
    assert (found.first, found.last, found.least, found.most) == (values[0], values[-1], min(values), max(values))


@given(values=st.lists(numbers, min_size=1, max_size=40), width=st.integers(1, 80))
def test_there_are_as_many_means_as_columns_and_each_is_of_a_stretch(values, width):
    means = of(values).means(width)
    assert len(means) == width
    if len(values) % width == 0:
        assert means == pytest.approx(np.reshape(values, (width, -1)).mean(1).tolist(), rel=1e-12, abs=1e-6)
    if width % len(values) == 0:
        assert means == pytest.approx(np.repeat(values, width // len(values)).tolist(), rel=1e-12)


@pytest.mark.parametrize("count", [2047, 2048, 2049, 5000, 40000])
def test_a_long_run_is_kept_as_means_of_equally_many(count):
    found = of(float(t) for t in range(count))
    assert len(found._means) < module._MOST
    means = found.means(50)
    assert means == sorted(means)
    middles = (np.arange(50) + 0.5) * count / 50  # of each stretch, whose mean it is
    assert np.abs(np.array(means) - middles).max() < 2 * found._stretch + count / module._MOST


def test_a_series_without_values_is_empty():
    assert not Series()
    assert math.isnan(Series().last)
    assert Series().means(10) == []
    assert sparkline([]) == ""


@given(values=st.lists(numbers, min_size=2, max_size=30, unique=True))
def test_a_line_has_its_full_height_and_goes_as_the_values_go(values):
    line = sparkline(values)
    assert (line[values.index(min(values))], line[values.index(max(values))]) == ("▁", "█")
    pairs = zip(values, values[1:], line, line[1:], strict=False)
    assert all((a <= b) == (p <= q) or p == q for a, b, p, q in pairs)


def test_what_falls_by_decades_is_drawn_by_its_logarithm():
    assert sparkline([10.0**-k for k in range(8)]) == "█▇▆▅▄▃▂▁"
    assert sparkline([0.0, *[10.0**-k for k in range(7)]])[2:] == "▂▁▁▁▁▁"  # zero has none
    assert sparkline([3.0] * 4) == "▄▄▄▄"
