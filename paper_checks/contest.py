"""Methods given the same problem, the same budget of oracle evaluations and the same grid of step sizes."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from convergence import Method, Oracle, Result, Step
from convergence import run as solve
from convergence.needs import Need, require
from convergence.probes import Probe
from paper_checks.claim import Array
from problems import Parameters, Problem, Tasks, map_parameters

Make = Callable[..., Method]
_TRIAL = 20  # iterations by which the evaluations and the seconds of one are measured
_LOOKS = 6  # at a run whose step size is judged
_SETTLED = 1e-20  # a squared gradient norm below which step sizes are not told apart by it


@dataclass(frozen=True)
class Arena:
    """A problem as every method gets it.

    lower_steps, steps_for_v   K of all methods that have lower steps; N of all that approximate v: products with the
                               lower Hessian (one more where v is warm)
    step_size                  of theta and v, None: 2 / (L + mu) of the constants
    scale                      1 / |d2 Phi(phi_0)|: what upper step sizes are multiples of
    budget                     evaluations of one example's gradient, HVP or cross product
    points                     at which a run is looked at, at most, from its start to its end
    best                       the smallest value of Phi known
    probes                     what is looked at beside |grad Phi|^2 and Phi
    judged_by                  the probe whose end says which upper step is best: where the weights of examples run off
                               to infinity |grad Phi| falls whatever becomes of Phi
    """

    name: str
    problem: Problem
    lower_steps: int
    steps_for_v: int
    budget: int
    points: int
    scale: float
    best: float
    step_size: float | None = None
    probes: tuple[Probe, ...] = ()
    judged_by: str = "grad_norm_sq"

    def build(self, make: Make, share: float) -> Method:
        """The method with the upper step share x scale, and of the arena's other choices those that it has."""
        offered = {
            "lower_steps": self.lower_steps,
            "cg_steps": self.steps_for_v,
            "terms": self.steps_for_v + 1,
            "lower_step_size": self.step_size,
            "linear_step_size": self.step_size,
            "upper_step_size": share * self.scale,
            "size": getattr(self.problem, "q", None),
        }
        has = inspect.signature(make).parameters
        return make(**{name: value for name, value in offered.items() if name in has})

    def refusal(self, make: Make) -> str:
        """Why the problem is not for this method, in one sentence; "" where it is."""
        try:
            require(self.build(make, 1.0), self.problem)
        except ValueError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class Metered:
    """A method whose evaluations are noted before each step, and whose replicas may step at different sizes.

    factors   (R,): replica r goes so many times as far as the method would; None: as far
    spent     what had been evaluated when each iteration began
    clock     when that was, in seconds
    """

    method: Any
    factors: Tensor | None = None
    spent: list[int] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)

    @property
    def needs(self) -> tuple[Need, ...]:
        """Those of the method."""
        return tuple(getattr(self.method, "needs", ()))

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        """That of the method."""
        return self.method.start(oracle, phi)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        """That of the method, the way it moves phi times the factor."""
        self.spent.append(sum(oracle.examples.values()))
        self.clock.append(time.perf_counter())
        step: Step = self.method.step(oracle, phi, tasks, state)
        if self.factors is None:
            return step
        return step._replace(phi=map_parameters(self._scaled, phi, step.phi))

    def declared_calls(self, batch: int) -> dict[str, int]:
        """Those of the method."""
        return dict(self.method.declared_calls(batch))

    def _scaled(self, old: Tensor, new: Tensor) -> Tensor:
        assert self.factors is not None
        return old + self.factors.to(old).reshape(-1, *(1,) * (old.dim() - 1)) * (new - old)


@dataclass(frozen=True)
class Race:
    """One method's runs: what was looked at, (looks, replicas), after so many evaluations, (looks,)."""

    evaluations: Array
    traces: dict[str, Array]
    result: Result
    declared: dict[str, int]


def race(
    arena: Arena,
    method: Method,
    iterations: int,
    *,
    seed: int,
    replicas: int,
    device: str,
    factors: Tensor | None = None,
    points: int | None = None,
) -> Race:
    """`iterations` or a few less, so that the last iterate is looked at. What a failed replica would show is inf."""
    every = math.ceil((iterations - 1) / ((points or arena.points) - 1))
    total = (iterations - 1) // every * every + 1
    metered = Metered(method, factors)
    result = solve(
        arena.problem,
        metered,
        iterations=total,
        seed=seed,
        replicas=replicas,
        probes=("grad_norm_sq", "value", *arena.probes),
        probe_every=every,
        device=device,
        raise_on_failure=False,
    )
    looks = (total - 1) // every + 1
    spent = np.array(metered.spent[::every], float)
    # A run that failed, or left what Newton can solve, is as far off as can be from there on; where all did, the
    # traces end there
    traces = {
        name: _filled(np.nan_to_num(values.numpy(), nan=np.inf, posinf=np.inf), looks, np.inf)
        for name, values in result.trace.items()
    }
    spent = _filled(spent, looks, spent[-1])
    return Race(spent, traces, result, declared(method, arena.problem.tasks or 1, len(metered.spent)))


def _filled(values: Array, looks: int, by: float) -> Array:
    missing = looks - len(values)
    return np.concatenate([values, np.full((missing, *values.shape[1:]), by)])


def declared(method: Any, batch: int, iterations: int) -> dict[str, int]:
    """Calls that the method declares for so many iterations; some declare them iteration by iteration."""
    if "iteration" not in inspect.signature(method.declared_calls).parameters:
        return {name: iterations * count for name, count in method.declared_calls(batch).items()}
    each = [method.declared_calls(batch, iteration=t) for t in range(iterations)]
    return {name: sum(calls[name] for calls in each) for name in each[0]}


def trial(arena: Arena, method: Method, *, seed: int, device: str) -> tuple[float, float]:
    """Evaluations and seconds of one iteration in one replica.

    The mean of the first few, and the least, which other work on the machine disturbs least.
    """
    metered = Metered(method)
    result = solve(
        arena.problem, metered, iterations=_TRIAL, seed=seed, probes=(), device=device, raise_on_failure=False
    )
    return sum(result.examples.values()) / _TRIAL, float(np.diff(metered.clock).min())


def tuned(
    arena: Arena, make: Make, iterations: int, grid: Sequence[float], *, seed: int, seeds: int, device: str
) -> tuple[int, Array]:
    """The place of the best upper step in the grid, and |grad Phi|^2 along all runs, (points, grid, seeds).

    Best is the smallest median at the end of what the arena is judged by; a step at which a run fails is not taken.
    Of several that end below 1e-20 the first to get there is. All steps run as replicas of one computation.
    """
    found = race(
        arena,
        arena.build(make, 1.0),
        iterations,
        seed=seed,
        replicas=len(grid) * seeds,
        device=device,
        factors=torch.tensor(grid, dtype=torch.float64).repeat_interleave(seeds),
        points=_LOOKS,
    )
    traces = {name: values.reshape(len(values), len(grid), seeds) for name, values in found.traces.items()}
    score = np.median(traces[arena.judged_by], axis=-1)
    score[:, ~np.isfinite(traces[arena.judged_by][-1]).all(-1)] = np.inf
    score = np.maximum(score, _SETTLED)  # (points, grid)
    first = (score <= score[-1]).argmax(0)
    return int(np.lexsort((first, score[-1]))[0]), traces["grad_norm_sq"]


# ---- what an arena is made of


def steepest(problem: Problem, phi: Parameters) -> float:
    """|d2 Phi(phi)|, by Lanczos on central differences of the exact gradient; phi is one named tensor or several."""
    names = list(phi)
    flat = torch.cat([phi[name].flatten() for name in names])
    size = 1e-4 * (1 + float(flat.norm()))

    def along(direction: Array) -> Array:
        unit = torch.as_tensor(direction.ravel() / np.linalg.norm(direction)).to(flat)
        ends = [_gradient(problem, phi, flat + sign * size * unit) for sign in (1, -1)]
        return np.asarray(np.linalg.norm(direction) * (ends[0] - ends[1]) / (2 * size))

    if len(flat) == 1:
        return float(np.abs(along(np.ones(1)))[0])
    operator = LinearOperator((len(flat), len(flat)), matvec=along, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(len(flat))
    return float(np.abs(eigsh(operator, k=1, which="LM", tol=1e-2, v0=start, return_eigenvectors=False))[0])


def smallest(problem: Problem, phi: Parameters, *, steps: int = 500) -> float:
    """The smallest Phi that scipy's L-BFGS finds from phi on the exact gradient."""

    def value_and_slope(x: Array) -> tuple[float, Array]:
        at = _parameters(phi, torch.as_tensor(x))
        return float(problem.value(at)), _gradient(problem, phi, torch.as_tensor(x))

    flat = torch.cat([tensor.flatten() for tensor in phi.values()]).double().cpu().numpy()
    options = {"maxiter": steps, "gtol": 1e-13, "ftol": 0.0, "maxcor": 30}
    return float(minimize(value_and_slope, flat, jac=True, method="L-BFGS-B", options=options).fun)


def _gradient(problem: Problem, like: Parameters, flat: Tensor) -> Array:
    slopes = problem.hypergradient(_parameters(like, flat))
    return np.asarray(torch.cat([slopes[name].flatten() for name in like]).double().cpu().numpy())


def _parameters(like: Parameters, flat: Tensor) -> Parameters:
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {name: part.view(x.shape).to(x) for (name, x), part in zip(like.items(), parts, strict=True)}


def iterations_for(arena: Arena, evaluations: float) -> int:
    """So many iterations of this cost as the budget allows; two at least, so that there is a way gone."""
    return max(2, math.floor(arena.budget / evaluations))
