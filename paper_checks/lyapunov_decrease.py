"""The Lyapunov function of the warm algorithm decreases in every step, on quadratic and on nonlinear lower levels.

Statement.
    With all tasks, theta and v warm, K, N >= 1: V_t = Phi(phi_t) - Phi* + beta (P a_t + Q b_t) satisfies
    V_{t+1} <= V_t - beta/2 |grad Phi(phi_t)|^2, hence sum_{t<T} |grad Phi(phi_t)|^2 <= 2 (V_0 - V_T) / beta. Lemma 2:
    the drift that a curved lower level allows is kept, for any K, N >= 1, by a small enough beta and an accurate start.
Hypotheses.
    0 < alpha < 2 / L, beta <= min(1 / (2 L_Phi), 1 / (2 sqrt(W))). Where d2g/dtheta2 varies (rho_2 > 0) also the drift
    condition: |phi_{t+1} - phi_t| + |theta_i^{t+1} - theta_i^t| <= s_bar = mu (1 - chi_N) / (chi_N rho_2), here with
    chi_hat = (1 + chi_N) / 2. Lemma 2 asks for |theta^0 - theta*_0| <= s_bar / 4 and a bounded grad_phi f.
Predicted.
    At the largest allowed beta no step violates the inequality by more than 1e-12 V_t; the ratio of the sum to its
    bound is <= 1; drift / s_bar <= 1. On quadratics of kappa = 10, 30, 100 and prox-logistic heads, all constants
    explicit, K and N down to 1. In the cells of Lemma 2 (no regulariser: grad_phi f = 0) beta and the first steps are
    the lemma's.
Measured.
    V by closed forms on quadratics, while V >= 1e-18; on the heads theta*, Phi and grad Phi by damped Newton, v* and
    the energy norm from dense Hessians, Phi* by BFGS on the reference, while V >= 1e-3 (Phi is rounded at 1e-16).
Refuted by.
    A violation above 1e-12 V_t, a ratio above 1, or a drift above s_bar: in a cell of Lemma 2 it refutes the lemma,
    in another one the cell would lie outside the theorem, and nothing may hold by not applying.
Source.
    docs/theory.md S2, Theorem 2 and Lemma 2. Exactness in the deterministic case is claim C3 of the paper; the
    function, its constants and the lemma are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from convergence import reference
from convergence import run as solve
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most
from paper_checks.lyapunov import (
    Array,
    Drift,
    Lyapunov,
    dense_system,
    drift_probe,
    potential,
    reference_potential,
    upper_minimum,
)
from paper_checks.planted import ColdDirection
from problems import Parameters, ProxLogistic, Quadratic, Tasks

PLANTED = "v started cold in every iteration of a method that is said to be warm"
QUADRATICS = [(kappa, K, N) for kappa in (10.0, 30.0, 100.0) for K, N in ((1, 1), (1, 3), (5, 2), (20, 4))]
FAMILIES = ("quadratic", "prox-logistic", "Lemma 2")
LEAST = (1e-18, 1e-3, 1e-3)  # V below which rounding decides, for each family


@dataclass(frozen=True)
class _Heads:
    """A cell of prox-logistic heads: the weaker the prox term beside the data, the larger kappa."""

    K: int
    N: int
    prox: float
    lemma: bool = False


HEADS = (_Heads(3, 3, 0.6), _Heads(3, 3, 0.2), _Heads(3, 3, 0.1), _Heads(1, 1, 4.0))
LEMMA = (_Heads(1, 1, 2.0, lemma=True), _Heads(2, 2, 0.6, lemma=True))


def run(setting: Setting) -> Evidence:
    """Every cell: V, |grad Phi|^2, the drift."""
    return _gather(setting, QUADRATICS, (*HEADS, *LEMMA))


def control(setting: Setting) -> Evidence:
    """One cell of each family with the planted error."""
    return _gather(replace(setting, method=ColdDirection), QUADRATICS[:2], HEADS[:1])


def judge(evidence: Evidence) -> list[Comparison]:
    """No violation, ratios, drift."""
    e = evidence
    cells = [f"{FAMILIES[int(family)]}, kappa {kappa:.3g}, K {K:.0f}, N {N:.0f}" for family, kappa, K, N in e["cells"]]
    runs = [
        (e[f"V_{k}"], e[f"grad_norm_sq_{k}"], beta, LEAST[int(e["cells"][k, 0])]) for k, beta in enumerate(e["beta"])
    ]
    curved = e["cells"][:, 0] > 0
    names = [cell for cell, own in zip(cells, curved, strict=True) if own]
    return [
        at_most(
            "largest (V_{t+1} - V_t + beta/2 |grad Phi_t|^2) / V_t", [_growth(*r) for r in runs], 1e-12, cells=cells
        ),
        at_most("sum |grad Phi|^2 / (2 (V_0 - V_T) / beta)", [_ratio(*r) for r in runs], 1.0, cells=cells),
        at_most("drift / s_bar", (e["drift"] / e["allowed_drift"])[curved], 1.0, cells=names),
        at_least("that drift, so that the lower level is curved", e["drift"][curved], 1e-6, cells=names),
    ]


def _judged(V: Array, least: float) -> int:
    """The number of iterations with V above rounding."""
    below = np.flatnonzero(least > V)
    return int(below[0]) if len(below) else len(V)


def _growth(V: Array, squares: Array, beta: float, least: float) -> float:
    """The largest growth of V beyond the theorem's decrease, relative to V."""
    n = _judged(V, least)
    return float(np.max((np.diff(V[:n]) + beta / 2 * squares[: n - 1]) / V[: n - 1]))


def _ratio(V: Array, squares: Array, beta: float, least: float) -> float:
    """The sum of squares over its bound, at the last iteration that is judged."""
    n = _judged(V, least)
    return float(squares[: n - 1].sum() * beta / (2 * (V[0] - V[n - 1])))


def _gather(setting: Setting, quadratics: list[tuple[float, int, int]], heads: tuple[_Heads, ...]) -> Evidence:
    rows: list[tuple[float, ...]] = []
    evidence: Evidence = {}
    for k, cell in enumerate(setting.track([*quadratics, *heads], "warm runs")):
        found = _heads(setting, cell) if isinstance(cell, _Heads) else _quadratic(setting, *cell)
        row, evidence[f"V_{k}"], evidence[f"grad_norm_sq_{k}"] = found
        rows.append(row)
    table = np.array(rows)
    return evidence | {"cells": table[:, :4], "beta": table[:, 4], "drift": table[:, 5], "allowed_drift": table[:, 6]}


Cell = tuple[tuple[float, ...], Array, Array]  # family, kappa, K, N, beta, drift, s_bar; V; |grad Phi|^2


def _quadratic(setting: Setting, kappa: float, K: int, N: int) -> Cell:
    problem = Quadratic.random(tasks=5, p=3, q=4, kappa=kappa, seed=setting.seed + 1)
    constants = problem.constants
    lyapunov = Lyapunov.of(
        constants,
        lower_steps=K,
        cg_steps=N,
        lower_step_size=constants.lower_step_size,
        exact_v=problem.q <= N,
        theta_alone=True,
    )
    beta = lyapunov.largest_step
    method = setting.method(lower_steps=K, cg_steps=N, upper_step_size=beta, warm_start=True)
    trace = solve(
        problem,
        method,
        iterations=setting.pick(400, 10000),
        seed=setting.seed,
        probes=("grad_norm_sq", potential(problem.to(setting.device), beta, lyapunov)),
        device=setting.device,
    ).trace
    return (0, kappa, K, N, beta, 0.0, lyapunov.drift), trace["V"].numpy(), trace["grad_norm_sq"].numpy()


def _heads(setting: Setting, cell: _Heads) -> Cell:
    problem = _Started.random(
        tasks=4, q=3, examples=12, prox=cell.prox, regulariser=0.0 if cell.lemma else 0.1, seed=setting.seed
    )
    constants, phi = problem.constants, problem.phi0(generator(setting.seed, "start"))
    steps = {"lower_steps": cell.K, "cg_steps": cell.N, "lower_step_size": constants.lower_step_size}
    lyapunov = Lyapunov.of(constants, **steps)
    beta = lyapunov.largest_step
    if cell.lemma:
        beta = min(beta, _prepare(problem, phi, steps))
    method = setting.method(**steps, upper_step_size=beta, warm_start=True)
    minimum = upper_minimum(problem, phi)
    trace = solve(
        problem,
        method,
        iterations=setting.pick(25, 400),
        seed=setting.seed,
        probes=("grad_norm_sq", reference_potential(problem, minimum, beta, lyapunov), drift_probe()),
        device=setting.device,
    ).trace
    family = 2 if cell.lemma else 1
    row = (family, constants.kappa, cell.K, cell.N, beta, float(trace["drift"].max()), lyapunov.drift)
    return row, trace["V"].numpy(), trace["grad_norm_sq"].numpy()


class _Started(ProxLogistic):
    """Heads whose cold start is `first_steps` lower steps from 0: the accurate start that Lemma 2 pays for once."""

    first_steps = 0

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta after the first steps."""
        theta = super().theta0(phi, tasks)
        for _ in range(self.first_steps):
            slope = torch.func.grad(lambda x: self.lower(phi, x, tasks).sum())(theta)
            theta = theta - self.constants.lower_step_size * slope
        return theta


def _prepare(problem: _Started, phi: Parameters, steps: dict[str, float]) -> float:
    """Give the problem the first steps of Lemma 2; the lemma's largest beta."""
    pool = problem.sample(None, torch.Generator())
    star = reference(problem, phi, pool).theta
    drift = Drift.of(problem.constants, **steps, slope=0.0, distance=float(star.norm(dim=-1).max()), v_error=0.0)
    problem.first_steps = drift.first_steps
    # v^0 is what N CG steps make of v = 0 at theta^0: at most |v*|_A <= |b| / sqrt(mu) of the first system
    _, slope = dense_system(problem, phi, problem.theta0(phi, pool), pool)
    v_error = float(slope.norm(dim=-1).max()) / problem.constants.mu**0.5
    return Drift.of(problem.constants, **steps, slope=0.0, distance=1.0, v_error=v_error).largest_step
