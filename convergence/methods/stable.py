"""STABLE: one timescale, by averages of the second derivatives and a step of theta that follows phi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from convergence.arguments import integer, share
from convergence.declared import Declared
from convergence.method import Step
from convergence.methods.decaying_steps import DecayingSteps, failures
from convergence.oracle import Calls, Features, Oracle, per_task
from convergence.pool_rows import rows, with_rows
from convergence.trees import map_tensors
from problems import Parameters, Problem, Tasks


class Kept(NamedTuple):
    """Of every task: phi and theta where it was last seen, theta after its step there, the averages H and X.

    phi (..., M, *), theta and stepped (..., M, q), H (..., M, q, q), X tensors (..., M, q, *) of phi, seen (..., M).
    """

    phi: Parameters
    theta: Tensor
    stepped: Tensor
    hessian: Tensor
    cross: Parameters
    seen: Tensor


class State(NamedTuple):
    """t, and what is kept."""

    iteration: int
    kept: Kept


@dataclass(frozen=True, kw_only=True)
class STABLE(DecayingSteps):
    """Single-timescale stochastic bilevel optimisation. With H = d2g/dtheta2, X = d2g/dtheta dphi on one sample a step,

        H_t     = P[ (1 - tau) (H_{t-1} - H(phi_{t-1}, theta_{t-1})) + H(phi_t, theta_t) ],    X_t likewise without P
        phi'    = phi - beta mean_i [ grad_phi f_i - X_t,i' v_i ],    v_i = H_t,i^-1 grad_theta f_i
        theta_i' = theta_i - rho grad_theta g_i - H_t,i^-1 X_t,i (phi' - phi),

    each task on its own last point, all derivatives at (phi_t, theta_t); P lifts eigenvalues below mu to mu, where the
    problem's constants or its curvature give mu. The last term follows theta*(phi) to first order. It is taken when the
    task is seen again, for all that phi has moved since: so phi may be moved by an optimiser, and by batches without
    the task.

    averaging   0 < tau <= 1: the weight of fresh samples; 1 keeps no memory of the last ones
    size        q, for `declared_calls` alone
    lower_step_size, lower_decay, upper_step_size, upper_decay   as in `DecayingSteps`

    Cost a task and iteration: 2 q HVPs and 2 q cross products (dense matrices at two points), one lower gradient, one
    upper gradient, an eigendecomposition of a (q, q) matrix. Memory: M (q^2 + q p + 2 q + p) numbers are kept: for
    small q and p.
    Source: Chen, Sun, Xiao, Yin, AISTATS 2022, Algorithm 1. Differs: X is not projected on a ball; H and X of the first
    visit are those of its sample.
    """

    averaging: float = 0.5
    size: int | None = None

    declared: ClassVar[Declared] = Declared(
        title="STABLE",
        estimates="exact",
        bias="",
        memory="flat",
        warm=True,
        exact=True,
        rate=1.0,
        noisy_rate=0.5,
        source="Chen, Sun, Xiao, Yin, AISTATS 2022",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        share("averaging", self.averaging)
        if self.size is not None:
            integer("size", self.size, least=1, otherwise="None or ")

    def start(self, oracle: Oracle, phi: Parameters) -> State:
        """theta0, H = I and X = 0 of every task of the pool: none is seen yet."""
        theta = oracle.theta0(phi, oracle.pool).clone()
        each = map_tensors(Tensor.clone, oracle.at_each(phi, oracle.pool))
        lead, q = theta.dim() - 1, theta.shape[-1]
        hessian = torch.eye(q, dtype=theta.dtype, device=theta.device).expand(*theta.shape, q).clone()
        cross = {name: x.new_zeros(*theta.shape, *x.shape[lead:]) for name, x in each.items()}
        return State(0, Kept(each, theta, theta, hessian, cross, theta.new_zeros(theta.shape[:-1])))

    # ---- one upper iteration

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        t, last, here = state.iteration, rows(state.kept, tasks, oracle), oracle.at_each(phi, tasks)
        moved = {name: here[name] - last.phi[name] for name in phi}
        theta = last.stepped - solved(last.hessian, along(last.cross, moved, last.theta.dim() - 1))  # theta_t
        z = oracle.embed(phi, tasks, keep_graph=True)
        at, sample = oracle.draw(z, tasks)

        fresh = oracle.each_second_derivatives(here, theta, sample)
        before = oracle.each_second_derivatives(last.phi, last.theta, sample)
        keep = (1 - self.averaging) * last.seen  # nothing of a task that is seen for the first time

        def averaged(new: Tensor, old: Tensor, average: Tensor) -> Tensor:
            return _wide(keep, new) * (average - old) + new

        hessian, cross = map_tensors(averaged, fresh, before, (last.hessian, last.cross))
        hessian = lifted(hessian, least(oracle, z, tasks))
        v = solved(hessian, oracle.upper_gradient(at, theta, sample))
        direct = oracle.direct_gradient(at, theta, sample)
        implied = weighted(cross, v)
        d = {name: direct[name] - implied[name].mean(theta.dim() - 2) for name in phi}

        stepped = theta - self.lower_size(oracle, z, tasks, t) * oracle.lower_gradient(at, theta, sample)
        new = Kept(here, theta, stepped, hessian, cross, torch.ones_like(last.seen))
        after = State(t + 1, with_rows(state.kept, new, tasks, oracle))
        return Step(self.descended(phi, d, t), after, d, theta, v, failures(stepped, v))

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica. Raises ValueError without a size."""
        if self.size is None:
            raise ValueError("expected size, the entries of theta, for calls of STABLE known beforehand, got None")
        products = 2 * self.size * batch
        return per_task(lower_gradient=batch, hvp=products, cross_product=products, upper_gradient=batch)


def least(oracle: Oracle, z: Features, tasks: Tasks) -> float | Tensor | None:
    """mu, one number or one for each task (..., B, 1); None where it is not known."""
    problem: Problem = oracle.problem
    if problem.has("curvature"):
        return oracle.curvature(z, tasks)[0].unsqueeze(-1)
    return None if problem.constants is None else problem.constants.mu


def lifted(H: Tensor, mu: float | Tensor | None) -> Tensor:
    """The symmetric part of H with eigenvalues of at least mu; rows that are not finite are left as they are."""
    H = (H + H.mT) / 2
    if mu is None:
        return H
    finite = torch.isfinite(H).all(-1).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, H, torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)))
    return torch.where(finite, (vectors * values.clamp(min=mu).unsqueeze(-2)) @ vectors.mT, H)


def solved(H: Tensor, b: Tensor) -> Tensor:
    """H^-1 b of each task, (..., B, q); not finite where there is none."""
    x: Tensor = torch.linalg.solve_ex(H, b.unsqueeze(-1)).result.squeeze(-1)
    return x


def along(cross: Parameters, moved: Parameters, axis: int) -> Tensor:
    """X_i x_i, (..., B, q), for the tensors (..., B, q, *) of X, with q at this axis, and (..., B, *) of x."""
    pairs = ((_flat(X, axis + 1), _flat(moved[name], axis).unsqueeze(axis)) for name, X in cross.items())
    return torch.stack([(X * x).sum(-1) for X, x in pairs]).sum(0)


def weighted(cross: Parameters, v: Tensor) -> Parameters:
    """X_i' v_i, tensors (..., B, *), for those (..., B, q, *) of X."""
    axis = v.dim() - 1
    sums = {name: (_flat(X, axis + 1) * v.unsqueeze(-1)).sum(axis) for name, X in cross.items()}
    return {name: x.reshape(*v.shape[:-1], *cross[name].shape[axis + 1 :]) for name, x in sums.items()}


def _flat(tensor: Tensor, axis: int) -> Tensor:
    """All axes from this one on as one, also where there is none."""
    return tensor.reshape(*tensor.shape[:axis], -1)


def _wide(weights: Tensor, like: Tensor) -> Tensor:
    return weights.reshape(*weights.shape, *(1,) * (like.dim() - weights.dim()))
