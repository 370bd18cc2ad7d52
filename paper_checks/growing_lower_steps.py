"""A cold start is exact again where the lower steps grow like log t.

Statement.
    If |d_t - grad Phi(phi_t)| <= delta_t and beta <= 1 / L_Phi, then sum_{t<T} |grad Phi(phi_t)|^2 <= 2 Delta / beta +
    sum_{t<T} delta_t^2. Cold, with K_t = ceil(log(t+2) / log(1/varrho)) lower and N_t = ceil(log(t+2) / log(1/r)) CG
    steps, delta_t is of order 1 / t: the sum stays finite for T -> infinity, at an inner cost of order log t an
    iteration, and no floor is left.
Hypotheses.
    All tasks; quadratic levels; alpha = 1 / L, so that varrho = 1 - 1 / kappa; r = (sqrt(kappa) - 1) / (sqrt(kappa) +
    1). For the exponent q = 2: one mode of the lower level is slow, the other exact.
Predicted.
    (1) With exact v, phi' = phi - beta (H_K phi - h_K) with K = K_t: |grad Phi(phi_t)|^2 by that recursion; with N_t CG
    steps by the recursion with scipy's CG. (2) Where a value of K_t ends, varrho^K = 1 / (t + 2) up to rounding of t,
    and |grad Phi|^2 is the floor of that K, C varrho^(2K) (1 + O(varrho^K)): slope -2 over these ends. (3) |d_t - grad
    Phi| <= delta_t = mean_i [|J_i'Q_i| |theta_0 - theta_i*| varrho^K + |C_i| |grad_theta f_i| / mu 2 sqrt(kappa) r^N]
    of Theorem 1, and the bound on the sum. (4) Oracle calls M sum K_t and M sum N_t. (5) A fixed K stops at its floor.
Measured.
    |grad Phi|^2 and d - grad Phi along runs, slope by least squares over the ends of K_t from t = 30 on.
Refuted by.
    |grad Phi|^2 off its recursion by 1e-8 relative at any t, a slope off -2 by 0.02, an error or a sum above its bound,
    a wrong count, the floor of the fixed K off by 1e-8.
Source.
    docs/theory.md S1, Theorem 1, and S3, Theorem 3. The schedule is not the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.linalg import cg

from convergence import Oracle, State, Step
from convergence import run as solve
from convergence.rates import log_log_slope
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Setting, at_most, equal
from paper_checks.quadratic_theory import Array, QuadraticTheory
from problems import Parameters, Quadratic, Tasks

PLANTED = "K and N said to grow, and kept at their values of t = 10"
FIXED = 5  # lower steps of the run that stops at a floor
SETTLED = 30  # from here on the slope is measured
FAMILIES = ("exact v", "growing N")


@dataclass(frozen=True)
class Schedule:
    """K_t and N_t as functions of t, for contraction factors varrho and r; N_t = q where v is to be exact."""

    varrho: float
    r: float | None
    q: int

    def at(self, t: int) -> tuple[int, int]:
        """K_t = ceil(log(t + 2) / log(1 / varrho)) and N_t alike."""
        K = math.ceil(math.log(t + 2) / -math.log(self.varrho))
        return K, self.q if self.r is None else math.ceil(math.log(t + 2) / -math.log(self.r))


@dataclass(frozen=True)
class Growing:
    """A method made anew in every iteration: `make(K, N)` with K and N of `steps(t)`, cold."""

    make: Callable[[int, int], Any]
    steps: Callable[[int], tuple[int, int]]

    def start(self, oracle: Oracle, phi: Parameters) -> int:
        """t = 0."""
        return 0

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: int) -> Step:
        """The iteration t, which the state counts."""
        step = self.make(*self.steps(state)).step(oracle, phi, tasks, State(None, None))
        return step._replace(state=state + 1)


def run(setting: Setting) -> Evidence:
    """Both families with growing steps, and the fixed K."""
    return _gather(setting, lambda schedule: schedule.at)


def control(setting: Setting) -> Evidence:
    """The same, with steps that stay where they are at t = 10."""
    return _gather(setting, lambda schedule: lambda t: schedule.at(min(t, 10)))


def judge(evidence: Evidence) -> list[Comparison]:
    """The recursion attained, slope -2, errors and sums within their bounds, counts, the floor of the fixed K."""
    e = evidence
    K, squares = e["K_0"], e["grad_norm_sq_0"]
    last = np.flatnonzero(np.diff(K) > 0)  # of each value of K_t
    last = last[last >= SETTLED]
    slope = log_log_slope(last + 2, squares[last]).value
    comparisons = [equal("slope of |grad Phi_t|^2 in t + 2", slope, -2.0, absolute=0.02)]
    for k, name in enumerate(FAMILIES):
        squares, delta, error = e[f"grad_norm_sq_{k}"], e[f"delta_{k}"], e[f"error_{k}"]
        bound = e["first"][k] + np.cumsum(delta**2)
        comparisons += [
            equal(f"|grad Phi_t|^2, recursion, {name}", squares, e[f"law_{k}"], relative=1e-8),
            at_most(f"|d_t - grad Phi_t| / its bound, {name}", (error - 1e-12) / delta, 1.0),
            at_most(f"sum of |grad Phi|^2 / its bound, {name}", np.cumsum(squares) / bound, 1.0),
            equal(f"lower gradients and HVPs, {name}", e[f"calls_{k}"], e[f"calls_law_{k}"]),
        ]
    floor = equal(f"floor of |grad Phi|^2 with K = {FIXED}", e["fixed"][-1], e["fixed_law"], relative=1e-8)
    return [*comparisons, floor]


def _gather(setting: Setting, steps: Callable[[Schedule], Callable[[int], tuple[int, int]]]) -> Evidence:
    evidence: Evidence = {}
    first = []
    sizes = ({"q": 2, "tasks": 6, "kappa": 4.0}, {"q": 12, "tasks": 3, "kappa": 10.0})
    horizons = setting.pick((1000, 200), (10000, 2000))
    families = list(zip(sizes, horizons, strict=True))
    for k, (size, horizon) in enumerate(setting.track(families, "growing steps")):
        problem = Quadratic.random(p=2, seed=setting.seed + 17, **size)
        found, start = _family(setting, problem, horizon, exact_v=k == 0, steps=steps)
        evidence |= {f"{name}_{k}": values for name, values in found.items()}
        first.append(start)
        if k == 0:
            evidence |= _fixed(setting, problem, min(horizon, 1000))
    return evidence | {"first": np.array(first)}


def _family(
    setting: Setting,
    problem: Quadratic,
    horizon: int,
    *,
    exact_v: bool,
    steps: Callable[[Schedule], Callable[[int], tuple[int, int]]],
) -> tuple[Evidence, float]:
    """The traces of one run beside the recursion, and 2 Delta / beta."""
    constants = problem.constants
    alpha, beta = 1 / constants.L, 1 / constants.L_Phi
    root = math.sqrt(constants.kappa)
    schedule = Schedule(constants.lower_contraction(alpha), None if exact_v else (root - 1) / (root + 1), problem.q)
    method = Growing(_maker(setting, alpha, beta), steps(schedule))
    result = solve(
        problem,
        method,
        iterations=horizon,
        probes=("grad_norm_sq", "direction_error_sq"),
        seed=setting.seed,
        device=setting.device,
    )
    phi_0 = problem.phi0(generator(setting.seed, "start"))["phi"]
    law, delta = _recursion(problem, phi_0.numpy(), schedule, horizon, exact_v=exact_v)
    K, N = np.array([schedule.at(t) for t in range(horizon)]).T
    found = {
        "K": K,
        "grad_norm_sq": result.trace["grad_norm_sq"].numpy(),
        "law": law,
        "error": result.trace["direction_error_sq"].sqrt().numpy(),
        "delta": delta,
        "calls": np.array([result.calls["lower_gradient"], result.calls["hvp"]]),
        "calls_law": problem.tasks * np.array([K.sum(), N.sum()]),
    }
    gap = problem.value({"phi": phi_0}) - problem.value(problem.upper_solution())
    return found, 2 * float(gap) / beta


def _maker(setting: Setting, alpha: float, beta: float) -> Callable[[int, int], Any]:
    return lambda K, N: setting.method(
        lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=beta, warm_start=False
    )


def _recursion(
    problem: Quadratic, phi: Array, schedule: Schedule, horizon: int, *, exact_v: bool
) -> tuple[Array, Array]:
    """|grad Phi(phi_t)|^2 and delta_t of Theorem 1, theta_K by eigenvalues, v by a direct solve or scipy's CG."""
    theory, constants = QuadraticTheory.of(problem), problem.constants
    alpha, beta, kappa = 1 / constants.L, 1 / constants.L_Phi, constants.kappa
    r = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    eigenvalues, vectors = np.linalg.eigh(theory.A)
    coupling = np.linalg.norm(np.swapaxes(theory.J, 1, 2) @ theory.Q, 2, axis=(1, 2))
    size = np.linalg.norm(theory.C, 2, axis=(1, 2)) / constants.mu
    inverse = np.linalg.inv(theory.A)
    squares, deltas = np.empty(horizon), np.empty(horizon)
    for t in range(horizon):
        K, N = schedule.at(t)
        optimum = theory.lower_optimum(phi)
        modes = np.einsum("mji,mj->mi", vectors, theory.start - optimum) * (1 - alpha * eigenvalues) ** K
        b = np.einsum("mij,mj->mi", theory.Q, optimum + np.einsum("mij,mj->mi", vectors, modes) - theory.u)
        v = np.einsum("mij,mj->mi", inverse, b)
        delta = coupling * np.linalg.norm(theory.start - optimum, axis=1) * schedule.varrho**K
        if not exact_v:
            v = np.stack([cg(A, right, rtol=0.0, atol=0.0, maxiter=N)[0] for A, right in zip(theory.A, b, strict=True)])
            delta = delta + size * np.linalg.norm(b, axis=1) * 2 * math.sqrt(kappa) * r**N
        squares[t], deltas[t] = np.square(theory.gradient(phi)).sum(), delta.mean()
        d = np.einsum("mij,mj->mi", theory.R, phi - theory.w) + np.einsum("mji,mj->mi", theory.C, v)
        phi = phi - beta * d.mean(0)
    return squares, deltas


def _fixed(setting: Setting, problem: Quadratic, horizon: int) -> Evidence:
    """The run with K = FIXED, and its floor by S3a."""
    alpha, beta = 1 / problem.constants.L, 1 / problem.constants.L_Phi
    method = _maker(setting, alpha, beta)(FIXED, problem.q)
    result = solve(problem, method, iterations=horizon, seed=setting.seed, device=setting.device)
    theory = QuadraticTheory.of(problem)
    law = np.square(theory.gradient(theory.cold_fixed_point(FIXED, alpha)[0])).sum()
    return {"fixed": result.trace["grad_norm_sq"].numpy(), "fixed_law": np.array(law)}
