"""A quantity over the iterations of a run, however long: means over equal stretches, and a line of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_MOST = 2048  # means that are kept; more than any terminal has columns
_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-:=+*#"
_DECADES = 10.0  # a positive quantity that changes by more than this factor is drawn by its logarithm


class Series:
    """The values that were added: first, last, least, most, and the means of equally many values in a row."""

    def __init__(self) -> None:
        self.first = self.last = self.least = self.most = math.nan
        self._means: list[float] = []
        self._stretch, self._sum, self._count = 1, 0.0, 0

    def __bool__(self) -> bool:
        return not math.isnan(self.last)

    def add(self, value: float) -> None:
        """One more value, finite."""
        if self.last != self.last:  # not a number: there was none before
            self.first = self.least = self.most = value
        elif value < self.least:
            self.least = value
        elif value > self.most:
            self.most = value
        self.last = value
        self._sum += value
        self._count += 1
        if self._count == self._stretch:
            self._means.append(self._sum / self._count)
            self._sum, self._count = 0.0, 0
        if len(self._means) == _MOST:
            self._means = [(a + b) / 2 for a, b in zip(self._means[::2], self._means[1::2], strict=True)]
            self._stretch *= 2

    def means(self, width: int) -> list[float]:
        """So many means over equal stretches of all that was added; where there is less, each stands several times."""
        held = self._means + ([self._sum / self._count] if self._count else [])
        edges = [len(held) * k // width for k in range(width + 1)]
        parts = (held[a : max(b, a + 1)] for a, b in pairwise(edges))
        return [math.fsum(part) / len(part) for part in parts if part]


def sparkline(values: Sequence[float], *, ascii_only: bool = False) -> str:
    """A block for each value, its height between the least and the most; by logarithm over more than a decade.

    >>> sparkline([1, 2, 3, 8])
    '▁▂▃█'
    >>> sparkline([1, 10, 100, 1000], ascii_only=True)
    '_-+#'
    """
    if not values:
        return ""
    blocks = _ASCII if ascii_only else _BLOCKS
    if min(values) > 0 and max(values) > _DECADES * min(values):
        values = [math.log(value) for value in values]
    least, most = min(values), max(values)
    if least == most:
        return blocks[len(blocks) // 2 - 1] * len(values)
    return "".join(blocks[round((value - least) / (most - least) * (len(blocks) - 1))] for value in values)
