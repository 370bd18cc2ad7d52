"""BOIL: the body adapts, and the head is shared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from convergence.declared import Declared
from convergence.methods.anil import ANIL


@dataclass(frozen=True, kw_only=True)
class BOIL(ANIL):
    """MAML on the other part of phi: theta starts at the body; the head is shared, and fixed in the lower level.

    theta_0 = phi_body,  theta_{k+1} = theta_k - alpha grad_theta g_i(phi_head, theta_k),
    d = grad_(phi_body, phi_head) mean_i f_i(phi_head, theta_{i,K}(phi_body, phi_head))

    lower_steps, lower_step_size, upper_step_size   as in `LowerSteps`

    The step is that of `ANIL`, and so are its needs: the two differ in what the problem makes theta, the body here
    (`WholeNetwork(adapts="body")`), the head there (`FewShot` with a learned start). So does the cost of a lower
    gradient, which goes through all of the network here. Both parts of phi take the upper step.
    Source: Oh, Yoo, Kim, Yun, ICLR 2021, section 3. Differs: one upper step size for both parts.
    """

    declared: ClassVar[Declared] = replace(ANIL.declared, title="BOIL", source="Oh, Yoo, Kim, Yun, ICLR 2021")
