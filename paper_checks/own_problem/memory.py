"""On this problem memory does not grow with the lower steps K or the CG steps N.

Statement.
    The peak memory of an upper iteration is independent of K and N: no historical lower-level iterate is kept.
Hypotheses.
    None on the problem.
Predicted.
    The same integer of peak live tensor bytes for N = 1 .. 16 at K = 3, and for K = 1 .. 16 and one K more at N = 3, so
    many that their iterates alone would be more than that.
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
import torch

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
COUNTS = (1, 2, 3, 4, 8, 16)


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    return lacking("memory", problem, TWICE_DIFFERENTIABLE)


def run(setting: Setting) -> Evidence:
    """Peaks over K and over N."""
    problem = judged(setting, TASKS)
    alpha = lower_step_size(setting, problem)
    many = (*COUNTS, _enough(setting, problem, alpha))
    return {
        "K": np.array(many),
        "N": np.array(COUNTS),
        "over_K": np.array([_peak(setting, problem, K, FIXED, alpha) for K in setting.track(many, "K")], float),
        "over_N": np.array([_peak(setting, problem, FIXED, N, alpha) for N in setting.track(COUNTS, "N")], float),
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
            cells=[f"{name} {count}" for count in e[name]],
        )
        for name, other in (("K", "N"), ("N", "K"))
    ]


def _enough(setting: Setting, problem: SomeTasks, alpha: float) -> int:
    """K at which the iterates alone would be twice the peak of an iteration: of a network that is mostly its own."""
    (phi,) = points(problem, setting.seed, 1)
    row = problem.theta0(phi, problem.sample(None, torch.Generator())).numel() * 8
    wanted = 2 * _peak(setting, problem, 1, 1, alpha) // row
    one, two = (seconds(lambda K=K: _peak(setting, problem, K, 1, alpha)) for K in (1, 2))
    # two - one is a lower step of each of the two iterations; its backward pass costs the control as much again
    return affordable(4 * max(two - one, 1e-6), setting.pick(10.0, 100.0), least=2 * COUNTS[-1], most=int(wanted) + 64)


def _peak(setting: Setting, problem: SomeTasks, K: int, N: int, alpha: float) -> int:
    (phi,), oracle = points(problem, setting.seed, 1), Oracle(problem)
    method = setting.method(lower_steps=K, lower_step_size=alpha, cg_steps=N, upper_step_size=1e-6, warm_start=True)
    state = method.step(oracle, phi, oracle.pool, method.start(oracle, phi)).state
    return peak_bytes(lambda: method.step(oracle, phi, oracle.pool, state), device=setting.device)
