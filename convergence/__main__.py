"""`python -m convergence`: solve a problem of the catalogue, train and evaluate few-shot networks, watch a run."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from convergence import Method, Result, command_line
from convergence.arguments import integer, positive
from convergence.budget import readable
from convergence.catalogue import METHODS
from convergence.command_line import named
from convergence.distributed import launched, restarted, run
from convergence.distributed.ranks import TIMEOUT
from convergence.files import write_atomically
from convergence.imported import is_spec, method_of, problem_of
from convergence.probes import PROBES
from convergence.training import commands
from convergence.training.interrupts import Interrupts
from convergence.watch.command import WATCH_HELP, watch
from problems import LARGE, PROBLEMS, REAL_DATA, STOCHASTIC, Problem

_INSTANCES = PROBLEMS | LARGE | REAL_DATA | STOCHASTIC

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The memory-reduced algorithm on bilevel problems with known optima, and on few-shot classification."""


@app.command(
    epilog="Exit status: 0 the run ended well, 1 it met BREAKDOWN or NON_FINITE, or a rank was lost, 2 wrong usage, "
    "130 or 143 interrupted, with --keep when what it had reached was kept."
)
def solve(
    problem: Annotated[str, typer.Argument(help=f"One of: {', '.join(_INSTANCES)}; or one's own, as MODULE:CLASS.")],
    method: Annotated[
        str, typer.Option(help=f"One of: {', '.join(METHODS)}; or one's own, as MODULE:CLASS.")
    ] = "memory_reduced",
    iterations: Annotated[int, typer.Option(help="Upper iterations T.")] = 1000,
    lower_steps: Annotated[int | None, typer.Option(help="K gradient steps on theta; by default 5.")] = None,
    lower_step_size: Annotated[
        float | None, typer.Option(help="Step size alpha of theta; by default 2 / (L + mu).")
    ] = None,
    cg_steps: Annotated[int | None, typer.Option(help="N conjugate-gradient steps; by default 5.")] = None,
    upper_step_size: Annotated[
        float | None, typer.Option(help="Step size beta of phi; by default 1 / (2 L_Phi).")
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="Start theta and v anew in every iteration.")] = False,
    accuracy: Annotated[
        float | None, typer.Option(help="Relative error of d to certify, by at most these lower and CG steps.")
    ] = None,
    others: Annotated[
        list[str] | None, typer.Option("--set", help="Another field of the method, as FIELD=VALUE; as often as needed.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Tasks an iteration; by default all.")] = None,
    replacement: Annotated[
        bool, typer.Option("--replacement", help="Draw tasks i.i.d., not without replacement.")
    ] = False,
    replicas: Annotated[int | None, typer.Option(help="Independent runs in one batched computation.")] = None,
    stop: Annotated[float | None, typer.Option(help="Stop at this |grad Phi|.")] = None,
    probe_every: Annotated[int, typer.Option(help="Measure |grad Phi| in every so many iterations.")] = 1,
    probe: Annotated[
        list[str] | None, typer.Option(help=f"Measure this as well, as often as needed: {', '.join(PROBES)}.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the instance, the start and the task stream.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compiled programs, of all iterations between two probes: seconds once, then ten times as fast. "
            "By default from 100000 iterations on.",
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="As 2GiB: replicas, and tasks of a batch, so few at a time that the run fits.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the result to this JSON file; it is printed where that fails."),
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder from which the run can go on.")] = None,
    keep_every: Annotated[int, typer.Option(help="Iterations between two times of keeping.")] = 1000,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what is kept.")] = False,
    rank_timeout: Annotated[float, typer.Option(help="Seconds that ranks wait for each other (torchrun).")] = TIMEOUT,
) -> None:
    """Run a method on a problem and print what it reached.

    Under torchrun tasks, or replicas, are spread over ranks, and a restart goes on from what is kept.

    \b
    Examples:
      python -m convergence solve huber
      python -m convergence solve quadratic --batch 4 --replicas 32
      python -m convergence solve quadratic --batch 4 --replicas 1024 --iterations 100 --memory 4MiB
      torchrun --nproc-per-node=2 -m convergence solve quadratic --batch 4 --keep runs/quadratic
    """
    integer("--seed", seed, least=0)
    instance = problem_of(problem, seed) if is_spec(problem) else named(_INSTANCES, problem, "problem")(seed)
    if upper_step_size is None:
        constants = instance.constants
        if constants is None or constants.L_Phi is None:
            raise ValueError(f"expected --upper-step-size, since {problem} gives no L_Phi to choose it by")
        upper_step_size = 1 / (2 * constants.L_Phi)
    options = {
        "lower_steps": ("--lower-steps", lower_steps),
        "lower_step_size": ("--lower-step-size", lower_step_size),
        "cg_steps": ("--cg-steps", cg_steps),
        "upper_step_size": ("--upper-step-size", upper_step_size),
        "warm_start": ("--cold", False if cold else None),
        "accuracy": ("--accuracy", accuracy),
    }
    chosen = _method(method, options | dict(_field(text) for text in others or ()))
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ValueError(f"expected --out a file in an existing folder, got {out}")
    integer("--keep-every", keep_every, least=1)
    positive("--rank-timeout", rank_timeout)
    if stop is not None:
        positive("--stop", stop)
    if resume and keep is None:
        raise ValueError("expected --keep, the folder of the run to --resume, got none")
    with launched(device, timeout=rank_timeout) as ranks, _interrupts(keep) as interrupts:
        result = run(
            instance,
            chosen,
            ranks=ranks,
            iterations=iterations,
            batch=batch,
            replacement=replacement,
            replicas=replicas,
            probes=_probes(probe or (), instance, watched=keep is not None),
            stop_at=None if stop is None else {"grad_norm_sq": stop**2},
            probe_every=probe_every,
            seed=seed,
            device=device,
            compile=compiled,
            memory=memory,
            progress=Console().is_terminal,
            raise_on_failure=False,
            keep=keep,
            keep_every=keep_every,
            resume=resume or (keep is not None and restarted() and ranks.from_first((keep / "run.pt").is_file)),
            stop=lambda: interrupts.received,
        )
    if ranks.first:
        _print(result, problem, method)
        if out is not None:
            _write(out, json.dumps(_record(result), indent=2))
    if interrupts.received is not None:
        raise typer.Exit(128 + interrupts.received)
    raise typer.Exit(int(result.status.failed))


def _write(out: Path, record: str) -> None:
    """Write the record, or print it where that fails, which is still said: the run is over, and may have been long."""
    try:
        write_atomically(out, f"{record}\n".encode())
    except OSError:
        typer.echo(record)
        raise


def _probes(asked: Sequence[str], problem: Problem, *, watched: bool) -> list[str]:
    """What is measured: |grad Phi|^2, what was asked for, and in a run that can be watched what costs little more."""
    found = ["grad_norm_sq", *(named(PROBES, name, "probe").name for name in asked)]
    if watched:
        found.append("direction_norm_sq")
        if problem.has("value") or not problem.has("hypergradient"):  # else it takes a Newton reference of its own
            found.append("value")
    return list(dict.fromkeys(found))


def _interrupts(keep: Path | None) -> AbstractContextManager[Interrupts]:
    """Where a run is kept, a signal ends it the next time that it is; else at once, as ever."""
    return nullcontext(Interrupts()) if keep is None else Interrupts()


_SEVERAL_SEEDS = {"allow_extra_args": True}  # --seeds 0 1 2: the option takes one, the rest are left over
app.command(epilog=commands.TRAIN_HELP, context_settings=_SEVERAL_SEEDS)(commands.train)
app.command(epilog=commands.EVALUATE_HELP)(commands.evaluate)

app.command(epilog=WATCH_HELP)(watch)


_DEFAULTS = {"lower_steps": 5, "cg_steps": 5}  # of methods that have such a field


def _method(name: str, options: dict[str, tuple[str, Any]]) -> Method:
    """The method of this name. `options`: field -> what the command line calls it, and the value or None."""
    make = method_of(name) if is_spec(name) else named(METHODS, name, "method")
    has = inspect.signature(make).parameters
    given = {field: value for field, (_, value) in options.items() if value is not None}
    for field in given:
        if field not in has:
            raise ValueError(f"expected no {options[field][0]}: {name} has {', '.join(has)}, and no {field}")
    values = {field: value for field, value in _DEFAULTS.items() if field in has} | given
    for field, parameter in has.items():
        if parameter.default is parameter.empty and field not in values:
            raise ValueError(f"expected --set {field}=VALUE, which {name} needs, got none")
    return make(**values)


def _field(text: str) -> tuple[str, tuple[str, Any]]:
    """FIELD=VALUE as field -> option and value: a number, true or false, or else a word."""
    field, equals, value = text.partition("=")
    if not (field and equals and value):
        raise ValueError(f"expected --set FIELD=VALUE, got {text!r}")
    try:
        return field, (f"--set {field}", json.loads(value))
    except (ValueError, RecursionError):  # also nested without end, or of more digits than Python reads
        return field, (f"--set {field}", value)


def _print(result: Result, problem: str, method: str) -> None:
    table = Table(title=escape(f"{method} on {problem}"), title_justify="left", show_header=False)
    trace = result.trace["grad_norm_sq"].flatten(1) if result.trace["grad_norm_sq"].dim() > 1 else None
    last = (result.trace["grad_norm_sq"] if trace is None else trace.nanmedian(-1).values)[-1:].tolist()
    table.add_row("status", f"{result.status}: {result.status.advice}")
    table.add_row("upper iterations", str(result.iterations))
    label = "|grad Phi|^2 at the last probe" + (" (median)" if trace is not None else "")
    table.add_row(label, f"{last[0]:.6g}" if last else "not measured")
    for name, count in result.calls.items():
        table.add_row(f"{name} calls", f"{count}")
    at_a_time = [
        f"{count} {name}" for name, count in zip(("replicas", "tasks"), result.chunks[:2], strict=True) if count
    ]
    if result.chunks.peak is not None:
        table.add_row("at a time", f"{', '.join(at_a_time)}: at most {readable(result.chunks.peak)}")
    table.add_row("seconds", f"{result.seconds:.2f}")
    if result.compile_seconds:
        table.add_row("of these to compile", f"{result.compile_seconds:.2f}")
    Console(emoji=False).print(table)


def _record(result: Result) -> dict[str, Any]:
    return {
        "status": result.status.name,
        "iterations": result.iterations,
        "calls": result.calls,
        "seeds": result.seeds,
        "seconds": result.seconds,
        "chunks": result.chunks._asdict(),
        "probed_at": result.probed_at.tolist(),
        "trace": {name: _numbers(values.tolist()) for name, values in result.trace.items()},
        "phi": {name: tensor.cpu().tolist() for name, tensor in result.phi.items()},
    }


def _numbers(values: Any) -> Any:
    """Nested lists with None for what is not a number (a replica that stopped): JSON has no NaN."""
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return values if math.isfinite(values) else None


def main() -> None:
    """The command line."""
    command_line.main(app)


if __name__ == "__main__":
    main()
