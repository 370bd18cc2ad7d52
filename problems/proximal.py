"""Quadratic tasks pulled to a common centre phi, which is also where theta starts (docs/theory.md S7b)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from problems.arguments import checked
from problems.arrays import floating, random_symmetric
from problems.quadratic import Quadratic


class Proximal(Quadratic):
    """g_i = 1/2 |theta - m|^2_S + lambda/2 |theta - phi|^2,  f_i = 1/2 |theta - u|^2_Q: the quadratic of iMAML.

    Arrays with leading axis M: S (M, q, q) symmetric positive semidefinite, m (M, q), Q (M, q, q) symmetric,
    u (M, q). It is the `Quadratic` with A = S + lambda I, C = lambda I, b = S m, R = 0, w = 0 and the start
    theta_0 = phi (gain = I); its g lacks the terms free of theta.

    theta* = A^-1 (S m + lambda phi) lies between m and phi, tau = lambda / mu <= 1,
    H_Phi = mean lambda^2 A^-1 Q A^-1. Where Q = S the eigenvalues of a task's Hessian are
    s lambda^2 / (s + lambda)^2 <= lambda / 4 for those s of S.
    Source: Rajeswaran, Finn, Kakade, Levine, Meta-Learning with Implicit Gradients, NeurIPS 2019. Differs: quadratic
    losses. Raises ValueError where prox is not positive or S not positive semidefinite, and where `Quadratic` does.

    >>> problem = Proximal.random(tasks=3, q=4, spectrum=(0.1, 10.0), prox=1.0)
    >>> problem.constants.tau <= 1 and problem.constants.L_Phi <= 1 / 4
    True
    """

    @checked
    def __init__(
        self,
        S: ArrayLike | Tensor,
        m: ArrayLike | Tensor,
        Q: ArrayLike | Tensor,
        u: ArrayLike | Tensor,
        *,
        prox: float = 1.0,
    ):
        if not prox > 0:
            raise ValueError(f"expected prox > 0, got {prox}")
        S, m = floating("S", S), floating("m", m)
        if S.dim() != 3 or S.shape[-1] != S.shape[-2] or m.shape != S.shape[:2]:
            raise ValueError(f"expected S of shape (M, q, q) with m (M, q), got {tuple(S.shape)} and {tuple(m.shape)}")
        smallest = float(torch.linalg.eigvalsh(S).min())
        if smallest < -64 * torch.finfo(S.dtype).eps * float(S.abs().max()):
            raise ValueError(f"expected S positive semidefinite, got smallest eigenvalue {smallest:.3g}")
        pull = prox * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device).expand_as(S)
        super().__init__(
            A=S + pull,
            C=pull,
            b=(S @ m.unsqueeze(-1)).squeeze(-1),
            Q=Q,
            u=u,
            R=torch.zeros_like(S),
            w=torch.zeros_like(m),
            gain=pull / prox,
        )
        self.prox = prox

    @classmethod
    @checked
    def random(  # type: ignore[override]  # a family of its own, with its own sizes
        cls,
        *,
        tasks: int,
        q: int,
        spectrum: tuple[float, float] = (0.1, 10.0),
        prox: float = 1.0,
        matched: bool = True,
        seed: int = 0,
    ) -> Proximal:
        """Random eigenvectors, eigenvalues of every S_i log-spaced over `spectrum` with both ends in it.

        kappa = (s_max + lambda) / (s_min + lambda). `matched`: Q = S, training and validation loss have one Hessian;
        else Q is random with eigenvalues from 1/2 to 3/2. m and u are standard normal.
        """
        low, high = spectrum
        if not 0 < low <= high or (q == 1 and low != high):
            raise ValueError(f"expected a spectrum 0 < low <= high, for q = 1 with low = high, got {spectrum}")
        rng = np.random.default_rng(seed)
        S = random_symmetric(rng, tasks, np.geomspace(low, high, q))
        Q = S if matched else random_symmetric(rng, tasks, np.linspace(0.5, 1.5, q))
        m, u = rng.standard_normal((2, tasks, q))
        return cls(S, m, Q, u, prox=prox)
