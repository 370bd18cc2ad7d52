"""No step size beta = c / L_Phi is safe: the coupling of the levels decides, and a cold start may allow none at all.

Statement.
    With theta warm the largest stable upper step size is not a multiple of 1 / L_Phi: there are instances where
    beta L_Phi must be arbitrarily small. With theta cold and few lower steps the iteration may grow for every beta > 0,
    though Phi is strongly convex.
Hypotheses.
    p = 1, q = 2, A = diag(1, kappa), C = (1, kappa)', f = 1/2 (u'theta - c)^2 with u = (-s, 1) (the slow mode opposed)
    or (1, -s) (the fast one, s >= eps / (2 - eps)); K = 1, alpha = 1 / kappa = eps; exact v (N = q: with N = 1 the
    limit is smaller).
Predicted.
    (1) L_Phi = (1 - s)^2, and warm theta is stable iff beta L_Phi < (4 - 2 eps) (1 - s) / (2 - eps - eps s) for
    u = (-s, 1), iff beta L_Phi < eps (1 - s) / ((1 - eps) s) for u = (1, -s). (2) The growth factor is the spectral
    radius of the affine map of (phi, theta). (3) Cold, u = (1, -s): phi' - phi~ = (1 - beta H_K) (phi - phi~) with
    H_K = (1 - s) (1 - (1 - eps)^K - s), which is negative for few K: growth for every beta, over seven decades.
    (4) From the first K with H_K > 0 on there is the floor of S3a. (5) The same instances with theta and v warm and
    K = N = 1, at half the limit, converge exactly. (6) At 0.8 of the limit N = 2 converges and N = 1 grows.
Measured.
    Growth factors from phi_t of runs: differences of the iterates of an affine map of two effective dimensions obey a
    recurrence of two terms, fitted by least squares; the critical step as the root of growth = 1. |grad Phi|^2 at the
    end of runs, for the oscillating warm ones the largest of the last 100 iterations.
Refuted by.
    A critical step off its formula by 1e-5, a growth factor off the spectral radius by 1e-6, H_K or a floor off by 1e-8
    (all relative), a cold run with H_K < 0 that does not grow, a warm run that ends above 1e-20.
Source.
    docs/theory.md S2, Proposition 2c, and S3d. Not in the paper: it says which condition on beta the theorems need.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy.optimize import brentq

from convergence import Probe
from convergence import run as solve
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most, equal
from paper_checks.planted import LongerStep
from paper_checks.quadratic_theory import Array, QuadraticTheory
from problems import Quadratic
from problems.counterexamples import cancelling_modes

PLANTED = "an upper step half as long again as the one given, in secret"
OPPOSED = ("slow", "fast")
SHOWN = (10.0, 0.9)  # kappa and s of the growth curve and of the floors
DECADES = tuple(10.0**k for k in range(-3, 4))  # beta L_Phi of the cold runs
PHI = Probe("phi", lambda snapshot: snapshot.phi["phi"][..., 0])


def run(setting: Setting) -> Evidence:
    """Critical steps, growth factors, cold growth and floors, warm limits."""
    critical = _critical(setting, kappas=setting.pick((5.0, 10.0, 100.0), (2.0, 5.0, 10.0, 30.0, 100.0)))
    return {**critical, **_growth_curve(setting), **_cold(setting), **_floors(setting), **_warm(setting)}


def control(setting: Setting) -> Evidence:
    """Critical steps, for one kappa, and growth factors with the planted error; the rest with the right method."""
    planted = replace(setting, method=LongerStep)
    wrong = {**_critical(planted, kappas=(10.0,)), **_growth_curve(planted)}
    return {**wrong, **_cold(setting), **_floors(setting), **_warm(setting)}


def judge(evidence: Evidence) -> list[Comparison]:
    """Critical steps, growth factors and floors attained; cold runs grow, warm runs are exact."""
    e = evidence
    critical = _name_cells(e, "critical", ("kappa", "s", "opposed"))
    growth = _name_cells(e, "growth", ("opposed", "beta"))
    cold = _name_cells(e, "cold", ("kappa", "s", "K", "beta"))
    one = (e["growth_beta"] == 1) & (e["growth_opposed"] == 0)
    unstable = e["cold_law"] < 0
    growing = 1 - e["cold_beta"] * e["cold_H"] / np.square(1 - e["cold_s"])
    start = _name_cells(e, "warm", ("kappa", "s"))
    return [
        equal("critical beta L_Phi", e["critical"], e["critical_law"], relative=1e-5, cells=critical),
        equal("growth a step at beta = 1 / L_Phi", e["growth"][one], e["growth_law"][one], relative=1e-6),
        equal("growth a step", e["growth"], e["growth_law"], relative=1e-6, cells=growth),
        equal("H_K that the cold iterates show", e["cold_H"], e["cold_law"], relative=1e-8, cells=cold),
        at_least("cold growth a step less 1, where H_K < 0", growing[unstable] - 1, 1e-9),
        equal("floor of |grad Phi|^2 at K just enough", e["floor"], e["floor_law"], relative=1e-8, cells=e["floor_K"]),
        at_most("final |grad Phi|^2, warm, K = N = 1", e["warm"], 1e-20, cells=start),
        at_most("final |grad Phi|^2 at 0.8 of the limit, N = 2", e["near"][1], 1e-20),
        at_least("final / first |grad Phi|^2 at 0.8 of the limit, N = 1", e["near"][0] / e["near_first"], 1e6),
    ]


def _name_cells(evidence: Evidence, prefix: str, columns: tuple[str, ...]) -> list[str]:
    """One name a cell from the columns of its table."""
    rows = zip(*(evidence[f"{prefix}_{name}"] for name in columns), strict=True)
    return [", ".join(_shown(name, value) for name, value in zip(columns, row, strict=True)) for row in rows]


def _shown(name: str, value: float) -> str:
    return f"{OPPOSED[int(value)]} opposed" if name == "opposed" else f"{name} {value:g}"


def limit(kappa: float, s: float, opposed: str) -> float:
    """The critical beta L_Phi at K = 1, alpha = 1 / kappa, exact v: Proposition 2c."""
    eps = 1 / kappa
    if opposed == "slow":
        return (4 - 2 * eps) * (1 - s) / (2 - eps - eps * s)
    return eps * (1 - s) / ((1 - eps) * s)


# ---- warm theta, exact v


def _critical(setting: Setting, *, kappas: tuple[float, ...]) -> Evidence:
    shares = setting.pick((0.5, 0.9), (0.4, 0.5, 0.7, 0.9, 0.99))
    cells = [(kappa, s, code) for kappa in kappas for s in shares for code in (0, 1)]
    found, laws = [], []
    for kappa, s, code in setting.track(cells, "critical steps"):
        problem = cancelling_modes(kappa=kappa, s=s, opposed=OPPOSED[code])
        law = limit(kappa, s, OPPOSED[code])

        def log_growth(share: float, problem: Quadratic = problem, kappa: float = kappa) -> float:
            return math.log(_growth(_iterates(setting, problem, kappa, share, warm=True)))

        ends = law / 4, 4 * law
        crossed = log_growth(ends[0]) < 0 < log_growth(ends[1])
        found.append(brentq(log_growth, *ends, rtol=1e-9) if crossed else math.nan)
        laws.append(law)
    kappa, s, opposed = (np.array(column, float) for column in zip(*cells, strict=True))
    columns = {"critical_kappa": kappa, "critical_s": s, "critical_opposed": opposed}
    return {**columns, "critical": np.array(found), "critical_law": np.array(laws)}


def _growth_curve(setting: Setting) -> Evidence:
    kappa, s = SHOWN
    rows = []
    for code, opposed in enumerate(OPPOSED):
        problem = cancelling_modes(kappa=kappa, s=s, opposed=opposed)
        theory, L_Phi = QuadraticTheory.of(problem), problem.constants.L_Phi
        for share in (1.0, *np.geomspace(1e-3, 2.0, setting.pick(12, 40))):
            found = _growth(_iterates(setting, problem, kappa, share, warm=True))
            law = np.abs(np.linalg.eigvals(theory.warm_map(1, 1 / kappa, share / L_Phi))).max()
            rows.append((code, share, found, law))
    opposed, beta, growth, law = (np.array(column, float) for column in zip(*rows, strict=True))
    return {"growth_opposed": opposed, "growth_beta": beta, "growth": growth, "growth_law": law}


def _iterates(setting: Setting, problem: Quadratic, kappa: float, share: float, *, warm: bool, K: int = 1) -> Array:
    """phi_0 .. phi_15 of a run with beta = share / L_Phi and exact v."""
    method = setting.method(
        lower_steps=K,
        lower_step_size=1 / kappa,
        cg_steps=2,
        upper_step_size=share / problem.constants.L_Phi,
        warm_start=warm,
    )
    result = solve(problem, method, iterations=16, probes=(PHI,), seed=setting.seed, device=setting.device)
    return result.trace["phi"].numpy()


def _growth(iterates: Array) -> float:
    """The larger root of x^2 = a x + b, where the differences of the iterates obey d_{t+2} = a d_{t+1} + b d_t."""
    d = np.diff(iterates)
    (a, b), *_ = np.linalg.lstsq(np.stack([d[1:-1], d[:-2]], axis=1), d[2:], rcond=None)
    return float(np.abs(np.roots([1, -a, -b])).max())


# ---- cold theta, exact v; warm theta and v


def _instances(setting: Setting) -> list[tuple[float, float]]:
    """kappa and s of the instances that diverge cold and converge warm; the second takes 20000 warm iterations."""
    return setting.pick([(4.0, 0.5)], [(4.0, 0.5), SHOWN])


def _cold(setting: Setting) -> Evidence:
    rows = []
    cells = [(*SHOWN, K) for K in (1, 2, 5, 10, 15, 20, 21, 22, 30, 60)] + [(4.0, 0.5, K) for K in (1, 2, 3)]
    for kappa, s, K in setting.track(cells, "cold runs"):
        problem = cancelling_modes(kappa=kappa, s=s, opposed="fast")
        law = float(QuadraticTheory.of(problem).cold_fixed_point(K, 1 / kappa)[1][0, 0])
        for share in DECADES:
            d = np.diff(_iterates(setting, problem, kappa, share, warm=False, K=K)[:7])
            factor = (d[1:] @ d[:-1]) / (d[:-1] @ d[:-1])
            rows.append((kappa, s, K, share, (1 - factor) * problem.constants.L_Phi / share, law))
    names = ("cold_kappa", "cold_s", "cold_K", "cold_beta", "cold_H", "cold_law")
    return {name: np.array(column, float) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _floors(setting: Setting) -> Evidence:
    kappa, s = SHOWN
    problem = cancelling_modes(kappa=kappa, s=s, opposed="fast")
    theory = QuadraticTheory.of(problem)
    steps, traces, laws = (22, 30, 60), [], []
    for K in steps:
        rest, H = theory.cold_fixed_point(K, 1 / kappa)
        # beta = 1 / (2 H_K) halves the distance to the floor's point: 60 iterations leave 1e-18 of it
        method = setting.method(
            lower_steps=K, lower_step_size=1 / kappa, cg_steps=2, upper_step_size=0.5 / H[0, 0], warm_start=False
        )
        result = solve(problem, method, iterations=60, seed=setting.seed, device=setting.device)
        traces.append(result.trace["grad_norm_sq"].numpy())
        laws.append(np.square(theory.gradient(rest)).sum())
    traces = np.stack(traces)
    return {"floor_K": np.array(steps), "floor_trace": traces, "floor": traces[:, -1], "floor_law": np.array(laws)}


def _warm(setting: Setting) -> Evidence:
    instances = _instances(setting)
    evidence: Evidence = {
        "warm_kappa": np.array([k for k, _ in instances]),
        "warm_s": np.array([s for _, s in instances]),
    }
    for k, (kappa, s) in enumerate(setting.track(instances, "warm runs")):
        iterations = 800 if s < SHOWN[1] else 25000
        evidence[f"warm_trace_{k}"] = _descent(setting, kappa, s, share=0.5, N=1, iterations=iterations)
    finals = [_final(evidence[f"warm_trace_{k}"]) for k in range(len(instances))]
    near = [_descent(setting, 2.0, 0.5, share=0.8, N=N, iterations=600) for N in (1, 2)]
    ends = np.array([_final(trace) for trace in near])
    return {**evidence, "warm": np.array(finals), "near": ends, "near_first": near[0][0]}


def _final(trace: Array) -> float:
    """The largest of the last 100: the iterates oscillate, and a single one may be small by chance."""
    return float(trace[-100:].max())


def _descent(setting: Setting, kappa: float, s: float, *, share: float, N: int, iterations: int) -> Array:
    """|grad Phi|^2 along a run with theta and v warm, K = 1, at this share of the limit for exact v."""
    problem = cancelling_modes(kappa=kappa, s=s, opposed="fast")
    beta = share * limit(kappa, s, "fast") / problem.constants.L_Phi
    method = setting.method(lower_steps=1, lower_step_size=1 / kappa, cg_steps=N, upper_step_size=beta, warm_start=True)
    result = solve(problem, method, iterations=iterations, seed=setting.seed, device=setting.device)
    return result.trace["grad_norm_sq"].numpy()
