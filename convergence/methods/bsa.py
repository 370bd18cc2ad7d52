"""BSA: a cold start, K lower steps, one random term of a Neumann series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from convergence.arguments import integer, non_negative
from convergence.declared import Declared
from convergence.methods.alternating import Alternating
from convergence.needs import TWICE_DIFFERENTIABLE, Need


@dataclass(frozen=True, kw_only=True)
class BSA(Alternating):
    """Bilevel stochastic approximation: as `Alternating`, from theta0 in each iteration, with one random term for v,

        v_i = Q eta prod_{j=1}^{p} (I - eta H_j) grad_theta f_i,    p uniform on 0, ..., Q - 1,

    so that E d is off grad Phi by what K_t steps leave of theta_0 - theta*, of the order of varrho^K, and by
    (d2g/dphi dtheta) (I - eta H)^Q H^-1 grad_theta f.

    lower_steps    K >= 0
    lower_growth   a >= 0: K_t = ceil(K (t + 1)^a). The paper lets the lower steps grow, which is what removes the bias
                   that is theirs
    terms, linear_step_size, lower_step_size, lower_decay, upper_step_size, upper_decay   as in `Alternating`

    Cost a task and iteration: K_t lower gradients, Q - 1 HVPs (a batch shares its products, whatever p was drawn), one
    cross product, one upper gradient. Memory: nothing is kept, and no graph of the steps.
    Source: Ghadimi, Wang 2018, arXiv:1802.02246, Algorithm 2. Differs: within an iteration the lower steps are of one
    size, rho (t + 1)^-lower_decay; the last iterate is taken.
    """

    lower_steps: int
    lower_growth: float = 0.0

    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)
    declared: ClassVar[Declared] = Declared(
        title="BSA",
        estimates="sampled_neumann",
        bias="varrho^K of the cold start, (I - eta H)^Q of the series",
        memory="flat",
        exact=False,
        rate=None,
        noisy_rate=0.5,
        source="Ghadimi, Wang 2018",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("lower_steps", self.lower_steps, least=0)
        non_negative("lower_growth", self.lower_growth)

    def steps_at(self, iteration: int) -> int:
        """ceil(K (t + 1)^a)."""
        return math.ceil(self.lower_steps * (iteration + 1) ** self.lower_growth)
