"""Two runs of the battery side by side: what changed, and whether it is more than noise."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from convergence.files import write_atomically
from paper_checks.archive import is_timed
from paper_checks.claim import Comparison, Evidence, Outcome, Verdict
from paper_checks.evidence import Run, Stored, load_run
from paper_checks.report.mathematics import number
from paper_checks.report.page import rendered

ROUNDING = 1e-6  # relative to the largest number of an array, or to a bound: two orders of summation, amplified
SAME = "the same"
OTHER = "of other instances"  # what neither says nor denies that something changed
_TOLERANCE = re.compile(r"within (\d\S*)( relative)?$")


@dataclass(frozen=True)
class Change:
    """A comparison of one claim in both runs, either of which may lack it.

    said       what differs and by how much, in words
    beyond     whether it is more than noise; what the runs do not make comparable is not
    compared   whether they make it comparable
    """

    quantity: str
    first: Comparison | None
    second: Comparison | None
    said: str
    beyond: bool
    compared: bool = True

    @property
    def same(self) -> bool:
        """Whether it is the same number, bit for bit, beside the same prediction."""
        return self.said == SAME


@dataclass(frozen=True)
class ArrayChange:
    """An array of the evidence that is not the same, bit for bit. `largest`: the difference over the largest number."""

    name: str
    largest: float
    said: str
    beyond: bool
    compared: bool = True


@dataclass(frozen=True)
class ClaimChange:
    """What changed of a claim that both runs have judged."""

    name: str
    first: Verdict
    second: Verdict
    comparisons: tuple[Change, ...]
    control: tuple[Change, ...]
    arrays: tuple[ArrayChange, ...]

    @property
    def turned(self) -> bool:
        """Whether the outcome, or that of the control, is another one."""
        before, after = self.first, self.second
        return (before.outcome, before.control_outcome) != (after.outcome, after.control_outcome)

    @property
    def beyond(self) -> bool:
        """Whether more than noise changed."""
        changed = any(each.beyond for each in (*self.comparisons, *self.control))
        return self.turned or changed or any(each.beyond for each in self.arrays)

    @property
    def same(self) -> bool:
        """Whether all the numbers are the same, bit for bit."""
        return not self.turned and not self.arrays and all(each.same for each in (*self.comparisons, *self.control))

    @property
    def compared(self) -> bool:
        """Whether anything but outcomes could be: False where all that differs is of other instances."""
        numbers = any(each.compared for each in (*self.comparisons, *self.control) if not each.same)
        return self.same or self.beyond or numbers or any(each.compared for each in self.arrays)


@dataclass(frozen=True)
class Compared:
    """Two runs side by side.

    settings   what was asked for or computed differently: name -> (first, second)
    alone      claims that one run alone has judged -> which: "first" or "second"
    """

    first: Path
    second: Path
    settings: Mapping[str, tuple[str, str]]
    alone: Mapping[str, str]
    claims: tuple[ClaimChange, ...]

    @property
    def beyond(self) -> bool:
        """Whether anything is more than noise; a claim that one run alone has judged is."""
        return bool(self.alone) or any(claim.beyond for claim in self.claims)


def compare(first: Run, second: Run) -> Compared:
    """What changed from the first run to the second, and whether beyond noise.

    An outcome that turned always is. Numbers with intervals: beyond where they differ by more than both half-widths
    together, sqrt(h_1^2 + h_2^2). Numbers without one come from fixed instances: with the same setting they may
    differ by rounding, twice the tolerance of an identity or 1e-6 of a bound; with another seed, scale, method or
    problem they are those of other instances, and only outcomes can be compared. Where another cell is the worst, it is
    not the numbers that are compared but how far each is from what is predicted. Seconds are never judged.
    """
    shared = [name for name in first.entries if name in second.entries]
    alone = {name: "first" for name in first.entries if name not in second.entries}
    alone |= {name: "second" for name in second.entries if name not in first.entries}
    settings = dict(_differences(first.header["setting"], second.header["setting"]))
    instances = not settings.keys() & {"scale", "seed", "method", "problem"}
    settings |= dict(_differences(first.header["versions"], second.header["versions"]))
    claims = tuple(_claim(name, first.entries[name], second.entries[name], same=instances) for name in shared)
    return Compared(first.folder, second.folder, settings, alone, claims)


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name in dict.fromkeys([*first, *second]):
        if (one := first.get(name)) != (other := second.get(name)):
            yield name, ("none" if one is None else str(one), "none" if other is None else str(other))


def _claim(name: str, first: Stored, second: Stored, *, same: bool) -> ClaimChange:
    before, after = first.verdict, second.verdict
    return ClaimChange(
        name,
        before,
        after,
        tuple(_changes(before.comparisons, after.comparisons, same=same)),
        tuple(_changes(before.control, after.control, same=same)),
        tuple(array_changes(first.evidence, second.evidence, same=same)),
    )


def _changes(first: tuple[Comparison, ...], second: tuple[Comparison, ...], *, same: bool) -> Iterator[Change]:
    """Comparisons of the same quantity, in order where there are several of it."""
    seen = [_by_quantity(each) for each in (first, second)]
    for key in dict.fromkeys([*seen[0], *seen[1]]):
        yield change(seen[0].get(key), seen[1].get(key), same=same)


def _by_quantity(comparisons: tuple[Comparison, ...]) -> dict[tuple[str, int], Comparison]:
    count: Counter[str] = Counter()
    found = {}
    for each in comparisons:
        found[each.quantity, count[each.quantity]] = each
        count[each.quantity] += 1
    return found


def change(first: Comparison | None, second: Comparison | None, *, same: bool) -> Change:
    """One comparison in both runs; `same`: they are of the same instances."""
    if first is None or second is None:
        run, alone = ("first", first) if second is None else ("second", second)
        quantity = "" if alone is None else alone.quantity
        return Change(quantity, first, second, f"in the {run} run alone", beyond=same, compared=same)
    said, beyond, compared = _judged(first, second, same=same)
    if first.outcome is not second.outcome:
        said, beyond = f"{first.outcome}, then {second.outcome}: {said}", True
    return Change(first.quantity, first, second, said, beyond, compared)


def _judged(first: Comparison, second: Comparison, *, same: bool) -> tuple[str, bool, bool]:
    """In words how two measured numbers differ, whether by more than noise, and whether they can be compared at all."""
    before, after = first.measured, second.measured
    if repr((before, first.predicted, first.interval)) == repr((after, second.predicted, second.interval)):
        return SAME, False, True
    if not (math.isfinite(before) and math.isfinite(after)):
        return f"{number(before)}, then {number(after)}", same and repr(before) != repr(after), same
    if first.interval is not None and second.interval is not None:
        if not all(map(math.isfinite, (*first.interval, *second.interval))):
            return "an interval has no end", False, False
        return *_between_intervals(first, second), True
    if not same:
        return OTHER, False, False
    return *(_between_cells if first.cell != second.cell else _within_cell)(first, second), True


def _within_cell(first: Comparison, second: Comparison) -> tuple[str, bool]:
    """Of one number of one instance, which differs by rounding or by more."""
    tolerance, relative = _tolerance(first.relation)
    scale = abs(first.predicted) if relative else 1.0
    difference = abs(second.measured - first.measured)
    size = f"differs by {difference / scale:.1e}" + (" of what is predicted" if scale != 1 else "") if scale else ""
    return (f"{size}: rounding", False) if difference <= tolerance * scale else (size or "differs", True)


def _between_cells(first: Comparison, second: Comparison) -> tuple[str, bool]:
    """Of the worst cell of each run, where that is another one: how far each is from its own prediction."""
    said = "another cell is the worst"
    identity = first.relation.startswith("=")
    if identity and first.outcome is second.outcome is Outcome.HOLDS:
        return said, False  # either is within the tolerance of what it is to be equal to
    tolerance, relative = _tolerance(first.relation)
    scale = max(abs(first.predicted), abs(second.predicted)) if relative else 1.0
    excess = [each.measured - each.predicted for each in (first, second)]
    if identity:
        excess = [abs(each) for each in excess]
    difference = abs(excess[1] - excess[0])
    size = f"; how far it is from what is predicted differs by {difference:.1e}"
    return said + size, not difference <= tolerance * scale


def _tolerance(relation: str) -> tuple[float, bool]:
    """By how much numbers may differ that are only rounded otherwise, and whether relative to what is predicted."""
    if found := _TOLERANCE.search(relation):
        return 2 * float(found[1]), bool(found[2])
    return 0.0 if relation == "=" else ROUNDING, True


def _between_intervals(first: Comparison, second: Comparison) -> tuple[str, bool]:
    """Of means and slopes, each with its interval: z in units of both half-widths together."""
    (low, high), (other_low, other_high) = first.interval or (0, 0), second.interval or (0, 0)
    # Against what each run itself predicts: the runs may be of other instances
    before, after = first.measured - first.predicted, second.measured - second.predicted
    together = math.hypot((high - low) / 2, (other_high - other_low) / 2)
    if not together:
        return f"differs by {abs(after - before):.1e}, and the intervals are points", before != after
    z = abs(after - before) / together
    overlap = "overlap" if max(low, other_low) <= min(high, other_high) else "do not overlap"
    return f"{z:.2f} of both half-widths together; the intervals {overlap}", z > 1


def array_changes(first: Evidence, second: Evidence, *, same: bool) -> Iterator[ArrayChange]:
    """The arrays that differ, those of seconds aside; `same`: they are of the same instances."""
    names = (name for name in dict.fromkeys([*first, *second]) if not is_timed(name))
    for name in names:
        if name not in first or name not in second:
            run = "first" if name in first else "second"
            yield ArrayChange(name, math.nan, f"in the {run} run alone", same, same)
        elif first[name].shape != second[name].shape:
            shapes = " and ".join(str(each[name].shape) for each in (first, second))
            yield ArrayChange(name, math.nan, f"shapes {shapes}", same, same)
        elif first[name].tobytes() != second[name].tobytes():
            largest = _largest(first[name], second[name])
            said = f"at most {largest:.1e} of the largest number" if math.isfinite(largest) else "other entries"
            yield ArrayChange(name, largest, said, same and not largest <= ROUNDING, same)


def _largest(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """max |a - b| / max |a|, infinite where text differs, or which entries are not finite."""
    if not all(np.issubdtype(each.dtype, np.number) or each.dtype == bool for each in (first, second)):
        return math.inf if not np.array_equal(first, second) else 0.0
    one, other = (np.asarray(each, float) for each in (first, second))
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(one[finite]).max()), float(np.abs(other[finite]).max()))
    return float(np.abs(one[finite] - other[finite]).max()) / scale if scale else 0.0


# ---- the command


def command(
    first: Annotated[Path, typer.Argument(metavar="A", help="The folder of one run, as verdicts.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The folder of another run.")],
    out: Annotated[
        Path | None, typer.Option(help="A file for the page, such as compare.html; none by default.")
    ] = None,
) -> None:
    """What changed between two runs, and whether it is more than noise.

    Measured numbers with their intervals, outcomes, settings and versions, every array of the evidence.

    \b
    Examples:
      python -m paper_checks compare verdicts verdicts-cuda
      python -m paper_checks compare before after --out compare.html
    """
    found = compare(load_run(first), load_run(second))
    console = Console(emoji=False)
    _print(console, found)
    if out is not None:
        try:
            write_atomically(out, page(found).encode())
        except OSError as error:
            raise ValueError(f"expected a file that can be written, got --out {out}: {error.strerror}") from error
        console.print(str(out), soft_wrap=True, markup=False)
    raise typer.Exit(int(found.beyond))


EPILOG = "Exit status: 0 nothing that can be compared is beyond noise, 1 something is, 2 wrong usage."


def page(found: Compared) -> str:
    """The comparison as one HTML page that needs no network."""
    count = Counter(map(kind, found.claims))
    return rendered("compare.html.j2", found=found, both=_pairs, count=count, kind=kind, words=_WORDS)


_WORDS = {"SAME": "within noise", "CHANGED": "beyond noise", "INCONCLUSIVE": OTHER}


def kind(change: Change | ArrayChange | ClaimChange) -> str:
    """The class of the page that has its symbol and colour: CHANGED, INCONCLUSIVE where nothing compares, or SAME."""
    return "CHANGED" if change.beyond else "SAME" if change.compared else "INCONCLUSIVE"


def _pairs(claim: ClaimChange) -> Iterator[tuple[str, tuple[Change, ...]]]:
    """Comparisons and those of the control, each under its heading, where something differs."""
    for heading, changes in (("Measured", claim.comparisons), ("Control", claim.control)):
        if differing := tuple(each for each in changes if not each.same):
            yield heading, differing


def _print(console: Console, found: Compared) -> None:
    for name, (before, after) in found.settings.items():
        console.print(f"{name}: {before}, then {after}", highlight=False, markup=False)
    for name, run in found.alone.items():
        console.print(f"[bold red]{name}[/]: judged by the {run} run alone", highlight=False)
    table = Table(title="Changes", title_justify="left")
    table.add_column("claim", no_wrap=True)
    table.add_column("quantity", overflow="fold")
    table.add_column("first", justify="right", no_wrap=True)
    table.add_column("second", justify="right", no_wrap=True)
    table.add_column("what changed", overflow="fold")
    for claim in found.claims:
        for row in _rows(claim):
            table.add_row(*row)
    if table.row_count:
        console.print(table)
    console.print(_summary(found.claims), highlight=False, markup=False)


def _summary(claims: tuple[ClaimChange, ...]) -> str:
    """How many claims are the same, within noise, beyond noise, and of other instances, in one line."""
    changed = [claim.name for claim in claims if claim.beyond]
    same, other = sum(claim.same for claim in claims), sum(not claim.compared for claim in claims)
    said = (
        f"{len(claims)} claims in both runs: {same} the same bit for bit, "
        f"{len(claims) - same - other - len(changed)} within noise, {len(changed)} beyond noise"
    )
    said += f" ({', '.join(changed)})" if changed else ""
    return said + (f", {other} {OTHER}: outcomes alone compared (all the same)" if other else "")


def _rows(claim: ClaimChange) -> Iterator[tuple[str, ...]]:
    """What is not the same: of numbers of other instances how many, of arrays the three that differ most."""
    if claim.turned:
        outcomes = [f"{each.outcome}, control {each.control_outcome}" for each in (claim.first, claim.second)]
        yield (claim.name, "outcome", outcomes[0], outcomes[1], "[bold red]another verdict[/]")
    differing = [each for each in (*claim.comparisons, *claim.control) if not each.same]
    arrays = sorted(claim.arrays, key=lambda each: (not each.beyond, -_sortable(each.largest)))
    hidden = [each for each in differing if each.said == OTHER]
    if others := [each for each in arrays if not each.compared]:
        arrays = [each for each in arrays if each.compared]
    if hidden or others:
        yield (claim.name, f"{len(hidden)} numbers, {len(others)} arrays", "", "", f"[yellow]{OTHER}[/]")
    for each in differing:
        if each.said != OTHER:
            numbers = ["" if side is None else number(side.measured) for side in (each.first, each.second)]
            yield (claim.name, escape(each.quantity), *numbers, _marked(each.said, each.beyond))
    for array in arrays[:3]:
        yield (claim.name, f"array {escape(array.name)}", "", "", _marked(array.said, array.beyond))
    if len(arrays) > 3:
        yield (claim.name, f"{len(arrays) - 3} more arrays", "", "", "differ no more than these")


def _sortable(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _marked(said: str, beyond: bool) -> str:
    return f"[bold red]{escape(said)}[/]" if beyond else escape(said)
