"""Reptile: towards where the lower steps end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.composed import LowerSteps
from convergence.declared import Declared
from convergence.hypergradients import Displacement
from convergence.needs import START_AT_PHI, Need


@dataclass(frozen=True, kw_only=True)
class Reptile(LowerSteps):
    """phi <- phi + beta mean_i (theta_{i,K} - phi), theta_{i,K} after K gradient steps on g_i from phi.

    lower_steps, lower_step_size, upper_step_size   as in `LowerSteps`; beta <= 1 takes phi to an average

    d = phi - mean_i theta_{i,K} looks at g alone, so f plays no part: where support and query differ it is no estimate
    of grad Phi. For quadratic g_i with Hessian A_i and minimiser c_i it is the gradient of
    1/2 mean_i |phi - c_i|^2_(I - E_i), E_i = (I - alpha A_i)^K. Cost a task and iteration: K lower gradients. Memory:
    no graph of the steps.
    Source: Nichol, Achiam, Schulman, 2018, Algorithm 2. Differs: each lower step takes the gradient of the whole g_i
    (of a fresh sample where it is stochastic), and beta is constant; theirs are minibatches, and beta tends to zero.
    """

    needs: ClassVar[tuple[Need, ...]] = (START_AT_PHI,)
    declared: ClassVar[Declared] = Declared(
        title="Reptile",
        estimates="displacement",
        bias="of order one: phi - mean_i theta_{i,K} does not see f, whatever K",
        memory="flat",
        exact=False,
        rate=None,
        source="Nichol, Achiam, Schulman, 2018, Algorithm 2",
    )

    @property
    def hypergradient(self) -> Displacement:
        """The way from theta_{i,K} back to the start."""
        return Displacement()
