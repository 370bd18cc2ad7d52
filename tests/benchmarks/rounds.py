"""Measures in turn, their ratios, and the figures that become of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from rich.progress import track

ROUNDS = 15
Figure = dict[str, Any]


def in_turn(*measures: Callable[[], float], label: str, rounds: int = ROUNDS) -> tuple[list[float], ...]:
    """`rounds` of each, one after the other, after a round that is thrown away."""
    for measure in measures:
        measure()
    measured = [[measure() for measure in measures] for _ in track(range(rounds), label)]
    return tuple(list(column) for column in zip(*measured, strict=True))


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Of the same round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def figure_of(values: list[float], unit: str, aim: str) -> Figure:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "unit": unit, "aim": aim}
