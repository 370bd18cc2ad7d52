"""AID-BiO: approximate implicit differentiation, theta and v carried over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from convergence.declared import Declared
from convergence.memory_reduced import MemoryReduced


@dataclass(frozen=True, kw_only=True)
class AIDBiO(MemoryReduced):
    """K gradient steps on theta and N steps of a linear solver on H v = grad_theta f, both from where they were left.

    theta' = K steps from theta,  v' = N steps on H(phi, theta') v = grad_theta f(phi, theta') from v,
    phi' = phi - beta mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i' ]

    cg_steps       N of AID-BiO itself, by CG: the steps of `MemoryReduced` with a warm start of theta and v
    linear_solver  instead: `Richardson(N, eta)`, the fixed-point iteration of AID-FP, which goes on from v as well;
                   `Neumann(N, eta)`, which sums its series anew each time and leaves (I - eta H)^(N+1) of v*
    warm_start     False: the cold start at theta_0 and v = 0 that Grazzi et al. analyse
    other fields   as in `MemoryReduced`

    Cost a task and iteration: K lower gradients, the products of the solver (CG: N + 1, or N from v = 0), one cross
    product, one upper gradient. Memory: no graph of the steps; 2 M q numbers are kept. What `declared` says is of CG
    with a warm start.
    Source: Ji, Yang, Liang, ICML 2021, Algorithm 1, option AID (CG); Grazzi, Franceschi, Pontil, Salzo, ICML 2020
    (AID-FP, AID-CG).
    """

    declared: ClassVar[Declared] = replace(MemoryReduced.declared, title="AID-BiO", source="Ji, Yang, Liang, ICML 2021")
