"""The squared gradient falls like 1/T, with the exact constant of the worst case.

Statement.
    min_{t<T} |grad Phi(phi_t)|^2 <= c L_Phi Delta / T, Delta = Phi(phi_0) - Phi*, with c -> 1 for convex and 4/3 for
    nonconvex Phi at beta = 1 / L_Phi: no better rate is possible for the class, since the worst cases attain it.
Hypotheses.
    Phi is L_Phi-smooth; beta = h / L_Phi, 0 < h <= 1; the lower level is solved so well that the iterates stay on the
    plateaus of the instance (zigzag: exactly, which floating-point arithmetic allows for powers of two).
Predicted.
    With N = T - 1: Huber (convex) 2 L Delta / (2 N h + 1); zigzag (nonconvex) 4 L Delta / (N (4h - h^2) + 2); plateau
    (nonconvex, robust) L Delta / (N (h - (1 - 2w)^2 h^2 / 4) + 1/2 + w h). At fixed L, Delta the Huber slope in
    log(2T - 1) is -1; sum_{t<T} |grad Phi|^2 / (2 L Delta) = T / (2T - 1) there.
Measured.
    |grad Phi|^2 = h'(phi_1)^2 along runs of T = 10 .. 1000 iterates, one instance for each T; through lower levels of
    kappa = 1, 10, 100, warm, in four dimensions. Zigzag keeps the line along an eigenvector, the others are coupled to
    every eigenvalue.
Refuted by.
    T min |grad Phi|^2 / (L Delta) off its law by 1e-9 relative, or a slope off -1 by 1e-6.
Source.
    docs/theory.md S6 (Drori and Teboulle 2014; Kim and Fessler 2021; Abbaszadehpeivasti, de Klerk and Zamani 2022).
    The exponent of claim C1 is the paper's, the constants are of the cited worst cases.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convergence import run as solve
from convergence.rates import log_log_slope
from paper_checks.claim import Comparison, Evidence, Setting, equal
from paper_checks.planted import HiddenDecay
from problems import Huber, Plateau, Tight, Zigzag

PLANTED = "an upper step size that decays in secret"
LOWER_STEPS = {1.0: 1, 10.0: 20, 100.0: 200}  # plateau: the lag of theta stays within the plateau's half-width
FAMILIES = ("huber", "plateau", "zigzag")


def run(setting: Setting) -> Evidence:
    """Every family, kappa and T."""
    return _runs(setting, kappas=(1.0, 10.0, 100.0))


def control(setting: Setting) -> Evidence:
    """The same with the planted error, at kappa = 1."""
    return _runs(replace(setting, method=HiddenDecay), kappas=(1.0,))


def _runs(setting: Setting, *, kappas: tuple[float, ...]) -> Evidence:
    horizons = setting.pick((10, 20, 50, 100, 200, 500, 1000), (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000))
    rows = []
    for family, kappa, horizon, h in setting.track(_cells(kappas, horizons), "runs"):
        problem = _instance(FAMILIES[family], horizon, h, kappa)
        squares = setting.kept(_trace, setting, problem, kappa)
        scale = problem.smoothness * problem.gap
        rows.append((family, kappa, horizon, h, squares.min() / scale, problem.law, squares.sum() / (2 * scale)))
    family, kappa, T, h, measured, law, total = (np.array(column, float) for column in zip(*rows, strict=True))
    return {"family": family, "kappa": kappa, "T": T, "h": h, "min": measured, "law": law, "sum": total}


def _cells(kappas: tuple[float, ...], horizons: tuple[int, ...]) -> list[tuple[int, float, int, float]]:
    """(family, kappa, T, h). Left out: plateaus of 200 lower steps beyond T = 200, and h = 1/2 beyond T = 100."""
    return [
        (family, kappa, horizon, h)
        for family, name in enumerate(FAMILIES)
        for kappa in kappas
        for horizon in horizons
        if not (name == "plateau" and kappa == 100 and horizon > 200)
        for h in (0.5, 1.0)
        if not (h == 0.5 and horizon > 100)
    ]


def judge(evidence: Evidence) -> list[Comparison]:
    """Exact laws, the slope in log(2T - 1), the exact sum."""
    e = evidence
    comparisons = []
    for family, name in enumerate(FAMILIES):
        own = e["family"] == family
        cells = [
            f"{name}, kappa {kappa:g}, T {T:.0f}, h {h:g}"
            for kappa, T, h in zip(e["kappa"][own], e["T"][own], e["h"][own], strict=True)
        ]
        T = e["T"][own]
        comparisons.append(
            equal(
                f"T min |grad Phi|^2 / (L Delta), {name}",
                T * e["min"][own],
                T * e["law"][own],
                relative=1e-9,
                cells=cells,
            )
        )
    for kappa in np.unique(e["kappa"]):
        own = (e["family"] == 0) & (e["kappa"] == kappa) & (e["h"] == 1)
        slope = log_log_slope(2 * e["T"][own] - 1, e["min"][own])
        comparisons.append(equal(f"Huber slope in log(2T - 1), kappa {kappa:g}", slope.value, -1, absolute=1e-6))
    exact = (e["family"] == 0) & (e["h"] == 1)
    T = e["T"][exact]
    comparisons.append(equal("sum |grad Phi|^2 / (2 L Delta), Huber", e["sum"][exact], T / (2 * T - 1), relative=1e-9))
    return comparisons


def _instance(name: str, horizon: int, h: float, kappa: float) -> Tight:
    """Powers of two throughout: with others rounding adds up to 1e-16 T^2 of the gradient by the end of the plateau."""
    options = {"horizon": horizon, "smoothness": 4.0, "relative_step": h, "kappa": kappa}
    options["dimension"] = 1 if kappa == 1 else 4
    if name == "zigzag":  # A diagonal: its orbit must be exact in floating point
        return Zigzag(**options)
    return {"huber": Huber, "plateau": Plateau}[name](coupled=kappa > 1, **options)


def _trace(setting: Setting, problem: Tight, kappa: float) -> np.ndarray:
    exact = isinstance(problem, Zigzag)
    method = setting.method(
        lower_steps=1 if exact or isinstance(problem, Huber) else LOWER_STEPS[kappa],
        lower_step_size=1.0 if exact else None,  # along the eigenvector of L = 1 one step is exact
        cg_steps=1 if exact else problem.q,
        upper_step_size=problem.upper_step_size,
        warm_start=True,
    )
    result = solve(problem, method, iterations=problem.horizon, seed=setting.seed, device=setting.device)
    return result.trace["grad_norm_sq"].numpy()
