"""Problems that break one assumption each, or whose step size limit is arbitrarily small."""

from __future__ import annotations

from typing import Literal

import numpy as np

from problems.quadratic import Quadratic


def cancelling_modes(*, kappa: float, s: float, opposed: Literal["slow", "fast"], target: float = 1.0) -> Quadratic:
    """Two lower modes, eigenvalues 1 and kappa, that f weighs with opposite signs: almost nothing is left of phi.

    One task, p = 1, q = 2: A = diag(1, kappa), C = (1, kappa)', b = 0, so that theta* = (phi, phi); f =
    1/2 (u'theta - target)^2 with u = (-s, 1) where the slow mode is the opposed one and (1, -s) where the fast one is.
    Phi = 1/2 ((1 - s) phi - target)^2 and L_Phi = (1 - s)^2, although |J'Q| is (1 - s) sqrt(1 + s^2): what the method
    sees while theta lags differs from grad Phi by far more than grad Phi itself. docs/theory.md S2, Proposition 2c.
    Raises ValueError unless kappa > 1 and 0 <= s < 1.

    >>> round(cancelling_modes(kappa=10.0, s=0.5, opposed="slow").constants.L_Phi, 12)
    0.25
    """
    if not kappa > 1 or not 0 <= s < 1:
        raise ValueError(f"expected kappa > 1 and 0 <= s < 1, got {kappa} and {s}")
    if opposed not in ("slow", "fast"):
        raise ValueError(f'expected opposed "slow" or "fast", got {opposed!r}')
    u = np.array([-s, 1.0] if opposed == "slow" else [1.0, -s])
    return Quadratic(
        A=np.diag([1.0, kappa])[None],
        C=[[[1.0], [kappa]]],
        b=np.zeros((1, 2)),
        Q=np.outer(u, u)[None],
        u=(target * u / (u @ u))[None],
        R=[[[0.0]]],
        w=[[0.0]],
    )


def two_curvatures(h: float, s: float, *, tasks: int = 2) -> Quadratic:
    """Multiplicative noise alone: half of the tasks have the curvature h + s, the others h - s, all the optimum 0.

    p = q = 1, g_i = 1/2 (theta - phi)^2, f_i = 1/2 (h +- s) theta^2: phi' = (1 - beta H_B) phi with H_B the batch's
    mean curvature, of mean h and variance zeta_b s^2. The mean contracts for beta < 2 / h, the second moment only for
    beta < 2 h / (h^2 + zeta_b s^2). docs/theory.md S4, 4c. Raises ValueError unless h > 0 and tasks is even.

    >>> two_curvatures(1.0, 0.5).data["Q"].flatten().tolist()
    [1.5, 0.5]
    """
    if not h > 0 or tasks < 2 or tasks % 2:
        raise ValueError(f"expected h > 0 and an even number of tasks, got {h} and {tasks}")
    one, zero = np.ones((tasks, 1, 1)), np.zeros((tasks, 1))
    curvatures = np.resize([h + s, h - s], (tasks, 1, 1))
    return Quadratic(A=one, C=one, b=zero, Q=curvatures, u=zero, R=zero[..., None], w=zero)
