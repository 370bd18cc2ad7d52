"""How well a method classifies the query images of fixed episodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from convergence.arguments import integer
from convergence.distributed.ranks import Ranks
from convergence.oracle import Features, Oracle
from convergence.training.plan import FewShotProblem
from problems import Parameters, Tasks
from problems.few_shot import Episodes, FewShot

GATHERED = 100  # training episodes whose statistics bn="running" evaluates by


class Adapts(Protocol):
    """A method that can be judged."""

    def adapt(self, oracle: Oracle, z: Features, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta of new tasks, (..., B, q)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracies of a list of episodes, and how well their lower level was solved.

    accuracies   (episodes,), float64: of each episode the share of query images that are put in their class
    split, seed  of the episodes, which are those with the indices 0 .. episodes - 1
    lower        median of |grad g_i| at theta_K over that at theta_0; the smallest mu and the largest L of the episodes
                 where the problem has them; empty where not asked for
    """

    accuracies: Tensor = field(repr=False)
    split: str
    seed: int
    lower: dict[str, float] = field(default_factory=dict)

    @property
    def episodes(self) -> int:
        """How many."""
        return len(self.accuracies)

    @property
    def accuracy(self) -> float:
        """The mean."""
        return self.accuracies.mean().item()

    @property
    def ci95(self) -> float:
        """1.96 s / sqrt(n): half of a 95 % interval of the mean over episodes; NaN for one episode.

        >>> accuracies = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)
        >>> round(Evaluation(accuracies=accuracies, split="test", seed=0).ci95, 4)
        0.2263
        """
        if self.episodes < 2:
            return math.nan
        return 1.96 * self.accuracies.std().item() / math.sqrt(self.episodes)


def measure(
    problem: FewShotProblem,
    method: Any,
    phi: Parameters,
    *,
    episodes: int,
    chunk: int = 1,
    lower: bool = False,
    advance: Callable[[int], object] = lambda count: None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """The accuracy of a method (`adapt`) at phi on the first episodes of the problem's own, without any graph.

    chunk     episodes at a time, which bounds the memory
    lower     whether `Evaluation.lower` is wanted
    advance   called with the number of episodes done since the last call
    ranks     each judges a stretch of the episodes, and all of them get the whole

    Raises ValueError on fewer than one episode, a chunk below one, and bn="running" before `FewShot.gather`; TypeError
    where the method has no `adapt`.
    """
    integer("episodes", episodes, least=1)
    integer("chunk", chunk, least=1)
    if not callable(getattr(method, "adapt", None)):
        raise TypeError(f"expected a method with adapt, which solves new tasks, got {type(method).__name__}")
    if isinstance(problem, FewShot) and problem.bn == "running" and problem.moments is None:
        raise ValueError('expected statistics gathered for bn="running" (FewShot.gather), got none')
    oracle = Oracle(problem)
    device = next(iter(phi.values())).device
    ranks = ranks or Ranks()
    own, found = ranks.part(episodes), []
    last = max(own.stop, own.start + 1)  # a rank without episodes judges one as well, which tells it what is measured
    with torch.no_grad():
        for first in range(own.start, last, chunk):
            tasks = problem.episodes.draw(torch.arange(first, min(first + chunk, last))).to(device)
            found.append(_judged(problem, oracle, method, phi, tasks, lower=lower))
            advance(len(tasks))
    columns = {name: torch.cat([each[name] for each in found]).cpu().double() for name in found[0]}
    if ranks.size > 1:
        columns = _of_all(columns, own, episodes, ranks)
    accuracies = columns.pop("accuracy")
    reduced = {name: _REDUCTIONS[name](column).item() for name, column in columns.items()}
    return Evaluation(accuracies=accuracies, split=problem.episodes.split, seed=problem.episodes.seed, lower=reduced)


def _of_all(columns: dict[str, Tensor], own: slice, episodes: int, ranks: Ranks) -> dict[str, Tensor]:
    """The columns of all episodes, from those of each rank's own."""
    table = torch.zeros(len(columns), episodes, dtype=torch.float64)
    table[:, own] = torch.stack(list(columns.values()))[:, : own.stop - own.start]
    return dict(zip(columns, ranks.sum(table), strict=True))


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gradient_ratio": Tensor.median,
    "mu": Tensor.min,
    "L": Tensor.max,
}


def _judged(
    problem: FewShotProblem, oracle: Oracle, method: Adapts, phi: Parameters, tasks: Tasks, *, lower: bool
) -> dict[str, Tensor]:
    """Accuracy (B,) of these tasks, and what else is wanted."""
    z = oracle.features(phi, tasks)
    theta = method.adapt(oracle, z, phi, tasks)
    columns = {"accuracy": problem.accuracy(z.value, theta, tasks)}
    if lower:
        start, end = (oracle.lower_gradient(z, at, tasks).norm(dim=-1) for at in (oracle.theta0(phi, tasks), theta))
        columns["gradient_ratio"] = end / start
        if problem.has("curvature"):
            columns["mu"], columns["L"] = oracle.curvature(z, tasks)
    return columns


def ready(problem: FewShotProblem, phi: Parameters, training: Episodes, *, chunk: int = 1) -> FewShotProblem:
    """The problem as it evaluates: with bn="running" by statistics of the first training episodes given, at phi."""
    if not isinstance(problem, FewShot) or problem.bn != "running":
        return problem
    device = next(iter(phi.values())).device
    firsts = range(0, GATHERED, chunk)
    return problem.gather(phi, (training.draw(torch.arange(i, min(i + chunk, GATHERED))).to(device) for i in firsts))
