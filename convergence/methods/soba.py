"""SOBA: theta, v and phi move at once, each along an unbiased direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convergence.declared import Declared
from convergence.method import Step
from convergence.methods.single_loop import SingleLoop, State, directions
from convergence.oracle import Oracle
from convergence.pool_rows import rows
from problems import Parameters, Tasks


@dataclass(frozen=True, kw_only=True)
class SOBA(SingleLoop):
    """Stochastic bilevel algorithm: all at the point (phi, theta, v) of before, on one sample of g and one of f,

        theta_i' = theta_i - rho grad_theta g_i
        v_i'     = v_i - rho^v [ (d2g_i/dtheta2) v_i - grad_theta f_i ]
        phi'     = phi - beta mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ]

    lower_step_size, linear_step_size, lower_decay, upper_step_size, upper_decay   as in `SingleLoop`

    With samples of fixed variance and constant steps it settles in a neighbourhood of a stationary point; the paper
    takes steps of the order of T^-1/2, or both decays 1/2. Cost a task and iteration: one lower gradient, HVP, cross
    product and upper gradient. Memory: 2 M q numbers are kept.
    Source: Dagréou, Ablin, Vaiter, Moreau, NeurIPS 2022, Algorithm 1 and section 2.2 (with -v for v, rho^v = rho).
    """

    declared: ClassVar[Declared] = Declared(
        title="SOBA",
        estimates="exact",
        bias="",
        memory="flat",
        warm=True,
        exact=True,
        rate=1.0,
        noisy_rate=0.5,
        source="Dagréou, Ablin, Vaiter, Moreau, NeurIPS 2022",
    )

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        theta, v = rows((state.theta, state.v), tasks, oracle)
        z = oracle.embed(phi, tasks)
        at, sample = oracle.draw(z, tasks)
        return self.moved(oracle, phi, z, tasks, state, directions(oracle, at, theta, v, sample))
