"""`python -m convergence train` and `evaluate`: few-shot classification from the command line."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from convergence.arguments import integer, positive
from convergence.command_line import LOST
from convergence.distributed.ranks import TIMEOUT, RankLost, Ranks, launched, restarted
from convergence.files import write_atomically
from convergence.recipes import RECIPES, Recipe
from convergence.training import Evaluation, Plan, Trained, TrainingFailed, load
from convergence.training import evaluate as evaluate_trained
from convergence.training import seeds as over_seeds
from convergence.training import train as train_run
from convergence.training.asked import Asked
from convergence.training.data import NAMES, WITHIN_GROUPS
from convergence.training.fastest import fastest_threads
from convergence.training.interrupts import Interrupts
from convergence.training.live import ending, live
from convergence.training.plan import DTYPES, OPTIMIZERS, SCHEDULES
from convergence.training.process import keep_freed_memory, use_threads
from convergence.training.run_folder import RunFolder
from problems.few_shot import EMBEDDINGS, SEMANTICS, Augmentation, Embedding, EpisodeList, Splits

TRAIN_HELP = (
    "Under torchrun the tasks of every batch are spread over the ranks; so are --seeds, where there are as many: "
    "torchrun --nproc-per-node=2 --max-restarts=3 -m convergence train ... ; a restart goes on from the checkpoint.\n\n"
    "Exit status: 0 trained, 1 BREAKDOWN or NON_FINITE, out of memory, or a rank lost, 2 wrong usage, or a file that "
    "cannot be read or written (a full disk), 130 or 143 interrupted, in training with a checkpoint."
)
EVALUATE_HELP = (
    "Exit status: 0 judged, 1 out of memory, 2 wrong usage, or a file that cannot be read or written (a full disk: the "
    "JSON object is printed nevertheless), 130 interrupted."
)
_ARGUMENTS = {field.name for field in fields(Plan)}
_ARGUMENTS |= {"threads", "memory", "lower_steps", "lower_step_size", "cg_steps", "ridge", "lasso"}
_Folder = Annotated[Path, typer.Option(help="Folder for config.json, metrics.jsonl, checkpoint.pt, training.png.")]


def train(
    context: typer.Context,
    data: Annotated[str, typer.Option(help=f"One of: {', '.join(NAMES)}.")],
    out: _Folder,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(RECIPES)}.")] = "memory_reduced",
    iterations: Annotated[int, typer.Option(help="Upper iterations T.")] = 250,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the start and of the training episodes; by default 0.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Several seeds, as 0 1 2: a run each, in OUT/seed-0, ...")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set's files.")] = None,
    size: Annotated[int | None, typer.Option(help="Side to which image files are resized.")] = None,
    classes: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Glyphs of train, validation, test to draw.")
    ] = None,
    images_per_class: Annotated[int | None, typer.Option(help="Pictures of each glyph to draw.")] = None,
    embedding: Annotated[str, typer.Option(help=f"One of: {', '.join(EMBEDDINGS)}.")] = "conv4",
    channels: Annotated[
        int, typer.Option(help="Channels of the network (of ResNet12 in its first block; published: 64).")
    ] = 32,
    way: Annotated[int, typer.Option(help="Classes of an episode.")] = 5,
    shot: Annotated[int, typer.Option(help="Support images of each class.")] = 5,
    queries: Annotated[int, typer.Option(help="Query images of each class in training.")] = 5,
    evaluation_queries: Annotated[int, typer.Option(help="Query images of each class in validation and test.")] = 15,
    within_groups: Annotated[bool, typer.Option("--within-groups", help="Episodes of one alphabet each.")] = False,
    rotate_classes: Annotated[bool, typer.Option("--rotate-classes", help="Turned classes are new ones.")] = False,
    crop: Annotated[int, typer.Option(help="Training images shifted by up to so many pixels.")] = 0,
    flip: Annotated[bool, typer.Option("--flip", help="Training images mirrored at random.")] = False,
    batch: Annotated[int, typer.Option(help="Tasks an iteration.")] = 4,
    chunk: Annotated[
        str | None,
        typer.Option(help="Tasks at a time; by default 1 on a CPU; auto: as many as a measurement finds best."),
    ] = None,
    memory: Annotated[str | None, typer.Option(help="A budget such as 2GiB: as many tasks at a time as fit.")] = None,
    lower_steps: Annotated[int | None, typer.Option(help="K lower steps, instead of the recipe's.")] = None,
    lower_step_size: Annotated[
        float | None, typer.Option(help="Step size alpha of theta, instead of the recipe's.")
    ] = None,
    cg_steps: Annotated[int | None, typer.Option(help="N conjugate-gradient steps, instead of the recipe's.")] = None,
    ridge: Annotated[float | None, typer.Option(help="Ridge of the head, instead of the recipe's.")] = None,
    lasso: Annotated[float | None, typer.Option(help="Lasso of the head, instead of the recipe's.")] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Solve for v directly, not by CG.")] = False,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Features computed twice: half the memory, a third more time.")
    ] = False,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of phi, instead of the recipe's.")] = None,
    optimizer: Annotated[str, typer.Option(help=f"One of: {', '.join(OPTIMIZERS)}.")] = "adam",
    schedule: Annotated[str, typer.Option(help=f"Schedule of the learning rate: {', '.join(SCHEDULES)}.")] = "none",
    decay_every: Annotated[int | None, typer.Option(help="Iterations a step of the schedule; by default T/3.")] = None,
    decay: Annotated[float | None, typer.Option(help="Factor of a step of the schedule; by default 0.1.")] = None,
    bn: Annotated[str, typer.Option(help=f"Batch norm: {', '.join(SEMANTICS)}.")] = "task",
    dtype: Annotated[str, typer.Option(help=f"One of: {', '.join(DTYPES)}.")] = "float32",
    autocast: Annotated[bool, typer.Option("--autocast", help="The network in bfloat16.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Images stored with their channels last; the default on a CPU.")
    ] = False,
    channels_first: Annotated[
        bool, typer.Option("--channels-first", help="Images stored with their channels first; the default on a GPU.")
    ] = False,
    recompute_blocks: Annotated[
        bool, typer.Option("--recompute-blocks", help="Blocks of the network keep their inputs alone.")
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="The network by torch.compile: takes half a minute first.")
    ] = False,
    resident: Annotated[
        bool, typer.Option("--resident", help="Keep all images on the device; default on a GPU with room.")
    ] = False,
    threads: Annotated[
        str | None,
        typer.Option(help="Threads of torch; by default as many as processors; auto: those or one, measured."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    validate_every: Annotated[int, typer.Option(help="Iterations between validations; 0: none.")] = 50,
    validation_episodes: Annotated[int, typer.Option(help="Fixed episodes of a validation.")] = 100,
    patience: Annotated[int | None, typer.Option(help="End after so many validations without a better one.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Iterations between checkpoints.")] = 50,
    rank_timeout: Annotated[float, typer.Option(help="Seconds that ranks wait for each other (torchrun).")] = TIMEOUT,
) -> None:
    """Train a network on few-shot episodes; the iterate that validates best is kept. Test episodes are not touched.

    \b
    Example:
      python -m convergence train --data glyphs --method memory_reduced --iterations 250 --out runs/first
    """
    wanted = over_seeds.given(seeds, context.args)
    if wanted is not None and seed is not None:
        raise ValueError(f"expected --seed or --seeds, got both (--seed {seed})")
    given = _given(context)
    context.params["compile"] = context.params.pop("compile_")
    positive("--rank-timeout", rank_timeout)
    with _options_named(), launched(device, timeout=rank_timeout) as ranks:
        asked, plan = _asked(context.params), _plan(context.params)
        if wanted is None:
            held = ranks.from_first(lambda: restarted() and RunFolder(out).checkpoint.is_file())
            _train_one(asked, {**plan, "seed": seed}, given, out, ranks, resume=resume or held)
        else:
            _train_each(wanted, asked, plan, given | {"seed"}, out, ranks, resume=resume or restarted())
        if ranks.first:
            _say(f"next: python -m convergence evaluate {shlex.quote(str(out))}")


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a training run, or of several.")],
    episodes: Annotated[
        int | None, typer.Option(help="Test episodes: the first of the seed, the same for all runs; by default 600.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the test episodes, by default 0; replaces what another seed has left."),
    ] = None,
    listed: Annotated[
        Path | None, typer.Option("--list", help="Instead: the episodes of a saved episodes.npz, all of them.")
    ] = None,
    chunk: Annotated[int | None, typer.Option(help="Episodes at a time; by default as in training.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    root: Annotated[Path | None, typer.Option(help="Folder of the data set's files, where it has moved.")] = None,
) -> None:
    """Judge the phi that validated best on fixed test episodes; print one JSON object, write DIR/evaluation.json.

    \b
    Example:
      python -m convergence evaluate runs/first --episodes 600
    """
    if listed is not None and (episodes, seed) != (None, None):
        raise ValueError("expected --list or --episodes and --seed, got both")
    use_threads(None)
    keep_freed_memory()
    wanted = {"episodes": 600 if episodes is None else episodes, "seed": seed or 0}
    folders = over_seeds.folders(directory)
    records: dict[str, dict[str, Any]] = {}
    failures: list[OSError] = []
    for folder in folders or [directory]:
        with _in_memory("try --chunk 1"):
            records[folder.name], files = _evaluate_one(folder, listed, device, root, chunk=chunk, **wanted)
        failures += _write(files)
    record = over_seeds.summary(records) if folders else records[directory.name]
    if folders:
        failures += _write({directory / "evaluation.json": _json(record)})
    typer.echo(json.dumps(record))
    if failures:
        raise failures[0]


# ---- train


def _asked(params: Mapping[str, Any]) -> Asked:
    found = {field.name: params[field.name] for field in fields(Asked)}
    root = found["root"]
    if found["threads"] not in (None, "auto"):
        found["threads"] = integer("threads", _number("threads", found["threads"]), least=1)
    return Asked(**{**found, "root": None if root is None else os.path.abspath(root.expanduser())})


def _plan(params: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Plan`; None where an option was not given."""
    for name in ("decay_every", "decay"):
        if params[name] is not None and params["schedule"] != "step":
            raise ValueError(f"expected no {_option(name)} without --schedule step, got {params[name]}")
    if params["patience"] is not None and params["validate_every"] == 0:
        raise ValueError(f"expected --validate-every of at least 1 beside --patience {params['patience']}, got 0")
    found = {field.name: params[field.name] for field in fields(Plan) if field.name in params}
    found["within_groups"] = params["within_groups"] or params["data"] in WITHIN_GROUPS
    found["validate_every"] = params["validate_every"] or None
    found["channels_last"], found["resident"] = _layout(params), params["resident"] or None
    if found["chunk"] not in (None, "auto"):
        found["chunk"] = _number("chunk", found["chunk"])
    if params["memory"] is not None:
        found["memory"] = params["memory"]
    augmentation = Augmentation(**{name: params[name] for name in ("rotate_classes", "crop", "flip")})
    return found | {"augmentation": None if augmentation == Augmentation() else augmentation}


_OPTIONS_OF = {"augmentation": ("rotate_classes", "crop", "flip"), "channels_last": ("channels_last", "channels_first")}


def _given(context: typer.Context) -> frozenset[str]:
    """The options on the command line, by the names of what they decide about in `Plan` and `Asked`."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    options = {name.rstrip("_") for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    return frozenset(options | {field for field, names in _OPTIONS_OF.items() if options.intersection(names)})


def _layout(params: Mapping[str, Any]) -> bool | None:
    """Whether channels are last; None where neither was asked for."""
    last, first = params["channels_last"], params["channels_first"]
    if last and first:
        raise ValueError("expected --channels-last or --channels-first, got both")
    return last if last or first else None


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise ValueError(f"expected --{name} an integer >= 1 or auto, got {value}") from error


def _train_each(
    seeds: list[int],
    asked: Asked,
    plan: Mapping[str, Any],
    given: frozenset[str],
    out: Path,
    ranks: Ranks,
    *,
    resume: bool,
) -> None:
    """A run for each seed in a folder of its own, and a table of them. Each is one rank's, where there are enough."""
    apart = ranks.size > 1 and len(seeds) >= ranks.size
    accuracies: dict[int, float] = {}
    for seed in seeds[ranks.rank :: ranks.size] if apart else seeds:
        folder, own = out / f"seed-{seed}", Ranks() if apart else ranks
        held = own.from_first((folder / "checkpoint.pt").is_file)
        trained = _train_one(
            asked, {**plan, "seed": seed}, given, folder, own, resume=resume and held, shown=ranks.first, named=apart
        )
        if trained.validated is not None:
            accuracies[seed] = trained.validated["validation_accuracy"]
    if apart:
        found = {seed: accuracy for some in ranks.gather(accuracies) for seed, accuracy in some.items()}
        accuracies = {seed: found[seed] for seed in seeds if seed in found}
    if accuracies and ranks.first:
        Console(stderr=True).print(over_seeds.table(accuracies, "best validation"))


def _train_one(
    asked: Asked,
    plan: Mapping[str, Any],
    given: frozenset[str],
    out: Path,
    ranks: Ranks,
    *,
    resume: bool,
    shown: bool = True,
    named: bool = False,
) -> Trained:
    """Train, write, and end the command where it was interrupted or failed.

    given   what the command line says; a run that goes on is held to that, and the rest is as it was
    shown   whether progress is; named: whether lines start with the folder, where several processes write them
    """
    recipe = asked.recipe()
    if resume:
        asked, plan, recipe = _resumed(asked, plan, given, RunFolder(out), ranks)
    plan = {name: value for name, value in plan.items() if value is not None or name not in ("decay", "seed")}
    keep_freed_memory()
    shown = shown and ranks.first
    network, splits = asked.network(), _splits(asked, ranks, shown=shown)
    asked = _with_threads(asked, recipe, splits, network, plan, ranks)
    label = f"{asked.method} on {asked.data}"
    hint = f"try --chunk 1, --low-memory or fewer --channels; what is in {out} is from before"

    def say(line: str) -> None:
        if ranks.first:
            _say(f"{out}: {line}" if named else line)

    try:
        with _in_memory(hint), Interrupts() as interrupts, _watching(label, plan["iterations"], shown=shown) as watch:
            trained = train_run(
                recipe,
                splits,
                embedding=network,
                out=out,
                resume=resume,
                labels=asked.as_json(),
                stop=lambda: interrupts.received,
                watch=watch,
                ranks=ranks,
                **plan,
            )
    except TrainingFailed as error:
        say(f"error: {error} The checkpoint in {out} is from before.")
        raise typer.Exit(1) from error
    except RankLost as error:
        if ranks.rank == error.speaker:
            _say(f"error: {error} The checkpoint in {out} is from before: the same command with --resume goes on.")
        raise typer.Exit(LOST) from error
    if ranks.first:
        try:
            _draw(trained, label, out)
        except OSError as error:
            say(f"warning: {error}")
    if trained.end == "stopped":
        received = interrupts.received or signal.SIGTERM  # another rank heard it first
        say(f"{received.name} after iteration {trained.iteration}: the same command with --resume goes on.")
        raise typer.Exit(128 + received)
    say(ending(trained))
    return trained


def _with_threads(
    asked: Asked, recipe: Recipe, splits: Splits, network: Embedding, plan: Mapping[str, Any], ranks: Ranks
) -> Asked:
    """Set the threads of the process; those that were measured are then what was asked for, and those of a resume."""
    if asked.threads != "auto":
        use_threads(asked.threads)
    else:
        use_threads(None)
        known = {field.name for field in fields(Plan)} - {"chunk"}
        short = Plan(**{name: value for name, value in plan.items() if name in known})
        threads = ranks.from_first(lambda: fastest_threads(recipe, splits, network, short))
        asked = replace(asked, threads=use_threads(threads))
    return asked


def _splits(asked: Asked, ranks: Ranks, *, shown: bool) -> Splits:
    """The images, drawn or converted by rank 0, after which the others on its machine find them in the cache."""
    if not ranks.first:
        ranks.gather(None)  # however long that takes
        return asked.splits(progress=False)
    found = asked.splits(progress=shown)
    ranks.gather(None)
    return found


@contextmanager
def _watching(label: str, iterations: int, *, shown: bool) -> Iterator[Callable[[Mapping[str, Any]], object]]:
    """What hears of each iteration, and shows it on one rank alone."""
    if not shown:
        yield lambda row: None
        return
    with live(label, iterations) as watch:
        yield watch


def _resumed(
    asked: Asked, plan: Mapping[str, Any], given: frozenset[str], folder: RunFolder, ranks: Ranks
) -> tuple[Asked, dict[str, Any], Recipe]:
    """What goes on with the run in the folder: what is not given here is as it was."""

    def read() -> dict[str, Any]:
        folder.require_checkpoint()
        return folder.config()

    config = ranks.from_first(read)
    asked, held = asked.resumed(config["labels"], given), Plan.from_json(config["plan"])
    filled = {name: value if name in given else getattr(held, name) for name, value in plan.items()}
    return asked, filled, asked.recipe(config["recipe"])


def _draw(trained: Trained, label: str, out: Path) -> None:
    """Write training.png. Figures are imported here alone: they stand above this package, as the command line does."""
    if not trained.metrics:
        return
    from figures import training
    from figures.style import png

    figure = training.draw(training.evidence(trained.metrics, way=trained.plan.way, label=label))
    write_atomically(out / "training.png", png(figure))


# ---- evaluate


def _evaluate_one(
    folder: Path, listed: Path | None, device: str, root: Path | None, *, episodes: int, seed: int, chunk: int | None
) -> tuple[dict[str, Any], dict[Path, bytes]]:
    """What is printed, and what is to be written."""
    config = RunFolder(folder).config()
    labels = config["labels"] if root is None else {**config["labels"], "root": str(root)}
    asked = Asked.from_json(labels)
    trained = load(folder, asked.recipe(config["recipe"]), asked.splits(), embedding=asked.network(), device=device)
    if trained.end == "stopped":
        _say(f"warning: the run in {folder} stopped at {trained.iteration} of {trained.plan.iterations} iterations")
    if listed is None:
        listing = dict(trained.plan.episodes(trained.splits, "test", seed=seed).listing(episodes))
    else:
        listing = _read(listed)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(f"{folder}: test episodes"), total=None if listed else episodes)
        found = evaluate_trained(
            trained, listed=_list_of(trained, listing), chunk=chunk, advance=lambda count: bar.advance(task, count)
        )
    record = _record(found, trained, asked, listing)
    file = io.BytesIO()
    arrays: dict[str, Any] = {**listing, "accuracy": found.accuracies.numpy()}
    np.savez_compressed(file, **arrays)
    stored = _json(record | {"lower": found.lower, "versions": config["versions"]})
    return record, {folder / "episodes.npz": file.getvalue(), folder / "evaluation.json": stored}


def _read(path: Path) -> dict[str, Any]:
    """The arrays of a saved list. Raises ValueError on any other file; nothing in it is executed."""
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"expected an episodes.npz as evaluate writes it in {path}, got no such file")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # np.load leaves a bad one open
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged archive raises anything: BadZipFile, OverflowError, MemoryError, ...
        raise ValueError(f"expected an episodes.npz as evaluate writes it, got {path}, which is none") from error


def _list_of(trained: Trained, listing: Mapping[str, Any]) -> EpisodeList:
    if (split := str(listing.get("split"))) not in trained.splits:
        raise ValueError(f"expected a list of episodes of {', '.join(trained.splits)}, got one of {split}")
    return EpisodeList(trained.splits[split], listing)


def _write(files: Mapping[Path, bytes]) -> list[OSError]:
    """Write the files; the failure, if there is one, for when the result has been printed."""
    try:
        for path, content in files.items():
            write_atomically(path, content)
    except OSError as error:
        return [error]
    return []


def _record(found: Evaluation, trained: Trained, asked: Asked, listing: Mapping[str, Any]) -> dict[str, Any]:
    best = trained.validated
    return {
        "accuracy": found.accuracy,
        "ci95": found.ci95 if found.episodes > 1 else None,
        "episodes": found.episodes,
        "seed": found.seed,
        "split": found.split,
        "method": asked.method,
        "data": asked.data,
        **{name: int(listing[name]) for name in ("way", "shot", "queries")},
        "embedding": asked.embedding,
        "channels": asked.channels,
        "bn": trained.plan.bn,
        "training_seed": trained.plan.seed,
        "iterations": trained.iteration,
        "end": trained.end,
        "iteration": trained.iteration if best is None else best["iteration"],
    }


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


# ---- both


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _in_memory(hint: str) -> Iterator[None]:
    """Out of memory, on a CPU or a GPU, ends the command in one sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        if not known:
            raise
        _say(f"error: expected room for the tasks that are computed at a time, got out of memory: {hint}")
        raise typer.Exit(1) from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@contextmanager
def _options_named() -> Iterator[None]:
    """A ValueError on an argument names its option, and not None, which cannot be typed."""
    try:
        yield
    except ValueError as error:
        found = re.match(r"expected (\w+) (None or )?", str(error))
        if found is None or found[1] not in _ARGUMENTS:
            raise
        raise ValueError(f"expected {_option(found[1])} {str(error)[found.end() :]}") from error
