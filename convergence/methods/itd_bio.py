"""Iterative differentiation: the graph of the K lower steps is kept and differentiated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.composed import LowerSteps
from convergence.declared import Declared
from convergence.hypergradients import Unrolled


@dataclass(frozen=True, kw_only=True)
class ITDBiO(LowerSteps):
    """Unrolled meta-learning: K gradient steps on theta from theta0(phi), their derivative, a step on phi.

    lower_steps, lower_step_size, upper_step_size   as in `LowerSteps`

    On all tasks it is gradient descent on Phi_K(phi) = mean_i f_i(phi, theta_{i,K}(phi)), hence ends at a minimiser of
    Phi_K, not of Phi (docs/theory.md S3b). Cost a task and iteration: K lower gradients, K HVPs, K cross products, one
    upper gradient. Memory: a graph that grows with K.
    Source: Franceschi et al., ICML 2017; Ji, Yang, Liang, ICML 2021, ITD-BiO (Algorithm 1, option ITD).
    Differs: no warm start, whose derivative with respect to phi would be dropped.
    """

    declared: ClassVar[Declared] = Declared(
        title="ITD-BiO",
        estimates="unrolled",
        bias="grad Phi_K - grad Phi, of the order of K varrho^K (docs/theory.md S1, S3b)",
        memory="linear",
        exact=False,
        rate=None,
        source="Ji, Yang, Liang, ICML 2021",
    )

    @property
    def hypergradient(self) -> Unrolled:
        """Reverse mode through all K steps."""
        return Unrolled()
