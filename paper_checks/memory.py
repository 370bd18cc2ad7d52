"""Memory does not grow with the lower steps K or the CG steps N.

Statement.
    The peak memory of an upper iteration is independent of K and N: no historical lower-level iterate is kept.
    Backpropagation through the lower steps (MAML, ANIL, ITD-BiO) keeps every one of them.
Hypotheses.
    A nonlinear lower level, differentiated automatically (for a linear lower gradient autograd keeps references only,
    and the comparison would be empty): logistic heads with n examples and q weights a task.
Predicted.
    The same integer of peak live tensor bytes for K = 1 .. 64 at fixed N, for N = 1 .. 64 at fixed K, and for whole
    runs of any length T. Unrolled differentiation: affine in K, 8 M (q + 2 n + 1) bytes a step for these heads:
    theta - phi (q numbers), the margins (n), the gradient that enters the logistic loss (n) and the number it is
    expanded from (1).
Measured.
    Bytes of all live tensor storages (a torch dispatch mode, exact) during one upper iteration, warm start included;
    on CUDA the allocator's peak. The tape of the unrolled method also by saved-tensor hooks, a second path.
Refuted by.
    Two different integers, or an unrolled peak that is not affine with the predicted slope.
Source.
    docs/theory.md S8. Claim C5 is the paper's. A warm start stores 2 M q further numbers, independent of K and N.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convergence import GradientDescent, Oracle, Unrolled, peak_bytes
from convergence import run as solve
from convergence.memory import saved_bytes
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Setting, at_least, equal
from paper_checks.planted import KeptGraph
from problems import Problem, ProxLogistic

PLANTED = "backpropagation through the lower steps passed off as memory-reduced"
TASKS = 4
SIZES = ((50, 30), (20, 60))  # (q, n)


def run(setting: Setting) -> Evidence:
    """Peaks of the method over K and over N, of whole runs, and of unrolled differentiation over K."""
    return _peaks(setting, counts=np.arange(1, 65))


def control(setting: Setting) -> Evidence:
    """The same with the planted error, for some K and N."""
    return _peaks(replace(setting, method=KeptGraph), counts=np.array((1, 2, 4, 8, 16, 32, 64)))


def _peaks(setting: Setting, *, counts: np.ndarray) -> Evidence:
    evidence = {
        "counts": counts,
        "over_K": np.array([_peak(setting, K=int(K), N=5) for K in setting.track(counts, "lower steps")], float),
        "over_N": np.array([_peak(setting, K=5, N=int(N)) for N in setting.track(counts, "CG steps")], float),
        "over_T": np.array([_run_peak(setting, T=T) for T in (3, 30, 100)], float),
        "unrolled_K": np.array(setting.pick((2, 4, 8, 16, 32, 64), tuple(range(2, 65)))),
        "cuda": np.array(setting.device.startswith("cuda")),
    }
    for size, (q, n) in enumerate(SIZES):
        both = [_unrolled(setting, int(K), q, n) for K in setting.track(evidence["unrolled_K"], "unrolled steps")]
        peak, tape = (np.array(column, float) for column in zip(*both, strict=True))
        evidence |= {
            f"unrolled_{size}": peak,
            f"tape_{size}": tape,
            f"law_{size}": np.array(8.0 * TASKS * (q + 2 * n + 1)),
        }
    return evidence


def judge(evidence: Evidence) -> list[Comparison]:
    """Flat to the byte in K and N; unrolled affine in K with the exact slope."""
    e = evidence
    K_cells = [f"K {K:.0f}" for K in e["counts"]]
    N_cells = [f"N {N:.0f}" for N in e["counts"]]
    block = 512.0 if e["cuda"] else 0.0  # the CUDA allocator rounds each tensor up to blocks
    steps = np.diff(e["unrolled_K"])
    comparisons = [
        equal("peak bytes for every K (N = 5)", e["over_K"], e["over_K"][0], cells=K_cells),
        equal("peak bytes for every N (K = 5)", e["over_N"], e["over_N"][0], cells=N_cells),
        equal("peak bytes of runs of T = 3, 30, 100", e["over_T"], e["over_T"][0]),
    ]
    for size, (q, n) in enumerate(SIZES):
        peak, tape, law = (e[f"{name}_{size}"] for name in ("unrolled", "tape", "law"))
        where = f"q = {q}, n = {n}"
        comparisons += [
            equal(f"unrolled: peak bytes a lower step, {where}", np.diff(peak) / steps, law, absolute=4 * block),
            equal(f"unrolled: bytes saved by autograd a lower step, {where}", np.diff(tape) / steps, law),
        ]
    ratio = e["unrolled_0"][-1] / e["over_K"][-1]
    return [*comparisons, at_least("unrolled at K = 64 / memory-reduced", ratio, 5.0)]


def _problem(setting: Setting, q: int, n: int) -> Problem:
    return ProxLogistic.random(tasks=TASKS, q=q, examples=n, seed=setting.seed).to(setting.device)


def _peak(setting: Setting, *, K: int, N: int) -> int:
    """Of one warm upper iteration, after a first that fills the state and every cache."""
    problem = _problem(setting, *SIZES[0])
    oracle = Oracle(problem)
    method = setting.method(lower_steps=K, cg_steps=N, upper_step_size=0.1, warm_start=True)
    phi = problem.phi0(generator(setting.seed, "start"))
    state = method.start(oracle, phi)
    state = method.step(oracle, phi, oracle.pool, state).state
    return peak_bytes(lambda: method.step(oracle, phi, oracle.pool, state), device=setting.device)


def _run_peak(setting: Setting, *, T: int) -> int:
    """Of a whole run of T upper iterations without probes."""
    problem = _problem(setting, *SIZES[0])
    method = setting.method(lower_steps=5, cg_steps=5, upper_step_size=0.1, warm_start=True)
    options = {"probes": (), "seed": setting.seed, "device": setting.device}

    def run_once() -> object:
        return solve(problem, method, iterations=T, **options)

    run_once()
    return peak_bytes(run_once, device=setting.device)


def _unrolled(setting: Setting, K: int, q: int, n: int) -> tuple[int, int]:
    """Peak bytes, and bytes of the tape, of one hypergradient through K lower steps."""
    problem = _problem(setting, q, n)
    oracle = Oracle(problem)
    phi = problem.phi0(generator(setting.seed, "start"))
    lower = GradientDescent(K, problem.constants.lower_step_size)

    def estimate() -> object:
        z = oracle.embed(phi, oracle.pool, keep_graph=True)
        return Unrolled().estimate(oracle, z, oracle.theta0(phi, oracle.pool), oracle.pool, lower=lower)

    estimate()
    return peak_bytes(estimate, device=setting.device), saved_bytes(estimate)
