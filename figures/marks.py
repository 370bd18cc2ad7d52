"""What several figures draw: panels, markers of a measurement, the dashed line of its prediction, bands, legends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, log10
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from figures.style import BLACK, FULL_WIDTH, GREY, LABEL_SIZE, Array, Series, condition_number, darker

DASHES = (0, (3.5, 2.0))
_FEW = 7  # points of a curve that all have a marker
_SMALLEST_RATIO = 1e-6  # where the axis of measured / bound begins
_LEGEND: dict[str, Any] = {
    "borderaxespad": 0.3,
    "borderpad": 0.2,
    "handlelength": 1.7,
    "handletextpad": 0.5,
    "columnspacing": 1.1,
    "labelspacing": 0.3,
}


def panels(
    rows: int, columns: int, *, height: float, ratios: Sequence[float] | None = None, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of full width and `height` inches, and its lettered panels in reading order."""
    figure = Figure(figsize=(FULL_WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios, sharey=sharey)
    for axes, letter in zip(grid.flat, "abcdef", strict=False):
        lettered(axes, letter)
    return figure, list(grid.flat)


def lettered(axes: Axes, letter: str) -> None:
    """Left of the axes, above their tick labels: the room above the axes is the legend's."""
    axes.annotate(
        letter,
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(-8, 7),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=LABEL_SIZE + 1,
        fontweight="bold",
    )


def describe(axes: Axes, *, x: str, y: str, logarithmic: str = "", counts: str = "") -> None:
    """Name the quantities with their units, once the data are drawn; a grid under the data.

    `logarithmic` and `counts` say which of "x", "y" have a logarithmic axis, or ticks at integers only.
    """
    axes.set(xlabel=x, ylabel=y)
    # Of a run that failed nothing may be positive: there a logarithmic axis has no limits
    positive = {"x": axes.dataLim.minposx, "y": axes.dataLim.minposy}
    logarithmic = "".join(name for name in logarithmic if np.isfinite(positive[name]))
    axes.set(**{f"{name}scale": "log" for name in logarithmic})
    axes.grid(visible=True)
    for name in counts:
        getattr(axes, f"{name}axis").set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True))
    for name in logarithmic:
        _set_ticks(getattr(axes, f"{name}axis"))


def _set_ticks(axis: Axis) -> None:
    """Of a logarithmic axis: at 1, 2, 5 of each decade where powers of ten alone would be too few."""
    low, high = axis.get_view_interval()
    axis.set_minor_formatter(NullFormatter())
    if high > 1e4 * low:
        axis.set_minor_locator(NullLocator())
    elif high < 200 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: _tick(value))


def _tick(value: float) -> str:
    """The number itself, rounded to nothing.

    >>> _tick(0.35), _tick(5000.0), _tick(5e5), _tick(1e-6)
    ('0.35', '5000', '$5\\\\cdot10^{5}$', '$10^{-6}$')
    """
    exponent = floor(log10(value) + 1e-9)
    if -4 <= exponent < 4:
        return f"{value:g}"
    factor = f"{value / 10.0**exponent:g}"
    return rf"$10^{{{exponent}}}$" if factor == "1" else rf"${factor}\cdot10^{{{exponent}}}$"


# ---- what is measured, and beside it what is predicted


def measured(
    axes: Axes,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    series: Series,
    *,
    label: str | None = None,
    filled: bool = False,
    size: float | None = None,
) -> None:
    """Markers without a line; hollow, so that the prediction shows through; an empty label stays out of the legend."""
    axes.plot(
        x,
        y,
        series.marker,
        color=series.colour,
        markerfacecolor=series.colour if filled else "none",
        markersize=size,
        label=series.label if label is None else label,
        zorder=3,
    )


def trace(axes: Axes, x: Array, y: Array, series: Series) -> None:
    """A measured curve, with a few markers evenly spaced on a logarithmic x-axis; out of the legend.

    From curve to curve of a panel they are shifted, so that curves that coincide all show.
    """
    count = len(x)
    shift = 0.38 * sum(line.get_marker() not in ("", "None", None) for line in axes.lines) % 1
    places = np.append(1, np.geomspace(1, max(count, 1), 7) * max(count, 1) ** (shift / 6))
    places = np.arange(count) if count <= _FEW else np.unique(places[places <= count].astype(int)) - 1
    axes.plot(x, y, color=series.colour, marker=series.marker, markevery=places.tolist(), markerfacecolor="white")


def predicted(axes: Axes, x: npt.ArrayLike, y: npt.ArrayLike, colour: str = BLACK) -> None:
    """The dashed line of a law or a bound: a darker shade of what it predicts, over the markers, however dense."""
    axes.plot(x, y, linestyle=DASHES, color=darker(colour), zorder=4)


def level(axes: Axes, value: float, *, vertical: bool = False) -> None:
    """A prediction that is one number for all series: a dashed black line as long as the data so far."""
    limits = axes.dataLim.intervaly if vertical else axes.dataLim.intervalx
    # Not axhline: it would lie outside the limits of a logarithmic axis where the data stay far from it
    line = (limits, (value, value))
    predicted(axes, *(reversed(line) if vertical else line))


def diagonal(axes: Axes, values: Array) -> None:
    """measured = predicted, over the range of the predicted values."""
    if np.isfinite(values).any():
        ends = [np.nanmin(values), np.nanmax(values)]
        predicted(axes, ends, ends)


def guide(axes: Axes, x: npt.ArrayLike, y: npt.ArrayLike) -> None:
    """A dotted grey line to compare with, behind the data."""
    axes.plot(x, y, ":", color=GREY, zorder=1)


def by_condition_number(axes: Axes, kappa: Array, x: Array, y: Array, law: Array) -> None:
    """One series and its dashed law for each condition number."""
    for value in np.unique(kappa):
        series, own = condition_number(value), kappa == value
        measured(axes, x[own], y[own], series)
        predicted(axes, x[own], law[own], series.colour)


def below_bound(axes: Axes, families: Sequence[Series], code: Array, ratio: Array) -> None:
    """The distribution of measured / bound within each family, the largest in its label, and the bound itself at 1."""
    for number, family in enumerate(families):
        own = np.sort(np.maximum(ratio[code == number], _SMALLEST_RATIO / 10))  # a ratio of zero too is in the fraction
        if own.size:
            label = f"{family.label} ≤ {own[-1]:.2g}"
            fraction = np.arange(1, own.size + 1) / own.size
            some = [k * (own.size - 1) // 6 for k in range(7)]
            axes.step(
                own,
                fraction,
                where="post",
                color=family.colour,
                marker=family.marker,
                markerfacecolor="white",
                markevery=some,
                label=label,
            )
    level(axes, 1.0, vertical=True)
    describe(axes, x="measured error / bound", y="fraction of cells below", logarithmic="x")
    axes.set_xlim(left=_SMALLEST_RATIO)


def band(axes: Axes, x: Array, per_seed: Array, colour: str) -> None:
    """The median over seeds (last axis) as a thin line in the band between the 10 % and the 90 % quantile."""
    low, median, high = np.quantile(per_seed, (0.1, 0.5, 0.9), axis=-1)
    axes.fill_between(x, low, high, color=colour, alpha=0.3, linewidth=0, zorder=1)
    axes.plot(x, median, color=colour, linewidth=0.6, zorder=1)


def groups(*columns: Array) -> Iterator[tuple[list[float], Array]]:
    """The distinct rows of these columns, in ascending order, each with the mask of its cells."""
    table = np.stack([np.asarray(column, float) for column in columns], axis=-1)
    for row in np.unique(table, axis=0):
        yield row.tolist(), (table == row).all(-1)


# ---- legends, always outside the data


def key(series: Series, *, filled: bool = False, size: float | None = None) -> Line2D:
    """The legend's entry for a marker, or for a colour where the series has no marker."""
    if series.marker:
        face = series.colour if filled else "none"
        look: dict[str, Any] = {"color": series.colour, "marker": series.marker, "mfc": face, "markersize": size}
        return Line2D([], [], linestyle="none", label=series.label, **look)
    return Line2D([], [], color=series.colour, linewidth=3, label=series.label)


def by_fill(labels: Sequence[str], *series: Series) -> list[Line2D]:
    """The keys of these series, and of what a hollow and a filled marker stand for."""
    starts = [key(Series(BLACK, "o", label), filled=bool(filled)) for filled, label in enumerate(labels)]
    return [*map(key, series), *starts]


def shaded(label: str, colour: str = GREY) -> Patch:
    """The legend's entry that says what the bands are; grey stands for every colour."""
    return Patch(color=colour, alpha=0.3, linewidth=0, label=label)


def dashed(label: str, colour: str = BLACK) -> Line2D:
    """The legend's entry that says what the dashed lines are; grey stands for every colour."""
    return Line2D([], [], linestyle=DASHES, color=darker(colour), label=label)


def dotted(label: str) -> Line2D:
    """The legend's entry that says what the dotted lines are."""
    return Line2D([], [], linestyle=":", color=GREY, label=label)


def legend(axes: Axes, *keys: Artist, columns: int = 2) -> None:
    """Every labelled series and these keys, above the panel."""
    handles = [*axes.get_legend_handles_labels()[0], *keys]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **_LEGEND)


def shared_legend(figure: Figure, *keys: Artist, columns: int = 4) -> None:
    """These keys above all panels."""
    figure.legend(handles=list(keys), loc="outside upper center", ncols=columns, **_LEGEND)
