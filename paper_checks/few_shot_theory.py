"""Softmax heads on given features, written down in numpy: the Hessian as a matrix, the exact iterates of CG.

Nothing is shared with `problems.few_shot.heads` or `convergence.linear_solvers`. theta is a matrix W (way, d), row
after row; Z (n, d) are the features of n images, their last column ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

Array = npt.NDArray[Any]


def lower_hessian(Z: Array, theta: Array, *, way: int, ridge: float) -> Array:
    """(1/n) sum_j J_j (x) z_j z_j' + ridge I, (q, q), J_j = diag(p_j) - p_j p_j' and p_j = softmax(W z_j)."""
    p = softmax(Z @ theta.reshape(way, -1).T, axis=1)
    J = p[:, :, None] * (np.eye(way) - p[:, None, :])
    blocks = np.einsum("jab,jk,jl->akbl", J, Z, Z, optimize=True) / len(Z)
    return blocks.reshape(theta.size, theta.size) + ridge * np.eye(theta.size)


def upper_gradient(Z: Array, y: Array, theta: Array, *, way: int) -> Array:
    """(1/n) sum_j (p_j - e_{y_j}) (x) z_j, (q,)."""
    p = softmax(Z @ theta.reshape(way, -1).T, axis=1)
    return ((p - np.eye(way)[y]).T @ Z).ravel() / len(Z)


def exact_cg(eigenvalues: Array, b: Array, steps: int) -> Array:
    """v_1 .. v_N of CG on diag(eigenvalues) v = b from v_0 = 0, (N, q), the Krylov basis kept orthogonal.

    v_k = |b| Q_k T_k^-1 e_1, by the Lanczos process with two rounds of reorthogonalisation. The eigenvalues may be
    zero, and b outside of the range: T_k is positive definite while b has a component within it.
    """
    basis, diagonal, beside = [b / np.linalg.norm(b)], [], []
    found = np.empty((steps, len(b)))
    for k in range(steps):
        w = eigenvalues * basis[-1]
        diagonal.append(w @ basis[-1])
        Q = np.array(basis)
        for _ in range(2):
            w = w - Q.T @ (Q @ w)
        T = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        found[k] = np.linalg.norm(b) * np.linalg.solve(T, np.eye(k + 1)[0]) @ Q
        beside.append(np.linalg.norm(w))
        basis.append(w / beside[-1])
    return found


def residual_bound(kappa: npt.ArrayLike, N: npt.ArrayLike) -> Array:
    """sqrt(kappa) chi_N, of which |b - H v_N| / |b| is at most: |r| <= sqrt(L) |e|_H, |e_0|_H <= |b| / sqrt(mu)."""
    kappa, N = np.asarray(kappa, float), np.asarray(N, float)
    return np.sqrt(kappa) / np.cosh(N * np.arccosh((kappa + 1) / (kappa - 1)))
