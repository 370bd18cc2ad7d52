"""Oracle calls on this problem are those declared, counted by the oracle and behind its back.

Statement.
    An upper iteration on b tasks costs b K lower gradients, b N Hessian-vector products from v = 0 and b (N + 1) from a
    warm v, b cross products and b upper gradients; T iterations cost T times as much.
Hypotheses.
    f depends on theta and phi reaches the lower level: nothing is asked of a derivative that is not there. What the
    method declares does not depend on the iteration.
Predicted.
    Calls counted by the oracle = declared = K, N (N + 1 warm), 1, 1 a task, as integers. What the problem itself is
    asked for: its closed forms as often; where one is missing g once for each lower gradient, once for all products and
    once for the last line, f once for each of grad_theta f and the last line, and grad_theta g differentiated once for
    each product.
Measured.
    5 iterations on batches of two tasks, warm, cold, and warm in theta alone. Closed forms and evaluations
    are counted by rows of theta, differentiations by hooks in the graph.
Refuted by.
    One call too many or too few.
Source.
    docs/theory.md S5. The order of claim C4 is the paper's, the constants are derived here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convergence import Method, Oracle
from convergence.oracle.parts import CALLS
from convergence.streams import TaskStream
from paper_checks.claim import Comparison, Evidence, Setting, equal
from paper_checks.own_problem.algorithm_replay import lower_step_size, upper_step_size
from paper_checks.own_problem.needs import EXACT, F_SEES_THETA, IMPLICIT, TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.some_tasks import SomeTasks, judged, points
from paper_checks.planted import OneLowerStepFewer
from problems import Parameters, Problem, Tasks

PLANTED = "one lower gradient step fewer than declared"
STARTS = {"warm": True, "cold": False, "warm theta": "theta"}
SEEN = ("lower_gradient", "lower_hvp", "upper_gradient", "surrogate_gradient", "g", "f", "derivatives of grad g")
T, K, N = 5, 4, 3


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    return lacking("complexity", problem, EXACT, TWICE_DIFFERENTIABLE, F_SEES_THETA, IMPLICIT)


def run(setting: Setting) -> Evidence:
    """Counts of every start."""
    problem = _Watched.of(judged(setting, 3).problem, 3, seed=setting.seed).to(setting.device, torch.float64)
    alpha = lower_step_size(setting, problem)
    beta, _ = upper_step_size(setting, problem, alpha)
    b = min(2, problem.tasks)
    found: dict[str, list[float]] = {name: [] for name in ("counted", "declared", "stated", "seen", "asked")}
    for warm in setting.track(tuple(STARTS.values()), "starts"):
        method = setting.starting(warm)(
            lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=beta, warm_start=warm
        )
        calls = _counted(setting, problem, method, b)
        each = {"lower_gradient": K, "hvp": N + (warm is True), "cross_product": 1, "upper_gradient": 1}
        found["counted"] += [calls[name] for name in CALLS]
        found["declared"] += [T * method.declared_calls(b)[name] for name in CALLS]
        found["stated"] += [T * b * each[name] for name in CALLS]
        found["seen"] += [problem.seen[name] for name in SEEN]
        found["asked"] += [T * b * count for count in _asked(problem, each)]
    return {name: np.array(values, float) for name, values in found.items()}


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=OneLowerStepFewer))


def judge(evidence: Evidence) -> list[Comparison]:
    """Integers equal."""
    e = evidence
    calls = [f"{name}, {start}" for start in STARTS for name in CALLS]
    seen = [f"{name}, {start}" for start in STARTS for name in SEEN]
    return [
        equal("declared calls = K, N (N + 1 warm), 1, 1 a task", e["declared"], e["stated"], cells=calls),
        equal("calls counted by the oracle = declared", e["counted"], e["declared"], cells=calls),
        equal("what the problem was asked for = what those calls need", e["seen"], e["asked"], cells=seen),
    ]


def _counted(setting: Setting, problem: _Watched, method: Method, b: int) -> dict[str, int]:
    """What the oracle counts of T iterations on batches of b tasks; what the problem is asked for is counted anew."""
    (phi,), oracle = points(problem, setting.seed, 1), Oracle(problem)
    stream = TaskStream(setting.seed, pool=problem.tasks, batch=b, replacement=False)
    state = method.start(oracle, phi)
    problem.seen.clear()
    for t in range(T):
        step = method.step(oracle, phi, problem.select(stream.index(t).to(setting.device)), state)
        phi, state = step.phi, step.state
    return oracle.calls


def _asked(problem: Problem, each: dict[str, int]) -> list[int]:
    """What a task is asked for in an iteration, by the names of SEEN."""
    form = {
        "lower_gradient": each["lower_gradient"],
        "lower_hvp": each["hvp"],
        "upper_gradient": each["upper_gradient"],
        "surrogate_gradient": each["cross_product"],
    }
    closed = {name: count if problem.has(name) else 0 for name, count in form.items()}
    last_line = int(not problem.has("surrogate_gradient"))
    products = int(not problem.has("lower_hvp"))
    g = (form["lower_gradient"] if not problem.has("lower_gradient") else 0) + products + last_line
    f = int(not problem.has("upper_gradient")) + last_line
    return [*closed.values(), g, f, products * form["lower_hvp"] + last_line]


class _Watched(SomeTasks):
    """The problem, counting rows of theta it is asked for and derivatives of grad_theta g, behind the oracle's back."""

    @property
    def seen(self) -> Counter[str]:
        """By the names of SEEN."""
        return self.__dict__.setdefault("counts", Counter())

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Counted, with a hook on the gradient that fires whenever that is differentiated."""
        self.seen["g"] += theta.shape[-2]
        through = theta.view_as(theta)  # whose gradient is grad g, on its way to theta
        if through.requires_grad:
            through.register_hook(self._watch)
        return super().lower(features, through, tasks)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Counted."""
        self.seen["f"] += theta.shape[-2]
        return super().upper(features, theta, tasks)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Counted."""
        self.seen["lower_gradient"] += theta.shape[-2]
        return super().lower_gradient(features, theta, tasks)

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """Counted."""
        self.seen["lower_hvp"] += v.shape[-2]
        return super().lower_hvp(features, theta, v, tasks)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Counted."""
        self.seen["upper_gradient"] += theta.shape[-2]
        return super().upper_gradient(features, theta, tasks)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """Counted."""
        self.seen["surrogate_gradient"] += theta.shape[-2]
        return super().surrogate_gradient(phi, features, theta, v, tasks)

    def _watch(self, gradient: Tensor) -> None:
        if gradient.requires_grad:  # a graph is kept, to differentiate it
            gradient.register_hook(self._differentiated)

    def _differentiated(self, upstream: Tensor) -> None:
        self.seen["derivatives of grad g"] += upstream.shape[-2]
