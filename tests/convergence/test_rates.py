from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convergence.rates import (
    Mean,
    burn_in,
    hitting_time,
    hotelling,
    is_stationary,
    log_log_slope,
    running_average,
    stationary_mean,
)
from tests.strategies import seeds

numbers = st.floats(-1e6, 1e6)


# ---- slopes


@given(
    exponent=st.floats(-5, 5),
    log_constant=st.floats(-10, 10),
    powers=st.lists(st.integers(0, 20), min_size=2, max_size=20, unique=True),
)
def test_the_slope_and_the_constant_of_a_power_law_are_found_exactly(exponent, log_constant, powers):
    x = 2.0 ** np.array(powers)  # log x spreads by 1/3 at least
    slope = log_log_slope(x, math.exp(log_constant) * x**exponent)
    # log x <= 14 and |log y| <= 80: their product, over the squared spread, times a few roundings
    assert slope.value == pytest.approx(exponent, abs=1e-11)
    assert slope.constant == pytest.approx(math.exp(log_constant), rel=2e-10)
    assert slope.low == slope.value == slope.high
    assert slope.half_width == 0


def test_the_slope_is_that_of_numpy_on_data_off_a_line():
    rng = np.random.default_rng(0)
    x, y = np.arange(1, 30), np.exp(rng.standard_normal(29))
    value, intercept = np.polyfit(np.log(x), np.log(y), 1)
    slope = log_log_slope(x, y)
    assert slope.value == pytest.approx(value, rel=1e-12)
    assert slope.constant == pytest.approx(math.exp(intercept), rel=1e-12)


def noisy(seed: int, *, seeds: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """y = 3 / x times noise of mean one, independent over seeds and points."""
    x = 2.0 ** np.arange(6)
    noise = np.exp(np.random.default_rng(seed).normal(-0.02, 0.2, (6, seeds)))
    return x, 3 / x[:, None] * noise


def test_the_interval_covers_the_truth_as_often_as_it_says():
    intervals = [log_log_slope(*noisy(k), confidence=0.8, resamples=300) for k in range(100)]
    covered = sum(slope.low <= -1 <= slope.high for slope in intervals)
    # 80 of 100 with a standard deviation of 4; a percentile bootstrap of 30 seeds covers a little less than it says
    assert 64 <= covered <= 92


@given(seed=seeds)
def test_the_interval_holds_its_slope_repeats_by_seed_and_widens_with_confidence(seed):
    x, y = noisy(seed)
    wide, narrow = (log_log_slope(x, y, confidence=c, resamples=200) for c in (0.99, 0.5))
    assert wide.low < narrow.low <= wide.value <= narrow.high < wide.high
    assert wide.half_width == pytest.approx((wide.high - wide.low) / 2)
    assert log_log_slope(x, y, confidence=0.99, resamples=200) == wide
    assert wide.value == pytest.approx(log_log_slope(x, y.mean(1)).value, rel=1e-12)


def test_seeds_are_resampled_jointly_over_all_points():
    # one factor a seed, the same at all points: it shifts the line and leaves its slope alone
    x = 2.0 ** np.arange(6)
    factors = np.exp(np.random.default_rng(0).standard_normal(20))
    slope = log_log_slope(x, np.outer(1 / x, factors), resamples=200)
    assert slope.half_width < 1e-12


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        ([1.0], [1.0], r"expected x of shape \(n >= 2,\) and y of \(n,\) or \(n, seeds\), got \(1,\) and \(1,\)"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"got \(2,\) and \(3,\)"),
        ([[1.0, 2.0]], [1.0], r"got \(1, 2\) and \(1,\)"),
        ([1.0, 2.0], np.ones((2, 2, 2)), r"got \(2,\) and \(2, 2, 2\)"),
        ([0.0, 2.0], [1.0, 2.0], "expected x positive and finite for a log-log slope"),
        ([1.0, 2.0], [1.0, -2.0], "expected y positive and finite for a log-log slope"),
        ([1.0, 2.0], [1.0, math.nan], "expected y positive and finite for a log-log slope"),
        ([1.0, math.inf], [1.0, 2.0], "expected x positive and finite for a log-log slope"),
        ([2.0, 2.0], [1.0, 2.0], "expected x to take at least two values, got one"),
        ([1.0, 2.0], np.ones((2, 1)), "expected at least two seeds for an interval, got one"),
    ],
)
def test_data_without_a_slope_are_refused(x, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        log_log_slope(x, y)


# ---- stationary means


def autoregressive(seed: int, *, radius: float, start: float, length: int = 400, seeds: int = 200) -> np.ndarray:
    """x' = 2 + radius (x - 2) + unit noise: stationary mean 2."""
    noise = np.random.default_rng(seed).standard_normal((length, seeds))
    x, trace = np.full(seeds, start), []
    for shock in noise:
        trace.append(x)
        x = 2 + radius * (x - 2) + shock
    return np.stack(trace)


@pytest.mark.parametrize("radius", [0.0, 0.5, 0.9])
def test_the_mean_of_an_autoregressive_process_is_found_with_its_standard_error(radius):
    discard = burn_in(radius)
    kept = 400 - discard
    mean = stationary_mean(autoregressive(0, radius=radius, start=1000.0), discard=discard)
    # the start is 998 off, times the 1e-4 that the burn-in leaves, over the kept iterations
    bias = 0.1 / ((1 - radius) * kept)
    assert abs(mean.value - 2) <= 4 * mean.standard_error + bias
    # variance of a time average of n steps: sum_{|k| < n} (n - |k|) rho^|k| / n^2, over 1 - rho^2; 200 seeds
    lags = np.arange(1, kept)
    variance = (kept + 2 * ((kept - lags) * radius**lags).sum()) / kept**2 / (1 - radius**2)
    # the deviation of 200 numbers is known to 5 %
    assert mean.standard_error == pytest.approx(math.sqrt(variance / 200), rel=0.2)


def test_without_discarding_the_start_is_seen():
    mean = stationary_mean(autoregressive(0, radius=0.9, start=1000.0), discard=0)
    assert mean.z(2.0) > 10


def test_the_standard_error_is_that_of_a_sample_of_seeds():
    # means of the two seeds after the first iteration: 1 and 3; deviation sqrt 2, over sqrt 2
    mean = stationary_mean([[9.0, 9.0], [0.0, 2.0], [2.0, 4.0]], discard=1)
    assert mean == pytest.approx((2.0, 1.0), rel=1e-15)


def test_z_counts_standard_errors():
    assert Mean(3.0, 0.5).z(2.0) == 2.0
    assert Mean(1.0, 0.5).z(2.0) == -2.0


@pytest.mark.parametrize(
    ("trace", "discard", "sentence"),
    [
        (np.ones(5), 0, r"expected a trace \(T > 1, R >= 2\), got shape \(5,\)"),
        (np.ones((5, 1)), 0, r"expected a trace \(T > 1, R >= 2\), got shape \(5, 1\)"),
        (np.ones((5, 3)), 4, r"expected a trace \(T > 5, R >= 2\), got shape \(5, 3\)"),
        (np.array([[1.0, math.nan], [1.0, 1.0]]), 0, "expected a finite trace: a replica stopped or diverged"),
    ],
)
def test_traces_without_a_stationary_mean_are_refused(trace, discard, sentence):
    with pytest.raises(ValueError, match=sentence):
        stationary_mean(trace, discard=discard)


@given(radius=st.floats(1e-6, 0.9999), remainder=st.floats(1e-8, 0.5))
def test_the_burn_in_is_the_first_power_below_the_remainder(radius, remainder):
    steps = burn_in(radius, remainder=remainder)
    assert radius**steps <= remainder * (1 + 1e-9) < radius ** (steps - 1) * (1 + 1e-8)


def test_a_process_without_memory_forgets_its_start_in_one_iteration():
    # x_0 is the start itself: 0^0 = 1 is above any remainder, 0^1 is not
    assert burn_in(0.0) == burn_in(1e-9) == 1


def test_a_process_that_does_not_contract_has_no_burn_in():
    for radius in (1.0, 1.5, -0.1, math.nan):
        with pytest.raises(
            ValueError, match=rf"expected a spectral radius in \[0, 1\) for a stationary state, got {radius}"
        ):
            burn_in(radius)


def test_a_trace_is_stationary_once_its_burn_in_is_short_beside_it():
    assert is_stationary(autoregressive(1, radius=0.5, start=2.0))
    assert is_stationary(autoregressive(1, radius=0.5, start=50.0))
    assert not is_stationary(autoregressive(1, radius=0.99, start=50.0))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_trace_that_stands_still_is_stationary(level):
    assert is_stationary(np.full((40, 5), level))


@pytest.mark.parametrize("trace", [np.ones((3, 5)), np.ones(40), np.ones((40, 1))])
def test_a_trace_too_short_to_compare_quarters_is_refused(trace):
    with pytest.raises(ValueError, match=r"expected a trace .*got shape"):
        is_stationary(trace)


# ---- means of vectors


def test_in_one_dimension_the_statistic_is_the_square_of_t_and_the_limit_that_of_student():
    x = np.random.default_rng(0).normal(0.3, 2.0, 50)
    found, t = hotelling(x[:, None], [0.0], significance=0.01), stats.ttest_1samp(x, 0.0)
    assert found.statistic == pytest.approx(t.statistic**2, rel=1e-12)
    assert found.limit == pytest.approx(stats.t.isf(0.005, 49) ** 2, rel=1e-9)


@given(seeds)
def test_the_statistic_does_not_depend_on_the_coordinates(seed):
    rng = np.random.default_rng(seed)
    samples, mean = rng.standard_normal((30, 3)), rng.standard_normal(3)
    change = rng.standard_normal((3, 3)) + 4 * np.eye(3)  # well conditioned: entries beyond 4 are rare, and harmless
    moved = hotelling(samples @ change.T + 1, change @ mean + 1)
    assert moved.statistic == pytest.approx(hotelling(samples, mean).statistic, rel=1e-6)


def test_the_limit_is_exceeded_as_seldom_as_it_says():
    """2000 tests at 5 %: 100 rejections within 4 standard deviations (39); with the mean off by 1, all of 200."""
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((2000, 12, 3)) @ rng.standard_normal((3, 3))
    found = [hotelling(each, np.zeros(3), significance=0.05) for each in samples]
    assert 61 <= sum(each.statistic > each.limit for each in found) <= 139
    off = [hotelling(each, 10 * np.ones(3), significance=0.05) for each in samples[:200]]
    assert all(each.statistic > each.limit for each in off)


def test_with_many_samples_the_limit_is_that_of_chi_squared():
    samples = np.random.default_rng(2).standard_normal((20000, 4))
    assert hotelling(samples, np.zeros(4)).limit == pytest.approx(stats.chi2.isf(1e-6, 4), rel=2e-3)


def test_samples_that_do_not_vary_in_all_directions_have_an_infinite_statistic():
    line = np.outer(np.arange(10.0), [1.0, 2.0]) + 1e-9 * np.random.default_rng(0).standard_normal((10, 2))
    for samples in (np.ones((10, 2)), line):
        assert hotelling(samples, samples.mean(0)).statistic == math.inf


@pytest.mark.parametrize("bad", [np.ones((3, 3)), np.ones(4), np.full((5, 2), np.nan), np.ones((5, 3))])
def test_samples_of_the_wrong_kind_are_refused(bad):
    with pytest.raises(ValueError, match=r"expected samples \(n > p, p\)|expected finite samples"):
        hotelling(bad, np.ones(2 if bad.ndim != 2 or bad.shape[1] != 3 or len(bad) == 5 else 3))


# ---- times and averages


@given(values=st.lists(numbers, max_size=30), threshold=numbers)
def test_the_hitting_time_is_where_a_loop_first_meets_the_threshold(values, threshold):
    expected = next((t + 1 for t, value in enumerate(values) if value <= threshold), None)
    assert hitting_time(values, threshold) == expected


def test_a_value_that_is_not_a_number_is_no_hit():
    assert hitting_time([math.nan, 3.0, 1.0], 2.0) == 3


@given(values=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30))
def test_the_running_average_is_that_of_a_loop(values):
    table = np.array(values)
    expected = [table[: t + 1].mean(0) for t in range(len(table))]
    np.testing.assert_allclose(running_average(table), expected, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(running_average(table[:, 0]), np.array(expected)[:, 0], rtol=1e-12, atol=1e-9)
