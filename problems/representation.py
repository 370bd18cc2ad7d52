"""A linear representation shared by ridge heads: nonconvex in U, with its optimum known (docs/theory.md S7c)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Parameters, Problem, Tasks, matvec


class Representation(Problem):
    """g_i = 1/2 |U theta - a_i|^2_{S_i} + prox/2 |theta|^2,  f_i = 1/2 |U theta - c_i|^2.

    Arrays with leading axis M: S (M, d, d) symmetric positive semidefinite, the second moment of a task's inputs;
    a (M, d), the regression vector its labels come from; c (M, d), the target. phi is {"U": (..., d, rank)}, q = rank.
    d2g/dphi dtheta and df/dphi depend on theta, d2g/dtheta2 = U'S_iU + prox I depends on phi.

    optimum    U_* (d, rank), where one is known: then `upper_solution` gives it. U_* O is as good for any orthogonal O.

    No constants: mu >= prox, but L = prox + max |U'S_iU| grows with U, so a method must be given its lower_step_size;
    `lower_smoothness` says which is safe where |U| is bounded.
    Raises ValueError on wrong shapes, values that are not finite, prox <= 0, or rank not in 1..d.
    """

    broadcasts_replicas = True

    @checked
    def __init__(self, S: Tensor, a: Tensor, c: Tensor, *, rank: int, prox: float = 1.0, optimum: Tensor | None = None):
        M, d = a.shape if a.dim() == 2 else (0, 0)
        if S.shape != (M, d, d) or c.shape != (M, d) or 0 in a.shape:
            raise ValueError(
                "expected S of shape (M, d, d), a and c of shape (M, d), "
                f"got {tuple(S.shape)}, {tuple(a.shape)} and {tuple(c.shape)}"
            )
        if not 1 <= rank <= d:
            raise ValueError(f"expected a rank of 1 to d = {d}, got {rank}")
        if not prox > 0:
            raise ValueError(f"expected prox > 0, got {prox}")
        if optimum is not None and optimum.shape != (d, rank):
            raise ValueError(f"expected an optimum of shape {(d, rank)}, got {tuple(optimum.shape)}")
        self.data = {"S": S, "a": a, "c": c}
        self.d, self.q, self.prox, self.optimum = d, rank, prox, optimum
        self.check()

    @classmethod
    @checked
    def random(
        cls,
        *,
        tasks: int,
        d: int,
        rank: int,
        examples: int,
        prox: float = 1.0,
        shrunken: bool = True,
        seed: int = 0,
    ) -> Representation:
        """Labels of an orthonormal U_* and standard normal heads w_i, at `examples` Gaussian inputs a task.

        a_i = U_* w_i and S_i = X_i'X_i / examples. The ridge shrinks every head, so that U_* fits its own labels
        only if the target is shrunken alike, c_i = U_* theta_i*(U_*): then Phi(U_*) = 0. With c_i = a_i
        (`shrunken` False) Phi falls as U grows, and its infimum 0 is not attained: no optimum.
        """
        if rank > d:
            raise ValueError(f"expected a rank of 1 to d = {d}, got {rank}")
        rng = torch.Generator().manual_seed(seed)
        optimum = torch.linalg.qr(torch.randn(d, rank, generator=rng, dtype=torch.float64)).Q
        heads = torch.randn(tasks, rank, generator=rng, dtype=torch.float64)
        X = torch.randn(tasks, examples, d, generator=rng, dtype=torch.float64)
        S, a = X.mT @ X / examples, heads @ optimum.T
        problem = cls(S, a, a, rank=rank, prox=prox)
        if not shrunken:
            return problem
        fitted = problem.lower_solution({"U": optimum}, problem.sample(None, rng))
        return cls(S, a, fitted @ optimum.T, rank=rank, prox=prox, optimum=optimum)

    def lower_smoothness(self, norm: float) -> float:
        """L of every task wherever |U|_2 <= norm: prox + norm^2 max_i |S_i|."""
        return self.prox + norm**2 * float(torch.linalg.matrix_norm(self.data["S"].double(), 2).max())

    def subspace_distance(self, phi: Parameters) -> Tensor:
        """|(I - P_U) U_*|_2, the sine of the largest angle between the ranges; shape of the replica axes."""
        optimum = self._known_optimum()
        basis = torch.linalg.qr(phi["U"]).Q
        return torch.linalg.matrix_norm(optimum - basis @ (basis.mT @ optimum), 2)

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Standard normal, divided by sqrt(d): columns of length about 1."""
        like = self.data["a"]
        draw = torch.randn(self.d, self.q, generator=rng, dtype=torch.float64, device=rng.device) / self.d**0.5
        return {"U": draw.to(like.device, like.dtype)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """Zeros."""
        lead = torch.broadcast_shapes(tasks.index.shape, (*phi["U"].shape[:-2], 1))
        return phi["U"].new_zeros(*lead, self.q)

    def embed(self, phi: Parameters, tasks: Tasks) -> dict[str, Tensor]:
        """U, one for all tasks; U'S_iU + prox I and U'S_i a_i, so that a lower gradient costs r^2 a task."""
        U = phi["U"].unsqueeze(-3)
        SU = tasks.S @ U
        hessian = U.mT @ SU + self.prox * torch.eye(self.q, dtype=U.dtype, device=U.device)
        return {"U": U, "SU": SU, "hessian": hessian, "linear": matvec(SU.mT, tasks.a)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 |U theta - a|^2_S + prox/2 |theta|^2."""
        residual = matvec(features["U"], theta) - tasks.a
        return 0.5 * ((residual * matvec(tasks.S, residual)).sum(-1) + self.prox * theta.square().sum(-1))

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 |U theta - c|^2."""
        return 0.5 * (matvec(features["U"], theta) - tasks.c).square().sum(-1)

    # ---- closed forms of the oracle's four calls

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """(U'SU + prox I) theta - U'S a."""
        return matvec(features["hessian"], theta, symmetric=True) - features["linear"]

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """(U'SU + prox I) v."""
        return matvec(features["hessian"], v, symmetric=True)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """U'(U theta - c)."""
        U = features["U"]
        return matvec(U.mT, matvec(U, theta) - tasks.c)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i [ (U theta - c) theta' - S (U theta - a) v' - S U v theta' ]."""
        SU = features["SU"]
        forward = matvec(features["U"], theta) - tasks.c - matvec(SU, v)
        backward = matvec(SU, theta) - matvec(tasks.S, tasks.a)
        return {"U": (forward.mT @ theta - backward.mT @ v) / len(tasks)}

    # ---- exact solutions, from UU' alone: no code shared with the calls above

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """(U'SU + prox I)^-1 U'S a, as U'(S U U' + prox I)^-1 S a."""
        U = phi["U"].unsqueeze(-3)
        return (U.mT @ self._dual(U, tasks.S, tasks.a)).squeeze(-1)

    def value(self, phi: Parameters) -> Tensor:
        """mean_i 1/2 |W (S_i W + prox I)^-1 S_i a_i - c_i|^2, W = UU'."""
        _, error = self._prediction(phi)
        return 0.5 * error.square().sum((-2, -1)).mean(-1)

    def hypergradient(self, phi: Parameters) -> Parameters:
        """(G + G') U with G = dPhi/dW = prox mean_i (W S_i + prox I)^-T e_i w_i', W = UU'.

        The prediction is p_i = W w_i, w_i = (S_i W + prox I)^-1 S_i a_i, its error e_i = p_i - c_i; the derivative of
        p_i along dW is prox (W S_i + prox I)^-1 dW w_i.
        """
        U = phi["U"].unsqueeze(-3)
        w, error = self._prediction(phi)
        adjoint = _solved(self._shifted(U, self.data["S"]), error)  # (W S + prox I)' = S W + prox I
        G = self.prox * (adjoint @ w.mT).mean(-3)
        return {"U": (G + G.mT) @ phi["U"]}

    def upper_solution(self) -> Parameters:
        """U_*; the minimiser is unique only up to an orthogonal factor. Raises ValueError where none is known."""
        return {"U": self._known_optimum()}

    def _known_optimum(self) -> Tensor:
        if self.optimum is None:
            raise ValueError("expected a problem with a known optimum (shrunken targets), got one without")
        return self.optimum

    def _prediction(self, phi: Parameters) -> tuple[Tensor, Tensor]:
        """w_i and e_i, (..., M, d, 1)."""
        U = phi["U"].unsqueeze(-3)
        w = self._dual(U, self.data["S"], self.data["a"])
        return w, U @ (U.mT @ w) - self.data["c"].unsqueeze(-1)

    def _dual(self, U: Tensor, S: Tensor, a: Tensor) -> Tensor:
        return _solved(self._shifted(U, S), S @ a.unsqueeze(-1))

    def _shifted(self, U: Tensor, S: Tensor) -> Tensor:
        """S U U' + prox I, (..., M, d, d)."""
        return S @ (U @ U.mT) + self.prox * torch.eye(self.d, dtype=U.dtype, device=U.device)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix^-1 right; not finite where U has run off so far that rounding leaves the matrix singular."""
    solution: Tensor = torch.linalg.solve_ex(matrix, right).result
    return solution
