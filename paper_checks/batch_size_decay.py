"""The error floor of the stochastic algorithm falls with the task batch, as the variance of a batch mean does.

Statement.
    With batches of b tasks, 1/T sum_{t<T} E |grad Phi(phi_t)|^2 <= 2 Delta / (beta T) + beta L_Phi zeta_b sigma^2,
    where zeta_b = 1/b for i.i.d. tasks and (M - b) / (b (M - 1)) without replacement; all tasks at once leave no floor.
Hypotheses.
    beta <= 1 / L_Phi, unbiased task directions; here additive noise: all tasks share A, C, Q, R and differ in b, u, w,
    and the lower level is solved far below the noise, so that the stationary moment is known exactly.
Predicted.
    F(b) = tr(H X H) with X the solution of the Lyapunov equation of the iteration (4c), proportional to zeta_b: slope 1
    of log F on log zeta_b for either sampling. b = M without replacement: |grad Phi|^2 <= 1e-20. At a fixed phi != phi*
    the direction of a batch has mean grad Phi(phi) and mean squared distance zeta_b sigma^2 from it.
Measured.
    |grad Phi|^2 by the closed form, averaged over time after a burn-in known from the spectral radius, one average a
    seed; standard errors and the slope's 99.99 % interval (bootstrap; the chance of |z| <= 4) from whole seeds. The
    direction at a fixed phi on 20000 batches of the driver's stream, on tasks with Hessians of their own.
Refuted by.
    One cell with |z| > 4 at a standard error <= 2 % (larger: INCONCLUSIVE), an interval of the slope without 1 at a
    half-width <= 0.02, a floor above 1e-20 at b = M without replacement, or a mean direction so far from grad Phi that
    Hotelling's T^2 is exceeded with a probability below 1e-6 (a singular covariance counts as that).
Source.
    docs/theory.md S4, Theorem 4 and 4c. The decay in |B| of claim C2 is the paper's, the moments are derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from convergence import Oracle
from convergence import run as solve
from convergence.rates import burn_in, log_log_slope, stationary_mean
from convergence.streams import TaskStream
from paper_checks.claim import (
    Comparison,
    Evidence,
    Setting,
    at_most,
    equal,
    mean_equals,
    mean_vector_equals,
    slope_is,
)
from paper_checks.quadratic_theory import QuadraticTheory, zeta
from problems import Quadratic

PLANTED = "i.i.d. batches passed off as batches without replacement"
POOL = 32
BATCHES = (1, 2, 4, 8, 16)
SAMPLINGS = (True, False)  # with replacement (i.i.d.), without


def run(setting: Setting) -> Evidence:
    """The stationary moment of every (batch, sampling), the run on all tasks, directions at a fixed phi."""
    return {**_cells(setting, {True: (*BATCHES, POOL), False: BATCHES}), **_directions(setting)}


def control(setting: Setting) -> Evidence:
    """Every batch drawn with replacement, whatever it is said to be; fewer batch sizes."""
    cells = _cells(setting, dict.fromkeys(SAMPLINGS, (1, 4, 16)), planted=True)
    return {**cells, **_directions(setting, planted=True)}


def judge(evidence: Evidence) -> list[Comparison]:
    """Exact moments within 4 standard errors, slopes, no floor on all tasks, unbiased directions."""
    e = evidence
    cells = [
        f"b {batch:.0f}, {'i.i.d.' if iid else 'without replacement'}"
        for batch, iid in zip(e["batch"], e["iid"], strict=True)
    ]
    means = [stationary_mean(per_seed[None].repeat(2, 0), discard=0) for per_seed in e["moment"]]
    comparisons = [mean_equals("stationary E |grad Phi|^2", means, e["law"], cells=cells)]
    for iid, name in ((1, "i.i.d."), (0, "without replacement")):
        own = (e["iid"] == iid) & (e["zeta"] > 0)
        slope = log_log_slope(e["zeta"][own], e["moment"][own], confidence=0.9999, resamples=20000)
        comparisons.append(slope_is(f"slope of log F on log zeta_b, {name}", slope, 1.0, half_width=0.02))
    names = ("i.i.d.", "without replacement")
    spread = [stationary_mean(squares[None].repeat(2, 0), discard=0) for squares in e["direction_distance"]]
    comparisons += [
        mean_vector_equals("T^2 of the batch direction", e["direction"], e["direction_mean"], cells=names),
        mean_equals("E |batch direction - grad Phi|^2", spread, e["direction_law"], cells=names),
        at_most("|grad Phi|^2 with all tasks", float(e["all_tasks"]), 1e-20),
        equal("F / zeta_b, so that the law is a power law", e["law"] / e["zeta"], e["law"][0], relative=1e-10),
    ]
    return comparisons


def _directions(setting: Setting, *, planted: bool = False) -> Evidence:
    """The direction of 20000 batches at one phi: 200 seeds, 100 iterations each, all in one step of the method."""
    pool, b = 8, 3
    problem = Quadratic.random(tasks=pool, p=4, q=4, kappa=1.5, seed=setting.seed + 4).to(setting.device)
    theory = QuadraticTheory.of(problem)
    phi = np.linalg.solve(*theory.upper_form) + np.random.default_rng([setting.seed, 5]).standard_normal(4)
    H, h = theory.direction()
    gradient = theory.gradient(phi)
    sigma_sq = np.square(H @ phi - h - gradient).sum(1).mean()
    method = setting.method(lower_steps=17, cg_steps=4, upper_step_size=1.0, warm_start=False)
    seeds, found = range(setting.seed, setting.seed + 200), []
    for replacement in SAMPLINGS:
        stream = TaskStream(seeds, pool=pool, batch=b, replacement=replacement or planted)
        index = torch.cat([stream.index(t) for t in range(setting.pick(100, 500))]).to(setting.device)
        at = {"phi": torch.as_tensor(phi, device=setting.device).expand(len(index), -1)}
        oracle = Oracle(problem, replicas=len(index))
        step = method.step(oracle, at, problem.select(index), method.start(oracle, at))
        found.append(step.direction["phi"].cpu().numpy())
    return {
        "direction": np.stack(found),
        "direction_mean": gradient,
        "direction_distance": np.square(np.stack(found) - gradient).sum(-1),
        "direction_law": np.array([zeta(b, pool, replacement=iid) * sigma_sq for iid in SAMPLINGS]),
    }


def _moment(problem: Quadratic, method: Any, discard: int, **options: Any) -> np.ndarray:
    """The average of |grad Phi|^2 after so many iterations, of each replica."""
    return solve(problem, method, **options).trace["grad_norm_sq"][discard:].mean(0).numpy()


def _cells(setting: Setting, batches: Mapping[bool, tuple[int, ...]], *, planted: bool = False) -> Evidence:
    problem = Quadratic.random(tasks=POOL, p=4, q=4, kappa=1.5, equal_hessians=True, seed=setting.seed + 3)
    theory = QuadraticTheory.of(problem)
    beta = 1 / problem.constants.L_Phi
    # varrho = 1/5: 8 lower steps leave 3e-6 of theta's error, which is warm: far below a standard error; N = q: v exact
    method = setting.method(lower_steps=8, cg_steps=4, upper_step_size=beta, warm_start=True)
    rows, moments = [], []
    cells = [(replacement, batch) for replacement in SAMPLINGS for batch in batches[replacement]]
    for replacement, batch in setting.track(cells, "batch sizes"):
        law, radius = theory.stationary_moment(beta, zeta(batch, POOL, replacement=replacement))
        discard = burn_in(radius)
        moment = setting.kept(
            _moment,
            problem,
            method,
            discard,
            iterations=discard + setting.pick(160, 1000),
            batch=batch,
            replacement=replacement or planted,
            seed=setting.seed,
            replicas=setting.pick(160, 1024),
            device=setting.device,
        )
        rows.append((batch, replacement, zeta(batch, POOL, replacement=replacement), law))
        moments.append(moment)
    full = solve(
        problem,
        method,
        iterations=200,
        batch=POOL,
        replacement=planted,
        seed=setting.seed,
        device=setting.device,
    )
    batch, iid, zeta_b, law = (np.array(column, float) for column in zip(*rows, strict=True))
    return {
        "batch": batch,
        "iid": iid,
        "zeta": zeta_b,
        "law": law,
        "moment": np.stack(moments),
        "all_tasks": full.trace["grad_norm_sq"][-1].numpy(),
        "all_tasks_trace": full.trace["grad_norm_sq"].numpy(),
    }
