"""SABA: SOBA with the tables of SAGA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from convergence.declared import Declared
from convergence.method import Step
from convergence.methods.single_loop import Directions, SingleLoop, State
from convergence.needs import FINITE_SUM, Need
from convergence.oracle import Oracle
from convergence.pool_rows import rows, with_rows
from convergence.trees import map_tensors
from problems import Parameters, Tasks


class LowerTerms(NamedTuple):
    """grad_theta g and (d2g/dtheta2) v, (..., q), and (d2g/dphi dtheta) v, tensors of phi, each of one block."""

    gradient: Tensor
    product: Tensor
    cross: Parameters


class UpperTerms(NamedTuple):
    """grad_theta f, (..., q), and grad_phi f, tensors of phi, each of one block."""

    gradient: Tensor
    direct: Parameters


class Tables(NamedTuple):
    """The terms of each block as they were last seen, (..., M, blocks, *)."""

    lower: LowerTerms
    upper: UpperTerms


@dataclass(frozen=True, kw_only=True)
class SABA(SingleLoop):
    """Stochastic average bilevel algorithm: the steps of `SOBA` along estimates whose variance vanishes.

    g_i and f_i are means over n and m blocks. Of each task an iteration draws one lower and one upper block, j and k,
    and puts for each quantity X of the five  grad_theta g, (d2g/dtheta2) v, (d2g/dphi dtheta) v  (with j) and
    grad_theta f, grad_phi f  (with k)

        X_j(phi, theta, v) - table_j + mean of the table,    then  table_j <- X_j(phi, theta, v):

    its mean over j is that of X, whatever is in the table, and it is X itself once the table is that of the limit.

    lower_step_size, linear_step_size, lower_decay, upper_step_size, upper_decay   as in `SingleLoop`. The
    2 / (L + mu) that None takes may be too large: SAGA is known to allow about 1 / (3 L), L of single blocks

    Cost a task and iteration: one lower gradient, HVP, cross product and upper gradient of one block, and a mean over
    its tables. Memory: the tables hold M [ n (2 q + p) + m (q + p) ] numbers beside the 2 M q of theta and v.
    Source: Dagréou, Ablin, Vaiter, Moreau, NeurIPS 2022, section 2.3, equations of SABA. Differs: the tables start at
    zero, not with a pass over all blocks: any start leaves the estimates unbiased.
    """

    needs: ClassVar[tuple[Need, ...]] = (*SingleLoop.needs, FINITE_SUM)
    declared: ClassVar[Declared] = Declared(
        title="SABA",
        estimates="exact",
        bias="",
        memory="flat",
        warm=True,
        exact=True,
        rate=1.0,
        noisy_rate=1.0,
        source="Dagréou, Ablin, Vaiter, Moreau, NeurIPS 2022",
    )

    def start(self, oracle: Oracle, phi: Parameters) -> State:
        """theta0, v = 0 and tables of zeros for every task of the pool. Raises ValueError where there are no blocks."""
        state = super().start(oracle, phi)
        blocks = oracle.problem.blocks
        if blocks is None:
            raise ValueError(f"expected a finite sum cut into blocks (Minibatch), got {type(oracle.problem).__name__}")
        task = state.v.dim() - 1
        each = oracle.at_each(phi, oracle.pool)

        def table(like: Tensor, count: int) -> Tensor:
            return like.new_zeros(*like.shape[:task], count, *like.shape[task:])

        lower: LowerTerms = map_tensors(lambda x: table(x, blocks.lower), LowerTerms(state.v, state.v, each))
        upper: UpperTerms = map_tensors(lambda x: table(x, blocks.upper), UpperTerms(state.v, each))
        return state._replace(more=Tables(lower, upper))

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        kept: Tables = state.more
        theta, v = rows((state.theta, state.v), tasks, oracle)
        tables = rows(kept, tasks, oracle)
        j, k = (drawn(oracle, tasks, count) for count in oracle.problem.blocks or ())
        z = oracle.features(phi, tasks)
        at, sample = oracle.blocks(z, tasks, j, k)
        direct, cross = oracle.each_direction(oracle.at_each(phi, tasks), theta, v, sample)
        hessian = oracle.lower_hessian(at, theta, sample)
        of_g = LowerTerms(oracle.lower_gradient(at, theta, sample), hessian(v), cross)
        of_f = UpperTerms(oracle.upper_gradient(at, theta, sample), direct)
        g: LowerTerms = map_tensors(lambda x, table: saga(x, table, j), of_g, tables.lower)
        f: UpperTerms = map_tensors(lambda x, table: saga(x, table, k), of_f, tables.upper)
        d = {name: (f.direct[name] - g.cross[name]).mean(theta.dim() - 2) for name in phi}
        new = Tables(
            map_tensors(lambda x, table: replaced(x, table, j), of_g, tables.lower),
            map_tensors(lambda x, table: replaced(x, table, k), of_f, tables.upper),
        )
        along = Directions(g.gradient, g.product - f.gradient, d)
        state = state._replace(more=with_rows(kept, new, tasks, oracle))
        return self.moved(oracle, phi, z, tasks, state, along)


def drawn(oracle: Oracle, tasks: Tasks, count: int) -> Tensor:
    """The number of a block for each task and replica, uniform on 0, ..., count - 1, (..., B)."""
    numbers = oracle.sampled(lambda rng: torch.randint(count, (len(tasks),), generator=rng))
    return numbers.to(tasks.index.device)


def saga(term: Tensor, table: Tensor, block: Tensor) -> Tensor:
    """term - table[block] + mean of the table, (..., B, *), for the term of each task's block."""
    axis = block.dim()
    old = table.gather(axis, _number(block, term).unsqueeze(axis)).squeeze(axis)
    return term - old + table.mean(axis)


def replaced(term: Tensor, table: Tensor, block: Tensor) -> Tensor:
    """The table (..., B, blocks, *) with the term of each task in the place of its block."""
    axis = block.dim()
    return table.scatter(axis, _number(block, term).unsqueeze(axis), term.unsqueeze(axis))


def _number(block: Tensor, term: Tensor) -> Tensor:
    return block.reshape(*block.shape, *(1,) * (term.dim() - block.dim())).expand_as(term)
