"""O(1/eps) upper iterations reach a squared gradient norm of eps, and the oracle calls are those declared.

Statement.
    With all tasks and warm theta and v, the running average of |grad Phi|^2 is at most eps after
    T_eps = ceil(2 V_0 / (beta eps)) upper iterations: M K T_eps lower gradients, M (N + 1) T_eps Hessian-vector
    products, M T_eps cross products and upper gradients.
Hypotheses.
    As in deterministic_exact (Theorem 2). For the exact count: the Huber instance, beta = 1 / L_Phi.
Predicted.
    (1) Huber: the number of iterates until |grad Phi|^2 <= eps is the integer ceil((2 L Delta / eps + 1) / 2), which no
    method of its class improves. (2) Random quadratics: hitting times of the running average at most T_eps, oracle
    calls growing like 1/eps with slope 1 (which tells an exact run from one with a floor, not one rate from
    another). (3) Counted calls equal declared calls, as integers.
Measured.
    Runs on Huber that stop at the threshold; one long run on a quadratic, with the calls it counted. In (3) the calls
    are counted twice, by the oracle and by the problem itself.
Refuted by.
    One iterate more or less on Huber, a hitting time above T_eps, a slope off 1 by 0.01, one call too many or few.
Source.
    docs/theory.md S5, S2, S6. The order of claim C4 is the paper's, the constants are derived here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from convergence import run as solve
from convergence.rates import hitting_time, log_log_slope, running_average
from paper_checks.claim import Comparison, Evidence, Setting, at_most, equal
from paper_checks.lyapunov import Lyapunov, potential
from paper_checks.planted import OneLowerStepFewer
from problems import Huber, Parameters, Quadratic, Tasks

PLANTED = "one lower gradient step fewer than declared"
CALLS = ("lower_gradient", "hvp", "cross_product", "upper_gradient")


def run(setting: Setting) -> Evidence:
    """First hits on Huber, hitting times on quadratics, counts."""
    return {**_first_hits(setting), **_hitting_times(setting), **_counts(setting)}


def control(setting: Setting) -> Evidence:
    """The counts with the planted error; it is right everywhere else, and must be caught all the same."""
    return {**_first_hits(setting), **_hitting_times(setting), **_counts(replace(setting, method=OneLowerStepFewer))}


def judge(evidence: Evidence) -> list[Comparison]:
    """Integers equal, hitting times within the bound, slope 1."""
    e = evidence
    slope = log_log_slope(1 / e["eps"], e["calls_at_hit"])
    eps = [f"eps {value:g}" for value in e["huber_eps"]]
    counts = [f"{name}, {case}" for case in ("warm", "cold", "warm theta") for name in CALLS]
    return [
        equal("iterates until |grad Phi|^2 <= eps, Huber", e["huber_hit"], e["huber_law"], cells=eps),
        at_most("hitting time / T_eps", e["hit"] / e["T_eps"], 1.0, cells=[f"eps {value:g}" for value in e["eps"]]),
        equal("slope of oracle calls in 1/eps", slope.value, 1.0, absolute=0.01),
        equal("declared calls = K, N (N + 1 warm), 1, 1 a task", e["declared"], e["stated"], cells=counts),
        equal("calls counted by the oracle = declared", e["counted"], e["declared"], cells=counts),
        equal("calls counted by the problem = declared", e["evaluated"], e["declared"], cells=counts),
    ]


def _first_hits(setting: Setting) -> Evidence:
    rows = []
    thresholds = setting.pick((1e-1, 3e-2, 1e-2, 3e-3, 1e-3), (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4))
    for eps in setting.track(thresholds, "thresholds of Huber"):
        # L Delta = 1; the hardest instance has |grad Phi|^2 = 2 / (2 N + 1) just above eps
        N = math.ceil((2 / eps - 1) / 2) - 1
        problem = Huber.with_gap(0.25, horizon=N + 1, smoothness=4.0, kappa=10.0, dimension=4, coupled=True)
        method = setting.method(lower_steps=1, cg_steps=4, upper_step_size=problem.upper_step_size, warm_start=True)
        result = solve(
            problem,
            method,
            iterations=N + 50,
            stop_at={"grad_norm_sq": eps},
            seed=setting.seed,
            device=setting.device,
        )
        hit = hitting_time(result.trace["grad_norm_sq"], eps)
        rows.append((eps, math.nan if hit is None else hit, math.ceil((2 / eps + 1) / 2)))
    eps, hit, law = (np.array(column, float) for column in zip(*rows, strict=True))
    return {"huber_eps": eps, "huber_hit": hit, "huber_law": law}


def _hitting_times(setting: Setting) -> Evidence:
    K, N = 5, 2
    problem = Quadratic.random(tasks=5, p=3, q=4, kappa=3.0, seed=setting.seed + 1)
    lyapunov = Lyapunov.of(
        problem.constants,
        lower_steps=K,
        cg_steps=N,
        lower_step_size=problem.constants.lower_step_size,
        theta_alone=True,
    )
    beta = lyapunov.largest_step
    method = setting.method(lower_steps=K, cg_steps=N, upper_step_size=beta, warm_start=True)
    V = potential(problem.to(setting.device), beta, lyapunov)
    result = solve(
        problem,
        method,
        iterations=setting.pick(6000, 60000),
        seed=setting.seed,
        probes=("grad_norm_sq", V),
        device=setting.device,
    )
    average = running_average(result.trace["grad_norm_sq"].numpy())
    V_0 = float(result.trace["V"][0])
    # From where the sum of |grad Phi|^2 has converged (its tail then adds less than 0.1 %) to the end of the run
    eps = np.geomspace(average[200], average[-1], 8)
    hits = np.array([hitting_time(average, float(value) * (1 + 1e-12)) for value in eps], float)
    per_iteration = sum(result.calls.values()) / result.iterations
    return {
        "eps": eps,
        "hit": hits,
        "T_eps": np.ceil(2 * V_0 / (beta * eps)),
        "calls_at_hit": hits * per_iteration,
        "average": average,
    }


def _counts(setting: Setting) -> Evidence:
    counted, declared, evaluated, stated = [], [], [], []
    for warm in (True, False, "theta"):
        problem = _Counting.of(Quadratic.random(tasks=8, p=3, q=4, kappa=5.0, seed=setting.seed))
        method = setting.method(lower_steps=4, cg_steps=3, upper_step_size=0.1, warm_start=warm)
        result = solve(problem, method, iterations=7, batch=3, seed=setting.seed, device=setting.device)
        counted += [result.calls[name] for name in CALLS]
        formula = {"lower_gradient": 4, "hvp": 3 + (warm is True), "cross_product": 1, "upper_gradient": 1}
        declared += [7 * method.declared_calls(3)[name] for name in CALLS]
        stated += [7 * 3 * formula[name] for name in CALLS]
        evaluated += [problem.evaluated[name] for name in CALLS]
    found = {"counted": counted, "declared": declared, "evaluated": evaluated, "stated": stated}
    return {name: np.array(values, float) for name, values in found.items()}


class _Counting(Quadratic):
    """A quadratic that counts the rows its closed forms are asked for, behind the oracle's back."""

    evaluated: dict[str, int]

    @classmethod
    def of(cls, problem: Quadratic) -> _Counting:
        """The same problem, counting."""
        counting = cls(**problem.data)
        counting.evaluated = dict.fromkeys(CALLS, 0)
        return counting

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Counted."""
        self.evaluated["lower_gradient"] += theta.shape[-2]
        return super().lower_gradient(features, theta, tasks)

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """Counted."""
        self.evaluated["hvp"] += v.shape[-2]
        return super().lower_hvp(features, theta, v, tasks)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Counted."""
        self.evaluated["upper_gradient"] += theta.shape[-2]
        return super().upper_gradient(features, theta, tasks)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """Counted."""
        self.evaluated["cross_product"] += theta.shape[-2]
        return super().surrogate_gradient(phi, features, theta, v, tasks)
