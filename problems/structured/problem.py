"""Quadratic problems of any size: shared structured matrices, a few numbers a task, every quantity in closed form."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from problems.arguments import checked
from problems.arrays import floating
from problems.base import Constants, Parameters, Problem, Tasks
from problems.quadratic import Quadratic
from problems.structured.operators import Circulant, DiagonalPlusLowRank, Operator, Sparse


class Expansion(NamedTuple):
    """Vectors x_i = sum_j coefficients_ij basis_j, one a task: (M, k) and (k, n) numbers in place of M n."""

    coefficients: ArrayLike | Tensor
    basis: ArrayLike | Tensor


class Structured(Problem):
    """g_i = 1/2 s_i theta'A theta - theta'(C phi + b_i),  f_i = 1/2 |theta - u_i|^2 + rho/2 |phi - w_i|^2.

    operator   A, (q, q), never formed: `DiagonalPlusLowRank`, `Circulant`, `Sparse`
    weights    (n, q), of C: p = n q, (C phi)_j = sum_l weights_lj phi_(l q + j), so that each entry of phi reaches one
               of theta. All rows of C have one norm c: CC' = c^2 I
    scale      s (M,) positive;  b, u (q numbers a task), w (p numbers a task) as `Expansion`
    rho        > 0

    phi is {"phi": (..., p)}, theta starts at zero. With J_i = A^-1 C / s_i, means over the tasks and t = 1 / s:
    theta_i*(phi) = t_i A^-1 (C phi + b_i),
    grad Phi(phi) = rho (phi - mean w) + C'A^-1 ( A^-1 (mean(t^2) C phi + mean(t^2 b)) - mean(t u) ),
    phi* by the push-through identity, from one solve with A^2 + (mean(t^2) c^2 / rho) I.

    Memory: the operator, p numbers of weights, the bases, and a few numbers a task, whatever M is. A lower gradient
    and an HVP cost one product with A; the gradient of a batch one C'(mean v). Made for p = 1e6, q = 1e5, M = 1e4.
    Raises TypeError or ValueError on arrays of the wrong shape, not finite, rows of C of different norms.

    >>> problem = Structured.random("low-rank", tasks=1000, p=400, q=100, kappa=5.0)
    >>> sum(tensor.numel() for tensor in problem.data.values())
    6000
    """

    broadcasts_replicas = True

    def __init__(
        self,
        operator: Operator,
        weights: ArrayLike | Tensor,
        *,
        scale: ArrayLike | Tensor,
        b: Expansion,
        u: Expansion,
        w: Expansion,
        rho: float,
    ):
        self.weights = floating("weights", weights)
        self.operator, self.q = operator.to(dtype=self.weights.dtype), operator.q
        if self.weights.dim() != 2 or self.weights.shape[1] != self.q or 0 in self.weights.shape:
            raise ValueError(
                f"expected weights of shape (n, {self.q}) with n >= 1, got shape {tuple(self.weights.shape)}"
            )
        self.p = self.weights.numel()
        norms = torch.linalg.vector_norm(self.weights, dim=0)
        self.coupling = float(norms[0])
        allowed = 64 * torch.finfo(norms.dtype).eps * self.coupling
        if not self.coupling > 0 or not bool(((norms - self.coupling).abs() <= allowed).all()):
            raise ValueError(
                "expected weights whose columns have one norm > 0 (CC' = c^2 I), "
                f"got norms from {float(norms.min()):.6g} to {float(norms.max()):.6g}"
            )
        if not 0 < rho < math.inf:
            raise ValueError(f"expected rho a finite number > 0, got {rho!r}")
        self.rho = float(rho)
        self.data = {"scale": floating("scale", scale)}
        if self.data["scale"].dim() != 1 or not bool((self.data["scale"] > 0).all()):
            raise ValueError(f"expected scale (M,) of positive numbers, got shape {tuple(self.data['scale'].shape)}")
        self.data["b"], self.b_basis = self._expansion("b", b, self.q)
        self.data["u"], self.u_basis = self._expansion("u", u, self.q)
        self.data["w"], self.w_basis = self._expansion("w", w, self.p)
        self.check()

    def _expansion(self, name: str, given: Expansion, size: int) -> tuple[Tensor, Tensor]:
        dtype = self.weights.dtype
        coefficients, basis = (floating(name, x).to(dtype) for x in given)
        M = len(self.data["scale"])
        if coefficients.dim() != 2 or basis.dim() != 2 or coefficients.shape != (M, len(basis)):
            raise ValueError(
                f"expected {name} as coefficients of shape ({M}, k) and a basis of shape (k, {size}), "
                f"got {tuple(coefficients.shape)} and {tuple(basis.shape)}"
            )
        if basis.shape[1] != size or not bool(basis.isfinite().all()):
            raise ValueError(f"expected a basis of {name} with rows of {size} finite numbers, got {basis.shape[1]}")
        return coefficients, basis

    @classmethod
    @checked
    def random(
        cls,
        structure: Literal["low-rank", "circulant", "sparse"],
        *,
        tasks: int,
        p: int,
        q: int,
        kappa: float,
        seed: int = 0,
        rank: int = 8,
        coupling: float = 1.0,
        rho: float = 1.0,
        realisable: bool = False,
    ) -> Structured:
        """A random instance with L / mu <= kappa over all tasks, s_i uniform between 1 and min(sqrt(kappa), 1.5).

        "circulant" and "sparse" live on the grid of q points that is nearest to a square. b has one basis vector,
        w two, u two. `realisable` takes one w for all tasks and u_i = theta_i*(w): phi* = w is the optimum of every
        task, so that batches converge to it as the whole pool does. Cost: O(p + q log q + M), and one solve with A
        where realisable. Raises ValueError on sizes < 1, p not a multiple of q, kappa < 1.
        """
        if p % q:
            raise ValueError(f"expected p a multiple of q, got p = {p}, q = {q}")
        if not 1 <= kappa < math.inf:
            raise ValueError(f"expected kappa a finite number >= 1, got {kappa}")
        rng = np.random.default_rng(seed)
        spread = min(math.sqrt(kappa), 1.5)
        operator = _random_operator(structure, q, rank=rank, kappa=kappa / spread, rng=rng)
        weights = rng.standard_normal((p // q, q))
        weights *= coupling / np.linalg.norm(weights, axis=0)
        scale = rng.uniform(1.0, spread, tasks)
        b = Expansion(rng.standard_normal((tasks, 1)), rng.standard_normal((1, q)))
        if not realisable:
            u = Expansion(rng.standard_normal((tasks, 2)), rng.standard_normal((2, q)))
            w = Expansion(rng.standard_normal((tasks, 2)), rng.standard_normal((2, p)))
            return cls(operator, weights, scale=scale, b=b, u=u, w=w, rho=rho)
        w = Expansion(np.ones((tasks, 1)), rng.standard_normal((1, p)))
        through = (weights * np.reshape(w.basis, weights.shape)).sum(0, keepdims=True)
        ends = operator.solve(torch.from_numpy(np.concatenate([through, np.asarray(b.basis)])))
        u = Expansion(np.concatenate([np.ones((tasks, 1)), np.asarray(b.coefficients)], 1) / scale[:, None], ends)
        return cls(operator, weights, scale=scale, b=b, u=u, w=w, rho=rho)

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Standard normal."""
        draw = torch.randn(self.p, generator=rng, dtype=torch.float64, device=rng.device)
        return {"phi": draw.to(self.weights.device, self.weights.dtype)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """Zeros."""
        lead = torch.broadcast_shapes(tasks.index.shape, (*phi["phi"].shape[:-1], 1))
        return phi["phi"].new_zeros(*lead, self.q)

    def embed(self, phi: Parameters, tasks: Tasks) -> dict[str, Tensor]:
        """phi, one row for all tasks, and pull = -(C phi + b), a row a task; its sign saves a gradient one pass."""
        row = phi["phi"].unsqueeze(-2)
        blocks = self._blocks(row)
        pull = -self.weights[0] * blocks[..., 0, :]
        for weight, block in zip(self.weights[1:], blocks.unbind(-2)[1:], strict=True):
            pull = torch.addcmul(pull, weight, block, value=-1)
        for coefficient, vector in zip(tasks.b.unsqueeze(-1).unbind(-2), self.b_basis, strict=True):
            pull = torch.addcmul(pull, coefficient, vector, value=-1)
        return {"phi": row, "pull": pull}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 s theta'A theta - theta'(C phi + b)."""
        half = 0.5 * tasks.scale.unsqueeze(-1)
        return (theta * (half * self.operator(theta) + features["pull"])).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 |theta - u|^2 + rho/2 |phi - w|^2. Makes w of every task: p numbers a task, unlike the closed forms."""
        squares = (theta - tasks.u @ self.u_basis).square().sum(-1)
        return 0.5 * (squares + self.rho * (features["phi"] - tasks.w @ self.w_basis).square().sum(-1))

    # ---- closed forms of the oracle's calls: each makes one result and writes the rest into it

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """s A theta - (C phi + b)."""
        product = self.operator.product(theta)
        return torch.addcmul(features["pull"], tasks.scale.unsqueeze(-1), product, out=product)

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """s A v."""
        return self.operator.product(v).mul_(tasks.scale.unsqueeze(-1))

    def lower_inverse_hvp(self, features: Any, theta: Tensor, b: Tensor, tasks: Tasks) -> Tensor:
        """A^-1 b / s."""
        return self.operator.solve(b) / tasks.scale.unsqueeze(-1)

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """theta - u."""
        return _subtracted(theta.clone(), tasks.u, self.u_basis, 1.0)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """rho (phi - mean w) + C'(mean v)."""
        mean = tasks.w.mean(-2).expand(*phi["phi"].shape[:-1], -1)
        direction = _subtracted(self.rho * phi["phi"], mean, self.w_basis, self.rho)
        self._blocks(direction).addcmul_(self.weights, v.mean(-2).unsqueeze(-2))
        return {"phi": direction}

    # ---- exact solutions, from means over the tasks: solves in place of products

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """A^-1 (C phi + b) / s."""
        right = self._through(phi["phi"]).unsqueeze(-2) + tasks.b @ self.b_basis
        return self.operator.solve(right) / tasks.scale.unsqueeze(-1)

    def value(self, phi: Parameters) -> Tensor:
        """Phi, as squares of few vectors: near an optimum with Phi* = 0 no digits cancel. Cost: one solve."""
        x, E = phi["phi"], self._ends
        theta = torch.cat([self.operator.solve(self._through(x)).unsqueeze(-2), _wide(E["theta"], x)], -2)
        apart = torch.cat([x.unsqueeze(-2), _wide(self.w_basis, x)], -2)
        of_theta = (E["theta_factor"] @ theta).square().sum((-2, -1))
        return 0.5 * (of_theta + self.rho * (E["phi_factor"] @ apart).square().sum((-2, -1)))

    def hypergradient(self, phi: Parameters) -> Parameters:
        """grad Phi. Cost: two solves with A and one product each with C and C'."""
        E, x = self._ends, phi["phi"]
        slope = self.operator.solve(self.operator.solve(E["m"] * self._through(x) + E["b"]) - E["u"])
        return {"phi": self.rho * (x - E["w"]) + self._back(slope)}

    def upper_solution(self) -> Parameters:
        """phi* = (h - r C'(A^2 + r c^2)^-1 C h) / rho, r = mean(t^2) / rho, h = -grad Phi(0)."""
        h = -self.hypergradient({"phi": torch.zeros_like(self.weights).flatten()})["phi"]
        r = float(self._ends["m"]) / self.rho
        solved = self.operator.solve_shifted_square(self._through(h), r * self.coupling**2)
        return {"phi": (h - r * self._back(solved)) / self.rho}

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # computed on demand: it needs the spectrum
        """Exact where the spectrum of A is, else proven bounds; sigma_sq exact; B is unbounded, hence None."""
        mu, L = self.operator.spectrum
        s, c, t = self.data["scale"], self.coupling, 1 / self.data["scale"]
        slowest = mu * float(s.min())
        return Constants(
            mu=slowest,
            L=L * float(s.max()),
            L_c=c,
            rho_1=0.0,
            rho_2=0.0,
            ell=1.0,
            ell_1=0.0,
            Lambda=c / slowest,
            tau=c / slowest,
            nu=1 / slowest,
            L_Phi=self.rho + float(t.square().mean()) * (c / mu) ** 2,
            sigma_sq=self._variance(),
        )

    def _variance(self) -> float:
        """mean_i |grad Phi_i - grad Phi|^2 at phi*, from the covariance of what few numbers of a task multiply."""
        solve, data, t = self.operator.solve, self.data, 1 / self.data["scale"].unsqueeze(-1)
        through = self._through(self.upper_solution()["phi"]).unsqueeze(0)
        inner = torch.cat([solve(solve(torch.cat([through, self.b_basis]))), -solve(self.u_basis)])
        numbers = torch.cat([t.square(), t.square() * data["b"], t * data["u"], data["w"]], 1)
        rows = _root(numbers - numbers.mean(0)).split([len(inner), len(self.w_basis)], 1)
        parts = (  # one by one: each is p numbers
            _subtracted(self._back(row @ inner), of_w, self.w_basis, self.rho) for row, of_w in zip(*rows, strict=True)
        )
        return math.fsum(float(torch.dot(part, part)) for part in parts)

    @cached_property
    def _ends(self) -> dict[str, Tensor]:
        """Means over the tasks: m = mean(t^2), mean(t^2 b), mean(t u), mean(w); factors of second moments.

        theta_i* - u_i is a combination of A^-1 C phi, A^-1 b_basis and u_basis, phi - w_i one of phi and w_basis, and
        a mean of squares |sum_j a_ij x_j|^2 is |R x|^2 with R from a QR decomposition of a.
        """
        t, b, u, w = 1 / self.data["scale"].unsqueeze(-1), *(self.data[name] for name in ("b", "u", "w"))
        return {
            "m": t.square().mean(),
            "b": (t.square() * b).mean(0) @ self.b_basis,
            "u": (t * u).mean(0) @ self.u_basis,
            "w": w.mean(0) @ self.w_basis,
            "theta": torch.cat([self.operator.solve(self.b_basis), self.u_basis]),
            "theta_factor": _root(torch.cat([t, t * b, -u], 1)),
            "phi_factor": _root(torch.cat([torch.ones_like(t), -w], 1)),
        }

    def _through(self, phi: Tensor) -> Tensor:
        """C phi, (..., q)."""
        return (self.weights * self._blocks(phi)).sum(-2)

    def _blocks(self, phi: Tensor) -> Tensor:
        """phi as (..., n, q), a view."""
        return phi.view(*phi.shape[:-1], *self.weights.shape)

    def _back(self, x: Tensor) -> Tensor:
        """C'x, (..., p)."""
        return (self.weights * x.unsqueeze(-2)).flatten(-2)

    # ---- smaller, and elsewhere

    def only(self, index: Tensor) -> Structured:
        """The problem whose pool are the tasks at `index` (K,): its exact gradient is that of this batch."""
        d = {name: tensor[index] for name, tensor in self.data.items()}
        expansions = {name: Expansion(d[name], getattr(self, f"{name}_basis")) for name in ("b", "u", "w")}
        return Structured(self.operator, self.weights, scale=d["scale"], rho=self.rho, **expansions)

    def dense(self) -> Quadratic:
        """The same problem with matrices of its own for each task: M (q + p)^2 numbers, for small sizes."""
        M, data = len(self.data["scale"]), self.data
        one = torch.eye(self.p).to(self.weights)
        C = self._through(one).mT
        return Quadratic(
            data["scale"][:, None, None] * self.operator.dense(),
            C.expand(M, -1, -1),
            data["b"] @ self.b_basis,
            torch.eye(self.q).to(one).expand(M, -1, -1),
            data["u"] @ self.u_basis,
            (self.rho * one).expand(M, -1, -1),
            data["w"] @ self.w_basis,
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Structured:
        """A copy on `device` in `dtype`; its closed forms are computed anew there."""
        moved = super().to(device, dtype)
        assert isinstance(moved, Structured)
        moved.operator = self.operator.to(device, dtype)
        vars(moved).pop("_ends", None)
        return moved


def _random_operator(structure: str, q: int, *, rank: int, kappa: float, rng: np.random.Generator) -> Operator:
    if structure == "low-rank":
        return DiagonalPlusLowRank.random(q, rank=rank, kappa=kappa, rng=rng)
    if structure not in ("circulant", "sparse"):
        raise ValueError(f'expected a structure "low-rank", "circulant" or "sparse", got {structure!r}')
    rows = next(n for n in range(math.isqrt(q), 0, -1) if q % n == 0)
    if structure == "circulant":
        return Circulant.random((rows, q // rows), kappa=kappa, rng=rng)
    return Sparse.grid(rows, q // rows, kappa=kappa, rng=rng)


def _subtracted(result: Tensor, coefficients: Tensor, basis: Tensor, factor: float) -> Tensor:
    """result - factor sum_j coefficients_j basis_j, in place and without scratch: (..., n), (..., k), (k, n)."""
    for coefficient, vector in zip(coefficients.unsqueeze(-1).unbind(-2), basis, strict=True):
        result.addcmul_(coefficient, vector, value=-factor)
    return result


def _root(numbers: Tensor) -> Tensor:
    """R with R'R = numbers' numbers / M, for M rows of few numbers."""
    return torch.linalg.qr(numbers, mode="r").R / math.sqrt(len(numbers))


def _wide(vectors: Tensor, like: Tensor) -> Tensor:
    """Vectors (k, n) with the leading axes of `like` (..., p)."""
    return vectors.expand(*like.shape[:-1], *vectors.shape)
