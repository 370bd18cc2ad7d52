"""Reverse mode through the lower steps, on the tape of automatic differentiation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from convergence.arguments import integer
from convergence.hypergradients.estimate import Estimate
from convergence.lower_solvers import LowerSolver
from convergence.needs import TWICE_DIFFERENTIABLE, Need
from convergence.oracle import Calls, Features, Oracle, per_task
from problems import Tasks


@dataclass(frozen=True)
class Unrolled:
    """Reverse mode through K lower steps: d = d/dphi mean_i f_i(phi, theta_{i,K}(phi)). Memory grows with K.

    last   None: all K steps, and the dependence of their start on phi. A number h: through the last h steps alone,
           theta_{K-h} held fixed where h < K; then d is off by what the steps before would have brought, of the order
           of varrho^h (Shaban et al. 2019), and the memory grows with h. With h = 1 it is the estimate T1-T2:
           d = mean_i [ grad_phi f_i - alpha (d2g_i/dphi dtheta) grad_theta f_i ], the product at theta_{K-1}

    What MAML, ANIL and ITD-BiO do. Cost a task: K lower gradients, and backwards min(h, K) HVPs and cross products.
    Source: Franceschi et al., ICML 2017; Shaban, Cheng, Hatch, Boots, AISTATS 2019 (truncated);
    Luketina, Berglund, Greff, Raiko, ICML 2016 (T1-T2);
    Ji, Yang, Liang, ICML 2021 (ITD-BiO).
    """

    last: int | None = None
    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE,)

    def __post_init__(self) -> None:
        if self.last is not None:
            integer("last", self.last, least=0, otherwise="None or ")

    def estimate(self, oracle: Oracle, z: Features, theta: Tensor, tasks: Tasks, *, lower: LowerSolver) -> Estimate:
        """d of the K-step objective from the start theta, which is taken as it is: its dependence on phi counts."""
        before, followed = lower.split(self.followed(lower))
        if before is not None:
            theta = before.solve(oracle, z, theta.detach(), tasks)
        theta = followed.solve(oracle, z, theta, tasks, keep_graph=True)
        z, tasks = oracle.draw(z, tasks)
        d = oracle.total_gradient(z, theta, tasks)
        for name in ("hvp", "cross_product"):
            oracle.count(name, tasks, times=self.followed(lower))
        return Estimate.of_steps(d, theta)

    def followed(self, lower: LowerSolver) -> int:
        """How many steps are differentiated."""
        return lower.steps if self.last is None else min(self.last, lower.steps)

    def calls(self, lower: LowerSolver) -> Calls:
        """K lower gradients, min(h, K) HVPs and cross products, one upper gradient."""
        followed = self.followed(lower)
        return per_task(lower_gradient=lower.gradients, hvp=followed, cross_product=followed, upper_gradient=1)
