"""TTSA: one lower and one upper step an iteration, on two timescales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.declared import Declared
from convergence.methods.alternating import Alternating


@dataclass(frozen=True, kw_only=True)
class TTSA(Alternating):
    """Two-timescale stochastic approximation: as `Alternating` with K = 1, theta_i warm, one random term for v,

        theta_i' = theta_i - rho (t + 1)^-2/5 grad_theta g_i(phi, theta_i)
        phi'     = phi - beta (t + 1)^-3/5 mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ] at (phi, theta')
        v_i      = Q eta prod_{j=1}^{p} (I - eta H_j) grad_theta f_i,    p uniform on 0, ..., Q - 1,

    so that E d, at theta*, is off grad Phi by (d2g/dphi dtheta) (I - eta H)^Q H^-1 grad_theta f. Phi moves ever more
    slowly than theta, which sees it as fixed in the limit.

    lower_decay, upper_decay   2/5 and 3/5, the paper's for Phi that is not convex; 2/3 and 1 for strongly convex Phi
    terms, linear_step_size, lower_step_size, upper_step_size   as in `Alternating`

    Cost a task and iteration: one lower gradient, Q - 1 HVPs (a batch shares its products, whatever p was drawn), one
    cross product, one upper gradient. Memory: M q numbers are kept.
    Source: Hong, Wai, Wang, Yang, SIAM J. Optim. 2023 (arXiv:2007.05170), Algorithm 1. Differs: phi is not constrained;
    Q is the same in all iterations (there it grows like log t).
    """

    lower_decay: float = 0.4
    upper_decay: float = 0.6

    declared: ClassVar[Declared] = Declared(
        title="TTSA",
        estimates="sampled_neumann",
        bias="(I - eta H)^Q of the series; none of theta in the limit",
        memory="flat",
        warm=True,
        exact=False,
        rate=None,
        noisy_rate=0.4,
        source="Hong, Wai, Wang, Yang, SIAM J. Optim. 2023",
    )

    def steps_at(self, iteration: int) -> int:
        """One."""
        return 1
