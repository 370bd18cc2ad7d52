"""One step each on theta, v and phi, along directions at one point: the frame of SOBA, SABA and SRBA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convergence.method import Step
from convergence.methods.decaying_steps import DecayingSteps, failures, positive_or_none
from convergence.oracle import Calls, Features, Oracle, per_task
from convergence.pool_rows import rows, with_rows
from problems import Parameters, Tasks


class State(NamedTuple):
    """t, the theta_i and v_i that every task of the pool was left with, (..., M, q), and what a method keeps beside."""

    iteration: int
    theta: Tensor
    v: Tensor
    more: Any = None


class Directions(NamedTuple):
    """D_theta and D_v, (..., B, q), and D_phi, shapes of phi."""

    theta: Tensor
    v: Tensor
    phi: Parameters


@dataclass(frozen=True, kw_only=True)
class SingleLoop(DecayingSteps):
    """theta' = theta - rho_t D_theta,  v' = v - rho^v_t D_v,  phi' = phi - beta_t D_phi, all D at (phi, theta, v).

    linear_step_size   rho^v of v; None takes 2 / (L + mu), as `lower_step_size` does. It decays as rho does

    The other fields are those of `DecayingSteps`.
    """

    linear_step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_or_none(self, "linear_step_size")

    def start(self, oracle: Oracle, phi: Parameters) -> State:
        """theta0 and v = 0 for every task of the pool."""
        theta = oracle.theta0(phi, oracle.pool).clone()
        return State(0, theta, torch.zeros_like(theta))

    def moved(
        self, oracle: Oracle, phi: Parameters, z: Features, tasks: Tasks, state: State, along: Directions
    ) -> Step:
        """The step from phi, and from theta and v of these tasks, all at once; z are features of the tasks undrawn."""
        theta, v = rows((state.theta, state.v), tasks, oracle)
        rho = self.lower_size(oracle, z, tasks, state.iteration)
        rho_v = self.decayed("linear_step_size", oracle, z, tasks, state.iteration)
        theta, v = theta - rho * along.theta, self.inside(v - rho_v * along.v)
        kept = with_rows((state.theta, state.v), (theta, v), tasks, oracle)
        after = State(state.iteration + 1, *kept, state.more)
        phi = self.descended(phi, along.phi, state.iteration)
        return Step(phi, after, along.phi, theta, v, failures(theta, v))

    def inside(self, v: Tensor) -> Tensor:
        """v_i as the method keeps it: as it is."""
        return v

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica."""
        return per_task(lower_gradient=batch, hvp=batch, cross_product=batch, upper_gradient=batch)


def directions(oracle: Oracle, z: Features, theta: Tensor, v: Tensor, tasks: Tasks) -> Directions:
    """D_theta = grad_theta g, D_v = H v - grad_theta f, D_phi = mean_i [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ].

    One call of each kind a task.
    """
    return Directions(
        oracle.lower_gradient(z, theta, tasks),
        oracle.lower_hessian(z, theta, tasks)(v) - oracle.upper_gradient(z, theta, tasks),
        oracle.hypergradient(z, theta, v, tasks),
    )
