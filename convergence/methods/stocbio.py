"""stocBiO: K lower steps from where theta was left, a Neumann series with a fresh sample for each product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.arguments import integer
from convergence.declared import Declared
from convergence.linear_solvers import Neumann
from convergence.methods.alternating import Alternating


@dataclass(frozen=True, kw_only=True)
class StocBiO(Alternating):
    """Stochastic bilevel optimiser: as `Alternating`, theta_i warm, with all terms of the series,

        v_i = eta sum_{j=0}^{Q} (I - eta H_j) ... (I - eta H_1) grad_theta f_i,    Q products with fresh samples,

    so that E d, at theta*, is off grad Phi by (d2g/dphi dtheta) (I - eta H)^(Q+1) H^-1 grad_theta f.

    lower_steps   K >= 0
    terms         Q >= 1: the paper's Q, of Q + 1 terms
    linear_step_size, lower_step_size, lower_decay, upper_step_size, upper_decay   as in `Alternating`

    Cost a task and iteration: K lower gradients, Q HVPs, one cross product, one upper gradient. Memory: M q numbers are
    kept; no graph of the steps.
    Source: Ji, Yang, Liang, ICML 2021, Algorithm 2 with Algorithm 3. Differs: every product sees a sample of one size
    (there growing ones), the lower steps and d as well.
    """

    lower_steps: int

    declared: ClassVar[Declared] = Declared(
        title="stocBiO",
        estimates="neumann",
        bias="(I - eta H)^(Q+1) of the series; none of theta in the limit",
        memory="flat",
        warm=True,
        exact=False,
        rate=None,
        source="Ji, Yang, Liang, ICML 2021",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("lower_steps", self.lower_steps, least=0)

    def steps_at(self, iteration: int) -> int:
        """K."""
        return self.lower_steps

    def series(self, step_size: float) -> Neumann:
        """All of the terms."""
        return Neumann(self.terms, step_size)
