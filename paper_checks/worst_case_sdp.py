"""No guarantee of gradient descent, exact or with a relative error, is better than those used here: by an SDP.

Statement.
    Over all L-smooth functions bounded below, and all directions with |d_t - grad Phi| <= eps |grad Phi|, N steps of
    size beta = h / L leave at worst min_{t<=N} |grad Phi(phi_t)|^2 = L Delta w(N, (1 - eps) h), where w(N, h) =
    2 / (2 N h + 1) for convex Phi and 4 / (N min(4 h - h^2, 4 h - h^3) + 2) without convexity. The algorithm with a
    certified relative error obeys that bound, and with truncated CG it attains it.
Hypotheses.
    h <= 1 where eps > 0 (h <= 1.2 for eps = 0). That no direction is worse than the shortened one, d = (1 - eps) grad
    Phi, is not proved here: the dual value of the semidefinite programme certifies it, cell by cell.
Predicted.
    (1) The programme's value is L Delta w: for eps = 0 in 20 cells, h = 0.5, 1 (and 1.2, nonconvex), N = 1, 2, 3, 5,
    and for eps > 0. (2) Attained: a lower level with the Chebyshev spectrum and N cold CG steps makes d =
    (1 - chi_N^2) grad Phi exactly; on the Huber and zigzag profiles made for that step min |grad Phi|^2 is L Delta w
    with eps = chi_N^2, and phi ends where exact arithmetic says. (3) Obeyed: with K and N chosen so that the
    certificate of Theorem 1 keeps |d - grad Phi| <= eps |grad Phi|, on Huber and plateau profiles made for steps of
    (0.5 .. 1) h, kappa = 10, and on random quadratics: the measured relative error is at most eps, and min
    |grad Phi|^2 at most the programme's value.
Measured.
    PEPit's worst case by Clarabel, primal and dual value. |grad Phi|^2 and |d - grad Phi| along runs.
Refuted by.
    A value of the programme off its formula by 1e-6 or a duality gap of 1e-6 (the solver stops at 1e-8), an attained
    minimum or an end off by 1e-9 (all relative), a relative error above eps, a run above the programme's dual value.
    Without PEPit the claim is INCONCLUSIVE.
Source.
    docs/theory.md S6 (Drori and Teboulle 2014; Taylor, Hendrickx and Glineur 2017; Kim and Fessler 2021;
    Abbaszadehpeivasti, de Klerk and Zamani 2022; Goujaud et al. 2024, PEPit). Not in the paper.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from convergence import run as solve
from convergence.streams import generator
from paper_checks.claim import Array, Comparison, Evidence, Setting, at_least, at_most, equal, missing
from paper_checks.planted import ShorterStep
from problems import Huber, Plateau, Problem, Quadratic, Tight, Zigzag
from problems.shortened import Shortened

PLANTED = "two thirds of the upper step, in secret"
KINDS = ("convex", "nonconvex")
FAMILIES = ("huber", "plateau", "quadratic")
CG_STEPS = ((10.0, 2), (10.0, 4), (100.0, 4))  # kappa and N of the cells that attain: chi_N^2 = 0.25, 5e-3, 0.39
WITHOUT = "PEPit is not installed, so that no semidefinite programme was solved: pip install '.[pep]'"


class Cell(NamedTuple):
    """A worst case: kind 0 convex or 1 not, beta = h / L, N steps, relative error eps."""

    kind: int
    h: float
    N: int
    eps: float = 0.0

    @property
    def law(self) -> float:
        """w(N, (1 - eps) h): min |grad Phi|^2 / (L Delta)."""
        h = (1 - self.eps) * self.h
        return 2 / (2 * self.N * h + 1) if self.kind == 0 else 4 / (self.N * min(4 * h - h**2, 4 * h - h**3) + 2)


def run(setting: Setting) -> Evidence:
    """Programmes, the runs that attain their values, the runs that obey them."""
    return _gather(setting)


def control(setting: Setting) -> Evidence:
    """The same with the planted error: the programmes are those solved before."""
    return _gather(replace(setting, method=ShorterStep))


def judge(evidence: Evidence) -> list[Comparison]:
    """Programmes equal to their formulas; runs attain or obey them."""
    e = evidence
    attained, obeyed = _names(e, "tight", "kappa"), _names(e, "run", "family")
    comparisons = [
        equal(
            "min |grad Phi|^2 / (L Delta), truncated CG", e["tight_min"], e["tight_law"], relative=1e-9, cells=attained
        ),
        equal("phi at its end, truncated CG", e["tight_end"], e["tight_end_law"], relative=1e-9, cells=attained),
        equal(
            "|d - grad Phi| / |grad Phi|, truncated CG", e["tight_error"], e["tight_eps"], relative=1e-9, cells=attained
        ),
        at_most("|d - grad Phi| / (eps |grad Phi|), certified runs", e["run_error"] / e["run_eps"], 1.0, cells=obeyed),
        at_most("|d - grad Phi| / its certificate", e["run_certified"], 1 + 1e-9, cells=obeyed),
        at_most("min |grad Phi|^2 / L Delta w, certified runs", e["run_min"] / e["run_law"], 1 + 1e-9, cells=obeyed),
    ]
    if np.isnan(e["sdp"]).all():
        return [missing("worst case of the semidefinite programme / (L Delta)", e["sdp_law"][0], WITHOUT), *comparisons]
    cells = _names(e, "sdp")
    gap = np.abs(e["sdp_dual"] / e["sdp"] - 1)
    ratios = {"tight": e["tight_min"] / e["tight_sdp"], "run": e["run_min"] / e["run_sdp"]}
    return [
        equal(
            "worst case of the semidefinite programme / (L Delta)", e["sdp"], e["sdp_law"], relative=1e-6, cells=cells
        ),
        at_most("its duality gap, relative", gap, 1e-6, cells=cells),
        at_least("programmes solved with eps = 0", np.sum(e["sdp_eps"] == 0), 20),
        equal(
            "min |grad Phi|^2 / the programme's value, truncated CG", ratios["tight"], 1, absolute=1e-6, cells=attained
        ),
        at_most("min |grad Phi|^2 / the programme's value, certified runs", ratios["run"], 1 + 1e-6, cells=obeyed),
        *comparisons,
    ]


def _names(evidence: Evidence, prefix: str, first: str = "") -> list[str]:
    """What the worst cell is called."""
    columns = (evidence[f"{prefix}_{name}"] for name in ("kind", "h", "N", "eps"))
    names = [f"{KINDS[int(k)]}, h {h:g}, N {N:.0f}, eps {eps:.3g}" for k, h, N, eps in zip(*columns, strict=True)]
    if not first:
        return names
    values = evidence[f"{prefix}_{first}"]
    shown = [FAMILIES[int(v)] if first == "family" else f"{first} {v:g}" for v in values]
    return [f"{own}, {name}" for own, name in zip(shown, names, strict=True)]


def _gather(setting: Setting) -> Evidence:
    exact = [Cell(kind, h, N) for kind, h in ((0, 0.5), (0, 1.0), (1, 0.5), (1, 1.0), (1, 1.2)) for N in (1, 2, 3, 5)]
    tight, runs = _attained(setting), _obeyed(setting)
    cells = [*exact, *dict.fromkeys((*_cells(tight, "tight"), *_cells(runs, "run")))]
    values = np.array([worst_case(cell) for cell in setting.track(cells, "semidefinite programmes")])
    known = dict(zip(cells, values[:, 1], strict=True))
    tight["tight_sdp"] = np.array([known[cell] for cell in _cells(tight, "tight")])
    runs["run_sdp"] = np.array([known[cell] for cell in _cells(runs, "run")])
    columns = dict(zip(("sdp_kind", "sdp_h", "sdp_N", "sdp_eps"), np.array(cells, float).T, strict=True))
    law = np.array([cell.law for cell in cells])
    return {**columns, "sdp": values[:, 0], "sdp_dual": values[:, 1], "sdp_law": law, **tight, **runs}


def _cells(evidence: Evidence, prefix: str) -> list[Cell]:
    columns = (evidence[f"{prefix}_{name}"] for name in ("kind", "h", "N", "eps"))
    return [Cell(int(kind), float(h), int(N), float(eps)) for kind, h, N, eps in zip(*columns, strict=True)]


# ---- the semidefinite programme


@functools.cache
def worst_case(cell: Cell) -> tuple[float, float]:
    """The largest min_{k<=N} |g_k|^2 with L = Delta = 1, primal and dual value; not a number without PEPit.

    Gradient descent x' = x - h d with |d - g| <= eps |g|, on convex functions with a minimiser, or on any smooth one
    with f* <= f(x) - |grad f(x)|^2 / 2 at all iterates, which a function bounded below by f* fulfils.
    """
    try:
        from PEPit import PEP, Expression, Point
        from PEPit.functions import SmoothConvexFunction, SmoothFunction
    except ImportError:
        return math.nan, math.nan
    problem = PEP()
    f = problem.declare_function(SmoothFunction if cell.kind else SmoothConvexFunction, L=1.0)
    lowest = Expression() if cell.kind else f(f.stationary_point())
    x = problem.set_initial_point()
    problem.set_initial_condition(f(x) - lowest <= 1)
    for step in range(cell.N + 1):
        g, value = f.oracle(x)
        problem.set_performance_metric(g**2)  # PEPit takes the least of all metrics
        if cell.kind:
            problem.add_constraint(lowest <= value - g**2 / 2)
        if step < cell.N:
            d = g
            if cell.eps:
                error = Point()  # of unit size: with d itself as unknown a small eps spoils the conditioning
                problem.add_constraint(error**2 <= g**2)
                d = g + cell.eps * error
            x = x - cell.h * d
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the solver's accuracy: the duality gap is judged instead
        dual = problem.solve(verbose=0, solver="CLARABEL")
    return float(problem.objective.eval()), float(dual)


# ---- runs


def _attained(setting: Setting) -> Evidence:
    """Truncated CG on profiles made for the shortened step."""
    cells = [
        (kappa, cg_steps, kind, h, N)
        for kappa, cg_steps in CG_STEPS
        for kind in (0, 1)
        for h in (0.5, 1.0)
        for N in setting.pick((1, 3), (1, 2, 3, 5))
    ]
    rows = []
    for kappa, cg_steps, kind, h, N in setting.track(cells, "runs with truncated CG"):
        eps = Shortened(Huber(horizon=1), cg_steps=cg_steps, kappa=kappa).relative_error
        make = (Huber, Zigzag)[kind]
        tight = make(horizon=N + 1, relative_step=(1 - eps) * h)
        problem = Shortened(tight, cg_steps=cg_steps, kappa=kappa)
        method = setting.method(
            lower_steps=1, cg_steps=cg_steps, upper_step_size=h / tight.smoothness, warm_start=False
        )
        squares, errors, _, end = _trace(setting, problem, method, N)
        cell = Cell(kind, h, N, eps)
        # x_N is the end of the quadratic part, and the step from there shrinks it by 1 - (1 - eps) h
        last = (1 - (1 - eps) * h) * tight.gradient / tight.smoothness
        rows.append((kappa, *cell, squares.min() / (tight.smoothness * tight.gap), cell.law, errors.max(), end, last))
    names = ("kappa", "kind", "h", "N", "eps", "min", "law", "error", "end", "end_law")
    return _table("tight", names, rows)


def _obeyed(setting: Setting) -> Evidence:
    """Runs with a certified relative error."""
    cells = [
        (family, Cell(int(family == 1), h, N, eps), made)
        for eps in (0.1, 0.3)
        for h in (0.5, 1.0)
        for N in setting.pick((1, 3), (1, 2, 3, 5, 10))
        for family in (0, 1, 2)
        for made in setting.pick((0.5, 2 / 3, 1.0), (0.5, 0.6, 2 / 3, 0.7, 0.8, 0.9, 1.0))
    ]
    rows = []
    for family, cell, made in setting.track(cells, "certified runs"):
        problem, gap = _instance(family, cell, made, setting.seed)
        L_Phi = problem.constants.L_Phi
        method = setting.method(
            lower_steps=10**4,
            cg_steps=10**4,
            upper_step_size=cell.h / L_Phi,
            accuracy=cell.eps / (1 + cell.eps),  # of |d|, so that it is eps of |grad Phi|
        )
        squares, errors, certified, _ = _trace(setting, problem, method, cell.N)
        rows.append((family, *cell, squares.min() / (L_Phi * gap), cell.law, errors.max(), certified.max()))
    return _table("run", ("family", "kind", "h", "N", "eps", "min", "law", "error", "certified"), rows)


def _instance(family: int, cell: Cell, made: float, seed: int) -> tuple[Problem, float]:
    """The problem and Phi(phi_0) - Phi*; profiles made for steps of made h, a quadratic with kappa = 10 made."""
    if family == 2:
        quadratic = Quadratic.random(tasks=3, p=3, q=4, kappa=10 * made, seed=seed + 23)
        start = quadratic.phi0(generator(seed, "start"))
        return quadratic, float(quadratic.value(start) - quadratic.value(quadratic.upper_solution()))
    make: type[Tight] = (Huber, Plateau)[family]
    tight = make(horizon=cell.N + 1, relative_step=made * cell.h, kappa=10.0, dimension=4, coupled=True, seed=seed)
    return tight, tight.gap


def _trace(setting: Setting, problem: Problem, method: object, steps: int) -> tuple[Array, Array, Array, float]:
    """At phi_0 .. phi_N: |grad Phi|^2, |d - grad Phi| / |grad Phi|, |d - grad Phi| / certificate; phi_N+1."""
    probes = ("grad_norm_sq", "direction_error_sq", "certified_direction_error")
    result = solve(problem, method, iterations=steps + 1, probes=probes, seed=setting.seed, device=setting.device)
    squares, errors_sq, certificates = (result.trace[name].numpy() for name in probes)
    errors, rounding = np.sqrt(errors_sq), 1e-12 * np.sqrt(squares[0])  # an iterate may be optimal, a step exact
    size, certificates = np.sqrt(squares) + rounding, certificates + rounding
    return squares, errors / size, errors / certificates, float(result.phi["phi"].flatten()[0])


def _table(prefix: str, names: tuple[str, ...], rows: list[tuple[float, ...]]) -> Evidence:
    columns = zip(*rows, strict=True)
    return {f"{prefix}_{name}": np.array(column, float) for name, column in zip(names, columns, strict=True)}
