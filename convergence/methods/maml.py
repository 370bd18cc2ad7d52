"""MAML: phi is where theta starts, and the lower steps are differentiated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.declared import Declared
from convergence.methods.itd_bio import ITDBiO
from convergence.needs import START_FROM_PHI, TWICE_DIFFERENTIABLE, Need


@dataclass(frozen=True, kw_only=True)
class MAML(ITDBiO):
    """ITD-BiO from a start theta_0 that depends on phi, in MAML phi itself.

    theta_{k+1} = theta_k - alpha grad_theta g_i(theta_k),  d = mean_i (I - alpha H_0) ... (I - alpha H_{K-1}) grad f_i

    for theta_0 = phi where g and f see phi through theta alone, H_k = d2g_i/dtheta2 at theta_k. Where they see more of
    it, the terms of `Unrolled` are added.

    lower_steps, lower_step_size, upper_step_size   as in `LowerSteps`

    On all tasks it is gradient descent on Phi_K, hence ends at a minimiser of Phi_K, not of Phi; where phi is nothing
    but the start, Phi does not depend on it, and Phi_K is all there is to minimise. Cost a task and iteration: K lower
    gradients, K HVPs, K cross products (of size zero where g does not see phi), one upper gradient. Memory: a graph
    that grows with K.
    Source: Finn, Abbeel, Levine, ICML 2017, Algorithm 2.
    """

    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE, START_FROM_PHI)
    declared: ClassVar[Declared] = Declared(
        title="MAML",
        estimates="unrolled",
        bias="grad Phi_K - grad Phi, of the order of K varrho^K (docs/theory.md S1, S3b)",
        memory="linear",
        exact=False,
        rate=None,
        source="Finn, Abbeel, Levine, ICML 2017",
    )
