"""SRBA: SOBA with recursive directions, of the SARAH / SPIDER family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from convergence.arguments import integer
from convergence.declared import Declared
from convergence.method import Step
from convergence.methods.decaying_steps import positive_or_none
from convergence.methods.single_loop import Directions, SingleLoop, State, directions
from convergence.needs import FINITE_SUM, Need
from convergence.oracle import Calls, Oracle
from convergence.trees import map_tensors
from problems import Parameters, Tasks


class Last(NamedTuple):
    """The point of the iteration before, and the directions there."""

    phi: Parameters
    theta: Tensor
    v: Tensor
    along: Directions


@dataclass(frozen=True, kw_only=True)
class SRBA(SingleLoop):
    """Stochastic recursive bilevel algorithm: with u = (phi, theta, v) and D(u) the three directions of `SOBA`,

        Delta_t = D(u_t) of the whole sums                                       where t is a multiple of the period
        Delta_t = D_j(u_t) - D_j(u_{t-1}) + Delta_{t-1},  one block j for both   otherwise
        u_{t+1} = u_t - (beta, rho, rho^v) Delta_t,

    then |v_i| is cut down to the radius. All tasks take part in each iteration: the recursion is that of one point.

    period   iterations from one pass over the whole sums to the next; the paper's are of the order of the blocks
    radius   of the ball in which each v_i is kept, at least |v_i*| <= B / mu; None: no ball
    lower_step_size, linear_step_size, lower_decay, upper_step_size, upper_decay   as in `SingleLoop`

    Cost a task and iteration: two lower gradients, HVPs, cross products and upper gradients of one block, or one of
    each of the whole sum where a period begins. Memory: 6 M q + 2 p numbers are kept.
    Raises ValueError on a batch that is not the whole pool.
    Source: Dagréou, Moreau, Vaiter, Ablin, AISTATS 2024, Algorithm 1 (SRBA).
    """

    period: int = 10
    radius: float | None = None

    all_tasks: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (*SingleLoop.needs, FINITE_SUM)
    declared: ClassVar[Declared] = Declared(
        title="SRBA",
        estimates="exact",
        bias="",
        memory="flat",
        warm=True,
        exact=True,
        rate=1.0,
        noisy_rate=1.0,
        source="Dagréou, Moreau, Vaiter, Ablin, AISTATS 2024",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("period", self.period, least=1)
        positive_or_none(self, "radius")

    def start(self, oracle: Oracle, phi: Parameters) -> State:
        """theta0 and v = 0; the first directions are of the whole sums, whatever stands for those before."""
        state = super().start(oracle, phi)
        zeros = map_tensors(torch.zeros_like, Directions(state.v, state.v, phi))
        return state._replace(more=Last(phi, state.theta, state.v, zeros))

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """phi_{t+1} from phi_t and all tasks."""
        if tasks is not oracle.pool:
            raise ValueError(
                f"expected all tasks in each iteration (batch=None) for SRBA, whose recursion is that of all together, "
                f"got a batch of {len(tasks)} of the tasks of {type(oracle.problem).__name__}"
            )
        last: Last = state.more
        theta, v, z = state.theta, state.v, oracle.embed(phi, tasks)
        if state.iteration % self.period == 0:
            along = directions(oracle, z, theta, v, tasks)
        else:
            at, sample = oracle.draw(z, tasks)
            here = directions(oracle, at, theta, v, sample)
            before = directions(oracle, oracle.embed(last.phi, sample), last.theta, last.v, sample)
            along = map_tensors(lambda new, old, kept: new - old + kept, here, before, last.along)
        return self.moved(oracle, phi, z, tasks, state._replace(more=Last(phi, theta, v, along)), along)

    def inside(self, v: Tensor) -> Tensor:
        """v_i, or the nearest point of the ball."""
        if self.radius is None:
            return v
        norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        return v * (self.radius / norm).clamp(max=1)  # where v = 0 that is min(inf, 1)

    def declared_calls(self, batch: int, *, iteration: int = 0) -> Calls:
        """Oracle calls of this upper iteration on a batch of tasks, in one replica."""
        points = 1 if iteration % self.period == 0 else 2
        return {name: points * count for name, count in super().declared_calls(batch).items()}
