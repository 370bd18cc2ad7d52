"""The problem under judgement as the claims see it: some of its tasks, in float64, none of its closed optima."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from convergence.streams import generator
from paper_checks.claim import Setting
from problems import Constants, Parameters, Problem, Tasks, Wrapper

# What a pool of its own makes void, and what claims compare with an independent reference and never rely on
_HIDDEN = frozenset(("sample", "value", "hypergradient", "upper_solution", "lower_solution"))


class SomeTasks(Wrapper):
    """The first tasks of a pool, or as many drawn from a distribution without end, as a pool of their own.

    data     the tensors of these tasks
    start    where a cold lower level starts instead of at theta0: (M, q), or None

    Constants of the mean over all tasks (L_Phi, sigma_sq) are None where some tasks are left out; all others hold for
    any of the tasks.
    """

    count: int
    start: Tensor | None = None

    @classmethod
    def of(cls, problem: Problem, count: int, *, seed: int = 0) -> Self:
        """At most so many, under the name of the problem's class, by which messages call it."""
        if problem.tasks is None:
            drawn = problem.sample(count, generator(seed, "tasks"))
        else:
            device = next(iter(problem.data.values())).device
            drawn = problem.select(torch.arange(min(count, problem.tasks), device=device))
        some = type(type(problem).__name__, (cls,), {"__doc__": cls.__doc__})(problem)
        some.data, some.count = drawn.tensors, len(drawn)
        return some

    def started(self, theta: Tensor) -> Self:
        """The same with this start of the lower level, (M, q)."""
        other = copy.copy(self)
        other.start = theta
        return other

    @property
    def tasks(self) -> int:  # type: ignore[override]  # of these tasks
        """How many there are."""
        return self.count

    @property
    def constants(self) -> Constants | None:  # type: ignore[override]  # of these tasks
        """Those of the problem; without what holds for the mean over all of its tasks, where these are not all."""
        known = self.problem.constants
        if known is None or self.count == self.problem.tasks:
            return known
        return replace(known, L_Phi=None, sigma_sq=None)

    def has(self, closed_form: str) -> bool:
        """Whether the problem has it and the claims let methods see it."""
        return closed_form not in _HIDDEN and self.problem.has(closed_form)

    def select(self, index: Tensor) -> Tasks:
        """The tasks of these numbers, (..., B)."""
        return Problem.select(self, index)

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        """All of them, or some."""
        return Problem.sample(self, size, rng)

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """That of the problem, or the start given."""
        return super().theta0(phi, tasks) if self.start is None else self.start[tasks.index]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moved, with its data and its start."""
        moved = super().to(device, dtype)
        rows = Tasks(torch.arange(self.count), **self.data).to(device, dtype)
        moved.data = rows.tensors
        if self.start is not None:
            moved.start = self.start.to(device, dtype)
        return moved


def judged(setting: Setting, count: int) -> SomeTasks:
    """At most so many tasks of the problem of this setting, in float64 on its device. Raises ValueError without one."""
    if setting.problem is None:
        raise ValueError("expected a setting with a problem of one's own, got one without")
    some = SomeTasks.of(setting.problem().to(dtype=torch.float64), count, seed=setting.seed)
    return some.to(setting.device)


def points(problem: SomeTasks, seed: int, count: int) -> list[Parameters]:
    """phi_0 of the seed, and points near the starts of the next seeds, so many in all, in float64.

    Near: each tensor moved by a tenth of its root mean square, or by 0.1 where it is zero, in random directions.
    """
    found: list[Parameters] = []
    device = next(iter(problem.data.values())).device
    for k in range(count):
        rng = generator(seed + k, "start")
        phi = {name: x.detach().to(device, torch.float64) for name, x in problem.phi0(rng).items()}
        if k:
            phi = {name: tensor + _reach(tensor) * like(tensor, rng) for name, tensor in phi.items()}
        found.append(phi)
    return found


def like(tensor: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal numbers of its shape, on its device, the same on any."""
    return torch.randn(tensor.shape, generator=rng, dtype=torch.float64).to(tensor.device)


def _reach(tensor: Tensor) -> float:
    return 0.1 * (float(tensor.square().mean().sqrt()) or 1.0)
