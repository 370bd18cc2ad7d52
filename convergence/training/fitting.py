"""How many tasks of a batch at a time fit a memory budget: by short runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from convergence.budget import most_within
from convergence.memory import peak_bytes
from convergence.recipes import Recipe
from convergence.training.plan import Plan
from convergence.training.run import Run
from problems.few_shot import Embedding, Splits


def fitting_chunk(recipe: Recipe, splits: Splits, embedding: Embedding, plan: Plan, memory: int) -> int:
    """The largest number of tasks at a time, at most the batch, whose training stays within `memory` bytes.

    Measured on runs of two iterations with as many episodes of validation as are judged at a time: tensors, with those
    of the optimiser and of what a run keeps, and on a CPU the images, unless they are mapped from a file. The
    interpreter with its libraries is not counted, nor what an operation of torch uses inside itself.

    Raises ValueError where one task at a time takes more, with the least budget that is enough, and what the first
    iterations of a run raise.
    """
    device = torch.device(plan.device)
    judged = min(plan.validation_episodes, plan.batch)

    def taken(count: int) -> int:
        short = replace(
            plan,
            iterations=2,
            chunk=count,
            ahead=False,  # what another thread draws is not seen
            validate_every=None if plan.validate_every is None else 1,
            validation_episodes=judged,
        )

        def run() -> None:
            short_run = Run(recipe, splits, embedding, short)
            short_run.advance()
            short_run.advance()  # now the optimiser has a state
            short_run.state()

        if device.type == "cuda":
            run()  # libraries take their workspace
        return peak_bytes(run, device=device)

    of_images = sum(images.images.nbytes for images in splits.values() if not isinstance(images.images, np.memmap))
    return most_within(memory, taken, plan.batch, held=of_images if device.type == "cpu" else 0)
