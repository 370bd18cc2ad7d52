"""Randomness: every draw is a function of (seed, purpose, iteration), whatever the device or number of replicas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from convergence.arguments import integer, room

_SORTED = 2**14  # tasks of the largest pool that is shuffled whole for each batch
_PURPOSES = {"start": 0, "tasks": 1, "noise": 2}


def generator(seed: int, purpose: str, iteration: int = 0) -> torch.Generator:
    """A CPU generator for one purpose ("start", "tasks", "noise") of one iteration of the run with this seed."""
    words = _sequence(seed, purpose, iteration).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> 1))


def _sequence(seed: int, purpose: str, number: int) -> np.random.SeedSequence:
    """Of (seed, purpose, number). Raises ValueError unless the seed is an integer >= 0.

    Numpy takes integers for words of 32 bits, one after the other: a longer seed would run into the purpose, and is
    kept apart from what follows as entropy of its own.
    """
    seed = integer("seed", seed, least=0)
    if seed < 2**32:
        return np.random.SeedSequence([seed, _PURPOSES[purpose], number])
    return np.random.SeedSequence(seed, spawn_key=(_PURPOSES[purpose], number))


class TaskStream:
    """Indices of the tasks drawn in iteration t, for each seed: (B,) for one seed given as an int, else (R, B).

    Without replacement a batch holds different tasks; with it they are i.i.d. uniform on the pool. Drawn in
    blocks of iterations, so that seeding a generator is not paid in each: index(t) is still a function of
    (seed, t) alone. Raises ValueError on a batch larger than the pool without replacement.
    """

    def __init__(self, seeds: int | Sequence[int], *, pool: int, batch: int, replacement: bool):
        batch, pool = integer("batch", batch, least=1), integer("pool", pool, least=1)
        if batch > pool and not replacement:
            raise ValueError(f"expected a batch of at most {pool} tasks without replacement, got {batch}")
        self.single = not isinstance(seeds, Sequence)
        self.seeds = [int(seed) for seed in (seeds if isinstance(seeds, Sequence) else (seeds,))]
        self.pool, self.batch, self.replacement = pool, batch, replacement
        self._block_length = max(1, min(64, _SORTED // pool))  # of the pool alone, so that the stream depends on no run
        room("numbers of the tasks in batches", batch * self._block_length * len(self.seeds), 8)
        self._block: tuple[int, Tensor] = (-1, torch.empty(0))

    def index(self, iteration: int) -> Tensor:
        """The indices of this iteration, int64, on the CPU."""
        block, row = divmod(iteration, self._block_length)
        if self._block[0] != block:
            self._block = (-1, torch.empty(0))  # two blocks are never held
            self._block = (block, self._draw(block))
        rows = self._block[1][:, row]
        return rows[0] if self.single else rows

    def _draw(self, block: int) -> Tensor:
        """(R, block length, B), one seed after the other: what is sorted stays in the caches."""
        drawn = torch.empty(len(self.seeds), self._block_length, self.batch, dtype=torch.int64)
        large = self.pool > _SORTED and not self.replacement
        uniforms = np.empty((self._block_length, 0 if large else self.batch if self.replacement else self.pool))
        for row, seed in zip(drawn.numpy(), self.seeds, strict=True):
            rng = np.random.default_rng(_sequence(seed, "tasks", block))
            if large:  # by Floyd's algorithm where the batch is small: its cost does not grow with the pool
                row[0] = rng.choice(self.pool, self.batch, replace=False)
                continue
            rng.random(out=uniforms)
            row[:] = uniforms * self.pool if self.replacement else uniforms.argsort(axis=-1)[:, : self.batch]
        return drawn
