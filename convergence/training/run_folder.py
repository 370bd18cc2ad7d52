"""The folder of a training run: config.json, metrics.jsonl, checkpoint.pt, and what must agree to go on from them."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convergence import checkpoints, progress
from convergence.described import described, require_same
from convergence.files import locked, write_atomically
from convergence.recipes import Recipe
from convergence.training.plan import Plan
from problems.few_shot import Embedding, ImageSet, Splits

PACKAGE = "memory-reduced-meta-learning"
# None of these changes a number that is computed
_FREE = {"plan.checkpoint_every", "plan.patience", "plan.resident", "plan.ahead", "labels.root", "labels.threads"}
_FREE |= {"network.checkpointed", "labels.recompute_blocks"}
_OF_THE_RECIPE = ("ridge", "lasso", "lower_steps", "lower_step_size", "cg_steps", "direct", "low_memory")
_FREE |= {f"labels.{name}" for name in _OF_THE_RECIPE}  # compared as what became of them, in config["recipe"]
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# ---- what a run is, of JSON's types


def described_run(
    recipe: Recipe, splits: Splits, embedding: Embedding, plan: Plan, labels: Mapping[str, Any]
) -> dict[str, Any]:
    """All that decides about a run, for config.json and for every checkpoint."""
    config = {
        "labels": dict(labels),
        "recipe": {
            "method": described(recipe.method),
            "head": None if recipe.head is None else described(recipe.head(plan.way)),
            "centred": recipe.centred,
            "adapts": recipe.adapts,
            "prox": recipe.prox,
            "breakdowns": recipe.breakdowns,
            "learning_rate": recipe.learning_rate,
        },
        "network": described(embedding),
        "images": {split: fingerprint(images) for split, images in splits.items()},
        "plan": plan.as_json(),
        "versions": {name: version(name) for name in (PACKAGE, "torch", "numpy")},
    }
    return json.loads(json.dumps(config))


def fingerprint(images: ImageSet) -> dict[str, Any]:
    """Sizes, and the digits that tell one set of images from another."""
    return {
        "classes": len(images.names),
        "images": len(images),
        "shape": images.shape,
        "sha256": images.sha256,
    }


# ---- where it is kept


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. A checkpoint holds everything; metrics.jsonl is written anew from it on resume."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """phi, the best phi, optimiser, metrics and config."""
        return self.path / "checkpoint.pt"

    @property
    def metrics(self) -> Path:
        """A line of JSON an iteration."""
        return self.path / "metrics.jsonl"

    def locked(self) -> AbstractContextManager[None]:
        """The folder to this process alone: see `files.locked`."""
        return locked(self.path)

    def begin(self, config: Mapping[str, Any], state: Mapping[str, Any], *, resumed: bool) -> None:
        """Write the checkpoint, config.json and metrics.jsonl as of this state, and remove what a killed run left.

        The folder is `locked`. Raises ValueError where it holds a run already, of one iteration at least, and none is
        resumed.
        """
        held = [path.name for path in (self.checkpoint, self.metrics) if path.exists()]
        if held and not resumed and not self._before_its_first_iteration():
            raise ValueError(f"expected a folder without a run, or resume, got {self.path} with {', '.join(held)}")
        for left in self.path.glob(".*.partial"):
            left.unlink(missing_ok=True)
        self.save(config, state)
        write_atomically(self.path / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        write_atomically(self.metrics, b"".join(map(progress.line, state["metrics"])))
        progress.forget_end(self.path)

    def _before_its_first_iteration(self) -> bool:
        """Whether there is nothing in the checkpoint but a start, as after a failure in the first iteration."""
        try:
            return not checkpoints.read(self.checkpoint)[1]["metrics"]
        except ValueError:
            return False

    def save(self, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write the checkpoint. Raises OSError, the one before intact, where that fails."""
        try:
            checkpoints.write(self.checkpoint, config, state)
        except OSError as error:
            raise self._unwritten(self.checkpoint, error) from error

    def append(self, row: Mapping[str, Any]) -> None:
        """One more line of metrics.jsonl. Raises OSError, the file as it was, where that fails."""
        try:
            progress.append(self.metrics, row)
        except OSError as error:
            raise self._unwritten(self.metrics, error) from error

    def _unwritten(self, path: Path, error: OSError) -> OSError:
        full = error.errno in _FULL
        message = f"expected {'room' if full else 'to be able'} to write {path}, got {error.strerror or error}"
        if self.checkpoint.is_file():
            message += f"; the checkpoint before it is intact: {'make room and resume' if full else 'resume'}"
        return OSError(message)

    def listeners(self, iteration: int) -> list[Callable[[Mapping[str, Any]], object]]:
        """What writes down each iteration after this one: metrics.jsonl, and TensorBoard where it is installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return [self.append]
        writer = SummaryWriter(str(self.path), purge_step=iteration + 1)

        def to_tensorboard(row: Mapping[str, Any]) -> None:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "iteration":
                    writer.add_scalar(name, value, row["iteration"])
            writer.flush()

        return [self.append, to_tensorboard]

    def config(self) -> dict[str, Any]:
        """What decides about the run, of the checkpoint (config.json is for people). Raises ValueError without one."""
        return checkpoints.read(self.checkpoint)[0]

    def state(self, config: Mapping[str, Any], *, free: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The state in the checkpoint. Raises ValueError where it is of another config, `free` entries aside."""
        held, state = checkpoints.read(self.checkpoint)
        if isinstance(held.get("plan"), Mapping):
            held["plan"] = Plan.from_json(held["plan"]).as_json()  # with what an earlier release did not name
        require_same(config, held, self.checkpoint, free=free | _FREE)
        return state

    def require_checkpoint(self) -> None:
        """Raise ValueError where there is none to go on from."""
        if not self.checkpoint.is_file():
            raise ValueError(f"expected a checkpoint to resume from in {self.path}, got none: start without resume")

    def to_resume(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The same for a run that goes on: without a schedule it may be asked for more iterations than before."""
        self.require_checkpoint()
        longer = frozenset({"plan.iterations"} if config["plan"]["schedule"] == "none" else ())
        state = self.state(config, free=longer)
        if (done := len(state["metrics"])) > config["plan"]["iterations"]:
            raise ValueError(f"expected iterations of at least the {done} done, got {config['plan']['iterations']}")
        return state
