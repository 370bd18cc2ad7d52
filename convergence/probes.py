"""What is measured along a run. Probes are not counted and share no code with the methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from convergence.certificates import certified_error
from convergence.method import Step
from convergence.oracle import Oracle
from convergence.reference import Reference, ReferenceFailed, reference
from problems import Parameters, Problem, Tasks


@dataclass
class Snapshot:
    """phi_t, and the step taken from it with its tasks (None while a probe of phi alone is evaluated).

    `replicas` is None or R: then tensors of phi have a leading axis R.
    """

    problem: Problem
    pool: Tasks | None
    replicas: int | None
    iteration: int
    phi: Parameters
    step: Step | None = None
    tasks: Tasks | None = None
    near: Tensor | None = None  # theta* at the snapshot before: where Newton starts
    failures: dict[int, ReferenceFailed] = field(default_factory=dict)  # replica -> why it has no reference
    _reference: Reference | None = None

    @classmethod
    def after(
        cls, last: Snapshot | None, problem: Problem, oracle: Oracle, replicas: int | None, t: int, phi: Parameters
    ) -> Snapshot:
        """The snapshot of phi_t; its reference starts where the last one ended."""
        pool = oracle.pool if problem.tasks else None
        return cls(problem, pool, replicas, t, phi, near=last.known_theta if last else None)

    def require_references(self, running: Tensor) -> None:
        """Raise what kept a running replica from its true gradient; where the method failed, its status says why."""
        for replica, failure in self.failures.items():
            if bool(running.reshape(-1)[replica]):
                raise failure

    def reference(self) -> Reference:
        """theta*, v*, Phi and grad Phi by damped Newton and direct solves, once an iteration; leading axes of phi."""
        if self._reference is None:
            if self.pool is None:
                raise ValueError(
                    f"expected a finite pool of tasks for the true gradient, got {type(self.problem).__name__}, "
                    "which draws tasks without end: run it with probes=()"
                )
            runs, starts = [self.phi], [self.near]
            if self.replicas is not None:
                runs = [{name: tensor[r] for name, tensor in self.phi.items()} for r in range(self.replicas)]
                starts = [None] * self.replicas if self.near is None else list(self.near)
            found = [self._each(r, phi, start) for r, (phi, start) in enumerate(zip(runs, starts, strict=True))]
            self._reference = found[0] if self.replicas is None else _stack(found)
        return self._reference

    def _each(self, replica: int, phi: Parameters, start: Tensor | None) -> Reference:
        """The reference of one replica; not a number where there is none, with the reason in `failures`."""
        assert self.pool is not None
        try:
            return reference(self.problem, phi, self.pool, start=start)
        except ReferenceFailed as failure:
            self.failures[replica] = failure
            theta = self.problem.theta0(phi, self.pool)
            nan = torch.full_like(theta, torch.nan)
            return Reference({name: torch.full_like(x, torch.nan) for name, x in phi.items()}, theta, nan, nan[0, 0])

    def over_replicas(self, closed_form: Callable[[Parameters], Any]) -> Any:
        """closed_form(phi), mapped over the replicas where the problem is written without them."""
        mapped = self.replicas is not None and not self.problem.broadcasts_replicas
        return (torch.vmap(closed_form) if mapped else closed_form)(self.phi)

    def true_gradient(self) -> Parameters:
        """grad Phi(phi_t): the problem's exact hypergradient, or the Newton reference."""
        if self.problem.has("hypergradient"):
            return self.over_replicas(self.problem.hypergradient)
        return self.reference().hypergradient

    @property
    def known_theta(self) -> Tensor | None:
        """The last theta* found, here or at an earlier snapshot."""
        return self.near if self._reference is None else self._reference.theta


@dataclass(frozen=True)
class Probe:
    """A named measurement, Snapshot -> (...) of the replica axes; `of_step` says that it needs the step taken."""

    name: str
    measure: Callable[[Snapshot], Tensor]
    of_step: bool = False


def grad_norm_sq(snapshot: Snapshot) -> Tensor:
    """|grad Phi(phi_t)|^2."""
    return _norm_sq(snapshot.true_gradient(), snapshot.replicas)


def value(snapshot: Snapshot) -> Tensor:
    """Phi(phi_t)."""
    if snapshot.problem.has("value"):
        return snapshot.over_replicas(snapshot.problem.value)
    return snapshot.reference().value


def gap(snapshot: Snapshot) -> Tensor:
    """Phi(phi_t) - Phi(phi*), for problems with a closed-form optimum."""
    return value(snapshot) - snapshot.problem.value(snapshot.problem.upper_solution())


def distance_sq(snapshot: Snapshot) -> Tensor:
    """|phi_t - phi*|^2, for problems with a closed-form optimum."""
    optimum = snapshot.problem.upper_solution()
    return _norm_sq({name: tensor - optimum[name] for name, tensor in snapshot.phi.items()}, snapshot.replicas)


def direction_norm_sq(snapshot: Snapshot) -> Tensor:
    """|d_t|^2 of the method's own direction: what a user without a reference can watch."""
    assert snapshot.step is not None
    return _norm_sq(snapshot.step.direction, snapshot.replicas)


def direction_error_sq(snapshot: Snapshot) -> Tensor:
    """|d_t - grad Phi(phi_t)|^2."""
    assert snapshot.step is not None
    true = snapshot.true_gradient()
    return _norm_sq({name: d - true[name] for name, d in snapshot.step.direction.items()}, snapshot.replicas)


def certified_direction_error(snapshot: Snapshot) -> Tensor:
    """A bound on |d_t - grad Phi_B(phi_t)| over the tasks of the batch, without theta*; not counted.

    What is certified of D(phi, theta, v), and |d - D|: zero for implicit directions of exact objectives, and what any
    other method adds, or noise.
    """
    step, tasks = snapshot.step, snapshot.tasks
    assert step is not None
    assert tasks is not None
    oracle = Oracle(snapshot.problem, replicas=snapshot.replicas)
    certified = certified_error(oracle, snapshot.phi, tasks, step.theta, step.v)
    D = oracle.hypergradient(oracle.embed(snapshot.phi, tasks), step.theta, step.v, tasks)
    apart = {name: d - D[name] for name, d in step.direction.items()}
    return certified + _norm_sq(apart, snapshot.replicas).sqrt()


PROBES = {
    probe.name: probe
    for probe in (
        Probe("grad_norm_sq", grad_norm_sq),
        Probe("value", value),
        Probe("gap", gap),
        Probe("distance_sq", distance_sq),
        Probe("direction_norm_sq", direction_norm_sq, of_step=True),
        Probe("direction_error_sq", direction_error_sq, of_step=True),
        Probe("certified_direction_error", certified_direction_error, of_step=True),
    )
}


def _norm_sq(parameters: Parameters, replicas: int | None) -> Tensor:
    lead = () if replicas is None else (replicas,)
    return torch.stack([tensor.square().reshape(*lead, -1).sum(-1) for tensor in parameters.values()]).sum(0)


def _stack(found: list[Reference]) -> Reference:
    return Reference(
        {name: torch.stack([each.hypergradient[name] for each in found]) for name in found[0].hypergradient},
        torch.stack([each.theta for each in found]),
        torch.stack([each.v for each in found]),
        torch.stack([each.value for each in found]),
    )
