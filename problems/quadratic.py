"""Quadratic lower and upper level: every quantity of the theory in closed form (docs/theory.md S1, S7a)."""

from __future__ import annotations

import functools
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from problems.arguments import checked
from problems.arrays import floating, random_symmetric
from problems.base import Constants, Parameters, Problem, Tasks, matvec


class Quadratic(Problem):
    """g_i = 1/2 theta'A theta - theta'(C phi + b),  f_i = 1/2 |theta - u|^2_Q + 1/2 |phi - w|^2_R.

    Arrays, each with leading axis M (the tasks): A (M, q, q) symmetric positive definite, C (M, q, p),
    b (M, q), Q (M, q, q) symmetric, u (M, q), R (M, p, p) symmetric, w (M, p). phi is {"phi": (..., p)}.
    A cold lower level starts at theta0 = start + gain phi: zeros by default; gain = identity is the
    initialisation of MAML and iMAML.

    With J = A^-1 C:  theta*(phi) = J phi + A^-1 b,  grad Phi(phi) = H_Phi phi - h_Phi,
    H_Phi = mean(R + J'QJ),  h_Phi = mean(R w - J'Q (A^-1 b - u)).

    Features are phi and C phi + b, so that a lower gradient costs one product with A.
    Raises TypeError or ValueError on arrays of the wrong shape, not finite, not symmetric, or with A not
    positive definite.

    >>> problem = Quadratic.random(tasks=3, p=2, q=4, kappa=10.0, seed=0)
    >>> round(problem.constants.kappa, 6)
    10.0
    """

    broadcasts_replicas = True

    def __init__(
        self,
        A: ArrayLike | Tensor,
        C: ArrayLike | Tensor,
        b: ArrayLike | Tensor,
        Q: ArrayLike | Tensor,
        u: ArrayLike | Tensor,
        R: ArrayLike | Tensor,
        w: ArrayLike | Tensor,
        *,
        start: ArrayLike | Tensor | None = None,
        gain: ArrayLike | Tensor | None = None,
    ):
        given = {"A": A, "C": C, "b": b, "Q": Q, "u": u, "R": R, "w": w}
        if start is not None or gain is not None:
            given["start"] = start if start is not None else np.zeros(np.shape(b))
            given["gain"] = gain if gain is not None else np.zeros(np.shape(C))
        arrays = {name: floating(name, value) for name, value in given.items()}
        widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in arrays.values()))
        self.data = {name: tensor.to(widest) for name, tensor in arrays.items()}
        shape = self.data["C"].shape
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"expected C of shape (M, q, p) with M, q, p >= 1, got {tuple(shape)}")
        M, q, p = shape
        self.p, self.q = p, q
        expected = {"A": (M, q, q), "b": (M, q), "Q": (M, q, q), "u": (M, q), "R": (M, p, p), "w": (M, p)}
        expected |= {"start": (M, q), "gain": (M, q, p)}
        for name, tensor in self.data.items():
            if name != "C" and tuple(tensor.shape) != expected[name]:
                raise ValueError(f"expected {name} of shape {expected[name]}, got {tuple(tensor.shape)}")
        self.check()
        for name in ("A", "Q", "R"):
            _require_symmetric(name, self.data[name])
        smallest = float(torch.linalg.eigvalsh(self.data["A"]).min())
        if smallest <= 0:
            raise ValueError(f"expected A positive definite, got smallest eigenvalue {smallest:.3g}")

    @classmethod
    @checked
    def random(
        cls,
        *,
        tasks: int,
        p: int,
        q: int,
        kappa: float,
        seed: int = 0,
        equal_hessians: bool = False,
        coupling: float = 1.0,
        upper_curvature: tuple[float, float] = (0.5, 1.5),
        initialisation: bool = False,
    ) -> Quadratic:
        """A random instance: spectrum of every A_i log-spaced from 1 to kappa, with both ends in it.

        `equal_hessians` gives all tasks the same A, C, Q, R (they differ in b, u, w only), so that the noise of
        a batch is additive. `coupling` is the spectral norm of every C_i. The eigenvalues of R_i lie in
        `upper_curvature` and keep H_Phi positive definite. `initialisation` starts theta at phi (p = q).
        Cost: one QR and one eigendecomposition a task. Raises ValueError on sizes < 1 or kappa < 1.
        """
        if not kappa >= 1:
            raise ValueError(f"expected kappa a finite number >= 1, got {kappa}")
        if q == 1 and kappa != 1:
            raise ValueError(f"expected kappa = 1 for q = 1 (one eigenvalue), got kappa = {kappa}")
        if initialisation and p != q:
            raise ValueError(f"expected p = q where phi is the initialisation of theta, got p = {p}, q = {q}")
        rng = np.random.default_rng(seed)
        count = 1 if equal_hessians else tasks

        A = random_symmetric(rng, count, np.geomspace(1.0, kappa, q))
        C = rng.standard_normal((count, q, p))
        C *= coupling / np.linalg.norm(C, 2, axis=(1, 2), keepdims=True)
        Q = random_symmetric(rng, count, np.linspace(0.5, 1.5, q))
        R = random_symmetric(rng, count, np.linspace(*upper_curvature, p))
        A, C, Q, R = (np.broadcast_to(x, (tasks, *x.shape[1:])).copy() for x in (A, C, Q, R))
        b, u = rng.standard_normal((2, tasks, q))
        w = rng.standard_normal((tasks, p))
        gain = np.broadcast_to(np.eye(q), (tasks, q, q)).copy() if initialisation else None
        return cls(A, C, b, Q, u, R, w, gain=gain)

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Standard normal."""
        like = self.data["w"]
        draw = torch.randn(self.p, generator=rng, dtype=torch.float64, device=rng.device)
        return {"phi": draw.to(like.device, like.dtype)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """start + gain phi, zeros by default."""
        if "gain" in tasks.tensors:
            return tasks.start + matvec(tasks.gain, phi["phi"].unsqueeze(-2))
        lead = torch.broadcast_shapes(tasks.index.shape, (*phi["phi"].shape[:-1], 1))
        return phi["phi"].new_zeros(*lead, self.q)

    def embed(self, phi: Parameters, tasks: Tasks) -> dict[str, Tensor]:
        """phi, one row for all tasks, and C phi + b."""
        row = phi["phi"].unsqueeze(-2)
        return {"phi": row, "linear": matvec(tasks.C, row) + tasks.b}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 theta'A theta - theta'(C phi + b)."""
        return (theta * (0.5 * matvec(tasks.A, theta, symmetric=True) - features["linear"])).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 |theta - u|^2_Q + 1/2 |phi - w|^2_R."""
        return 0.5 * (_form(tasks.Q, theta - tasks.u) + _form(tasks.R, features["phi"] - tasks.w))

    # ---- closed forms of the oracle's four calls

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """A theta - (C phi + b)."""
        return matvec(tasks.A, theta, symmetric=True) - features["linear"]

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """A v."""
        return matvec(tasks.A, v, symmetric=True)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Q (theta - u)."""
        return matvec(tasks.Q, theta - tasks.u, symmetric=True)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i [ R (phi - w) + C'v ]."""
        direct = matvec(tasks.R, features["phi"] - tasks.w, symmetric=True)
        return {"phi": (direct + matvec(tasks.C.mT, v)).mean(-2)}

    # ---- exact solutions, from means over the tasks computed once: no code shared with the calls above

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """A^-1 (C phi + b), by a Cholesky solve."""
        right = torch.einsum("...ij,...j->...i", tasks.C, phi["phi"].unsqueeze(-2)) + tasks.b
        return torch.cholesky_solve(right.unsqueeze(-1), torch.linalg.cholesky(tasks.A)).squeeze(-1)

    def value(self, phi: Parameters) -> Tensor:
        """1/2 phi'H_Phi phi - h_Phi'phi + constant."""
        form = self._upper_form
        x = phi["phi"]
        return 0.5 * torch.einsum("...i,ij,...j->...", x, form["H"], x) - x @ form["h"] + form["constant"]

    def hypergradient(self, phi: Parameters) -> Parameters:
        """H_Phi phi - h_Phi. Cost: one product with a (p, p) matrix."""
        return {"phi": phi["phi"] @ self._upper_form["H"] - self._upper_form["h"]}

    def upper_solution(self) -> Parameters:
        """H_Phi^-1 h_Phi. Raises ValueError where H_Phi is not positive definite."""
        smallest = self.upper_spectrum[0]
        if smallest <= 0:
            raise ValueError(f"expected H_Phi positive definite for a unique optimum, got eigenvalue {smallest:.3g}")
        return {"phi": torch.linalg.solve(self._upper_form["H"], self._upper_form["h"])}

    @property
    def upper_spectrum(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue of H_Phi."""
        eigenvalues = torch.linalg.eigvalsh(self._upper_form["H"])
        return float(eigenvalues[0]), float(eigenvalues[-1])

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # computed on demand: it costs M eigendecompositions
        """Exact constants: extreme eigenvalues and spectral norms over the tasks; B is unbounded, hence None."""
        A, C, Q, R, w, u, b = (self.data[name].double() for name in "ACQRwub")
        eigenvalues = torch.linalg.eigvalsh(A)
        J = torch.linalg.solve(A, C)
        JQ = J.mT @ Q
        H = R + JQ @ J
        h = (R @ w[..., None] - JQ @ (torch.linalg.solve(A, b[..., None]) - u[..., None]))[..., 0]
        optimum = torch.linalg.lstsq(H.mean(0), h.mean(0)).solution
        per_task = (H @ optimum) - h
        return Constants(
            mu=float(eigenvalues.min()),
            L=float(eigenvalues.max()),
            L_c=_largest_norm(C),
            rho_1=0.0,
            rho_2=0.0,
            ell=_largest_norm(Q),
            ell_1=0.0,
            Lambda=_largest_norm(JQ),
            tau=_largest_norm(J),
            nu=_largest_norm(torch.linalg.solve(A, Q)),
            L_Phi=float(torch.linalg.matrix_norm(H.mean(0), 2)),
            sigma_sq=float((per_task - per_task.mean(0)).square().sum(-1).mean()),
        )

    @cached_property
    def _upper_form(self) -> dict[str, Tensor]:
        """Phi(phi) = 1/2 phi'H phi - h'phi + constant."""
        A, C, b, Q, u, R, w = (self.data[name] for name in ("A", "C", "b", "Q", "u", "R", "w"))
        M = A.shape[0]
        J = torch.linalg.solve(A, C)
        offset = torch.linalg.solve(A, b.unsqueeze(-1)).squeeze(-1) - u  # theta* - u = J phi + offset
        QJ = Q @ J
        H = (R + J.mT @ QJ).sum(0) / M
        h = (torch.einsum("mij,mj->i", R, w) - torch.einsum("mji,mj->i", QJ, offset)) / M
        squares = torch.einsum("mi,mij,mj->", offset, Q, offset) + torch.einsum("mi,mij,mj->", w, R, w)
        return {"H": (H + H.mT) / 2, "h": h, "constant": squares / (2 * M)}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Quadratic:
        """A copy on `device` in `dtype`; its closed forms are computed anew there."""
        moved = super().to(device, dtype)
        assert isinstance(moved, Quadratic)
        vars(moved).pop("_upper_form", None)
        return moved


def _form(matrix: Tensor, vector: Tensor) -> Tensor:
    """|vector|^2 in the quadratic form of the matrix, for each task."""
    return (vector * matvec(matrix, vector, symmetric=True)).sum(-1)


def _largest_norm(matrices: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrices, 2).max())


def _require_symmetric(name: str, matrices: Tensor) -> None:
    gap = float((matrices - matrices.mT).abs().max())
    allowed = 64 * torch.finfo(matrices.dtype).eps * float(matrices.abs().max())
    if gap > allowed:
        raise ValueError(f"expected {name} symmetric, got |{name} - {name}'| up to {gap:.3g}")
