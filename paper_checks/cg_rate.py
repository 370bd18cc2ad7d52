"""N conjugate-gradient steps contract the energy norm by at most chi_N, and the bound is attained.

Statement.
    |v_N - v*|_H <= chi_N |v_0 - v*|_H, chi_N = 2 r^N / (1 + r^2N), r = (sqrt(kappa) - 1) / (sqrt(kappa) + 1),
    from a cold start and from a warm one alike.
Hypotheses.
    H symmetric positive definite with condition number kappa.
Predicted.
    On the Chebyshev spectrum (N + 1 eigenvalues at the extrema of the scaled Chebyshev polynomial, residual with
    weights 1/sqrt 2, 1, ..., 1, 1/sqrt 2) the ratio equals chi_N = 1 / T_N((kappa + 1) / (kappa - 1)) exactly; on
    random spectra it is at most chi_N.
Measured.
    v from one step of the method with an exact lower level (theta_0 = theta*), against v* from the eigenvalues: cold
    from v_0 = 0, and warm the second of two steps at the same phi. The first, for a random v*, ends at some v_1; the
    second is for v* = v_1 + e_0, by another u in f, with the state that the first one left. chi_N from its hyperbolic
    form.
Refuted by.
    A ratio off chi_N by more than 1e-6 relative on the Chebyshev spectrum (rounding: 1e-16 kappa / chi_N), or above
    chi_N (1 + 1e-9) on a random one.
Source.
    docs/theory.md S1 (Greenbaum 1979).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from convergence import Oracle
from paper_checks.claim import Comparison, Evidence, Setting, at_most, equal
from paper_checks.planted import OldResidualDirection
from paper_checks.quadratic_theory import Array, Chebyshev, chi
from problems import Parameters, Quadratic

PLANTED = "CG with the old residual in its search direction (the error of a published package)"


def run(setting: Setting) -> Evidence:
    """Ratios on the Chebyshev spectrum, cold and warm, and on random spectra."""
    rng = np.random.default_rng([setting.seed, 4])
    cells, ratios, predicted = [], [], []
    for kappa in setting.track((4.0, 10.0, 100.0, 1e3, 1e4), "condition numbers"):
        for N in setting.pick((1, 2, 3, 4, 6, 8, 12, 16, 20), tuple(range(1, 21))):
            spectrum = Chebyshev.of(N, kappa)
            e_0 = spectrum.weights / spectrum.eigenvalues
            for warm in (False, True):
                before = rng.standard_normal(N + 1) if warm else None
                ratios.append(_ratio(setting, spectrum.eigenvalues, e_0, N, before=before))
                predicted.append(chi(N, kappa))
                cells.append((kappa, N, warm))
    random_ratio, random_bound = [], []
    for _ in range(setting.pick(60, 600)):
        q, kappa = int(rng.integers(3, 30)), float(10 ** rng.uniform(0.3, 3))
        N = int(rng.integers(1, min(q, 12)))
        eigenvalues = np.concatenate([[1.0, kappa], rng.uniform(1, kappa, q - 2)])
        e_0 = rng.standard_normal(q)
        random_ratio.append(_ratio(setting, eigenvalues, e_0, N))
        random_bound.append(chi(N, kappa))
    kappas, Ns, warms = (np.array(column, float) for column in zip(*cells, strict=True))
    return {
        "kappa": kappas,
        "N": Ns,
        "warm": warms,
        "ratio": np.array(ratios),
        "chi": np.array(predicted),
        "random_ratio": np.array(random_ratio),
        "random_chi": np.array(random_bound),
    }


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return run(replace(setting, method=OldResidualDirection))


def judge(evidence: Evidence) -> list[Comparison]:
    """Chebyshev spectrum: attained to 1e-6; random spectra: consistent with the bound."""
    e = evidence
    cells = [
        f"kappa {kappa:g}, N {N:.0f}, {'warm' if warm else 'cold'}"
        for kappa, N, warm in zip(e["kappa"], e["N"], e["warm"], strict=True)
    ]
    return [
        equal("energy-norm ratio on the Chebyshev spectrum", e["ratio"], e["chi"], relative=1e-6, cells=cells),
        at_most("energy-norm ratio / chi_N on random spectra", e["random_ratio"] / e["random_chi"], 1 + 1e-9),
    ]


def _ratio(setting: Setting, eigenvalues: Array, e_0: Array, N: int, *, before: Array | None = None) -> float:
    """|v_N - v*|_H / |v_0 - v*|_H of a step of the method, H = diag(eigenvalues), v* = v_0 + e_0.

    v_0 = 0; or, by the warm method, what its own step before has come to, for the solution `before`.
    """
    method = setting.method(
        lower_steps=1,
        lower_step_size=1 / eigenvalues.max(),
        cg_steps=N,
        upper_step_size=1.0,
        warm_start=before is not None,
    )
    phi = {"phi": torch.zeros(1, dtype=torch.float64, device=setting.device)}
    v, state = np.zeros_like(e_0), method.start(_oracle(setting, eigenvalues, e_0), phi)
    if before is not None:
        v, state = _step(method, _oracle(setting, eigenvalues, before), phi, state)
    solution = v + e_0
    v, _ = _step(method, _oracle(setting, eigenvalues, solution), phi, state)
    return _energy(eigenvalues, v - solution) / _energy(eigenvalues, e_0)


def _oracle(setting: Setting, eigenvalues: Array, solution: Array) -> Oracle:
    """theta_0 = theta* = 0 (b = 0, phi = 0) and Q = A: grad_theta f = -A u, so that v* = -u."""
    q, A = len(eigenvalues), np.diag(eigenvalues)[None]
    problem = Quadratic(
        A=A, C=np.ones((1, q, 1)), b=np.zeros((1, q)), Q=A, u=-solution[None], R=np.ones((1, 1, 1)), w=np.zeros((1, 1))
    )
    return Oracle(problem.to(setting.device))


def _step(method: Any, oracle: Oracle, phi: Parameters, state: Any) -> tuple[Array, Any]:
    step = method.step(oracle, phi, oracle.pool, state)
    return step.v[0].cpu().numpy(), step.state


def _energy(eigenvalues: Array, x: Array) -> float:
    return float(np.sqrt((eigenvalues * x * x).sum()))
