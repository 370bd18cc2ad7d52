"""Few-shot training and evaluation: a recipe, images and a network in, the phi that validates best out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from convergence.budget import parse
from convergence.distributed.ranks import Ranks
from convergence.progress import End, note_end
from convergence.recipes import Recipe
from convergence.streams import generator
from convergence.training.evaluation import Evaluation, measure, ready
from convergence.training.fastest import fastest_chunk
from convergence.training.fitting import fitting_chunk
from convergence.training.plan import FewShotProblem, Plan
from convergence.training.run import Row, Run, check_shapes, end_of
from convergence.training.run_folder import RunFolder, described_run
from problems import Parameters
from problems.few_shot import Embedding, EpisodeList, Splits


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training ended with.

    phi       the iterate that validated best, on the CPU or the device of the plan
    metrics   what was recorded of each iteration, in order
    state     all that training goes on from, for `train(start=...)`
    end       "iterations", "patience" or "stopped"
    """

    recipe: Recipe
    splits: Splits = field(repr=False)
    embedding: Embedding
    plan: Plan
    phi: Parameters = field(repr=False)
    metrics: list[Row] = field(repr=False)
    state: Mapping[str, Any] = field(repr=False)
    end: str

    @property
    def iteration(self) -> int:
        """Iterations completed."""
        return len(self.metrics)

    @property
    def validated(self) -> Row | None:
        """What was recorded where phi is from; None where nothing was validated."""
        rows = [row for row in self.metrics if "validation_accuracy" in row]
        return max(rows, key=lambda row: row["validation_accuracy"], default=None)

    def problem(self, split: str = "test", *, seed: int | None = None) -> FewShotProblem:
        """The problem that the method solves on the evaluation episodes of a split (seed None: that of the plan)."""
        seed = self.plan.evaluation_seed if seed is None else seed
        return self.plan.problem(self.recipe, self.plan.episodes(self.splits, split, seed=seed), self.embedding)


def train(
    recipe: Recipe,
    splits: Splits,
    *,
    embedding: Embedding,
    out: Path | str | None = None,
    resume: bool = False,
    start: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    stop: Callable[[], object] = lambda: False,
    watch: Callable[[Row], object] = lambda row: None,
    ranks: Ranks | None = None,
    memory: str | int | None = None,
    **plan: Any,
) -> Trained:
    """Train the network on the episodes of splits["train"]; choose the iterate on those of splits["validation"].

    recipe      from `RECIPES`, or one's own
    embedding   `Conv4(32)`, `ResNet12()`, ...
    out         None: nothing is written. A folder: config.json, metrics.jsonl and checkpoint.pt go there, and events of
                TensorBoard where it is installed
    resume      go on from the checkpoint in `out`: phi, optimiser and metrics (but seconds) are then those of a run
                that was never interrupted, bit for bit (same machine, threads and torch). Without a schedule more
                iterations may be asked for than before
    start       the `state` of a shorter run, to go on from without files
    labels      of JSON's types, kept in config.json, and the same on resume
    stop        asked after each iteration whether to end there, with a checkpoint, and within a validation whether to
                end before its iteration
    watch       called with what was recorded of each iteration
    ranks       processes that train together, all of which call this with the same arguments: the run of one process up
                to the order of sums; rank 0 alone writes. It goes on with any number of them
    memory      a budget such as "2GiB": as many tasks at a time as it allows (`fitting_chunk`), with chunk="auto" the
                fastest of these; kept on resume likewise
    plan        the fields of `Plan`: iterations=250, seed=0, batch=4, bn="task", device="cpu", ...; chunk="auto" takes
                the number of tasks at a time that a short measurement finds fastest (`fastest_chunk`), which the plan
                then holds, and a run that is resumed keeps

    Recorded of an iteration: iteration (from 1), loss (mean f_i at theta_K; None where the method does not evaluate
    f_i, as `Reptile`), direction_norm |d|, learning_rate, breakdowns (tasks whose CG met p'Hp <= 0), calls of the
    oracle so far, seconds so far; of the first one peak_bytes, of the tensors that it made (with compile that of the
    second on a GPU, and on a CPU resident_bytes, the size of the process); where there is a validation its accuracy,
    ci95 and the lower level there (`Evaluation.lower`).
    The images of splits["test"] are never looked at; whether they suffice for an episode is.

    Raises ValueError on arguments that do not fit each other, too few images in any split, a folder in which another
    process is at work, or that holds a run already (without resume), no checkpoint, a corrupt one, or one of another
    run (with it); TrainingFailed on BREAKDOWN, unless the recipe allows it, and on NON_FINITE, the last checkpoint
    intact, and RankLost likewise; OSError where the folder cannot be written.
    """
    ranks = ranks or Ranks()
    asked = plan.get("chunk")
    if asked != "auto" and memory is None:
        chosen = Plan(**plan)
    else:
        before = RunFolder(Path(out)) if resume and out is not None else None
        if asked not in (None, "auto") and before is None:
            raise ValueError(f"expected chunk or memory, got both ({asked} tasks and {memory})")
        chosen, auto = Plan(**{**plan, "chunk": None}), asked == "auto"
        measured = partial(_chunk, recipe, splits, embedding, chosen, before, auto=auto, memory=memory)
        chosen = replace(chosen, chunk=ranks.from_first(measured))
    _require_episodes(chosen, splits)
    run = Run(recipe, splits, embedding, chosen, ranks)
    config = described_run(recipe, splits, embedding, chosen, labels or {})
    if start is not None and not resume:
        run.restore(start)
    if out is None:
        if resume:
            raise ValueError("expected a folder out to resume from, got None")
        _advance(run, None, config, [watch], stop)
    else:
        folder = RunFolder(Path(out))
        with ExitStack() as stack:
            held = ranks.from_first(lambda: _opened(folder, config, stack, resume=resume))
            if held is not None:
                run.restore(held)
            ranks.from_first(lambda: folder.begin(config, run.state(), resumed=resume))
            writing = folder.listeners(run.iteration) if ranks.first else []
            with _end_noted(folder, run):
                _advance(run, folder, config, [watch, *writing], stop)
    return _trained(recipe, splits, embedding, chosen, run.state())


def _chunk(
    recipe: Recipe,
    splits: Splits,
    embedding: Embedding,
    plan: Plan,
    before: RunFolder | None,
    *,
    auto: bool,
    memory: str | int | None,
) -> int | None:
    """Of the run that is resumed, as it is; else measured."""
    if before is not None:
        before.require_checkpoint()
        return Plan.from_json(before.config()["plan"]).chunk
    fitting = plan.batch if memory is None else fitting_chunk(recipe, splits, embedding, plan, parse(memory))
    return min(fitting, fastest_chunk(recipe, splits, embedding, plan)) if auto else fitting


def _opened(
    folder: RunFolder, config: Mapping[str, Any], stack: ExitStack, *, resume: bool
) -> Mapping[str, Any] | None:
    """The state to go on from; the folder is this process's until the stack is closed."""
    if resume:
        folder.require_checkpoint()
    stack.enter_context(folder.locked())
    return folder.to_resume(config) if resume else None


def _require_episodes(plan: Plan, splits: Splits) -> None:
    """Raise ValueError, naming the split, where one cannot be trained on, or judged by after hours of training."""
    for split in ("train", "validation", "test") if plan.validate_every is not None else ("train", "test"):
        if split in splits:
            try:
                plan.episodes(splits, split)
            except ValueError as error:
                raise ValueError(f"{error} (of the {split} images)") from error


def _advance(
    run: Run,
    folder: RunFolder | None,
    config: Mapping[str, Any],
    listeners: Sequence[Callable[[Row], object]],
    stop: Callable[[], object],
) -> None:
    """Iterations up to the end of the run or a stop, with checkpoints."""
    stopped = False
    while run.end is None and not stopped:
        row = run.advance(stop)
        if row is not None:
            for listen in listeners:
                listen(row)
        stopped = row is None or run.stops(stop)
        due = stopped or run.end is not None or run.iteration % run.plan.checkpoint_every == 0
        if folder is not None and due:
            run.ranks.from_first(partial(folder.save, config, run.state()))


@contextmanager
def _end_noted(folder: RunFolder, run: Run) -> Iterator[None]:
    """The end of the run in end.json, for those who look on; an end that no code sees, as by SIGKILL, leaves none."""

    def note(end: End, message: str) -> None:
        if run.ranks.first:
            note_end(folder.path, end, iteration=run.iteration, message=message)

    try:
        yield
    except Exception as error:
        note("failed", str(error))
        raise
    note(*_ENDS[run.end])


_ENDS: dict[str | None, tuple[End, str]] = {
    "iterations": ("finished", "all iterations that were asked for"),
    "patience": ("finished", "the validations that patience allows passed without a better one"),
    None: ("stopped", "asked to end by a signal, or by `stop`: --resume goes on from the checkpoint"),
}


def load(folder: Path | str, recipe: Recipe, splits: Splits, *, embedding: Embedding, **changes: Any) -> Trained:
    """The run in this folder as far as its last checkpoint, with changes of the plan that phi does not depend on.

    Raises ValueError where there is none, it is corrupt, or it is of another recipe, network or images.
    """
    held = RunFolder(Path(folder))
    config = held.config()
    plan = Plan.from_json({**config["plan"], **changes})
    described = described_run(recipe, splits, embedding, plan, config["labels"])
    state = held.state(described, free=frozenset(f"plan.{name}" for name in changes))
    problem = plan.problem(recipe, plan.episodes(splits, "validation"), embedding)
    check_shapes(state["best"], problem.phi0(generator(plan.seed, "start")))
    return _trained(recipe, splits, embedding, plan, state)


def evaluate(
    trained: Trained,
    *,
    episodes: int = 600,
    seed: int = 0,
    split: str = "test",
    listed: EpisodeList | None = None,
    chunk: int | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Evaluation:
    """The accuracy of the trained phi on the first episodes of a split, which depend on the seed given here alone.

    They are the same ones for all methods and training seeds. With bn="running" the statistics are gathered over fixed
    training episodes first. `chunk` episodes at a time (None: as in training) bound the memory. `listed` is a saved
    list to judge by instead: all of its episodes, which bring their own split and seed. Raises ValueError on fewer than
    one episode, and on a list for another number of classes.
    """
    plan = trained.plan
    chunk = plan.tasks_at_a_time if chunk is None else chunk
    problem = trained.problem(split, seed=seed)
    if listed is not None:
        if listed.way != plan.way:
            raise ValueError(f"expected listed episodes of {plan.way} classes, as in training, got {listed.way}")
        problem, episodes = plan.problem(trained.recipe, listed, trained.embedding), len(listed)
    training = plan.episodes(trained.splits, "train", seed=problem.episodes.seed)
    problem = ready(problem, trained.phi, training, chunk=chunk)
    method = trained.recipe.method
    return measure(problem, method, trained.phi, episodes=episodes, chunk=chunk, lower=True, advance=advance)


def _trained(recipe: Recipe, splits: Splits, embedding: Embedding, plan: Plan, state: Mapping[str, Any]) -> Trained:
    return Trained(
        recipe=recipe,
        splits=splits,
        embedding=embedding,
        plan=plan,
        phi={name: tensor.to(plan.device) for name, tensor in state["best"].items()},
        metrics=state["metrics"],
        state=state,
        end=end_of(state["metrics"], plan) or "stopped",
    )
