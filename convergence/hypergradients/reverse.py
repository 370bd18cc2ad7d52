"""Reverse mode without a tape of the steps: theta_k is kept at some of them, or found again by undoing them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from convergence.arguments import integer
from convergence.hypergradients.estimate import Estimate, non_finite
from convergence.lower_solvers import LowerSolver, Recursion
from convergence.needs import TWICE_DIFFERENTIABLE, Need
from convergence.oracle import Calls, Features, Oracle, per_task
from convergence.status import Status
from problems import Parameters, Tasks

Adjoint = Callable[[Features, Tensor, Tensor, Tasks], tuple[Tensor, list[Tensor]]]
T = TypeVar("T")
Sample = tuple[Features, Tasks]  # what a step sees: where the objectives are exact, the same for all steps


class Iterate(NamedTuple):
    """theta_k and m_k of a `Recursion`; m None where it is zero or not needed."""

    theta: Tensor
    m: Tensor | None


class Visit(NamedTuple):
    """A step that is gone back through: what it saw, and the theta_k that it left from."""

    sample: Sample
    theta: Tensor


def advance(oracle: Oracle, recursion: Recursion, samples: Iterable[Sample], at: Iterate) -> Iterate:
    """One step for each sample, without a graph. One lower gradient a task and step."""
    for z, tasks in samples:
        at = Iterate(*recursion.step(*at, oracle.lower_gradient(z, at.theta, tasks)))
    return at


def walk(oracle: Oracle, recursion: Recursion, samples: Iterable[Sample], at: Iterate) -> tuple[Iterate, list[Visit]]:
    """As `advance`, with what each step saw and left from: q numbers a step."""
    visits = []
    for sample in samples:
        visits.append(Visit(sample, at.theta))
        at = advance(oracle, recursion, [sample], at)
    return at, visits


def pull_back(
    oracle: Oracle,
    sample: Sample,
    start: Tensor,
    end: Tensor,
    visits: Iterable[Visit],
    *,
    recursion: Recursion,
    adjoint: Adjoint,
) -> tuple[Parameters, Tensor]:
    """d = d/dphi mean_i f_i(phi, theta_{i,K}(phi)) by going back through the steps, and the theta_0 it came to.

    With w_k and u_k the derivatives of f_i in theta_k and in m_k, from w_K = grad_theta f_i and u_K = 0,

        s = u_{k+1} - alpha w_{k+1},   w_k = w_{k+1} + (d2g_i/dtheta2) s,   u_k = gamma s,

    and step k adds (d2g_i/dphi dtheta) s to d. `visits` are the steps from the last to the first, `sample` is what f
    sees. One upper gradient a task, one call of `adjoint` a step.
    """
    z, tasks = sample
    w, u = oracle.upper_gradient(z, end, tasks), None
    pulled: list[tuple[Features, list[Tensor]]] = []
    theta = end
    for (seen, own), theta in visits:
        s = -recursion.step_size * w if u is None else torch.sub(u, w, alpha=recursion.step_size)
        product, slopes = adjoint(seen, theta, s, own)
        w = w + product
        u = recursion.momentum * s if recursion.momentum else None
        if pulled and pulled[-1][0] is seen:
            slopes = [a + b for a, b in zip(pulled.pop()[1], slopes, strict=True)]
        pulled.append((seen, slopes))
    return oracle.collect(z, end, pulled, start, w, tasks), theta


@dataclass(frozen=True)
class Checkpointed:
    """Reverse mode that keeps theta_k at about sqrt(K) places, and steps again from each of them on the way back.

    segments   into how many runs of steps K is cut; None: the square root of K, rounded up. 1 and K keep every theta_k

    d is that of `Unrolled()`, the derivative of the K-step objective. Memory: with S segments of at most
    l = ceil(K / S) steps, S + l - 1 iterates of q numbers (2 q where a segment starts and there is momentum) and the
    graph of one lower gradient, instead of the graphs of K. Where the objectives are stochastic each step's sample and
    its features are kept too, as the way back must see what the step saw. Cost a task: K lower gradients, and one more
    for each step but the first of every segment but the last, which is kept; K HVPs, K cross products, one upper
    gradient.
    Source: Griewank, Optimization Methods and Software 1992, in one level of checkpoints; Chen, Xu, Zhang, Guestrin
    2016 for the square root.
    """

    segments: int | None = None
    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)

    def __post_init__(self) -> None:
        if self.segments is not None:
            integer("segments", self.segments, least=1, otherwise="None or ")

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d of the K-step objective from the start theta, which is taken as it is: its dependence on phi counts."""
        recursion = lower.recursion
        samples = [oracle.draw(z, tasks) for _ in range(lower.steps)]
        *before, last = self._cut(samples)
        starts = [Iterate(theta.detach(), None)]
        for segment in before:
            starts.append(advance(oracle, recursion, segment, starts[-1]))
        end, kept = walk(oracle, recursion, last, starts.pop())

        def back() -> Iterator[Visit]:
            while kept:
                yield kept.pop()
            for segment in reversed(before):
                again, visits = walk(oracle, recursion, segment[:-1], starts.pop())
                yield Visit(segment[-1], again.theta)
                while visits:
                    yield visits.pop()

        d, _ = pull_back(
            oracle, oracle.draw(z, tasks), theta, end.theta, back(), recursion=recursion, adjoint=oracle.adjoint
        )
        return Estimate.of_steps(d, end.theta)

    def _cut(self, steps: Sequence[T]) -> list[Sequence[T]]:
        """The steps in segments of equal length, give or take one; one empty segment for no steps."""
        K = len(steps)
        count = max(1, min(K, math.isqrt(max(K - 1, 0)) + 1 if self.segments is None else self.segments))
        return [steps[K * k // count : K * (k + 1) // count] for k in range(count)]

    def calls(self, lower: LowerSolver) -> Calls:
        """K lower gradients and those of stepping again, K HVPs and cross products, one upper gradient."""
        again = sum(len(segment) - 1 for segment in self._cut(range(lower.steps))[:-1])
        steps = lower.steps
        return per_task(lower_gradient=lower.gradients + again, hvp=steps, cross_product=steps, upper_gradient=1)


@dataclass(frozen=True)
class Reversed:
    """Reverse mode that undoes the steps of `HeavyBall` on the way back, instead of keeping them: memory flat in K.

        theta_k = theta_{k+1} + alpha m_{k+1},   m_k = (m_{k+1} - grad_theta g(phi, theta_k)) / gamma

    d is that of `Unrolled()`, up to rounding that grows on the way back by at most about gamma^-1 a step: attained in
    directions that hardly move (alpha lambda -> 0), while those that oscillate lose their way some four times later.
    The theta_0 it comes to is held against the true one: a task is a BREAKDOWN where they differ by more than sqrt(eps)
    of the larger of |theta_0| and |theta_K|, eps the rounding unit of the dtype, which takes about
    log(eps) / (2 log gamma) steps: 170 for gamma = 0.9 in float64, 75 in float32. d itself is less wrong where the
    steps contract, as the first ones then weigh little in it.
    Where the objectives are stochastic each step's sample and its features are kept, and the memory grows with them.

    Cost a task: K lower gradients, K - 1 more on the way back, K HVPs, K cross products, one upper gradient.
    Raises ValueError on a lower solver without momentum: a gradient step alone cannot be undone by gradients.
    Source: Maclaurin, Duvenaud, Adams, ICML 2015, Algorithm 2. Differs: they keep the bits that rounding drops, and
    thereby memory that grows with K log2(1 / gamma) bits a number; here the loss is measured and said.
    """

    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d of the K-step objective from the start theta, which is taken as it is: its dependence on phi counts."""
        recursion, first = _invertible(lower), theta.detach()
        samples = [oracle.draw(z, tasks) for _ in range(lower.steps)]
        end = advance(oracle, recursion, samples, Iterate(first, None))
        back = self._back(oracle, recursion, samples, end)
        d, recovered = pull_back(
            oracle, oracle.draw(z, tasks), theta, end.theta, back, recursion=recursion, adjoint=oracle.adjoint
        )
        norm = torch.linalg.vector_norm
        allowed = torch.finfo(first.dtype).eps ** 0.5 * torch.maximum(norm(first, dim=-1), norm(end.theta, dim=-1))
        lost = ~(norm(recovered - first, dim=-1) <= allowed)
        failure = torch.maximum(torch.where(lost, Status.BREAKDOWN, 0).int(), non_finite(end.theta))
        return Estimate(d, end.theta, torch.zeros_like(first), failure)

    @staticmethod
    def _back(oracle: Oracle, recursion: Recursion, samples: Sequence[Sample], end: Iterate) -> Iterator[Visit]:
        theta, m = end
        for k in reversed(range(len(samples))):
            assert m is not None  # after a step with momentum
            theta = torch.add(theta, m, alpha=recursion.step_size)
            yield Visit(samples[k], theta)
            if k:  # m_0 = 0 is known
                seen, own = samples[k]
                m = (m - oracle.lower_gradient(seen, theta, own)) / recursion.momentum

    def calls(self, lower: LowerSolver) -> Calls:
        """K + (K - 1) lower gradients, K HVPs and cross products, one upper gradient."""
        steps = lower.steps
        return per_task(
            lower_gradient=lower.gradients + max(steps - 1, 0), hvp=steps, cross_product=steps, upper_gradient=1
        )


def _invertible(lower: LowerSolver) -> Recursion:
    """Its recursion. Raises ValueError where it has no momentum."""
    if not lower.recursion.momentum:
        raise ValueError(
            f"expected a lower solver with momentum for Reversed (HeavyBall), whose steps can be undone, "
            f"got {type(lower).__name__}"
        )
    return lower.recursion
