"""Several training runs that differ in their seed alone: the option, the folders, the mean with its interval."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from scipy.special import stdtrit


def given(first: str | None, more: Sequence[str]) -> list[int] | None:
    """The seeds of `--seeds 0 1 2` or `--seeds 0,1,2`, which the option parser hands on as "0" and the rest.

    Raises ValueError where they are not different numbers, or there is a rest without the option.

    >>> given("0", ["1", "2"])
    [0, 1, 2]
    """
    if first is None:
        if more:
            raise ValueError(f"expected options, got {' '.join(more)}")
        return None
    words = [word for text in (first, *more) for word in text.split(",") if word]
    if not words or not all(re.fullmatch(r"[0-9]+", word) for word in words):
        raise ValueError(f"expected --seeds as numbers 0 1 2, got {' '.join((first, *more))}")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"expected --seeds that differ, got {' '.join(words)}")
    return seeds


def folders(directory: Path) -> list[Path]:
    """DIR/seed-0, DIR/seed-1, ... in this order, where a run of several seeds is in DIR."""
    found = [path for path in directory.glob("seed-*") if re.fullmatch(r"seed-[0-9]+", path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("seed-")))


def interval95(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, standard deviation, and half of a 95 % interval of the mean, t s / sqrt(n); for one value None and None.

    >>> mean, spread, half = interval95([0.70, 0.72, 0.74])
    >>> round(mean, 3), round(spread, 3), round(half, 4)
    (0.72, 0.02, 0.0497)
    """
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return mean, None, None
    spread = statistics.stdev(values)
    return mean, spread, float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)


def summary(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One evaluation of several runs: accuracy, ci95 and spread over the runs, what they share, and each one's."""
    accuracies = [record["accuracy"] for record in records.values()]
    mean, spread, half = interval95(accuracies)
    some = next(iter(records.values()))
    shared = {name: value for name, value in some.items() if all(each[name] == value for each in records.values())}
    own = {"accuracy": mean, "ci95": half, "spread": spread, "runs": len(accuracies)}
    return (
        own
        | {name: shared[name] for name in shared if name not in own}
        | {"accuracies": dict(zip(records, accuracies, strict=True))}
    )


def table(accuracies: Mapping[int, float], what: str) -> Table:
    """The accuracy of each seed, their mean, spread and interval."""
    mean, spread, half = interval95(list(accuracies.values()))
    found = Table("seed", f"{what} accuracy (%)")
    for place, (seed, accuracy) in enumerate(accuracies.items(), 1):
        found.add_row(str(seed), f"{100 * accuracy:.2f}", end_section=place == len(accuracies))
    interval = "" if half is None else f" ± {100 * half:.2f}"
    found.add_row("mean, 95 % interval", f"{100 * mean:.2f}{interval}")
    if spread is not None:
        found.add_row("spread", f"{100 * spread:.2f}")
    return found
