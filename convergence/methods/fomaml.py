"""First-order MAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.composed import LowerSteps
from convergence.declared import Declared
from convergence.hypergradients import FirstOrder
from convergence.needs import START_FROM_PHI, Need


@dataclass(frozen=True, kw_only=True)
class FOMAML(LowerSteps):
    """K gradient steps from theta0(phi); of theta_{i,K} only the dependence of the start on phi is differentiated.

    lower_steps, lower_step_size, upper_step_size   as in `LowerSteps`

    d is that of MAML with the second derivatives of g dropped. Cost a task and iteration: K lower gradients, one upper
    gradient. Memory: no graph of the steps.
    Source: Finn, Abbeel, Levine, ICML 2017, section 5.2.
    """

    needs: ClassVar[tuple[Need, ...]] = (START_FROM_PHI,)
    declared: ClassVar[Declared] = Declared(
        title="FOMAML",
        estimates="first_order",
        bias="all second derivatives of g, whatever K",
        memory="flat",
        exact=False,
        rate=None,
        source="Finn, Abbeel, Levine, ICML 2017, section 5.2",
    )

    @property
    def hypergradient(self) -> FirstOrder:
        """The derivative of f at theta_{i,K} as if it moved with the start."""
        return FirstOrder()
