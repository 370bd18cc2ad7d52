"""A few-shot problem that trains in milliseconds, and processes that train it and can be killed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

import convergence.__main__ as command
from convergence.recipes import RECIPES
from convergence.training import Trained, train
from problems.few_shot import Conv4, ImageSet, Splits
from tests.forked import context

NETWORK = Conv4(2)
EPISODES = {"way": 3, "shot": 1, "queries": 1, "evaluation_queries": 2}
PLAN = EPISODES | {"batch": 2, "validate_every": 3, "validation_episodes": 3, "checkpoint_every": 2}
RECIPE = RECIPES["memory_reduced"].varied(lower_steps=3, cg_steps=2)


@cache
def tiny_splits() -> Splits:
    """Four classes a split of noisy 16 x 16 patterns."""
    rng = np.random.default_rng(0)
    splits = {}
    for split in ("train", "validation", "test"):
        labels = np.repeat(np.arange(4), 6)
        patterns = rng.uniform(0, 200, (4, 16, 16, 1))[labels]
        images = (patterns + rng.uniform(0, 55, patterns.shape)).astype(np.uint8)
        splits[split] = ImageSet(images, labels, tuple(f"{split}-{c}" for c in range(4)))
    return splits


def write_tiny(folder: Path) -> Path:
    """The same images as files that `--data folder --root FOLDER` reads."""
    folder.mkdir()
    for split, images in tiny_splits().items():
        np.savez(folder / f"{split}.npz", images=images.images, labels=images.labels + 100 * len(split))
    return folder


def tiny(iterations: int = 7, recipe=RECIPE, **options) -> Trained:
    """A run of some iterations."""
    return train(recipe, tiny_splits(), embedding=NETWORK, iterations=iterations, **(PLAN | options))


def without_seconds(rows):
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows]


def same_tensors(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def assert_same_run(left: Trained, right: Trained) -> None:
    """Bit for bit: iterate, best iterate, optimiser, schedule, calls, metrics but for seconds."""
    assert same_tensors(left.state["phi"], right.state["phi"])
    assert same_tensors(left.phi, right.phi)
    ours, theirs = (run.state["optimizer"]["state"] for run in (left, right))
    assert ours.keys() == theirs.keys()
    assert all(same_tensors(ours[key], theirs[key]) for key in ours)
    assert left.state["optimizer"]["param_groups"] == right.state["optimizer"]["param_groups"]
    assert left.state["scheduler"] == right.state["scheduler"]
    assert left.state["calls"] == right.state["calls"]
    assert without_seconds(left.metrics) == without_seconds(right.metrics)
    assert left.end == right.end


# ---- processes


def started(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process forked from one that has torch imported already."""
    process = context().Process(target=target, args=arguments)
    process.start()
    return process


def run_command(log: Path, *arguments: object) -> None:
    """In a process: `python -m convergence ARGUMENTS` with its standard error in a file."""
    torch.set_num_threads(1)
    sys.argv = ["convergence", *map(str, arguments)]
    with log.open("w") as sys.stderr:
        command.main()


def go_on(out: Path, iterations: int) -> None:
    """In a process: the tiny run in this folder, from its checkpoint where there is one."""
    torch.set_num_threads(1)
    tiny(iterations, out=out, resume=(out / "checkpoint.pt").is_file(), checkpoint_every=1)
