"""What is watched, as tables of Rich: for 80 columns, and more of it where there is more room."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Iterable

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from convergence.budget import readable
from convergence.training.seeds import interval95
from convergence.watch.folders import QUANTITIES, Battery, Ended, Quantity, RunWatched, Seeds, Watched, plain
from convergence.watch.series import Series, sparkline

_WIDE = 120  # columns from which on the first, the least and the largest value are shown as well
_MOST = 150  # columns of a plot: wider ones are no easier to read
_COLOURS = {
    "running": "cyan",
    "finished": "green",
    "interrupted": "yellow",
    "killed": "red",
    "failed": "red",
    "HOLDS": "green",
    "VIOLATED": "red",
    "INCONCLUSIVE": "yellow",
}


def view(seen: Watched) -> RenderableType:
    """What is seen in the folder."""
    if isinstance(seen, RunWatched):
        return _framed(_of_run(seen), seen, seen.title)
    if isinstance(seen, Seeds):
        return _framed([_of_seeds(seen)], seen, next((run.title for run in seen.runs.values()), ""))
    assert isinstance(seen, Battery)
    return _framed(_of_battery(seen), seen, "paper_checks")


def _framed(parts: Iterable[RenderableType], seen: Watched, title: str) -> Panel:
    folder = plain(str(seen.folder))
    named = Text.assemble((title, "bold"), f" in {folder}") if title else Text(folder)
    return Panel(Group(*parts), title=named, title_align="left", box=box.ROUNDED, padding=(0, 1))


class Plot:
    """A series as a line of blocks, as wide as its column."""

    def __init__(self, series: Series):
        self._series = series

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        means = self._series.means(min(options.max_width, _MOST))
        yield Text(sparkline(means, ascii_only=options.ascii_only), style="cyan", no_wrap=True, overflow="crop")


class _Wide:
    """One of two tables, by the room that there is."""

    def __init__(self, narrow: RenderableType, wide: RenderableType):
        self._narrow, self._wide = narrow, wide

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._wide if options.max_width >= _WIDE else self._narrow


# ---- one run


def _of_run(seen: RunWatched) -> list[RenderableType]:
    parts: list[RenderableType] = [_standing(seen.stands), _progress(seen.iteration, seen.iterations)]
    parts.append(Text(", ".join(_pace(seen)), style="dim"))
    shown = {field: series for field, series in seen.series.items() if series}
    if (rate := shown.get("learning_rate")) is not None and rate.least == rate.most:
        del shown["learning_rate"]
    if shown:
        parts += ["", _Wide(_plots(shown, wide=False), _plots(shown, wide=True))]
    if facts := _facts(seen):
        parts += ["", facts]
    if seen.messages:
        parts += ["", *(Text(message, style="dim", no_wrap=True, overflow="ellipsis") for message in seen.messages)]
    return parts


def _standing(stands: Ended) -> Text:
    return Text.assemble((stands.state, f"bold {_COLOURS[stands.state]}"), f": {stands.why}" if stands.why else "")


def _progress(done: int, total: int | None, of_what: str = "iterations") -> RenderableType:
    if not total:
        return Text(f"{done} {of_what}")
    line = Table.grid(expand=True, padding=(0, 2))
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    line.add_row(ProgressBar(total=total, completed=min(done, total)), f"{done} of {total} {of_what}")
    return line


def _pace(seen: RunWatched) -> list[str]:
    said = []
    if seen.rate is not None:
        said.append(f"{seen.rate:.3g} iterations/s")
    if seen.seconds is not None:
        said.append(f"{_duration(seen.seconds)} so far")
    if seen.left is not None:
        said.append(f"{_duration(seen.left)} left")
    if seen.behind:
        said.append(f"{readable(seen.behind)} of the log still to read")
    if seen.running and (silent := seen.silent) > 30:
        said.append(f"last line {_duration(silent)} ago")
    return said or ["nothing written yet"]


def _plots(shown: dict[str, Series], *, wide: bool) -> Table:
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, show_header=wide, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("over the iterations", ratio=1, no_wrap=True)
    for name in ("first", "least", "largest", "last") if wide else ("last",):
        table.add_column(name, justify="right", no_wrap=True)
    for field, series in shown.items():
        quantity = QUANTITIES[field]
        values = (series.first, series.least, series.most, series.last) if wide else (series.last,)
        numbers = [_number(value, quantity) for value in values]
        table.add_row(quantity.label, Plot(series), *numbers[:-1], Text(numbers[-1], style="bold"))
    return table


def _facts(seen: RunWatched) -> Table | None:
    """Oracle calls and bytes."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    if isinstance(calls := seen.last.get("calls"), dict):
        counts = {name: count for name, count in calls.items() if type(count) is int and 0 < count < 2**63}
        each = ", ".join(f"{plain(name)} {count:,}" for name, count in counts.items())
        table.add_row("oracle calls", Text.assemble((f"{sum(counts.values()):,}", "bold"), f"  {each}"))
    for name, what in (("peak_bytes", "of tensors in an iteration"), ("resident_bytes", "of the process, at most")):
        if type(found := seen.last.get(name)) is int and 0 <= found < 2**63:
            table.add_row("bytes", Text.assemble((readable(found), "bold"), f"  {what}"))
    return table if table.row_count else None


# ---- several seeds


def _of_seeds(seen: Seeds) -> RenderableType:
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("seed", "state", "iteration"):
        table.add_column(name, no_wrap=True)
    table.add_column("loss", ratio=1, no_wrap=True)
    for name in ("loss", "|d|", "validation", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, run in seen.runs.items():
        state = Text(run.stands.state, style=_COLOURS[run.stands.state])
        done = f"{run.iteration}/{run.iterations or '?'}"
        fields = ("loss", "direction_norm", "validation_accuracy")
        numbers = [_number(run.series[field].last, QUANTITIES[field]) for field in fields]
        left = "" if run.left is None else _duration(run.left)
        table.add_row(name.removeprefix("seed-"), state, done, Plot(run.series["loss"]), *numbers, left)
    best = [run.series["validation_accuracy"].most for run in seen.runs.values() if run.series["validation_accuracy"]]
    if not best:
        return table
    mean, _, half = interval95(best)
    interval = "" if half is None else f" +- {100 * half:.1f}"
    return Group(table, "", Text(f"best validation, mean of {len(best)}: {100 * mean:.1f}{interval} %"))


# ---- a run of paper_checks


def _of_battery(seen: Battery) -> list[RenderableType]:
    done = {name: claim for name, claim in seen.claims.items() if claim.state == "finished"}
    going = {name: claim for name, claim in seen.claims.items() if claim.state == "running"}
    counts = Counter(claim.outcome for claim in done.values())
    spent = sum(claim.seconds or 0.0 for claim in done.values())
    parts: list[RenderableType] = [_standing(seen.stands), _progress(len(done), len(seen.claims), "claims")]
    said = [Text(f"{count} {name}", style=_COLOURS.get(name, "")) for name, count in counts.items()]
    parts.append(Text(", ").join([*said, Text(f"{_duration(spent)} of measuring", style="dim")]))
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("claim", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    for name, claim in going.items():
        table.add_row(Text(name), Text("running", style=_COLOURS["running"]), Text(claim.measuring))
    for name, claim in sorted(done.items(), key=lambda item: item[1].outcome == "HOLDS"):
        took = f"{claim.seconds:.1f} s" if claim.seconds is not None else ""
        table.add_row(Text(name), Text(claim.outcome, style=_COLOURS.get(claim.outcome, "")), Text(took, style="dim"))
    return [*parts, "", table] if table.row_count else parts


# ---- numbers


def _number(value: float, quantity: Quantity) -> str:
    if math.isnan(value):
        return ""
    return f"{100 * value:.1f} %" if quantity.share else f"{value:.4g}"


def _duration(seconds: float) -> str:
    """As 1:02:03; below ten seconds with tenths."""
    if not 10 <= seconds < 1e12:  # a timedelta holds no more
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.1e} s"
    return str(datetime.timedelta(seconds=round(seconds)))
