"""`python -m paper_checks`: accept or reject the paper's statements."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from convergence import MemoryReduced, command_line, resolve_device
from convergence.arguments import integer, positive
from convergence.budget import parse
from convergence.command_line import named
from convergence.files import locked
from convergence.imported import method_of
from paper_checks import CLAIMS, Outcome, Setting, Verdict
from paper_checks import compare as side_by_side
from paper_checks import falsify as search
from paper_checks.battery import Battery
from paper_checks.bounds import BOUNDS
from paper_checks.claim import title_of, worst
from paper_checks.judging import use_threads
from paper_checks.output import Output, require_writable
from paper_checks.report.mathematics import number
from paper_checks.subject import OwnProblem

COLOURS = {Outcome.HOLDS: "green", Outcome.VIOLATED: "bold red", Outcome.INCONCLUSIVE: "yellow"}
EXIT_CODES = {Outcome.HOLDS: 0, Outcome.VIOLATED: 1, Outcome.INCONCLUSIVE: 3}


class Scale(StrEnum):
    """How much evidence is gathered."""

    smoke = "smoke"
    paper = "paper"


class _RunByDefault(TyperGroup):
    """`python -m paper_checks NAME ...` means `python -m paper_checks run NAME ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        if first not in self.commands and first not in ("--help", "--install-completion", "--show-completion"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Accept or reject the statements of Memory-Reduced Meta-Learning with Guaranteed Convergence.\n\n"
        "Without a command, `run` is meant: python -m paper_checks cg_rate --scale paper. "
        "Its options: python -m paper_checks run --help"
    ),
)


@app.command("list")
def list_claims() -> None:
    """The claims: name, statement, and the planted error that each must catch."""
    table = Table(box=None, pad_edge=False)
    for heading in ("claim", "statement", "its control"):
        table.add_column(heading, overflow="fold")
    for claim in CLAIMS.values():
        table.add_row(claim.name, claim.title, claim.planted)
    Console(markup=False, emoji=False).print(table)  # [x] is mathematics here


@app.command(
    epilog="Exit status: 0 every claim HOLDS, 1 some VIOLATED, 2 wrong usage, 3 none violated but some INCONCLUSIVE, "
    "70 a claim could not be judged, 130 or 143 interrupted."
)
def run(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Claims; all by default.")] = None,
    scale: Annotated[Scale, typer.Option(help="smoke: minutes; paper: more seeds, longer horizons.")] = Scale.smoke,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of every instance and task stream.")] = 0,
    threads: Annotated[
        int, typer.Option(help="Threads of torch and numpy on a CPU; small arrays gain nothing from more.")
    ] = 1,
    jobs: Annotated[int, typer.Option(help="Claims at a time, each in a process of its own.")] = 1,
    method: Annotated[
        str | None, typer.Option(metavar="MODULE:CLASS", help="Of one's own, judged in the place of the paper's.")
    ] = None,
    problem: Annotated[
        str | None, typer.Option(metavar="MODULE:CLASS", help="Of one's own, judged in the place of the claims' own.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="A budget such as 2GiB for every run within a claim: a few replicas or tasks at a time."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for verdicts.json, report.html, figures, evidence.")] = Path(
        "verdicts"
    ),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in the folder, of the same options and versions: nothing that was kept is "
            "measured again. Claims that are named are added to it.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Lose a run at paper scale that is in the folder, which is refused otherwise. "
            "One at smoke scale is replaced without asking.",
        ),
    ] = False,
) -> None:
    """Run claims, judge them and their controls, write the report.

    Interrupted, killed or out of disk, a run goes on with --resume, and ends with the same evidence bit for bit.

    --method judges a class by every claim that can judge it, --problem a problem by every claim that can be stated of
    it, and both say why not of the others. Under torchrun the claims are spread over ranks; it makes 1 of every exit
    status but 0.

    \b
    Examples:
      python -m paper_checks
      python -m paper_checks cg_rate memory --out two
      python -m paper_checks --method mypackage.module:MyMethod
      python -m paper_checks --problem mypackage.module:MyProblem
      torchrun --nproc-per-node=2 -m paper_checks
    """
    resolve_device(device)
    use_threads(integer("--threads", threads, least=1))
    integer("--jobs", jobs, least=1)
    integer("--seed", seed, least=0)
    if memory is not None:
        parse(memory)
    setting = Setting(
        scale=scale.value,
        seed=seed,
        device=device,
        memory=memory,
        method=MemoryReduced if method is None else method_of(method),
        problem=None if problem is None else OwnProblem(problem, seed),
    )
    if resume and overwrite:
        raise ValueError("expected --resume or --overwrite, got both")
    _judge(Battery(names or (), setting, out, jobs, threads, resume, overwrite))


def _judge(battery: Battery) -> NoReturn:
    """The verdicts as they come, then the table; ends with the exit status."""
    console = Console(quiet=command_line.own_rank() > 0, emoji=False)
    with console.status("") as status:

        def heard(verdict: Verdict) -> None:
            colour = COLOURS[verdict.outcome]
            console.print(
                f"[{colour}]{verdict.outcome:<13}[/] {verdict.claim} ({verdict.seconds:.1f} s)", highlight=False
            )

        output, apart = battery.run(lambda line: status.update(escape(line)), heard)
    _report(console, output, apart, battery.setting)
    raise typer.Exit(EXIT_CODES[worst(verdict.outcome for verdict in output.verdicts)])


def _judged(setting: Setting) -> str:
    """What is judged, where somebody brought it along."""
    method = "" if setting.method is MemoryReduced else f" on {title_of(setting.method)}"
    return method + ("" if setting.problem is None else f"{' and' if method else ' on'} {setting.problem}")


def _report(console: Console, output: Output, apart: dict[str, str], setting: Setting) -> None:
    console.print(_table(output.verdicts, _judged(setting), wide=console.width >= 110))
    for name, sentence in apart.items():
        console.print(f"[dim]not judged[/]  {name}: {escape(sentence)}", highlight=False)
    console.print(str(output.folder / "report.html"), soft_wrap=True, markup=False)


app.command("compare", epilog=side_by_side.EPILOG)(side_by_side.command)


@app.command(epilog="Exit status: 0 no bound is exceeded, 1 one is, 2 wrong usage.")
def falsify(
    claim: Annotated[str, typer.Argument(metavar="CLAIM", help="A claim that states a bound.")],
    budget: Annotated[float, typer.Option(help="Seconds of search for each bound of the claim.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    replay: Annotated[
        Path | None, typer.Option(help="Measure the instances of this file again, search nothing.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for CLAIM.json, the worst instances found.")] = Path("worst"),
) -> None:
    """Search the instances that a bound covers for the largest measured / bound.

    \b
    Examples:
      python -m paper_checks falsify cg_rate --budget 20
      python -m paper_checks falsify cg_rate --replay worst/cg_rate.json
    """
    bounds = named(BOUNDS, claim, "claim with a bound")
    use_threads(1)
    integer("--seed", seed, least=0)
    positive("--budget", budget)
    console = Console(emoji=False)
    if replay is not None:
        found = search.load(replay)
        if len(found) != len(bounds):
            raise ValueError(f"expected {len(bounds)} instances for {claim} in {replay}, got {len(found)}")
        again = [search.replay(worst, bound) for worst, bound in zip(found, bounds, strict=True)]
        for worst, ratio in zip(found, again, strict=True):
            said = f"{ratio:.9f} (found {worst.ratio:.9f})  {worst.bound}, {_cell(worst)}"
            console.print(said, highlight=False, markup=False)
        raise typer.Exit(int(any(replace(w, ratio=r).exceeds for w, r in zip(found, again, strict=True))))
    require_writable(out)  # before anything is searched
    with locked(out):
        found = [_search(console, claim, bound, budget, seed) for bound in bounds]
        search.save(found, bounds, out / f"{claim}.json")
    console.print(str(out / f"{claim}.json"), soft_wrap=True, markup=False)
    raise typer.Exit(int(any(worst.exceeds for worst in found)))


def _search(console: Console, claim: str, bound: search.Bound, budget: float, seed: int) -> search.Worst:
    """One bound, with the largest ratio so far on the status line."""
    with console.status(escape(bound.name)) as status:

        def report(ratio: float) -> None:
            status.update(escape(f"{bound.name}: largest so far {ratio:.6f}"))

        worst = search.search(claim, bound, budget=budget, seed=seed, report=report)
    said = "[bold red]EXCEEDED[/]" if worst.exceeds else "[green]not exceeded[/]"
    console.print(
        f"{worst.ratio:.9f}  {said}  {escape(f'{bound.name}, {_cell(worst)}')}: largest of {worst.instances} instances "
        f"({worst.seconds:.0f} s)",
        highlight=False,
    )
    return worst


def _cell(worst: search.Worst) -> str:
    return ", ".join(f"{name} {value}" for name, value in worst.cell.items())


def _table(verdicts: list[Verdict], judged: str, *, wide: bool) -> Table:
    """One line a claim on a terminal of 80 columns; a wide one also says what decided it."""
    table = Table(title=escape(f"Verdicts{judged}"), title_justify="left")
    table.add_column("claim", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    if wide:
        table.add_column("what decided it", overflow="fold")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("predicted", no_wrap=True)
    table.add_column("control", no_wrap=True)
    for verdict in verdicts:
        headline = verdict.headline
        decided = [escape(headline.quantity)] if wide and headline else [""] * wide
        numbers = ["", ""]
        if headline:
            numbers = [number(headline.measured), f"{headline.relation.split()[0]} {number(headline.predicted)}"]
        colour, control = COLOURS[verdict.outcome], verdict.control_outcome
        caught = "green" if control is Outcome.VIOLATED else "bold red"
        table.add_row(verdict.claim, f"[{colour}]{verdict.outcome}[/]", *decided, *numbers, f"[{caught}]{control}[/]")
    return table


def main() -> None:
    """The command line."""
    command_line.main(app)


if __name__ == "__main__":
    main()
