"""`Wrapper`: a problem that behaves as the one inside it, for subclasses that change one thing about it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Constants, Parameters, Parts, Problem, Tasks, Terms


class Wrapper(Problem):
    """The problem inside, in everything: a run on the wrapper is bit for bit the run on `problem`.

    `has` answers for the problem inside. Attributes that `Problem` does not know (data, q, those of a subclass) are
    read from it as well; setting one sets it here alone.
    """

    @checked
    def __init__(self, problem: Problem):
        self.problem = problem
        self.broadcasts_replicas = problem.broadcasts_replicas
        self.examples, self.blocks = problem.examples, problem.blocks
        self.twice_differentiable = problem.twice_differentiable

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "problem":  # not set yet, while copying; or not for others
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.problem, name)

    @property
    def constants(self) -> Constants | None:  # type: ignore[override]  # may be computed on demand inside
        """Those of the problem inside."""
        return self.problem.constants

    # ---- the tasks

    def select(self, index: Tensor) -> Tasks:
        """As the problem inside."""
        return self.problem.select(index)

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        """As the problem inside."""
        return self.problem.sample(size, rng)

    def draw(self, tasks: Tasks, rng: torch.Generator) -> Tasks:
        """As the problem inside."""
        return self.problem.draw(tasks, rng)

    def draw_replicas(self, tasks: Tasks, rngs: Sequence[torch.Generator]) -> Tasks:
        """As the problem inside."""
        return self.problem.draw_replicas(tasks, rngs)

    def select_blocks(self, tasks: Tasks, lower: Tensor, upper: Tensor) -> Tasks:
        """As the problem inside."""
        return self.problem.select_blocks(tasks, lower, upper)

    def terms(self, tasks: Tasks) -> Terms:
        """As the problem inside."""
        return self.problem.terms(tasks)

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """As the problem inside."""
        return self.problem.phi0(rng)

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.theta0(phi, tasks)

    def embed(self, phi: Parameters, tasks: Tasks) -> Any:
        """As the problem inside."""
        return self.problem.embed(phi, tasks)

    def embed_parts(self) -> Parts:
        """As the problem inside."""
        return self.problem.embed_parts()

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.lower(features, theta, tasks)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.upper(features, theta, tasks)

    # ---- closed forms

    def has(self, closed_form: str) -> bool:
        """Whether the problem inside overrides it."""
        return self.problem.has(closed_form)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.lower_gradient(features, theta, tasks)

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.lower_hvp(features, theta, v, tasks)

    def lower_inverse_hvp(self, features: Any, theta: Tensor, b: Tensor, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.lower_inverse_hvp(features, theta, b, tasks)

    def curvature(self, features: Any, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """As the problem inside."""
        return self.problem.curvature(features, tasks)

    def lower_argmin(self, features: Any, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.lower_argmin(features, tasks)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.upper_gradient(features, theta, tasks)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """As the problem inside."""
        return self.problem.surrogate_gradient(phi, features, theta, v, tasks)

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """As the problem inside."""
        return self.problem.lower_solution(phi, tasks)

    def value(self, phi: Parameters) -> Tensor:
        """As the problem inside."""
        return self.problem.value(phi)

    def hypergradient(self, phi: Parameters) -> Parameters:
        """As the problem inside."""
        return self.problem.hypergradient(phi)

    def upper_solution(self) -> Parameters:
        """As the problem inside."""
        return self.problem.upper_solution()

    # ---- where it lives, and what it must not hold

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same wrapper around the problem inside, moved."""
        moved = copy.copy(self)
        moved.problem = self.problem.to(device, dtype)
        return moved

    def check(self) -> None:
        """As the problem inside."""
        self.problem.check()
