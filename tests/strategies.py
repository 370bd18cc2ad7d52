"""Hypothesis strategies: seeds, batches of linear systems, quadratic problems, methods.

Sizes, spectra and seeds are drawn; the numbers themselves come from torch generators seeded with what was drawn,
so that a failing example shrinks to a small size and prints on one line.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from convergence import MemoryReduced
from problems import Quadratic

seeds = st.integers(0, 2**31 - 1)
warm_starts = st.sampled_from([True, False, "theta"])


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64, a function of the seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(seed: int, *lead: int, size: int) -> Tensor:
    """Random orthogonal matrices, (*lead, size, size)."""
    return torch.linalg.qr(normal(seed, *lead, size, size)).Q


class System(NamedTuple):
    """H v = b for each row: H (B, q, q) symmetric positive definite, b (B, q), the condition number of each H."""

    H: Tensor
    b: Tensor
    kappas: tuple[float, ...]

    def product(self, v: Tensor) -> Tensor:
        return (self.H @ v.unsqueeze(-1)).squeeze(-1)


@st.composite
def systems(draw, *, max_rows: int = 4, max_size: int = 6, max_log_kappa: float = 2.0) -> System:
    """Rows of different conditioning, eigenvalues log-spaced from 1 to kappa, right-hand sides standard normal."""
    rows, q, seed = draw(st.integers(1, max_rows)), draw(st.integers(1, max_size)), draw(seeds)
    exponents = draw(st.lists(st.floats(0, max_log_kappa), min_size=rows, max_size=rows))
    kappas = tuple(10.0**e if q > 1 else 1.0 for e in exponents)
    eigenvalues = torch.stack([torch.logspace(0, e if q > 1 else 0, q, dtype=torch.float64) for e in exponents])
    vectors = orthogonal(seed, rows, size=q)
    H = (vectors * eigenvalues.unsqueeze(-2)) @ vectors.mT
    return System((H + H.mT) / 2, normal(seed + 1, rows, q), kappas)


@st.composite
def quadratics(draw, *, max_tasks: int = 5, max_size: int = 5, max_kappa: float = 30.0) -> Quadratic:
    tasks, p, q = draw(st.integers(1, max_tasks)), draw(st.integers(1, max_size)), draw(st.integers(1, max_size))
    kappa = draw(st.floats(1, max_kappa)) if q > 1 else 1.0
    return Quadratic.random(tasks=tasks, p=p, q=q, kappa=kappa, seed=draw(seeds))


@st.composite
def methods(draw, *, max_lower: int = 3, max_cg: int = 6) -> MemoryReduced:
    """K, N and all three warm starts; a small upper step, so that no run of a few iterations grows."""
    return MemoryReduced(
        lower_steps=draw(st.integers(0, max_lower)),
        cg_steps=draw(st.integers(0, max_cg)),
        upper_step_size=0.05,
        warm_start=draw(warm_starts),
    )
