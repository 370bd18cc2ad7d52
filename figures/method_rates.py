"""Rates of published methods: worst case, noise, finite sums, and the fitted exponents beside the declared ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from convergence.rates import log_log_slope
from figures.marks import band, dashed, describe, key, legend, measured, panels, predicted, shaded
from figures.style import BLACK, GREY, SMALL_SIZE, Array, Evidence, Series, method, paper_style

BANDS = ("soba", "f2sa", "saba")  # drawn for these alone: those of the others lie over them
MEAN = r"mean over $t < T$ of $\|\nabla\Phi(\phi_t)\|^2$"
# kind -> what its rows are called, and where on the axis of exponents there is room to say so
KINDS = {"worst": ("worst case", -0.62), "noisy": ("noise", -0.98), "sum": ("finite sums", -0.62)}


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: iterates at the level of a worst case; b: means with noise; c: on finite sums; d: exponents."""
    figure, (worst, noise, sums, exponents) = panels(2, 2, height=6.2)
    _worst_case(worst, evidence)
    _noise(noise, evidence)
    _sums(sums, evidence)
    _exponents(exponents, evidence)
    return figure


def _worst_case(axes: Axes, e: Evidence) -> None:
    T = e["worst_T"]
    for k, (name, iterates) in enumerate(zip(e["worst_names"], e["worst_iterates"], strict=True)):
        left = np.isfinite(iterates)
        measured(axes, (T * _apart(k, e["worst_names"]))[left], (iterates / T)[left], method(name))
    predicted(axes, T, np.ones(len(T)))
    share = r"iterates with $\|\nabla\Phi\|^2 \geq 2 L_\Phi \Delta / T$, over $T$"
    describe(axes, x="upper iterations $T$, side by side", y=share, logarithmic="x")
    legend(axes, dashed("gradient descent"))


def _apart(k: int, names: Array) -> float:
    """A factor of T that sets the markers of a panel side by side: several methods coincide."""
    return float(1.06 ** (k - (len(names) - 1) / 2))


def _noise(axes: Axes, e: Evidence) -> None:
    T, start = e["noisy_T"], e["noisy_start"]
    for k, (name, means, rate) in enumerate(zip(e["noisy_names"], e["noisy_mean"], e["noisy_rate"], strict=True)):
        series = method(name)
        if name in BANDS:
            band(axes, T, means, series.colour)
        measured(axes, T * _apart(k, e["noisy_names"]), means.mean(-1), series)
        predicted(axes, T, start / 2 * (T / T[0]) ** -rate, series.colour)
    describe(axes, x="upper iterations $T$, side by side", y=MEAN, logarithmic="xy")
    legend(axes, dashed(r"$T^{-r}$, $r$ as declared"), _seeds(e["noisy_mean"]))


def _sums(axes: Axes, e: Evidence) -> None:
    T = e["sum_T"]
    for k, (name, means) in enumerate(zip(e["sum_names"], e["sum_mean"], strict=True)):
        if name in BANDS:
            band(axes, T, means, method(name).colour)
        measured(axes, T * _apart(k, e["sum_names"]), means.mean(-1), method(name))
    predicted(axes, T, e["sum_start"] / T)
    describe(axes, x="upper iterations $T$, side by side", y=MEAN, logarithmic="xy")
    legend(axes, dashed("$T^{-1}$"), _seeds(e["sum_mean"]))


def _seeds(means: Array) -> Patch:
    return shaded(f"10–90 % of {means.shape[-1]} seeds")


def _exponents(axes: Axes, e: Evidence) -> None:
    """A row for each method and setting: the fitted exponent, its interval over seeds, and what is declared."""
    rows = list(_rows(e))
    for place, (_, series, declared, x, y) in enumerate(rows):
        if len(x) > 1 and all((np.isfinite(values) & (values > 0)).all() for values in (x, y)):
            slope = log_log_slope(x, y)
            axes.plot([slope.low, slope.high], [place, place], color=series.colour, linewidth=0.8)
            measured(axes, [slope.value], [place], series, label="")
        predicted(axes, [declared, declared], [place - 0.4, place + 0.4])
    for kind, (text, where) in KINDS.items():
        own = [place for place, row in enumerate(rows) if row[0] == kind]
        if own:
            axes.text(where, float(np.mean(own[:2])), text, fontsize=SMALL_SIZE, va="center")
            if own[0]:
                axes.axhline(own[0] - 0.5, color=GREY, linewidth=0.5)
    axes.set_ylim(len(rows) - 0.4, -0.5)
    describe(axes, x="fitted exponent of $T$", y="method, by setting")
    axes.set_yticks(range(len(rows)), [row[1].label for row in rows])
    legend(axes, key(Series(BLACK, "o", "fitted, 99 % interval")), dashed("declared"), columns=2)


def _rows(e: Evidence) -> Iterator[tuple[str, Series, float, Array, Array]]:
    """(kind, series, declared exponent, x, y) of every method that has an exponent there."""
    for name, iterates in zip(e["worst_names"], e["worst_iterates"], strict=True):
        if np.isfinite(iterates).all():
            yield "worst", method(name), -1.0, iterates, e["worst_level"]
    for name, rate, means in zip(e["noisy_names"], e["noisy_rate"], e["noisy_mean"], strict=True):
        yield "noisy", method(name), -float(rate), e["noisy_T"], means
    for name, means in zip(e["sum_names"], e["sum_mean"], strict=True):
        if name != "soba":
            yield "sum", method(name), -1.0, e["sum_T"], means
