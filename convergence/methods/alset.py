"""ALSET: alternating stochastic gradient steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.arguments import integer
from convergence.declared import Declared
from convergence.methods.alternating import Alternating


@dataclass(frozen=True, kw_only=True)
class ALSET(Alternating):
    """Alternating stochastic gradient descent: as `Alternating`, theta_i warm, with one random term for v,

        v_i = Q eta prod_{j=1}^{p} (I - eta H_j) grad_theta f_i,    p uniform on 0, ..., Q - 1,

    so that E d, at theta*, is off grad Phi by (d2g/dphi dtheta) (I - eta H)^Q H^-1 grad_theta f.

    lower_steps   K >= 0; the steps of both levels have sizes of one order, T^-1/2 in the paper
    terms, linear_step_size, lower_step_size, lower_decay, upper_step_size, upper_decay   as in `Alternating`

    Cost a task and iteration: K lower gradients, Q - 1 HVPs (a batch shares its products, whatever p was drawn), one
    cross product, one upper gradient. Memory: M q numbers are kept; no graph of the steps.
    Source: Chen, Sun, Yin, NeurIPS 2021, Algorithm 1 with its estimator of the upper gradient.
    """

    lower_steps: int

    declared: ClassVar[Declared] = Declared(
        title="ALSET",
        estimates="sampled_neumann",
        bias="(I - eta H)^Q of the series; none of theta in the limit",
        memory="flat",
        warm=True,
        exact=False,
        rate=None,
        noisy_rate=0.5,
        source="Chen, Sun, Yin, NeurIPS 2021",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("lower_steps", self.lower_steps, least=0)

    def steps_at(self, iteration: int) -> int:
        """K."""
        return self.lower_steps
