"""What is measured along a run. Probes are not counted and share no code with the methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convergence.memory_reduced import Step
from convergence.reference import Reference, reference
from problems import Parameters, Problem, Tasks


@dataclass
class Snapshot:
    """phi_t, and the step taken from it (None while a probe of phi alone is evaluated).

    `replicas` is None or R: then tensors of phi have a leading axis R.
    """

    problem: Problem
    pool: Tasks | None
    replicas: int | None
    iteration: int
    phi: Parameters
    step: Step | None = None
    near: Tensor | None = None  # theta* at the snapshot before: where Newton starts
    _reference: Reference | None = None

    def reference(self) -> Reference:
        """theta*, v*, Phi and grad Phi by damped Newton and direct solves, once an iteration; leading axes of phi."""
        if self._reference is None:
            if self.pool is None:
                raise ValueError(
                    f"expected a finite pool of tasks for the true gradient, got {type(self.problem).__name__}, "
                    "which draws tasks without end: run it with probes=()"
                )
            if self.replicas is None:
                self._reference = reference(self.problem, self.phi, self.pool, start=self.near)
            else:
                starts = [None] * self.replicas if self.near is None else list(self.near)
                runs = [{name: tensor[r] for name, tensor in self.phi.items()} for r in range(self.replicas)]
                found = [
                    reference(self.problem, phi, self.pool, start=start)
                    for phi, start in zip(runs, starts, strict=True)
                ]
                self._reference = Reference(
                    {name: torch.stack([each.hypergradient[name] for each in found]) for name in self.phi},
                    torch.stack([each.theta for each in found]),
                    torch.stack([each.v for each in found]),
                    torch.stack([each.value for each in found]),
                )
        return self._reference

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
    """|grad Phi(phi_t)|^2, from the problem's exact hypergradient or the Newton reference."""
    if snapshot.problem.has("hypergradient"):
        return _norm_sq(snapshot.problem.hypergradient(snapshot.phi), snapshot.replicas)
    return _norm_sq(snapshot.reference().hypergradient, snapshot.replicas)


def value(snapshot: Snapshot) -> Tensor:
    """Phi(phi_t)."""
    return snapshot.problem.value(snapshot.phi) if snapshot.problem.has("value") else snapshot.reference().value


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
    if snapshot.problem.has("hypergradient"):
        true = snapshot.problem.hypergradient(snapshot.phi)
    else:
        true = snapshot.reference().hypergradient
    return _norm_sq({name: d - true[name] for name, d in snapshot.step.direction.items()}, snapshot.replicas)


PROBES = {
    probe.name: probe
    for probe in (
        Probe("grad_norm_sq", grad_norm_sq),
        Probe("value", value),
        Probe("gap", gap),
        Probe("distance_sq", distance_sq),
        Probe("direction_norm_sq", direction_norm_sq, of_step=True),
        Probe("direction_error_sq", direction_error_sq, of_step=True),
    )
}


def _norm_sq(parameters: Parameters, replicas: int | None) -> Tensor:
    squares = [tensor.square().flatten(0 if replicas is None else 1).sum(-1) for tensor in parameters.values()]
    return torch.stack(squares).sum(0)
