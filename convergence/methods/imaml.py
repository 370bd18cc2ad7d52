"""iMAML: implicit differentiation of a lower level that is tied to phi, each time from phi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.arguments import integer
from convergence.composed import LowerSteps
from convergence.declared import Declared
from convergence.hypergradients import Implicit
from convergence.linear_solvers import ConjugateGradient
from convergence.needs import START_FROM_PHI, TWICE_DIFFERENTIABLE, Need


@dataclass(frozen=True, kw_only=True)
class IMAML(LowerSteps):
    """K gradient steps on theta from phi, N CG steps on v from zero, d = grad_phi f - (d2g/dphi dtheta) v.

    lower_steps, lower_step_size, upper_step_size   as in `LowerSteps`
    cg_steps                                        N >= 0

    The proximal term is the problem's (`Proximal`, `ProxLogistic`, `WholeNetwork(prox=...)`): for
    g = ghat(theta) + lambda/2 |theta - phi|^2 and f(theta) the lower Hessian H = Hhat + lambda I holds it,
    d2g/dphi dtheta = -lambda I, and

        d = lambda H^-1 grad f = (I + Hhat / lambda)^-1 grad f,

    their meta-gradient (Lemma 1); CG is the same on both systems, which are multiples of each other. Cost a task and
    iteration: K lower gradients, N HVPs, one cross product, one upper gradient. Memory: no graph of the steps. The
    start is cold, so with fixed K and N an error floor is left (docs/theory.md S3a, G = I).
    Source: Rajeswaran, Finn, Kakade, Levine, NeurIPS 2019, Algorithms 1 and 2. Differs: their lower solver is any that
    is accurate enough.
    """

    cg_steps: int

    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE, START_FROM_PHI)
    declared: ClassVar[Declared] = Declared(
        title="iMAML",
        estimates="cg",
        bias="varrho^K and chi_N, in every iteration (docs/theory.md S1, S3a)",
        memory="flat",
        exact=False,
        rate=None,
        source="Rajeswaran, Finn, Kakade, Levine, NeurIPS 2019",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("cg_steps", self.cg_steps, least=0)

    @property
    def hypergradient(self) -> Implicit:
        """By N CG steps from zero."""
        return Implicit(ConjugateGradient(self.cg_steps))
