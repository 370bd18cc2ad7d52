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
    another). (3) Counted calls equal declared calls, as integers; on softmax heads, without closed forms, an iteration
    evaluates g exactly K + 2 times a task, f twice, and differentiates grad g once for every product.
Measured.
    Runs on Huber that stop at the threshold; one long run on a quadratic, with the calls it counted. In (3) the calls
    are counted twice, by the oracle and behind its back: by the closed forms of a quadratic, and by g, f and hooks in
    the graph of softmax heads.
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
from problems import Huber, Parameters, Problem, ProxSoftmax, Quadratic, Tasks

PLANTED = "one lower gradient step fewer than declared"
CALLS = ("lower_gradient", "hvp", "cross_product", "upper_gradient")
EVALUATIONS = ("values of g", "values of f", "derivatives of grad g")
FAMILIES, STARTS = ("quadratic", "heads"), {"warm": True, "cold": False, "warm theta": "theta"}


def run(setting: Setting) -> Evidence:
    """First hits on Huber, hitting times on quadratics, counts."""
    return {**_first_hits(setting), **setting.kept(_hitting_times, setting), **_counts(setting)}


def control(setting: Setting) -> Evidence:
    """The counts with the planted error; it is right everywhere else, and must be caught all the same.

    What is right was judged in `run`: here it is gathered at smoke scale.
    """
    right, planted = replace(setting, scale="smoke"), replace(setting, method=OneLowerStepFewer)
    return {**_first_hits(right), **right.kept(_hitting_times, right), **_counts(planted)}


def judge(evidence: Evidence) -> list[Comparison]:
    """Integers equal, hitting times within the bound, slope 1."""
    e = evidence
    slope = log_log_slope(1 / e["eps"], e["calls_at_hit"])
    eps = [f"eps {value:g}" for value in e["huber_eps"]]
    counts = [f"{name}, {family}, {start}" for family in FAMILIES for start in STARTS for name in CALLS]
    graphs = [f"{name}, {start}" for start in STARTS for name in EVALUATIONS]
    return [
        equal("iterates until |grad Phi|^2 <= eps, Huber", e["huber_hit"], e["huber_law"], cells=eps),
        at_most("hitting time / T_eps", e["hit"] / e["T_eps"], 1.0, cells=[f"eps {value:g}" for value in e["eps"]]),
        equal("slope of oracle calls in 1/eps", slope.value, 1.0, absolute=0.01),
        equal("declared calls = K, N (N + 1 warm), 1, 1 a task", e["declared"], e["stated"], cells=counts),
        equal("calls counted by the oracle = declared", e["counted"], e["declared"], cells=counts),
        equal(
            "calls counted by a quadratic = declared",
            e["evaluated"],
            e["declared"][: len(e["evaluated"])],
            cells=counts,
        ),
        equal("evaluations counted by heads = stated", e["graph_evaluated"], e["graph_stated"], cells=graphs),
    ]


def _first_hits(setting: Setting) -> Evidence:
    rows = []
    thresholds = setting.pick((1e-1, 3e-2, 1e-2, 3e-3, 1e-3), (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4))
    for eps in setting.track(thresholds, "thresholds of Huber"):
        # L Delta = 1; the hardest instance has |grad Phi|^2 = 2 / (2 N + 1) just above eps
        N = math.ceil((2 / eps - 1) / 2) - 1
        problem = Huber.with_gap(0.25, horizon=N + 1, smoothness=4.0, kappa=10.0, dimension=4, coupled=True)
        method = setting.method(lower_steps=1, cg_steps=4, upper_step_size=problem.upper_step_size, warm_start=True)
        hit = setting.kept(_first_hit, setting, problem, method, eps, iterations=N + 50)
        rows.append((eps, math.nan if hit is None else hit, math.ceil((2 / eps + 1) / 2)))
    eps, hit, law = (np.array(column, float) for column in zip(*rows, strict=True))
    return {"huber_eps": eps, "huber_hit": hit, "huber_law": law}


def _first_hit(setting: Setting, problem: Problem, method: Any, eps: float, *, iterations: int) -> int | None:
    stop_at = {"grad_norm_sq": eps}
    result = solve(problem, method, iterations=iterations, stop_at=stop_at, seed=setting.seed, device=setting.device)
    return hitting_time(result.trace["grad_norm_sq"], eps)


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
    names = ("counted", "declared", "stated", "evaluated", "graph_evaluated", "graph_stated")
    found: dict[str, list[float]] = {name: [] for name in names}
    quadratic = Quadratic.random(tasks=8, p=3, q=4, kappa=5.0, seed=setting.seed)
    heads = ProxSoftmax.random(tasks=8, classes=2, features=2, examples=6, seed=setting.seed)
    T, b, K, N = 7, 3, 4, 3
    for family in FAMILIES:
        for warm in STARTS.values():
            problem = _Counting.of(quadratic) if family == "quadratic" else _Watched.of(heads)
            method = setting.starting(warm)(lower_steps=K, cg_steps=N, upper_step_size=0.1, warm_start=warm)
            # first=1: before its first iteration a run looks at the objectives, which no iteration does
            options = {"batch": b, "seed": setting.seed, "probes": (), "device": setting.device, "first": 1}
            result = solve(problem, method, iterations=T, **options)
            stated = {"lower_gradient": K, "hvp": N + (warm is True), "cross_product": 1, "upper_gradient": 1}
            found["counted"] += [result.calls[name] for name in CALLS]
            found["declared"] += [T * method.declared_calls(b)[name] for name in CALLS]
            found["stated"] += [T * b * stated[name] for name in CALLS]
            if family == "quadratic":
                found["evaluated"] += [problem.evaluated[name] for name in CALLS]
            else:
                # g: K gradients, one for all HVPs, one for the cross product; f: its slope, and the last line
                graph = (K + 2, 2, stated["hvp"] + stated["cross_product"])
                found["graph_evaluated"] += [problem.evaluated[name] for name in EVALUATIONS]
                found["graph_stated"] += [T * b * count for count in graph]
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


class _Watched(ProxSoftmax):
    """Softmax heads that count the rows for which g and f are evaluated and grad g is differentiated."""

    evaluated: dict[str, int]

    @classmethod
    def of(cls, problem: ProxSoftmax) -> _Watched:
        """The same problem, counting."""
        watched = cls(**problem.data, classes=problem.outputs, prox=problem.prox, regulariser=problem.regulariser)
        watched.evaluated = dict.fromkeys(EVALUATIONS, 0)
        return watched

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Counted, with a hook on the gradient that fires whenever that is differentiated."""
        self.evaluated["values of g"] += len(tasks)
        seen = theta.view_as(theta)  # whose gradient is grad g, on its way to theta
        if seen.requires_grad:
            seen.register_hook(self._watch)
        return super().lower(features, seen, tasks)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Counted."""
        self.evaluated["values of f"] += len(tasks)
        return super().upper(features, theta, tasks)

    def _watch(self, gradient: Tensor) -> None:
        if gradient.requires_grad:  # a graph is kept, to differentiate it
            gradient.register_hook(self._differentiated)

    def _differentiated(self, upstream: Tensor) -> None:
        self.evaluated["derivatives of grad g"] += upstream.shape[-2]
