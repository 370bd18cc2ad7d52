"""Rates, floors and hitting times, each with an interval where there is one. Statistics by scipy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # whose submodules are imported when they are first used: stats takes a second
from torch import Tensor

from convergence.arguments import integer, is_finite, positive, shown

Array = npt.NDArray[np.float64]


def _array(name: str, values: npt.ArrayLike) -> Array:
    """The values as float64. Raises ValueError where they are no real numbers, one in each place."""
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of other lengths, tensors without values
        raise ValueError(f"expected {name} an array of numbers, got {shown(values)}") from error
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise ValueError(f"expected {name} an array of real numbers, got {array.dtype} {array.shape}")
    return array.astype(np.float64)


def _between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low < value < high."""
    if not is_finite(value) or not low < value < high:
        raise ValueError(f"expected {name} a number between {low:g} and {high:g}, got {shown(value)}")


class Slope(NamedTuple):
    """A log-log slope, its interval (the value itself where there are no seeds), the constant exp(intercept)."""

    value: float
    low: float
    high: float
    constant: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


class Mean(NamedTuple):
    """A mean over seeds and its standard error, from seeds alone (time steps of one run are not independent)."""

    value: float
    standard_error: float

    def z(self, predicted: float) -> float:
        """(value - predicted) / standard_error."""
        return (self.value - predicted) / self.standard_error


def log_log_slope(
    x: npt.ArrayLike, y: npt.ArrayLike, *, confidence: float = 0.99, resamples: int = 2000, seed: int = 0
) -> Slope:
    """Least-squares slope of log y on log x.

    x is (n,); y is (n,), or (n, seeds): then log of the mean over seeds is fitted, and the interval is a percentile
    bootstrap that resamples whole seeds jointly over all n points. Raises ValueError on fewer than two points,
    on values that are not positive and finite, or fewer than two seeds.

    >>> round(log_log_slope([1, 10, 100], [5, 0.5, 0.05]).value, 12)
    -1.0
    """
    x, y = _array("x", x), _array("y", y)
    _between("confidence", confidence, 0, 1)
    resamples, seed = integer("resamples", resamples, least=1), integer("seed", seed, least=0)
    if x.ndim != 1 or len(x) < 2 or y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(f"expected x of shape (n >= 2,) and y of (n,) or (n, seeds), got {x.shape} and {y.shape}")
    for name, values in (("x", x), ("y", y)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"expected {name} positive and finite for a log-log slope")
    if np.ptp(x) == 0:
        raise ValueError("expected x to take at least two values, got one")
    log_x = np.log(x)
    weights = (log_x - log_x.mean()) / np.square(log_x - log_x.mean()).sum()  # of the least-squares slope

    def slope(means: Array) -> Array:
        return np.tensordot(weights, np.log(means), axes=1)

    means = y if y.ndim == 1 else y.mean(1)
    value = float(slope(means))
    low = high = value
    if y.ndim == 2:
        if y.shape[1] < 2:
            raise ValueError("expected at least two seeds for an interval, got one")
        drawn = scipy.stats.bootstrap(
            (np.arange(y.shape[1]),),
            lambda seeds, axis: slope(y[:, seeds].mean(axis=-1)),
            confidence_level=confidence,
            n_resamples=resamples,
            batch=100,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        low, high = (float(end) for end in drawn.confidence_interval)
    return Slope(value, low, high, math.exp(float(np.log(means).mean() - value * log_x.mean())))


def burn_in(spectral_radius: float, *, remainder: float = 1e-4) -> int:
    """Iterations after which a mode that contracts by `spectral_radius` has shrunk to `remainder`.

    Raises ValueError unless 0 <= spectral_radius < 1: a process that does not contract has no stationary mean.
    """
    if not is_finite(spectral_radius) or not 0 <= spectral_radius < 1:
        raise ValueError(f"expected a spectral radius in [0, 1) for a stationary state, got {shown(spectral_radius)}")
    _between("remainder", remainder, 0, 1)
    if spectral_radius == 0:
        return 1  # the first iterate is the start itself
    return math.ceil(math.log(remainder) / math.log(spectral_radius))


def stationary_mean(trace: npt.ArrayLike, *, discard: int) -> Mean:
    """Mean of a (T, R) trace after `discard` iterations: one time average a seed, then over the seeds.

    Raises ValueError where fewer than two iterations or seeds are left, or a value is not finite.
    """
    trace, discard = _array("trace", trace), integer("discard", discard, least=0)
    if trace.ndim != 2 or trace.shape[1] < 2 or len(trace) - discard < 2:
        raise ValueError(f"expected a trace (T > {discard + 1}, R >= 2), got shape {trace.shape}")
    if not np.isfinite(trace).all():
        raise ValueError("expected a finite trace: a replica stopped or diverged")
    per_seed = trace[discard:].mean(0)
    return Mean(float(per_seed.mean()), float(per_seed.std(ddof=1) / math.sqrt(len(per_seed))))


class Hotelling(NamedTuple):
    """T^2 = n (m - mu)' S^-1 (m - mu) of n samples with mean m and covariance S, and what it rarely exceeds."""

    statistic: float
    limit: float


def hotelling(samples: npt.ArrayLike, mean: npt.ArrayLike, *, significance: float = 1e-6) -> Hotelling:
    """Do independent samples (n, p) have this mean (p,)? If so T^2 exceeds the limit with probability `significance`.

    T^2 (n - p) / (p (n - 1)) is then F(p, n - p). T^2 is infinite where S is singular to rounding: samples that do not
    vary have no mean to test. Raises ValueError on other shapes, n <= p, or values that are not finite.
    Source: Hotelling, The generalization of Student's ratio, 1931.

    >>> hotelling([[1.0], [2.0], [3.0]], [2.0]).statistic
    0.0
    """
    samples, mean = _array("samples", samples), _array("mean", mean)
    _between("significance", significance, 0, 1)
    if samples.ndim != 2 or mean.shape != samples.shape[1:] or not 0 < samples.shape[1] < len(samples):
        raise ValueError(f"expected samples (n > p, p) and a mean (p,), got shapes {samples.shape} and {mean.shape}")
    if not (np.isfinite(samples).all() and np.isfinite(mean).all()):
        raise ValueError("expected finite samples and a finite mean")
    n, p = samples.shape
    limit = float(scipy.stats.f.isf(significance, p, n - p) * p * (n - 1) / (n - p))
    eigenvalues, vectors = np.linalg.eigh(np.atleast_2d(np.cov(samples, rowvar=False)))
    if eigenvalues[0] <= 1e-12 * np.square(samples).sum(1).mean():
        return Hotelling(math.inf, limit)
    gap = vectors.T @ (samples.mean(0) - mean)
    return Hotelling(float(n * (gap**2 / eigenvalues).sum()), limit)


def is_stationary(trace: npt.ArrayLike, *, threshold: float = 3.0) -> bool:
    """Whether the second and the fourth quarter of a (T, R) trace have the same mean (Welch |z| < threshold).

    For runs whose burn-in is not known in closed form: double T until it holds. Raises ValueError on a trace with
    fewer than four iterations or two seeds, or values that are not finite.
    """
    trace = _array("trace", trace)
    positive("threshold", threshold)
    if trace.ndim != 2 or len(trace) < 4 or trace.shape[1] < 2:
        raise ValueError(f"expected a trace (T >= 4, R >= 2), got shape {trace.shape}")
    if not np.isfinite(trace).all():
        raise ValueError("expected a finite trace: a replica stopped or diverged")
    quarter = len(trace) // 4
    second, fourth = (trace[k * quarter : (k + 1) * quarter].mean(0) for k in (1, 3))
    gap = abs(second.mean() - fourth.mean())
    error = math.sqrt((second.var(ddof=1) + fourth.var(ddof=1)) / trace.shape[1])
    return bool(gap < threshold * error or gap == 0)  # a trace that stands still has no error


def hitting_time(values: npt.ArrayLike, threshold: float) -> int | None:
    """The number of iterates after which the best so far is at or below the threshold; None if it never is.

    A value that is not a number is not below. Raises ValueError on values of other shapes than (T,).

    >>> hitting_time([4.0, 2.0, 1.0], 2.0)
    2
    """
    values = _array("values", values)
    if values.ndim != 1 or not is_finite(threshold):
        raise ValueError(f"expected values (T,) and a finite threshold, got {values.shape} and {shown(threshold)}")
    below = np.flatnonzero(values <= threshold)
    return int(below[0]) + 1 if len(below) else None


def running_average(values: npt.ArrayLike) -> Array:
    """1/T sum_{t<T} values_t for T = 1, 2, ..., along the first axis."""
    values = _array("values", values)
    counts = np.arange(1, len(values) + 1).reshape(-1, *(1,) * (values.ndim - 1))
    return np.asarray(np.cumsum(values, axis=0) / counts)
