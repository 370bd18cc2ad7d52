"""On this problem memory does not grow with the lower steps K or the CG steps N.

Statement.
    The peak memory of an upper iteration is independent of K and N: no historical lower-level iterate is kept.
Hypotheses.
    None on the problem.
Predicted.
    The same integer of peak live tensor bytes for K = 1 .. 32 at N = 3, and for N = 1 .. 32 at K = 3.
Measured.
    Bytes of all live tensor storages (a torch dispatch mode, exact) during one warm upper iteration on at most four
    tasks, after one that fills the state and every cache; on CUDA the allocator's peak. alpha is so small that no
    iterate leaves the start by much.
Refuted by.
    Two different integers.
Source.
    docs/theory.md S8. Claim C5 is the paper's. A warm start stores 2 M q further numbers, independent of K and N.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convergence import Oracle, peak_bytes
from paper_checks.claim import Comparison, Evidence, Setting, equal
from paper_checks.own_problem.algorithm_replay import lower_step_size
from paper_checks.own_problem.cost import affordable, seconds
from paper_checks.own_problem.needs import TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.some_tasks import SomeTasks, judged, points
from paper_checks.planted import KeptGraph
from problems import Problem

PLANTED = "backpropagation through the lower steps passed off as memory-reduced"
TASKS, FIXED = 4, 3
COUNTS = (1, 2, 3, 4, 8, 16, 32)


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    return lacking("memory", problem, TWICE_DIFFERENTIABLE)


def run(setting: Setting) -> Evidence:
    """Peaks over K and over N."""
    problem = judged(setting, TASKS)
    alpha = lower_step_size(setting, problem)
    each = seconds(lambda: _peak(setting, problem, 1, 1, alpha))
    most = affordable(each, setting.pick(3.0, 30.0), least=8, most=setting.pick(32, 64))
    counts = np.array([count for count in (*COUNTS, 64) if count <= most])
    return {
        "counts": counts,
        "over_K": np.array([_peak(setting, problem, int(K), FIXED, alpha) for K in setting.track(counts, "K")], float),
        "over_N": np.array([_peak(setting, problem, FIXED, int(N), alpha) for N in setting.track(counts, "N")], float),
    }


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=KeptGraph))


def judge(evidence: Evidence) -> list[Comparison]:
    """Flat to the byte."""
    e = evidence
    return [
        equal(
            f"peak bytes for every {name} ({other} = {FIXED})",
            e[f"over_{name}"],
            e[f"over_{name}"][0],
            cells=[f"{name} {count}" for count in e["counts"]],
        )
        for name, other in (("K", "N"), ("N", "K"))
    ]


def _peak(setting: Setting, problem: SomeTasks, K: int, N: int, alpha: float) -> int:
    (phi,), oracle = points(problem, setting.seed, 1), Oracle(problem)
    method = setting.method(lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=1e-6, warm_start=True)
    state = method.step(oracle, phi, oracle.pool, method.start(oracle, phi)).state
    return peak_bytes(lambda: method.step(oracle, phi, oracle.pool, state), device=setting.device)
