"""Measured beside predicted as a small picture: how much of a bound, how many digits, where in an interval."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from markupsafe import Markup, escape

from paper_checks.claim import Comparison, Outcome
from paper_checks.report.mathematics import number

_WIDTH, _HEIGHT, _DIGITS = 128.0, 14.0, 16  # pixels; decimal digits of a double
_BOUND = 0.7  # where on the track a bound stands
_WITHIN = re.compile(r"difference (\S+), allowed (\S+)")


class Gauge(NamedTuple):
    """A picture and what it says, in words."""

    picture: Markup
    said: str


def gauge(comparison: Comparison) -> Gauge | None:
    """The picture of a comparison; none where nothing was measured, or there is nothing to hold it against."""
    if not math.isfinite(comparison.measured):
        return None
    if comparison.interval is not None:
        return _interval(comparison, *comparison.interval)
    if comparison.relation.startswith("="):
        return _agreement(comparison)
    return _bound(comparison)


def share(ratio: float, outcome: Outcome) -> Gauge:
    """A share of a bound, such as the largest that a search has found."""
    filled = _track(min(ratio * _BOUND, 1.0), outcome, _BOUND, past=ratio * _BOUND > 1)
    return Gauge(_picture(filled, said := f"{_short(ratio)} of the bound"), said)


def pair(first: Comparison | None, second: Comparison | None, beyond: bool) -> Gauge | None:
    """Two measured numbers with their intervals, one above the other; none where there are no intervals."""
    if first is None or second is None or first.interval is None or second.interval is None:
        return None
    points = [*first.interval, *second.interval, first.measured, second.measured]
    if not all(map(math.isfinite, points)):
        return None
    start, width = min(points), (max(points) - min(points)) or 1.0
    parts = Markup()
    for each, middle in ((first, 3.5), (second, _HEIGHT - 3.5)):
        low, high, measured = (6 + (_WIDTH - 12) * (x - start) / width for x in (*(each.interval or ()), each.measured))
        parts += Markup(
            f'<rect class="fill" opacity=".35" x="{low:.1f}" y="{middle - 2.5:g}" width="{max(high - low, 1):.1f}" '
            f'height="5" rx="2"/><circle class="fill" cx="{measured:.1f}" cy="{middle:g}" r="3"/>'
        )
    said = "first above, second below"
    return Gauge(_picture(Markup(f'<g class="{"CHANGED" if beyond else "SAME"}">{parts}</g>'), said), said)


def _agreement(comparison: Comparison) -> Gauge | None:
    """Of how many decimal digits measured and predicted are the same, and of how many they must be."""
    found = _WITHIN.search(comparison.reason)
    if found is None:
        return None
    difference, allowed = float(found[1]), float(found[2])
    if difference == 0:
        return Gauge(_picture(_track(1.0, comparison.outcome, None), "equal"), "equal")
    digits = min(max(-math.log10(difference), 0.0), _DIGITS)
    needed = min(max(-math.log10(allowed), 0.0), _DIGITS) if allowed else None
    said = f"{math.floor(digits)} digits agree" if digits >= 1 else "not one digit agrees"
    if needed:
        said += f", {math.ceil(needed - 1e-9)} needed"
    mark = needed / _DIGITS if needed is not None else 1.0
    return Gauge(_picture(_track(digits / _DIGITS, comparison.outcome, mark), said), said)


def _bound(comparison: Comparison) -> Gauge | None:
    measured, bound = comparison.measured, comparison.predicted
    if not math.isfinite(bound) or bound == 0 or measured / bound < 0:
        return None
    ratio = measured / bound
    if bound < 0:
        return None
    position = ratio * _BOUND
    what = "of the bound" if comparison.relation.startswith("<=") else "of what is asked for"
    said = f"{_short(ratio)} {what}"
    return Gauge(_picture(_track(min(position, 1.0), comparison.outcome, _BOUND, past=position > 1), said), said)


def _interval(comparison: Comparison, low: float, high: float) -> Gauge | None:
    """The interval as a band, what was measured as a dot, what is predicted as a line."""
    points = (low, high, comparison.measured, comparison.predicted)
    if not all(map(math.isfinite, points)):
        return None
    start, width = min(points), (max(points) - min(points)) or 1.0

    def place(value: float) -> float:
        return 6 + (_WIDTH - 12) * (value - start) / width

    middle = _HEIGHT / 2
    parts = (
        f'<path class="track" d="M0 {middle}H{_WIDTH:g}"/>'
        f'<rect class="fill" opacity=".35" x="{place(low):.1f}" y="2" width="{max(place(high) - place(low), 1):.1f}" '
        f'height="{_HEIGHT - 4:g}" rx="2"/>'
        f'<circle class="fill" cx="{place(comparison.measured):.1f}" cy="{middle:g}" r="3.5"/>'
        f'<path class="mark" d="M{place(comparison.predicted):.1f} 0V{_HEIGHT:g}"/>'
    )
    predicted = number(comparison.predicted)
    place_of = "above" if low > comparison.predicted else "below" if high < comparison.predicted else "around"
    said = f"interval {place_of} {predicted}"
    return Gauge(_picture(Markup(f'<g class="{comparison.outcome}">{parts}</g>'), said), said)


def _track(filled: float, outcome: Outcome, mark: float | None, *, past: bool = False) -> Markup:
    """A track filled from the left, with a line where the bound is, and an arrow where it is not long enough."""
    length = max(filled * _WIDTH, 2.0)
    parts = (
        f'<rect class="groove" y="3" width="{_WIDTH:g}" height="{_HEIGHT - 6:g}" rx="4"/>'
        f'<rect class="fill" y="3" width="{length:.1f}" height="{_HEIGHT - 6:g}" rx="4"/>'
    )
    if past:
        parts += f'<path class="arrow" d="M{_WIDTH - 7:g} 4.5l3.5 2.5-3.5 2.5"/>'
    if mark is not None:
        parts += f'<path class="mark" d="M{min(mark * _WIDTH, _WIDTH - 1):.1f} 0V{_HEIGHT:g}"/>'
    return Markup(f'<g class="{outcome}">{parts}</g>')


def _picture(parts: Markup, said: str) -> Markup:
    return Markup(
        f'<svg class="gauge" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" width="{_WIDTH:g}" height="{_HEIGHT:g}" role="img" '
        f'aria-label="{escape(said)}">{parts}</svg>'
    )


def _short(ratio: float) -> str:
    """0.39, 1.0000, 4e-06, 2.5 million times."""
    if ratio == 0 or 0.9 <= ratio <= 1.1:
        return f"{ratio:.4f}" if ratio else "nothing"
    return f"{ratio:.2g}" if ratio < 1e4 else f"{ratio:.0e}".replace("e+0", "e+").replace("e+", "e")
