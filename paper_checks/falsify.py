"""A search for counterexamples: the largest measured / bound over the instances that a bound claims to cover."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import differential_evolution

from convergence import MemoryReduced
from convergence.arguments import shown
from convergence.files import write_atomically

Array = npt.NDArray[np.float64]
Cell = Mapping[str, int]  # K, N, b, ...: what is chosen before the search
Method = Callable[..., Any]  # as in Setting
_ROUNDING = 1e-9  # a ratio above 1 by less is rounding: several of the bounds are attained
_GLOBAL = 0.7  # of the time for the whole box; the rest for boxes around the best
_POPULATION = 8  # candidates for each coordinate


@dataclass(frozen=True)
class Bound:
    """measured <= bound for every point of a box, each point an instance of a problem.

    name         what is bounded by what
    dimensions   of the box [0, 1]^d: spectra, couplings, starts, steps up to the allowed limits
    cells        the choices of K, N, batch that are searched one by one
    ratios       (method, cell, x (n, d)) -> measured / bound (n,): n instances as replicas of one run of the method,
                 measured / (bound + rounding) where rounding is the accuracy of what is measured
    instance     (cell, x (d,)) -> the arrays of that instance, to read and to keep
    """

    name: str
    dimensions: Callable[[Cell], int]
    cells: tuple[Cell, ...]
    ratios: Callable[[Method, Cell, Array], Array]
    instance: Callable[[Cell, Array], dict[str, Array]]

    def evaluate(self, cell: Cell, x: Array, method: Method = MemoryReduced) -> Array:
        """The ratios; what is no number or infinite counts as the largest float: a method that fails obeys no bound.

        Single points may be degenerate (a level that vanishes): where a point beside it is fine, that one counts.
        """
        x = np.atleast_2d(x)
        with np.errstate(all="ignore"):
            ratios = self.ratios(method, cell, x)
            odd = np.isnan(ratios)
            if odd.any():
                beside = np.clip(x[odd] * (1 - 1e-6) + 3e-7, 0, 1)
                ratios[odd] = np.nan_to_num(self.ratios(method, cell, beside), nan=np.inf)
        return np.nan_to_num(ratios)


@dataclass(frozen=True)
class Worst:
    """The worst instance found for one bound."""

    claim: str
    bound: str
    ratio: float
    cell: dict[str, int]
    x: list[float]
    instances: int  # how many were evaluated
    seconds: float
    seed: int

    @property
    def exceeds(self) -> bool:
        """Whether the bound is refuted: by more than rounding."""
        return self.ratio > 1 + _ROUNDING


def search(
    claim: str,
    bound: Bound,
    *,
    budget: float,
    seed: int = 0,
    method: Method = MemoryReduced,
    report: Callable[[float], None] = lambda ratio: None,
) -> Worst:
    """Maximise the ratio over all cells in `budget` seconds, by differential evolution (scipy.optimize).

    First over the whole box, anew where it converges, then over smaller and smaller boxes around the best instance.
    `report` hears the largest ratio so far after each generation.
    """
    began = time.perf_counter()
    found: list[tuple[float, Cell, Array]] = []
    count = 0
    for k, cell in enumerate(bound.cells):
        end = began + budget * (k + 1) / len(bound.cells)
        before = max((ratio for ratio, *_ in found), default=0.0)

        def heard(ratio: float, before: float = before) -> None:
            report(max(ratio, before))

        (ratio, x), evaluated = _maximise(bound, cell, method, end=end, seed=seed + k, report=heard)
        found.append((ratio, cell, x))
        count += evaluated
    ratio, cell, x = max(found, key=lambda each: each[0])
    return Worst(claim, bound.name, ratio, dict(cell), x.tolist(), count, time.perf_counter() - began, seed)


def _maximise(
    bound: Bound, cell: Cell, method: Method, *, end: float, seed: int, report: Callable[[float], None]
) -> tuple[tuple[float, Array], int]:
    """The largest ratio in one cell and where, until the clock says `end`; how many instances were evaluated."""
    began, d = time.perf_counter(), bound.dimensions(cell)
    best: tuple[float, Array] = (-1.0, np.full(d, 0.5))
    count = 0

    def objective(x: Array) -> Array:
        nonlocal best, count
        ratios = bound.evaluate(cell, x.T, method)
        count += len(ratios)
        k = int(np.argmax(ratios))
        if ratios[k] > best[0]:
            best = (float(ratios[k]), x.T[k].copy())
        return -ratios

    def evolve(low: Array, high: Array, generations: int, until: float, number: int) -> None:
        def late(*_: Any) -> bool:
            report(best[0])
            return time.perf_counter() > until

        differential_evolution(
            objective,
            np.stack([low, high], -1),
            rng=np.random.default_rng([seed, number]),
            popsize=_POPULATION,
            maxiter=generations,
            init="sobol",
            mutation=(0.3, 1.0),
            polish=False,
            vectorized=True,
            updating="deferred",
            callback=late,
        )

    number = 0
    while number == 0 or time.perf_counter() < began + _GLOBAL * (end - began):  # anew where one has converged
        evolve(np.zeros(d), np.ones(d), 10**6, began + _GLOBAL * (end - began), number)
        number += 1
    radius = 0.1
    while time.perf_counter() < end and radius > 1e-12:
        low, high = np.clip(best[1] - radius, 0, 1), np.clip(best[1] + radius, 0, 1)
        evolve(low, np.maximum(high, low + 1e-15), 20, end, number)
        number, radius = number + 1, radius / 2
    return best, count


def save(found: Sequence[Worst], bounds: Sequence[Bound], path: Path) -> None:
    """Write the worst instances of one claim to a file for `load`, with their arrays in plain numbers beside them."""
    records = []
    for worst, bound in zip(found, bounds, strict=True):
        arrays = bound.instance(worst.cell, np.array(worst.x))
        records.append(asdict(worst) | {"instance": {name: array.tolist() for name, array in arrays.items()}})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(records) + "\n").encode())


def load(path: Path) -> list[Worst]:
    """The instances of a file. Raises ValueError where it is not one that `save` wrote."""
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        records = json.loads(path.read_text())
        if not isinstance(records, list):
            raise TypeError("it holds no list")
        found = [Worst(**{field.name: record[field.name] for field in fields(Worst)}) for record in records]
        if any(np.array(worst.x, dtype=float).ndim != 1 for worst in found):
            raise ValueError("x is no list of numbers")
        return found
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"expected {path} to be a file that falsify wrote, got {shown(error)}") from error


def replay(worst: Worst, bound: Bound, method: Method = MemoryReduced) -> float:
    """The ratio of this instance, measured anew. Raises ValueError where it is not one of this bound."""
    x = np.array(worst.x)
    if worst.bound != bound.name or worst.cell not in [dict(cell) for cell in bound.cells]:
        raise ValueError(f"expected an instance of {bound.name!r}, got one of {worst.bound!r} with {worst.cell}")
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"expected coordinates from 0 to 1 for {bound.name!r}, got {x.tolist()}")
    if x.shape != (bound.dimensions(worst.cell),):
        raise ValueError(f"expected {bound.dimensions(worst.cell)} coordinates for {bound.name!r}, got {len(x)}")
    return float(bound.evaluate(worst.cell, x, method)[0])
