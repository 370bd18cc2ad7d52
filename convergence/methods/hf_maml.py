"""HF-MAML: MAML with differences of gradients in place of Hessian-vector products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.arguments import positive
from convergence.composed import LowerSteps
from convergence.declared import Declared
from convergence.hypergradients import HessianFree
from convergence.needs import START_FROM_PHI, TWICE_DIFFERENTIABLE, Need


@dataclass(frozen=True, kw_only=True)
class HFMAML(LowerSteps):
    """K gradient steps on theta from theta_0(phi); back through them, each product is a difference of two gradients.

    w_K = grad_theta f_i(theta_{i,K}),  s = r w_{k+1} / |w_{k+1}|,
    w_k = w_{k+1} - alpha |w_{k+1}| (grad_theta g_i(theta_k + s) - grad_theta g_i(theta_k - s)) / (2 r)

    and d = mean_i w_{i,0} for theta_0 = phi where g and f see phi through theta alone.

    lower_steps, lower_step_size, upper_step_size   as in `LowerSteps`
    radius                                          r; about eps^(1/3) times the size of theta: 1e-5 in float64, 5e-3 in
                                                    float32

    d is MAML's up to an error of the order of r^2, and that of rounding, eps / r. Cost a task and iteration: 3 K lower
    gradients, one upper gradient, no product. Memory: K q numbers, the iterates, without a graph of the steps.
    Source: Fallah, Mokhtari, Ozdaglar, AISTATS 2020, Algorithm 3. Differs: any K (there 1) and any start (there phi);
    the two points are r away from theta_k (there r |w|).
    """

    radius: float = 1e-5

    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE, START_FROM_PHI)
    declared: ClassVar[Declared] = Declared(
        title="HF-MAML",
        estimates="unrolled",
        bias="that of MAML, and of the order of radius^2",
        memory="linear",
        exact=False,
        rate=None,
        source="Fallah, Mokhtari, Ozdaglar, AISTATS 2020",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("radius", self.radius)

    @property
    def hypergradient(self) -> HessianFree:
        """Backwards by differences of gradients."""
        return HessianFree(self.radius)
