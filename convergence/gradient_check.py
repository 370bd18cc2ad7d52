"""Is a hypergradient right? Everything it is made of, held against code that shares nothing with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.func import grad, vmap

from convergence.arguments import integer, positive
from convergence.oracle import Oracle
from convergence.reference import Reference, of_one_task, reference
from problems import Parameters, Problem, Tasks, map_parameters

_ROUNDING = 1e-13  # of a derivative, relative to the values of g and f: an exact zero may come out as that much
_TINY = torch.finfo(torch.float64).tiny
_BLUNT = 0.01  # differences that are no more accurate than this, relative to the gradient, decide nothing
_HALVINGS = 8  # of t, for the Taylor remainder
_STEP = 1 / 16  # the first t, relative to 1 + |phi|
_OBJECTIVES = ("lower", "upper")
_ENDLESS = 8  # tasks that stand for a distribution without end


class Agreement(StrEnum):
    """What a comparison says."""

    AGREES = "agrees"
    DIFFERS = "DIFFERS"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Comparison:
    """One quantity from two sources.

    difference   |a - b|, relative to the larger of the two norms, over all tasks
    allowed      what rounding, and the error of the estimate that it is held against, may make of it
    """

    quantity: str
    source: str
    against: str
    difference: float
    allowed: float

    @property
    def agreement(self) -> Agreement:
        """Undecided where so much is allowed that a wrong gradient could pass."""
        if not self.difference <= self.allowed:
            return Agreement.DIFFERS
        return Agreement.UNDECIDED if self.allowed > _BLUNT else Agreement.AGREES


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradient` found; printed, a table.

    comparisons   one for each quantity and source
    steps         t = h, h/2, h/4, ...
    remainders    |Phi(phi + t d) - Phi(phi) - t <gradient, d>| at these t, d a random unit vector
    order         of the remainder as t falls: 2 where the gradient is right, 1 where it is wrong; infinite where it is
                  rounding throughout
    """

    comparisons: tuple[Comparison, ...]
    steps: Tensor
    remainders: Tensor
    order: float

    @property
    def passed(self) -> bool:
        """Whether all of them agree."""
        return all(found.agreement is Agreement.AGREES for found in self.comparisons)

    def __str__(self) -> str:
        head = ("quantity", "computed by", "held against", "difference", "allowed", "")
        rows = [
            (c.quantity, c.source, c.against, f"{c.difference:.1e}", f"{c.allowed:.1e}", c.agreement.value)
            for c in self.comparisons
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)
        ]
        seen = f"order {self.order:.2f}" if math.isfinite(self.order) else "no order, it is rounding"
        lines.append(f"Taylor remainder of {seen}: 2 where the gradient is right, 1 where it is wrong")
        return "\n".join(line.rstrip() for line in lines)


def check_gradient(
    problem: Problem,
    phi: Parameters | None = None,
    *,
    own: Parameters | None = None,
    tasks: Tasks | None = None,
    seed: int = 0,
    within: float = 1e-6,
) -> GradientCheck:
    """Hold a problem's derivatives, and a hypergradient of one's own, against independent ones at one phi.

    own       a hypergradient at phi, shapes of phi: mean over `tasks`
    phi       no replica axes; by default phi0 of the seed
    tasks     by default all of the pool (8 of a distribution without end)
    seed      of phi0, of theta and v near theta* where single derivatives are compared, and of the direction d
    within    the relative difference that is allowed; the error of finite differences is added to it

    The objectives of all tasks at once are held against those of single tasks; what methods use (closed forms where the
    problem has them, else autograd) against torch.func task by task; closed forms of theta*, Phi and grad Phi, and
    `own`, against `reference` (damped Newton, a direct solve); and every gradient of Phi against central differences of
    its values, extrapolated by scipy, which no graph cut by mistake can mislead.

    Computed in float64. Cost: about 40 references: for problems with q up to a few hundred. Raises ValueError on
    arguments that do not fit, ReferenceFailed where the lower level is not strongly convex.

    >>> from problems import Quadratic
    >>> problem = Quadratic.random(tasks=4, p=2, q=3, kappa=5.0)
    >>> check_gradient(problem).passed
    True
    >>> wrong = {"phi": torch.zeros(2)}
    >>> [c.agreement.value for c in check_gradient(problem, own=wrong).comparisons if c.source == "own"]
    ['DIFFERS', 'DIFFERS']
    """
    integer("seed", seed, least=0)
    positive("within", within)
    problem.check()
    rng = torch.Generator().manual_seed(seed)
    phi = problem.phi0(rng) if phi is None else phi
    pool = tasks is None
    if tasks is None:
        tasks = problem.sample(_ENDLESS if problem.tasks is None else None, rng)
    point = _Point.near(problem, phi, tasks, rng)
    gradients = _gradients(point, own, pool=pool)
    parts = [*point.parts(), *point.solutions(), *(point.values() if pool else ())]
    against_reference = [
        ("hypergradient", source, "reference", _flat(gradient), _flat(point.exact.hypergradient))
        for source, gradient in gradients.items()
        if source != "reference"
    ]
    comparisons = [
        Comparison(quantity, source, against, _difference(a, b, least=_ROUNDING / within * point.size), within)
        for quantity, source, against, a, b in (*parts, *against_reference)
    ]
    line = _Line(point, rng)
    comparisons += [line.compared(source, gradient, within) for source, gradient in gradients.items()]
    return GradientCheck(tuple(comparisons), *line.remainders(next(iter(gradients.values()))))


_Pair = tuple[str, str, str, Tensor, Tensor]  # the names of a Comparison and what is compared


def _gradients(point: _Point, own: Parameters | None, *, pool: bool) -> dict[str, Parameters]:
    """Each gradient of Phi that there is, the one that is in question first."""
    gradients = {}
    if own is not None:
        expected = {name: tuple(x.shape) for name, x in point.phi.items()}
        if (got := {name: tuple(x.shape) for name, x in own.items()}) != expected:
            raise ValueError(f"expected own with the names and shapes of phi, {expected}, got {got}")
        gradients["own"] = map_parameters(lambda x: x.detach().double(), own)
    if pool and point.problem.has("hypergradient"):
        gradients["closed form"] = point.problem.hypergradient(point.phi)
    return gradients | {"reference": point.exact.hypergradient}


@dataclass(frozen=True)
class _Point:
    """phi, theta, v, and the problem there, in float64."""

    problem: Problem
    phi: Parameters
    theta: Tensor
    v: Tensor
    tasks: Tasks
    exact: Reference

    @classmethod
    def near(cls, problem: Problem, phi: Parameters, tasks: Tasks, rng: torch.Generator) -> _Point:
        """At phi; theta near theta*, v standard normal."""
        problem, tasks = problem.to(dtype=torch.float64), tasks.to(dtype=torch.float64)
        phi = map_parameters(lambda x: x.detach().double(), phi)
        oracle = Oracle(problem)
        z, start = oracle.embed(phi, tasks), problem.theta0(phi, tasks)
        for gradient in (oracle.lower_gradient, oracle.upper_gradient):  # what is malformed is said in one sentence
            gradient(z, start, tasks)
        exact = reference(problem, phi, tasks)
        theta = exact.theta + 0.1 * _normal(exact.theta, rng) * (1 + exact.theta.abs())
        return cls(problem, phi, theta, _normal(theta, rng), tasks, exact)

    @cached_property
    def size(self) -> float:
        """The largest |g_i| + |f_i|."""
        g, f = (getattr(self.problem, name)(self._features, self.theta, self.tasks).abs() for name in _OBJECTIVES)
        return float((g + f).max())

    @cached_property
    def _features(self) -> Any:
        return self.problem.embed(self.phi, self.tasks)

    def parts(self) -> Iterator[_Pair]:
        """The objectives and what methods use of them, on all tasks at once, against each task by itself."""
        oracle, theta, v, tasks = Oracle(self.problem), self.theta, self.v, self.tasks
        g, f = (of_one_task(self.problem, name) for name in _OBJECTIVES)
        slope = grad(g, argnums=1)
        each = (tasks.index, tasks.tensors)

        def single(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
            return vmap(function, (None, 0, 0, 0, *(0 for _ in rows)))(self.phi, theta, *each, *rows)

        def along(phi: Parameters, theta: Tensor, index: Tensor, tensors: dict[str, Tensor], v: Tensor) -> Tensor:
            return (slope(phi, theta, index, tensors) * v).sum()

        def surrogate(phi: Parameters) -> Tensor:
            def one(theta: Tensor, index: Tensor, tensors: dict[str, Tensor], v: Tensor) -> Tensor:
                return f(phi, theta, index, tensors) - along(phi, theta, index, tensors, v)

            return vmap(one)(theta, *each, v).mean()

        for name, objective in zip(_OBJECTIVES, (g, f), strict=True):
            batch = getattr(self.problem, name)(self._features, theta, tasks)
            yield name, "all tasks", "single tasks", batch, single(objective)
        z = oracle.embed(self.phi, tasks)
        product = single(grad(along, argnums=1), v)
        for name, found, expected in (
            ("lower_gradient", oracle.lower_gradient(z, theta, tasks), single(slope)),
            ("lower_hvp", oracle.lower_hessian(z, theta, tasks)(v), product),
            ("upper_gradient", oracle.upper_gradient(z, theta, tasks), single(grad(f, argnums=1))),
            ("surrogate_gradient", _flat(oracle.hypergradient(z, theta, v, tasks)), _flat(grad(surrogate)(self.phi))),
        ):
            yield name, "closed form" if self.problem.has(name) else "autograd", "torch.func", found, expected
        if self.problem.has("lower_inverse_hvp"):
            found = self.problem.lower_inverse_hvp(z.value, theta, product, tasks)
            yield "lower_inverse_hvp", "closed form", "torch.func", found, v

    def solutions(self) -> Iterator[_Pair]:
        """Closed forms of theta* against damped Newton."""
        if self.problem.has("lower_solution"):
            found = self.problem.lower_solution(self.phi, self.tasks)
            yield "lower_solution", "closed form", "reference", found, self.exact.theta
        if self.problem.has("lower_argmin"):
            found = self.problem.lower_argmin(self._features, self.tasks)
            yield "lower_argmin", "closed form", "reference", found, self.exact.theta

    def values(self) -> Iterator[_Pair]:
        """The closed form of Phi, which is that of all tasks."""
        if self.problem.has("value"):
            yield "value", "closed form", "reference", self.problem.value(self.phi), self.exact.value


class _Line:
    """Phi(phi + t d), d a unit vector."""

    def __init__(self, point: _Point, rng: torch.Generator):
        self.point = point
        d = map_parameters(lambda x: _normal(x, rng), point.phi)
        length = _flat(d).norm()
        self.direction = map_parameters(lambda x: x / length, d)
        self.step = _STEP * (1 + float(_flat(point.phi).norm()))

    def value(self, t: float) -> float:
        there = map_parameters(lambda x, d: x + t * d, self.point.phi, self.direction)
        return float(reference(self.point.problem, there, self.point.tasks, start=self.point.exact.theta).value)

    def slope(self, gradient: Parameters) -> float:
        """<gradient, d>."""
        return float(_flat(gradient) @ _flat(self.direction))

    @cached_property
    def differences(self) -> tuple[float, float]:
        """dPhi/dt at t = 0 from values alone, and the error of this estimate."""
        found = scipy.differentiate.derivative(
            lambda x: np.vectorize(self.value, otypes=[float])(x), 0.0, initial_step=self.step, order=4, maxiter=6
        )
        rounding = _ROUNDING * self.point.size / (self.step * 0.5 ** int(found.nit))
        return float(found.df), float(found.error) + rounding

    @cached_property
    def changes(self) -> tuple[Tensor, Tensor]:
        """t = h, h/2, h/4, ..., and Phi(phi + t d) - Phi(phi) there."""
        steps = self.step * 0.5 ** torch.arange(_HALVINGS, dtype=torch.float64)
        now = float(self.point.exact.value)
        return steps, torch.tensor([self.value(float(t)) - now for t in steps], dtype=torch.float64)

    def compared(self, source: str, gradient: Parameters, within: float) -> Comparison:
        """<gradient, d> against differences, relative to the gradient here or, where that is larger, nearby."""
        (expected, error), (steps, changes) = self.differences, self.changes
        scale = max(float(_flat(gradient).norm()), abs(expected), float((changes / steps).abs().max()), _TINY)
        difference = abs(self.slope(gradient) - expected) / scale
        return Comparison("hypergradient", source, "differences of Phi", difference, within + error / scale)

    def remainders(self, gradient: Parameters) -> tuple[Tensor, Tensor, float]:
        """t, the remainders there, and the median order between neighbours that are above rounding."""
        steps, changes = self.changes
        remainders = (changes - steps * self.slope(gradient)).abs()
        seen = remainders[remainders > 100 * _ROUNDING * self.point.size]
        order = float((seen[:-1] / seen[1:]).log2().median()) if len(seen) > 1 else math.inf
        return steps, remainders, order


def _flat(phi: Parameters) -> Tensor:
    return torch.cat([x.reshape(-1) for x in phi.values()])


def _normal(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, dtype=torch.float64).to(like.device)


def _difference(a: Tensor, b: Tensor, *, least: float) -> float:
    """|a - b| relative to the larger of both norms, or to `least`."""
    return float((a - b).norm() / max(float(a.norm()), float(b.norm()), least))
