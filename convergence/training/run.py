"""One training run in memory: a step, a validation, and the state from which it goes on bit for bit."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from convergence.chunks import Direction, direction_in_chunks
from convergence.distributed.average import Counted, average, since
from convergence.distributed.ranks import Ranks
from convergence.memory import peak_bytes, resident_bytes
from convergence.needs import require
from convergence.optimisers import Optimised
from convergence.oracle import Oracle
from convergence.recipes import Recipe
from convergence.status import Status
from convergence.streams import generator
from convergence.training.ahead import Ahead
from convergence.training.evaluation import Evaluation, measure, ready
from convergence.training.plan import DTYPES, FewShotProblem, Plan
from problems import Parameters, Tasks
from problems.few_shot import Embedding, Splits
from problems.few_shot.compiled import Compiled

Row = dict[str, Any]  # what is recorded of one iteration, of JSON's types


class TrainingFailed(RuntimeError):
    """Training met BREAKDOWN or NON_FINITE (`status`); the last checkpoint is from before `iteration`."""

    def __init__(self, status: Status, iteration: int):
        super().__init__(f"{status.name} in iteration {iteration}: {status.advice}")
        self.status = status
        self.iteration = iteration

    def __reduce__(self) -> tuple[type[TrainingFailed], tuple[Status, int]]:
        return TrainingFailed, (self.status, self.iteration)


class _Stopped(Exception):
    """A stop was wished for within a validation."""


class Run:
    """A training run: `advance` takes one iteration, `state` is all that it depends on beside its arguments.

    Iteration t draws its tasks from the stream (seed, "tasks", t), and the method what it draws from (seed, "noise",
    t): the state needs no generator. Raises ValueError where the problem lacks what the method needs, and where the
    method takes the upper step itself, or carries something from one iteration to the next (a warm start, which tasks
    drawn without end cannot have; a count of iterations).

    On several ranks each takes a stretch of every batch, and of the episodes of every validation; d is averaged over
    them in one all-reduce (`average`), and all else is the same everywhere. Then also RankLost is raised.
    """

    def __init__(self, recipe: Recipe, splits: Splits, embedding: Embedding, plan: Plan, ranks: Ranks | None = None):
        self.recipe, self.plan, self.ranks = recipe, plan, ranks or Ranks()
        self._wished = False  # that the run stops: by any rank, as of the last message
        self.problem = plan.problem(recipe, plan.episodes(splits, "train"), embedding)
        require(recipe.method, self.problem)
        drawn = partial(_drawn, self.problem, plan, self.ranks.part(plan.batch))
        self._tasks: Callable[[int], Tasks] = Ahead(drawn, plan.iterations) if plan.ahead else drawn
        self.oracle = Oracle(self.problem, seeds=(plan.seed,))
        phi = self.problem.phi0(generator(plan.seed, "start"))
        start = {name: tensor.to(plan.device, DTYPES[plan.dtype]) for name, tensor in phi.items()}
        self.optimised = Optimised(recipe.method, start, plan.make_optimizer(recipe))
        self.scheduler = plan.scheduler(self.optimised.optimizer)
        self.method_state = recipe.method.start(self.oracle, self.phi)
        if not _is_empty(self.method_state):
            raise ValueError(f"expected a method without a state, got {type(recipe.method).__name__} with one")
        self.best = self._copy_of_phi()
        self.metrics: list[Row] = []
        self.seconds = 0.0
        if plan.validate_every is not None:
            self._validation = plan.problem(recipe, plan.episodes(splits, "validation"), embedding)
            self._gathering = plan.episodes(splits, "train", seed=plan.evaluation_seed)

    @property
    def phi(self) -> Parameters:
        """The iterate; the optimiser changes these tensors in place."""
        return self.optimised.phi

    @property
    def iteration(self) -> int:
        """Iterations completed."""
        return len(self.metrics)

    @property
    def end(self) -> str | None:
        """Why the run is over: see `end_of`."""
        return end_of(self.metrics, self.plan)

    # ---- one iteration

    def advance(self, stop: Callable[[], object] = lambda: False) -> Row | None:
        """One iteration, and a validation where one is due; what is recorded of it.

        A validation asks `stop` after every chunk of its episodes: where that is true, the run is back in the state
        before this iteration, and None is returned. (On several ranks it is asked at the end of the iteration alone.)
        Raises TrainingFailed where d or the new phi is not finite, or CG broke down and the recipe does not allow it.
        """
        began = time.perf_counter()
        number = self.iteration + 1
        before = copy.deepcopy(self.state()) if self.plan.validates_after(number) else None
        rate = self.optimised.optimizer.param_groups[0]["lr"]
        compiled = _compiling(self.problem)
        found, peak = self._direction(stop, metered=number == self._metered)
        length = _length(found.direction)
        self._require(found, length, number)
        self.optimised.step(found.direction)
        if not math.isfinite(_length(self.phi)):
            raise TrainingFailed(Status.NON_FINITE, number)
        if self.scheduler is not None:
            self.scheduler.step()
        row: Row = {
            "iteration": number,
            "loss": _number(found.upper.item()),
            "direction_norm": length,
            "learning_rate": rate,
            "breakdowns": int(found.failed),
            "calls": dict(self.oracle.calls),
        }
        if peak is not None:
            row["peak_bytes"] = peak
        if (taken := _compiling(self.problem) - compiled) > 0:
            row["compile_seconds"] = round(taken, 3)
        if number == 1 and self._metered is None:
            row["resident_bytes"] = resident_bytes()
        if before is not None:
            try:
                row |= self._validated(stop)
            except _Stopped:
                self.restore(before)
                return None
        elif self.plan.validate_every is None:
            self.best = self._copy_of_phi()
        self.seconds += time.perf_counter() - began
        self.metrics.append(row | {"seconds": round(self.seconds, 3)})
        return self.metrics[-1]

    def stops(self, stop: Callable[[], object]) -> bool:
        """Whether to end here: what `stop` says, of several ranks what any of them said when the batch was averaged."""
        return bool(stop()) if self.ranks.size == 1 else self._wished

    @property
    def _metered(self) -> int | None:
        """The iteration whose bytes are: not one that compiles, and on a CPU no compiled one, which cannot be."""
        if not self.plan.compile:
            return 1
        return 2 if torch.device(self.plan.device).type == "cuda" else None

    def _direction(self, stop: Callable[[], object], *, metered: bool) -> tuple[Direction, int | None]:
        """d of this iteration's tasks, and the peak bytes where the meter, which costs time, is asked for."""
        plan, ranks, before = self.plan, self.ranks, Counted.by(self.oracle)
        own, found, peak = self._tasks(self.iteration), None, None
        self.oracle.begin(self.iteration)
        if len(own):
            found, peak = self._of_tasks(own, metered=metered)
        if ranks.size == 1:
            assert found is not None
            return found, peak
        if self.oracle.drew:
            raise ValueError(
                "expected a method that draws no numbers where tasks are spread over ranks, "
                f"got {type(self.recipe.method).__name__}"
            )
        counted, share = since(self.oracle, before), len(own) / plan.batch
        whole = average(ranks, self.phi, found, share=share, counted=counted, stop=bool(stop()))
        for own_calls, then, more in zip((self.oracle.calls, self.oracle.examples), before, whole.counted, strict=True):
            own_calls.update({call: then[call] + more[call] for call in then})
        self._wished = whole.stop
        return whole.direction, peak

    def _of_tasks(self, tasks: Tasks, *, metered: bool) -> tuple[Direction, int | None]:
        """d of these tasks, and the peak bytes."""
        plan, device = self.plan, torch.device(self.plan.device)
        tasks = tasks.to(device)

        def step() -> Direction:
            return direction_in_chunks(
                self.recipe.method, self.oracle, self.phi, tasks, self.method_state, chunk=plan.tasks_at_a_time
            )

        if not metered:
            return step(), None
        kept: list[Direction] = []
        peak = peak_bytes(lambda: kept.append(step()), device=device)
        return kept[0], peak

    def _require(self, found: Direction, length: float, number: int) -> None:
        status = Status(int(found.failure))
        if status is Status.NON_FINITE or not math.isfinite(length):
            raise TrainingFailed(Status.NON_FINITE, number)
        if status is Status.BREAKDOWN and not self.recipe.breakdowns:
            raise TrainingFailed(status, number)

    def _validated(self, stop: Callable[[], object]) -> Row:
        before = max(_accuracies(self.metrics), default=-1.0)
        judged = self._measured(stop)
        if judged.accuracy > before:
            self.best = self._copy_of_phi()
        lower = {f"validation_{name}": _number(value) for name, value in judged.lower.items()}
        return {"validation_accuracy": judged.accuracy, "validation_ci95": _number(judged.ci95), **lower}

    def _measured(self, stop: Callable[[], object]) -> Evaluation:
        left = self.plan.validation_episodes

        def advance(count: int) -> None:
            nonlocal left
            left -= count
            if self.ranks.size == 1 and left > 0 and stop():
                raise _Stopped

        plan, chunk = self.plan, self.plan.tasks_at_a_time
        problem = ready(self._validation, self.phi, self._gathering, chunk=chunk)
        return measure(
            problem,
            self.recipe.method,
            self.phi,
            episodes=plan.validation_episodes,
            chunk=chunk,
            lower=True,
            advance=advance,
            ranks=self.ranks,
        )

    def _copy_of_phi(self) -> Parameters:
        return {name: tensor.detach().clone() for name, tensor in self.phi.items()}

    # ---- its state

    def state(self) -> dict[str, Any]:
        """phi, the best phi, optimiser, schedule, oracle calls, metrics, seconds: tensors and plain values.

        The optimiser's tensors change with the next iteration.
        """
        return {
            "phi": self._copy_of_phi(),
            "best": dict(self.best),
            "optimizer": self.optimised.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "calls": dict(self.oracle.calls),
            "metrics": [dict(row) for row in self.metrics],
            "seconds": self.seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from this state, which is left as it is. Raises ValueError where it is of another network."""
        for name in ("phi", "best"):
            check_shapes(state[name], self.phi)
        with torch.no_grad():
            for name, tensor in self.phi.items():
                tensor.copy_(state["phi"][name])
        self.best = {name: state["best"][name].to(tensor).clone() for name, tensor in self.phi.items()}
        self.optimised.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.oracle.calls.update(state["calls"])
        self.metrics = [dict(row) for row in state["metrics"]]
        self.seconds = state["seconds"]


def _drawn(problem: FewShotProblem, plan: Plan, part: slice, iteration: int) -> Tasks:
    """Of the batch of this iteration that part."""
    return problem.sample(plan.batch, generator(plan.seed, "tasks", iteration), part)


def _compiling(problem: FewShotProblem) -> float:
    """Seconds that compiling its network has taken."""
    return problem.embedding.seconds if isinstance(problem.embedding, Compiled) else 0.0


def end_of(metrics: Sequence[Row], plan: Plan) -> str | None:
    """Why a run with these metrics is over: "iterations", "patience", or None where it goes on."""
    accuracies = _accuracies(metrics)
    if len(metrics) >= plan.iterations:
        return "iterations"
    if plan.patience and accuracies and len(accuracies) - accuracies.index(max(accuracies)) > plan.patience:
        return "patience"
    return None


def _accuracies(metrics: Sequence[Row]) -> list[float]:
    return [row["validation_accuracy"] for row in metrics if "validation_accuracy" in row]


def check_shapes(phi: Mapping[str, Any], expected: Parameters) -> None:
    """Raise ValueError, naming the first tensor that differs, where phi is of another architecture."""
    if phi.keys() != expected.keys():
        differing = sorted(phi.keys() ^ expected.keys())[0]
        has = "without" if differing in expected else "with"
        raise ValueError(f"expected a checkpoint of this architecture, got one {has} the tensor {differing!r}")
    for name, tensor in expected.items():
        if phi[name].shape != tensor.shape:
            raise ValueError(
                f"expected a checkpoint of this architecture, with {name!r} of shape {tuple(tensor.shape)}, "
                f"got {tuple(phi[name].shape)}"
            )


def _is_empty(state: Any) -> bool:
    """Whether nothing is carried over: None, or a tuple of that."""
    return state is None or (isinstance(state, tuple) and all(map(_is_empty, state)))


def _length(parameters: Parameters) -> float:
    """The norm of all tensors in a row."""
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in parameters.values()]).norm().item()


def _number(value: float) -> float | None:
    """The value, or None where it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None
