"""Every method of the catalogue on one page: what it attains, after how many evaluations, in what time and memory."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.marks import DASHES, dashed, describe, lettered, level, predicted, shared_legend
from figures.style import (
    BLACK,
    EXACT,
    FULL_WIDTH,
    GREY,
    METHOD_FAMILIES,
    METHODS,
    SMALL_SIZE,
    Array,
    Evidence,
    Series,
    method,
    one_digit,
    paper_style,
    power_of_ten,
)

LEAST = 1e-33  # on the axes: rounding may leave exactly zero
MOST = 1e3  # beyond it a run has diverged
KIB = 1024
REACHED = {1e-2: (2.0, True), 1e-4: (4.5, False), 1e-8: (4.5, True)}  # of the first |grad Phi|^2: size, filled?
_ROW = 0.145  # inches


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """Each row of panels, and under them what it takes, method by method.

    a-c: |grad Phi|^2 over evaluations; d, e: Phi - Phi*; f: |grad Phi|^2 over seconds; g, h: what the weights of the
    digits are worth; i: bytes; j: the table.
    """
    looks = [method(*named) for named in zip(evidence["methods"], evidence["titles"], strict=True)]
    rows = _order(looks)
    heights = (5.4, 0.85 + _ROW * (len(rows) + 1))
    figure = Figure(figsize=(FULL_WIDTH, sum(heights) + 0.85), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    grid = above.subplot_mosaic("abc;def;ghi")
    grid["j"] = below.add_axes((0.155, 0.6 / heights[1], 0.36, 1 - 1.05 / heights[1]))  # right of it stand the columns
    for letter, axes in grid.items():
        lettered(axes, letter)
    for letter, arena in zip("abc", ("quadratic", "representation", "logistic"), strict=True):
        _gradients(grid[letter], evidence, looks, arena)
    _floors(grid["a"], evidence, looks, evidence["floor"])
    for letter, arena in zip("de", ("quadratic", "representation"), strict=True):
        _gaps(grid[letter], evidence, looks, arena)
    _floors(grid["d"], evidence, looks, evidence["floor_gap"])
    _over_seconds(grid["f"], evidence, looks)
    _detection(grid["g"], evidence, looks)
    _accuracy(grid["h"], evidence, looks)
    _memory(grid["i"], evidence, looks)
    _table(grid["j"], evidence, looks, rows)
    _legend(figure, looks)
    return figure


def _order(looks: list[Series]) -> list[int]:
    """Families together, in the order of their legend."""
    families = list(METHOD_FAMILIES)
    return sorted(range(len(looks)), key=lambda k: (families.index(looks[k].colour), k))


def _ran(e: Evidence, arena: str, looks: list[Series]) -> list[tuple[int, Series]]:
    """The methods that the arena does not refuse; the paper's last, on top."""
    found = [(k, series) for k, series in enumerate(looks) if not str(e[f"{arena}_refused"][k])]
    return sorted(found, key=lambda pair: pair[1].colour == METHODS["memory_reduced"].colour)


# ---- curves


def _curve(axes: Axes, x: Array, per_seed: Array, series: Series, place: int) -> None:
    """The median over seeds with a marker or two, staggered from method to method; for the paper's method the band."""
    ours = series == METHODS["memory_reduced"]
    low, median, high = np.quantile(per_seed, (0.1, 0.5, 0.9), axis=-1, method="nearest")
    if ours:
        axes.fill_between(x, low, high, color=series.colour, alpha=0.25, linewidth=0, zorder=3)
    every = max(len(x) // 3, 1)
    axes.plot(
        x,
        median,
        color=series.colour,
        marker=series.marker,
        markersize=3.6,
        markerfacecolor="white",
        markevery=(place % every, every),
        linewidth=1.6 if ours else 0.8,
        zorder=3 if ours else 2,
    )


def _shown(squares: Array) -> Array:
    return np.clip(squares, LEAST, MOST)


def _over_evaluations(axes: Axes, e: Evidence, looks: list[Series], arena: str, values: Array) -> None:
    for k, series in _ran(e, arena, looks):
        _curve(axes, e[f"{arena}_evaluations"][k] / 1e3, values[k], series, k)
    axes.set_title(_TITLES[arena], fontsize=SMALL_SIZE, loc="right")


_TITLES = {
    "quadratic": "quadratic",
    "representation": "representation",
    "logistic": "logistic, minibatches",
    "cleaning": "digits, minibatches",
}


def _gradients(axes: Axes, e: Evidence, looks: list[Series], arena: str) -> None:
    _over_evaluations(axes, e, looks, arena, _shown(e[f"{arena}_square"]))
    level(axes, float(e[f"{arena}_bound"]))
    describe(axes, x="thousand evaluations", y=r"$\|\nabla\Phi\|^2$", logarithmic="y")


def _gaps(axes: Axes, e: Evidence, looks: list[Series], arena: str) -> None:
    """What is below the rounding of Phi* is shown as that, the dashed level of exact methods where Phi* is not zero."""
    rounding = float(e[f"{arena}_rounding"])
    _over_evaluations(axes, e, looks, arena, np.clip(e[f"{arena}_gap"], max(rounding, LEAST), MOST))
    level(axes, max(rounding, EXACT))
    describe(axes, x="thousand evaluations", y=r"$\Phi - \Phi^*$", logarithmic="y")


def _floors(axes: Axes, e: Evidence, looks: list[Series], floors: Array) -> None:
    """At the right end, one dash for each biased method."""
    right = axes.get_xlim()[1]
    for k, series in _ran(e, "quadratic", looks):
        if not e["exact"][k]:
            predicted(axes, [0.85 * right, right], [floors[k]] * 2, series.colour)
    axes.set_xlim(right=right)


def _detection(axes: Axes, e: Evidence, looks: list[Series]) -> None:
    _over_evaluations(axes, e, looks, "cleaning", e["cleaning_auc"])
    level(axes, float(e["auc_bound"]))
    describe(axes, x="thousand evaluations", y="AUC of wrong labels")


def _accuracy(axes: Axes, e: Evidence, looks: list[Series]) -> None:
    """On digits not trained on; beside what is learnt from all labels alike and from the clean ones alone."""
    _over_evaluations(axes, e, looks, "cleaning", e["cleaning_accuracy"])
    for subset, text, away in (("all", "not cleaned", -2), ("clean", "clean labels only", 8)):
        value = float(e[f"cleaning_accuracy_{subset}"])
        level(axes, value)
        axes.annotate(
            text,
            (axes.dataLim.x1, value),
            (0, away),
            textcoords="offset points",
            ha="right",
            va="bottom" if away > 0 else "top",
            fontsize=SMALL_SIZE,
        )
    describe(axes, x="thousand evaluations", y="test accuracy")
    low, high = axes.get_ylim()
    axes.set_ylim(top=high + 0.15 * (high - low))  # room for the words


def _over_seconds(axes: Axes, e: Evidence, looks: list[Series]) -> None:
    for k, series in _ran(e, "quadratic", looks):
        per_seed = _shown(e["quadratic_square"][k])
        seconds = np.linspace(0, 1, len(per_seed)) * (e["quadratic_iterations"][k] - 1) * e["quadratic_seconds"][k]
        _curve(axes, np.maximum(seconds, e["quadratic_seconds"][k]), per_seed, series, k)
    level(axes, EXACT)
    describe(axes, x="seconds", y=r"$\|\nabla\Phi\|^2$", logarithmic="xy")
    axes.set_title("quadratic, one replica", fontsize=SMALL_SIZE, loc="right")


def _memory(axes: Axes, e: Evidence, looks: list[Series]) -> None:
    """Bytes of one iteration; the first two measurements and the declared law say where the others lie."""
    K = e["memory_K"]
    for k, series in enumerate(looks):
        peak = e["memory_peak"][k] / KIB
        if not np.isfinite(peak).all():
            continue
        axes.plot(K, peak, series.marker, color=series.colour, markerfacecolor="none", markersize=4, zorder=3)
        slope = (peak[1] - peak[0]) / (K[1] - K[0]) if len(K) > 1 and e["memory_law"][k] == "linear" else 0.0
        predicted(axes, K, peak[0] + slope * (K - K[0]), series.colour)
    describe(axes, x="lower steps $K$", y="peak memory (KiB)", logarithmic="xy")
    axes.set_title("logistic heads", fontsize=SMALL_SIZE, loc="right")


# ---- the table


def _table(axes: Axes, e: Evidence, looks: list[Series], rows: list[int]) -> None:
    """Evaluations until |grad Phi|^2 is a share of its start, on the quadratic; beside it the end, bytes, refusals."""
    ran = dict(_ran(e, "quadratic", looks))
    for place, k in enumerate(rows):
        for share, (size, filled) in REACHED.items() if k in ran else ():
            spent = _first_below(e["quadratic_evaluations"][k], e["quadratic_square"][k], share)
            if np.isfinite(spent):
                colour, marker, _ = looks[k]
                face = colour if filled else "white"
                axes.plot([spent / 1e3], [place], marker, color=colour, markerfacecolor=face, markersize=size)
    budget = np.nanmax(e["quadratic_evaluations"]) / 1e3
    axes.plot([budget] * 2, [-0.5, len(rows) - 0.5], linestyle=DASHES, color=BLACK)
    describe(
        axes,
        x="thousand evaluations to a share of $\\|\\nabla\\Phi\\|^2$, quadratic",
        y="method",
        logarithmic="x",
    )
    axes.set_xlim(budget / 100, 1.1 * budget)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [looks[k].label for k in rows])
    axes.tick_params(axis="y", length=0)
    _columns(axes, e, rows)


def _first_below(evaluations: Array, squares: Array, share: float) -> float:
    """Where the median is first at or below this share of its start; not a number where it never is."""
    median = np.quantile(squares, 0.5, axis=-1, method="nearest")
    below = np.flatnonzero(median <= share * median[0])
    return float(evaluations[below[0]]) if below.size else float("nan")


def _columns(axes: Axes, e: Evidence, rows: list[int]) -> None:
    """Right of the axes: the end on the quadratic, bytes at the least and the largest K, upper steps, refusals."""
    least, largest = e["memory_K"][[0, -1]]
    heads = (
        "ends\nat",
        f"KiB at\n$K$ = {least} → {largest}",
        r"$\beta\|\nabla^2\Phi(\phi_0)\|$ on " + ", ".join(_LETTERS.values()) + "\n*: at the grid's edge",
        "refused\nby",
    )
    for head, x in zip(heads, _PLACES, strict=True):
        _cell(axes, x, -1.6, head, BLACK)
    for place, k in enumerate(rows):
        for text, x in zip(_texts(e, k), _PLACES, strict=True):
            _cell(axes, x, place, text, BLACK if text != "–" else GREY)


_PLACES = (1.03, 1.24, 1.55, 2.07)  # of the width of the axes
_LETTERS = {"quadratic": "a", "representation": "b", "logistic": "c", "cleaning": "g"}


def _texts(e: Evidence, k: int) -> tuple[str, ...]:
    end = "–"
    if not str(e["quadratic_refused"][k]):
        last = float(np.quantile(e["quadratic_square"][k][-1], 0.5, method="nearest"))
        end = "exact" if last <= EXACT else one_digit(last)
    peak = e["memory_peak"][k] / KIB
    sizes = [f"{size:.0f}" for size in peak[[0, -1]]] if np.isfinite(peak).all() else ["–"]
    refusing = [letter for name, letter in _LETTERS.items() if str(e[f"{name}_refused"][k])]
    steps = [_step(e, float(e[f"{name}_place"][k])) for name in _LETTERS]
    return (
        end,
        " → ".join(dict.fromkeys(sizes)),
        ", ".join(steps) if any(step != "–" for step in steps) else "–",
        ", ".join(refusing) or "–",
    )


def _step(e: Evidence, place: float) -> str:
    """The multiple of the grid that was chosen, to one digit; marked where the grid ends."""
    if not np.isfinite(place):
        return "–"
    edge = "*" if place in (0, len(e["grid"]) - 1) else ""
    return f"{one_digit(e['grid'][int(place)])}{edge}"


def _cell(axes: Axes, x: float, row: int, text: str, colour: str) -> None:
    axes.text(
        x,
        row,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=SMALL_SIZE,
        color=colour,
        clip_on=False,
    )


def _legend(figure: Figure, looks: list[Series]) -> None:
    """One column a family."""
    keys = [
        Line2D([], [], color=series.colour, marker=series.marker, mfc="white", ms=4, lw=1, label=series.label)
        for series in (looks[k] for k in _order(looks))
    ]
    shares = [
        Line2D([], [], color=GREY, marker="o", mfc=GREY if filled else "white", ms=size, ls="none", label=_share(share))
        for share, (size, filled) in REACHED.items()
    ]
    shared_legend(figure, *keys, dashed("law, bound, level, budget"), *shares, columns=6)


def _share(share: float) -> str:
    return f"j: ${power_of_ten(share)}$ of the first".replace("0.01", "10^{-2}")
