"""The Lyapunov function of the warm algorithm decreases in every step, on quadratic and on nonlinear lower levels.

Statement.
    With all tasks, theta and v warm, K, N >= 1: V_t = Phi(phi_t) - Phi* + beta (P a_t + Q b_t) satisfies
    V_{t+1} <= V_t - beta/2 |grad Phi(phi_t)|^2, hence sum_{t<T} |grad Phi(phi_t)|^2 <= 2 (V_0 - V_T) / beta. Lemma 2:
    the drift that a curved lower level allows is kept, for any K, N >= 1, by a small enough beta and an accurate start.
Hypotheses.
    0 < alpha < 2 / L, beta <= min(1 / (2 L_Phi), 1 / (2 sqrt(W))). Where d2g/dtheta2 varies (rho_2 > 0) also the drift
    condition: |phi_{t+1} - phi_t| + |theta_i^{t+1} - theta_i^t| <= s_bar = mu (1 - chi_N) / (chi_N rho_2), here with
    chi_hat = (1 + chi_N) / 2. Lemma 2 asks for |theta^0 - theta*_0| <= s_bar / 4, |grad_phi f| <= slope, and
    beta D_bar (1 + 2 tau + 2 varrho^K tau / (1 - varrho^K)) <= s_bar / 2.
Predicted.
    At the largest allowed beta no step violates the inequality by more than 1e-12 V_t; the ratio of the sum to its
    bound is <= 1; drift / s_bar <= 1. On quadratics of kappa = 10, 30, 100 and prox-logistic heads, all constants
    explicit, K and N down to 1. In the cells of Lemma 2 beta and the first steps are the lemma's, and its induction is
    kept: |d| <= D_bar, the error of v <= E_bar in the energy norm, that of theta <= s_bar / 4. There beta is smaller
    than the theorem's, and the start needs more than its K lower steps, so that it is the lemma that is judged.
Measured.
    V by closed forms on quadratics, while V >= 1e-18; on the heads theta*, Phi and grad Phi by damped Newton, v* and
    the energy norm from dense Hessians, Phi* by BFGS on the reference, while V >= 1e-3 (Phi is rounded at 1e-16).
    Lemma 2 on heads of kappa = 2 far from their optimum, where the logistic loss is flat and the lower level contracts
    by varrho itself; theta starts behind theta*, against the way of phi. Once grad_phi f = 0, with validation inputs
    that are small beside the training ones; else f pulls phi with a slope 30 times what the heads add to D_bar: |d| is
    then near D_bar, and 2.5 times the lemma's beta breaks the drift condition.
Refuted by.
    A violation above 1e-12 V_t, a ratio above 1, or a drift above s_bar: in a cell of Lemma 2 it refutes the lemma,
    in another one the cell would lie outside the theorem, and nothing may hold by not applying: s_bar is finite, and
    the drift at least LEAST_DRIFT of it.
Source.
    docs/theory.md S2, Theorem 2 and Lemma 2. Exactness in the deterministic case is claim C3 of the paper; the
    function, its constants and the lemma are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convergence import Probe
from convergence import run as solve
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most
from paper_checks.far_heads import FarStart
from paper_checks.lyapunov import (
    Array,
    Lyapunov,
    drift_probe,
    error_probes,
    potential,
    reference_potential,
    upper_minimum,
)
from paper_checks.planted import ColdDirection
from problems import Parameters, Problem, ProxLogistic, Quadratic, map_parameters

PLANTED = "v started cold in every iteration of a method that is said to be warm"
QUADRATICS = [(kappa, K, N) for kappa in (10.0, 30.0, 100.0) for K, N in ((1, 1), (1, 3), (5, 2), (20, 4))]
FAMILIES = ("quadratic", "prox-logistic", "Lemma 2")
LEAST = (1e-18, 1e-3, 1e-3)  # V below which rounding decides, for each family
LEAST_DRIFT = (0.0, 1e-3, 0.05)  # share of s_bar from which the curvature of the lower level counts, for each family
BEYOND = 2.5  # times the lemma's beta, which breaks the drift condition under a strong pull


@dataclass(frozen=True)
class _Heads:
    """A cell of prox-logistic heads: the weaker the prox term beside the data, the larger kappa."""

    K: int
    N: int
    prox: float


@dataclass(frozen=True)
class _Far:
    """A cell of Lemma 2: heads of kappa = 2 far away; f pulls phi with `pull` times what the heads add to D_bar."""

    K: int
    N: int
    pull: float


HEADS = (_Heads(3, 1, 0.6), _Heads(3, 3, 0.2), _Heads(3, 3, 0.1), _Heads(1, 1, 4.0))
LEMMA = (_Far(1, 1, 0.0), _Far(5, 1, 30.0), _Far(3, 2, 30.0))


def run(setting: Setting) -> Evidence:
    """Every cell: V, |grad Phi|^2, the drift; in those of Lemma 2 what its induction keeps."""
    return _gather(setting, QUADRATICS, HEADS, LEMMA)


def control(setting: Setting) -> Evidence:
    """A quadratic whose floor is soon reached and a cell of Lemma 2, with the planted error."""
    return _gather(replace(setting, method=ColdDirection), [(10.0, 5, 2)], (), LEMMA[1:2])


def judge(evidence: Evidence) -> list[Comparison]:
    """No violation, ratios, drift."""
    e = evidence
    cells = [f"{FAMILIES[int(family)]}, kappa {kappa:.3g}, K {K:.0f}, N {N:.0f}" for family, kappa, K, N in e["cells"]]
    runs = [
        (e[f"V_{k}"], e[f"grad_norm_sq_{k}"], beta, LEAST[int(e["cells"][k, 0])]) for k, beta in enumerate(e["beta"])
    ]
    family = e["cells"][:, 0].astype(int)
    curved, lemma = family > 0, [cell for cell, code in zip(cells, family, strict=True) if code == 2]
    names = [cell for cell, own in zip(cells, curved, strict=True) if own]
    # An infinite s_bar would let the theorem's drift condition hold by not applying: not a number is never in order
    share = np.where(np.isfinite(e["allowed_drift"]), e["drift"] / e["allowed_drift"], np.nan)[curved]
    beyond = e["pull"] > 0
    return [
        at_most(
            "largest (V_{t+1} - V_t + beta/2 |grad Phi_t|^2) / V_t", [_growth(*r) for r in runs], 1e-12, cells=cells
        ),
        at_most("sum |grad Phi|^2 / (2 (V_0 - V_T) / beta)", [_ratio(*r) for r in runs], 1.0, cells=cells),
        at_most("drift / s_bar", share, 1.0, cells=names),
        at_least("that share, so that the curvature counts", share, np.array(LEAST_DRIFT)[family[curved]], cells=names),
        at_most("Lemma 2: |d| / D_bar", e["direction"], 1.0, cells=lemma),
        at_most("Lemma 2: error of v / E_bar", e["v_error"], 1.0, cells=lemma),
        at_most("Lemma 2: error of theta / (s_bar / 4)", e["theta_error"], 1.0, cells=lemma),
        at_most(
            "Lemma 2: its beta / the theorem's, so that it binds", e["lemma_beta"] / e["theorem_beta"], 1, cells=lemma
        ),
        at_least(
            "Lemma 2: first steps beyond K, so that the start binds",
            e["first_steps"] - e["cells"][family == 2, 2],
            1,
            cells=lemma,
        ),
        at_least(
            f"Lemma 2: drift / s_bar at {BEYOND:g} times its beta",
            e["drift_beyond"][beyond],
            1.0,
            cells=[cell for cell, own in zip(lemma, beyond, strict=True) if own],
        ),
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


def _gather(
    setting: Setting,
    quadratics: list[tuple[float, int, int]],
    heads: tuple[_Heads, ...],
    lemma: tuple[_Far, ...],
) -> Evidence:
    cells = [
        *(partial(_quadratic, setting, *cell) for cell in quadratics),
        *(partial(_heads, setting, cell) for cell in heads),
        *(partial(_far, setting, cell) for cell in lemma),
    ]
    found = [setting.kept(measure) for measure in setting.track(cells, "warm runs")]
    evidence: Evidence = {}
    for k, each in enumerate(found):
        evidence |= {f"V_{k}": each.pop("V"), f"grad_norm_sq_{k}": each.pop("grad_norm_sq")}
    # The last cell is one of Lemma 2, which alone have all the names
    return evidence | {name: np.array([each[name] for each in found if name in each]) for name in found[-1]}


Cell = dict[str, Any]  # "cells": family, kappa, K, N; V, |grad Phi|^2, and what the evidence names besides


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
        iterations=setting.pick(100, 10000),
        seed=setting.seed,
        probes=("grad_norm_sq", potential(problem.to(setting.device), beta, lyapunov)),
        device=setting.device,
    ).trace
    return _cell((0, kappa, K, N), trace, beta=beta, drift=0.0, allowed_drift=lyapunov.drift)


def _cell(cell: tuple[float, ...], trace: dict[str, Tensor], **rest: float) -> Cell:
    traces = {name: trace[name].numpy() for name in ("V", "grad_norm_sq")}
    return {"cells": cell, **traces, **rest}


def _heads(setting: Setting, cell: _Heads) -> Cell:
    problem = ProxLogistic.random(tasks=4, q=3, examples=12, prox=cell.prox, seed=setting.seed)
    constants, phi = problem.constants, problem.phi0(generator(setting.seed, "start"))
    steps = {"lower_steps": cell.K, "cg_steps": cell.N, "lower_step_size": constants.lower_step_size}
    lyapunov = Lyapunov.of(constants, **steps)
    beta = lyapunov.largest_step
    trace = _curved(setting, problem, phi, steps, lyapunov, beta)
    drift = float(trace["drift"].max())
    return _cell((1, constants.kappa, cell.K, cell.N), trace, beta=beta, drift=drift, allowed_drift=lyapunov.drift)


def _far(setting: Setting, cell: _Far) -> Cell:
    far = FarStart.of(lower_steps=cell.K, cg_steps=cell.N, pull=cell.pull, seed=setting.seed)
    problem, phi, lemma, constants = far.problem, far.phi, far.lemma, far.problem.constants
    steps = {"lower_steps": cell.K, "cg_steps": cell.N, "lower_step_size": constants.lower_step_size}
    lyapunov = Lyapunov.of(constants, **steps)
    beta = min(lemma.largest_step, lyapunov.largest_step)
    errors = error_probes(problem.to(setting.device))
    trace = _curved(setting, problem, phi, steps, lyapunov, beta, "direction_norm_sq", *errors)
    beyond = solve(
        problem,
        setting.method(**steps, upper_step_size=BEYOND * lemma.largest_step, warm_start=True),
        iterations=3,
        seed=setting.seed,
        phi0=phi,
        probes=(drift_probe(),),
        device=setting.device,
    ).trace
    return _cell(
        (2, constants.kappa, cell.K, cell.N),
        trace,
        beta=beta,
        drift=float(trace["drift"].max()),
        allowed_drift=lemma.allowed,
        lemma_beta=lemma.largest_step,
        theorem_beta=lyapunov.largest_step,
        first_steps=far.first_steps,
        direction=float(trace["direction_norm_sq"].max()) ** 0.5 / lemma.direction,
        v_error=float(trace["v_error"].max()) / lemma.v_error,
        theta_error=float(trace["theta_error"].max()) / (lemma.allowed / 4),
        pull=cell.pull,
        drift_beyond=float(beyond["drift"].max()) / lemma.allowed,
    )


def _curved(
    setting: Setting,
    problem: Problem,
    phi: Parameters,
    steps: dict[str, Any],
    lyapunov: Lyapunov,
    beta: float,
    *probes: str | Probe,
) -> dict[str, Tensor]:
    """The traces of V, |grad Phi|^2, the drift and these probes on heads, from phi."""
    minimum = upper_minimum(problem, map_parameters(torch.zeros_like, phi))
    return solve(
        problem,
        setting.method(**steps, upper_step_size=beta, warm_start=True),
        iterations=setting.pick(10, 400),
        seed=setting.seed,
        phi0=phi,
        probes=(
            "grad_norm_sq",
            reference_potential(problem.to(setting.device), minimum, beta, lyapunov),
            drift_probe(),
            *probes,
        ),
        device=setting.device,
    ).trace
