"""Small runs whose folders are watched, and one in a process of its own that waits for leave at each iteration."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from convergence import MemoryReduced
from convergence.distributed import Ranks, run
from problems import Quadratic
from tests.convergence.training.small import tiny

PROBES = ("grad_norm_sq", "direction_norm_sq", "value", "certified_direction_error")
METHOD = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.2)


def kept(folder: Path, iterations: int = 8, method: MemoryReduced = METHOD, **options: Any):
    """`solve --keep` of a small quadratic."""
    problem = Quadratic.random(tasks=7, p=3, q=4, kappa=5.0, seed=0)
    options = {"batch": 4, "keep_every": 3, "probes": PROBES, "raise_on_failure": False} | options
    return run(problem, method, ranks=Ranks(), iterations=iterations, keep=folder, **options)


def trained_by_leave(out: Path, leave: Path) -> None:
    """In a process: the tiny run, which ends an iteration only as far as the number in the file `leave` allows."""
    torch.set_num_threads(1)

    def wait(row: dict[str, Any]) -> None:
        while int(leave.read_text() or 0) < row["iteration"]:
            time.sleep(0.01)

    tiny(7, out=out, watch=wait)
