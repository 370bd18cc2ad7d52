"""ANIL: the head alone adapts, from a start that is learned; all else is shared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from convergence.declared import Declared
from convergence.methods.maml import MAML
from convergence.needs import SHARED_PART, TWICE_DIFFERENTIABLE, Need


@dataclass(frozen=True, kw_only=True)
class ANIL(MAML):
    """MAML on a part of phi: theta starts at phi_start, the head; phi_shared, the body, is fixed in the lower level.

    theta_0 = phi_start,  theta_{k+1} = theta_k - alpha grad_theta g_i(phi_shared, theta_k),
    d = grad_(phi_start, phi_shared) mean_i f_i(phi_shared, theta_{i,K}(phi_start, phi_shared))

    lower_steps, lower_step_size, upper_step_size   as in `LowerSteps`

    Which part of phi is the start is said by the problem (`theta0`), not here: on one problem ANIL, `BOIL` and MAML
    take the same steps. Beside MAML the K cross products d2g/dphi_shared dtheta are at work. Cost, bias and memory are
    those of `MAML`, with q the size of the head.
    Source: Raghu, Raghu, Bengio, Vinyals, ICLR 2020, section 4.
    """

    needs: ClassVar[tuple[Need, ...]] = (TWICE_DIFFERENTIABLE, SHARED_PART)
    declared: ClassVar[Declared] = replace(MAML.declared, title="ANIL", source="Raghu et al., ICLR 2020")
