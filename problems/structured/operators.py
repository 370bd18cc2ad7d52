"""Symmetric positive definite matrices that are never formed: products, solves and spectra at O(q) memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from problems.arrays import floating

_WIDE, _MANY = 2**13, 64  # entries of a row, and rows


class Operator:
    """A symmetric positive definite matrix A of q rows, as what it does to vectors.

    Every method takes and returns tensors (..., q) with any leading axes. Products and solves write into what they
    make and are not differentiable; called as a function, A(x) is, as often as wanted, by autograd and torch.func.
    Subclasses hold tensors as attributes, which `to` moves.
    """

    q: int

    def __call__(self, x: Tensor) -> Tensor:
        """A x, differentiable."""
        product: Tensor = _Product.apply(self, x)
        return product

    def product(self, x: Tensor) -> Tensor:
        """A x, in a tensor of its own; few wide rows one by one, with the scratch of one, in the caches."""
        result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if x.dim() == 2 and (len(x) == 1 or self.q < _WIDE):  # no views to make: they cost as much as a pass over x
            self._multiply(x, result)
            return result
        rows, targets = x.reshape(-1, self.q), result.view(-1, self.q)
        size = 1 if self.q >= _WIDE and len(rows) <= _MANY else len(rows)
        for some, target in zip(rows.split(size), targets.split(size), strict=True):
            self._multiply(some, target)
        return result

    def _multiply(self, x: Tensor, result: Tensor) -> None:
        """Write A x into the result, (rows, q) both."""
        raise NotImplementedError

    def solve(self, x: Tensor) -> Tensor:
        """A^-1 x, in closed form or by a factorisation: shares no code with `product`."""
        raise NotImplementedError

    def solve_shifted_square(self, x: Tensor, shift: float) -> Tensor:
        """(A^2 + shift I)^-1 x for shift >= 0."""
        raise NotImplementedError

    @property
    def spectrum(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue of A, or proven bounds mu <= lambda <= L with mu > 0."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """A itself, (q, q): for small q. Cost: one product with the identity."""
        some = next(x for x in vars(self).values() if isinstance(x, Tensor) and x.is_floating_point())
        return self.product(torch.eye(self.q, dtype=some.dtype, device=some.device))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy on `device`, floating-point tensors in `dtype`."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device, dtype if value.is_floating_point() else None))
        return moved


class DiagonalPlusLowRank(Operator):
    """A = diag(diagonal) + factor' factor: diagonal (q,) positive, factor (r, q) with r << q.

    Product: 2 r q multiplications, the factor read twice. Solves by the identity of Woodbury with r x r (2r x 2r)
    systems. The spectrum is exact: bisection on the number of eigenvalues below a point, which Sylvester's law of
    inertia reads off the diagonal and an r x r matrix. Raises TypeError or ValueError on arrays that do not fit.

    >>> A = DiagonalPlusLowRank([1.0, 2.0], [[1.0, 1.0]])
    >>> A.product(torch.tensor([1.0, 0.0], dtype=torch.float64))
    tensor([2., 1.], dtype=torch.float64)
    """

    def __init__(self, diagonal: ArrayLike | Tensor, factor: ArrayLike | Tensor):
        self.diagonal, self.factor = floating("diagonal", diagonal), floating("factor", factor)
        if self.diagonal.dim() != 1 or not bool((self.diagonal > 0).all() & self.diagonal.isfinite().all()):
            raise ValueError(f"expected a diagonal of positive numbers, got shape {tuple(self.diagonal.shape)}")
        self.q = len(self.diagonal)
        if self.factor.dim() != 2 or self.factor.shape[1] != self.q or not bool(self.factor.isfinite().all()):
            raise ValueError(
                f"expected a factor of shape (r, {self.q}) with finite values, got {tuple(self.factor.shape)}"
            )
        self.factor = self.factor.to(self.diagonal.dtype)

    @classmethod
    def random(cls, q: int, *, rank: int, kappa: float, rng: np.random.Generator) -> DiagonalPlusLowRank:
        """Diagonal log-spaced from 1 in random order, a Gaussian factor, all eigenvalues in [1, kappa].

        Half of the width of the spectrum is the diagonal's, half the factor's (Weyl's inequality).
        """
        middle = (1 + kappa) / 2
        factor = rng.standard_normal((rank, q))
        factor *= math.sqrt((kappa - middle) / np.linalg.eigvalsh(factor @ factor.T)[-1])
        return cls(rng.permutation(np.geomspace(1.0, middle, q)), factor)

    def _multiply(self, x: Tensor, result: Tensor) -> None:
        torch.mm(torch.mm(x, self.factor.mT), self.factor, out=result)
        result.addcmul_(self.diagonal, x)

    def solve(self, x: Tensor) -> Tensor:
        """D^-1 x - D^-1 F' (I + F D^-1 F')^-1 F D^-1 x."""
        rank = len(self.factor)
        return _woodbury(self.diagonal, self.factor, torch.eye(rank).to(self.factor), x)

    def solve_shifted_square(self, x: Tensor, shift: float) -> Tensor:
        """A^2 = D^2 + Z' S Z with Z = [F; F D] and S = [[F F', I], [I, 0]], whose inverse is [[0, I], [I, -F F']]."""
        rank = len(self.factor)
        one = torch.eye(rank).to(self.factor)
        inverse = torch.cat(
            [torch.cat([torch.zeros_like(one), one], 1), torch.cat([one, -self.factor @ self.factor.mT], 1)]
        )
        return _woodbury(
            self.diagonal.square() + shift, torch.cat([self.factor, self.factor * self.diagonal]), inverse, x
        )

    @property
    def spectrum(self) -> tuple[float, float]:
        """Exact to rounding. Cost: about 100 times r^2 q multiplications."""
        D, F = self.diagonal.double(), self.factor.double()
        low, high = float(D.min()), float(D.max())
        reach = float(torch.linalg.eigvalsh(F @ F.mT)[-1])
        smallest = _bisect(lambda x: _below(D, F, x) > 0, low, low + reach)
        return smallest, _bisect(lambda x: _below(D, F, x) == self.q, high, high + reach)


class Circulant(Operator):
    """A = F^-1 diag(eigenvalues) F with F the discrete Fourier transform on a grid: a periodic convolution.

    `eigenvalues` has the shape of the grid, (q,) or (n_1, ..., n_d) with q = n_1 ... n_d, one real number a frequency,
    positive and even: that of k is that of -k, so that A is real. Product: two transforms of real numbers, O(q log q);
    two vectors of q numbers are made (the transform, and the result). Solves are products with other eigenvalues;
    the spectrum is exact. On a CPU a grid of several dimensions is several times faster than a long single one.
    Raises TypeError or ValueError on eigenvalues that are not positive and even.

    >>> Circulant([3.0, 1.0]).dense()
    tensor([[2., 1.],
            [1., 2.]], dtype=torch.float64)
    """

    def __init__(self, eigenvalues: ArrayLike | Tensor):
        full = floating("eigenvalues", eigenvalues)
        if full.dim() == 0 or not bool((full > 0).all() & full.isfinite().all()):
            raise ValueError(f"expected positive eigenvalues on a grid, got shape {tuple(full.shape)}")
        if not torch.allclose(full, _reflected(full), rtol=1e-10 if full.dtype == torch.float64 else 1e-5, atol=0):
            raise ValueError("expected eigenvalues with lambda(-k) = lambda(k), which make A real, got others")
        self.grid, self.q = tuple(full.shape), full.numel()
        self._axes = tuple(range(-full.dim(), 0))
        self.half = full[..., : full.shape[-1] // 2 + 1].contiguous()  # the rest follows by evenness

    @classmethod
    def random(cls, grid: Sequence[int], *, kappa: float, rng: np.random.Generator) -> Circulant:
        """Eigenvalues log-uniform on [1, kappa] with both ends among them (where there are two frequencies)."""
        exponents = torch.from_numpy(rng.random(tuple(grid)))
        exponents = (exponents + _reflected(exponents)) / 2
        exponents = exponents - exponents.min()
        return cls(float(kappa) ** (exponents / exponents.max().clamp(min=1e-300)))

    def _multiply(self, x: Tensor, result: Tensor) -> None:
        waves = torch.fft.rfftn(x.view(-1, *self.grid), dim=self._axes).mul_(self.half)
        torch.fft.irfftn(waves, s=self.grid, dim=self._axes, out=result.view(-1, *self.grid))

    def solve(self, x: Tensor) -> Tensor:
        """F^-1 (F x / eigenvalues), by transforms of complex numbers."""
        return self._divided(x, self.half)

    def solve_shifted_square(self, x: Tensor, shift: float) -> Tensor:
        """F^-1 (F x / (eigenvalues^2 + shift))."""
        return self._divided(x, self.half.square() + shift)

    @property
    def spectrum(self) -> tuple[float, float]:
        """Exact."""
        return float(self.half.min()), float(self.half.max())

    def _divided(self, x: Tensor, half: Tensor) -> Tensor:
        full = _reflected(torch.nn.functional.pad(half, (0, self.grid[-1] - half.shape[-1])))
        full[..., : half.shape[-1]] = half
        waves = torch.fft.fftn(x.reshape(*x.shape[:-1], *self.grid), dim=self._axes)
        return torch.fft.ifftn(waves / full, dim=self._axes).real.reshape(x.shape)


class Sparse(Operator):
    """A symmetric matrix with few nonzeros a row, strictly diagonally dominant with a positive diagonal.

    Given as anything that scipy.sparse takes, or dense. Where the nonzeros lie on few diagonals (grids, chains, bands)
    a product is one pass over each, of contiguous vectors; otherwise one over each of the s entries of the longest row,
    with gathered entries of x (one vector of scratch beside the result). Rows of very different lengths therefore waste
    memory: s q numbers are stored. Indices are int32.

    The spectrum is bounded by Gershgorin's circles: mu = min_i (a_ii - sum_j |a_ij|), L = max_i (a_ii + sum_j |a_ij|);
    both are attained by a positive multiple of I plus the Laplacian of a bipartite graph of equal degrees, the lower by
    any Laplacian. Solves by sparse LU factors (scipy, on the CPU, float64, kept) of `matrix`, what was given as a
    csc_array: for closed forms, not for runs.
    Raises ValueError on a matrix that is not symmetric or not strictly diagonally dominant.

    >>> Sparse([[2.0, -1.0], [-1.0, 2.0]]).spectrum
    (1.0, 3.0)
    """

    def __init__(self, matrix: Any):
        if isinstance(matrix, Tensor):
            matrix = matrix.detach().cpu().numpy()
        coo = scipy.sparse.coo_array(scipy.sparse.coo_array(matrix).tocsr())  # sums what is given twice
        if coo.shape[0] != coo.shape[1] or not np.isfinite(coo.data).all():
            raise ValueError(f"expected a square matrix of finite values, got shape {coo.shape}")
        self.matrix = scipy.sparse.csc_array(coo, dtype=np.float64)
        if abs(self.matrix - self.matrix.T).max() > 1e-14 * abs(self.matrix).max():
            raise ValueError("expected a symmetric sparse matrix, got one that is not")
        diagonal = self.matrix.diagonal()
        radii = np.asarray(abs(self.matrix).sum(0)).ravel() - abs(diagonal)
        self._bounds = float((diagonal - radii).min()), float((diagonal + radii).max())
        if self._bounds[0] <= 0:
            raise ValueError(
                "expected a strictly diagonally dominant matrix with a positive diagonal, which proves it positive "
                f"definite, got a row whose diagonal exceeds the rest by {self._bounds[0]:.3g}"
            )
        self.q = coo.shape[0]
        self.diagonal = torch.from_numpy(diagonal.astype(np.result_type(coo.dtype, np.float32)))
        self._lay_out(coo.coords[0], coo.coords[1], coo.data)

    def _lay_out(self, row: np.ndarray, column: np.ndarray, value: np.ndarray) -> None:
        """By diagonals above the main one where these are few, else by the n-th entry of each row."""
        off = row != column
        row, column, value = row[off], column[off], value[off]
        offsets = np.unique(column - row)
        longest = int(np.bincount(row, minlength=1).max()) if len(row) else 0
        self.offsets: tuple[int, ...] | None = None
        if len(offsets) <= 2 * longest:
            self.offsets = tuple(int(o) for o in offsets[offsets > 0])
            slot = np.searchsorted(self.offsets, column - row)
            row, column, slot, value = (x[column > row] for x in (row, column, slot, value))
        else:
            order = np.argsort(row, kind="stable")
            row, column, value = row[order], column[order], value[order]
            slot = np.arange(len(row)) - np.searchsorted(row, row)
        count = longest if self.offsets is None else len(self.offsets)
        values, columns = np.zeros((count, self.q)), np.zeros((count, self.q), dtype=np.int32)
        values[slot, row], columns[slot, row] = value, column
        self.values = torch.from_numpy(values).to(self.diagonal.dtype)
        self.columns = torch.from_numpy(columns) if self.offsets is None else torch.empty(0, dtype=torch.int32)

    @classmethod
    def grid(cls, rows: int, columns: int, *, kappa: float, rng: np.random.Generator) -> Sparse:
        """I plus the Laplacian of a grid whose edges have random weights: mu = 1, L <= kappa, five nonzeros a row."""
        node = np.arange(rows * columns).reshape(rows, columns)
        left = np.concatenate([node[:-1].ravel(), node[:, :-1].ravel()])
        right = np.concatenate([node[1:].ravel(), node[:, 1:].ravel()])
        weight = rng.uniform(0.5, 1.5, len(left))
        W = scipy.sparse.coo_array((weight, (left, right)), shape=(node.size, node.size))
        W = (W + W.T).tocsr()
        degrees = np.asarray(W.sum(0)).ravel()
        scale = (kappa - 1) / (2 * degrees.max()) if len(left) else 0.0
        return cls(scipy.sparse.diags_array(1 + scale * degrees) - scale * W)

    def _multiply(self, x: Tensor, result: Tensor) -> None:
        torch.mul(self.diagonal, x, out=result)
        if self.offsets is None:
            for value, column in zip(self.values, self.columns, strict=True):
                result.addcmul_(value, x.index_select(-1, column))
            return
        for value, offset in zip(self.values, self.offsets, strict=True):
            value = value[: self.q - offset]
            result[:, : self.q - offset].addcmul_(value, x[:, offset:])
            result[:, offset:].addcmul_(value, x[:, : self.q - offset])

    def solve(self, x: Tensor) -> Tensor:
        """By sparse LU factors on the CPU."""
        return _solved(self._factors, x)

    def solve_shifted_square(self, x: Tensor, shift: float) -> Tensor:
        """By sparse LU factors on the CPU, anew each time."""
        square = scipy.sparse.csc_array(self.matrix @ self.matrix + shift * scipy.sparse.eye_array(self.q))
        return _solved(scipy.sparse.linalg.splu(square, permc_spec="MMD_AT_PLUS_A"), x)

    @property
    def spectrum(self) -> tuple[float, float]:
        """Gershgorin's bounds."""
        return self._bounds

    @cached_property
    def _factors(self) -> Any:
        return scipy.sparse.linalg.splu(self.matrix, permc_spec="MMD_AT_PLUS_A")


# ---- what they are made of


class _Product(torch.autograd.Function):
    """x -> A x, whose derivative is itself, as A is symmetric: nothing is kept for a backward pass."""

    @staticmethod
    def forward(operator: Operator, x: Tensor) -> Tensor:
        return operator.product(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.operator, _ = inputs

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        return None, _Product.apply(ctx.operator, slope)

    @staticmethod
    def jvp(ctx: Any, _: Any, tangent: Tensor) -> Any:
        return _Product.apply(ctx.operator, tangent)

    @staticmethod
    def vmap(info: Any, in_dims: Any, operator: Operator, x: Tensor) -> Any:
        return _Product.apply(operator, x.movedim(in_dims[1], 0)), 0


def _woodbury(diagonal: Tensor, factor: Tensor, inverse_core: Tensor, x: Tensor) -> Tensor:
    """(diag(diagonal) + factor' core factor)^-1 x, given the inverse of the core."""
    small = inverse_core + (factor / diagonal) @ factor.mT
    y = x / diagonal
    inner = torch.linalg.solve(small, torch.einsum("rq,...q->...r", factor, y).unsqueeze(-1)).squeeze(-1)
    return y - torch.einsum("rq,...r->...q", factor, inner) / diagonal


def _below(diagonal: Tensor, factor: Tensor, x: float) -> int:
    """How many eigenvalues of D + F'F lie below x.

    Both Schur complements of [[D - x, F'], [F, -I]] have its inertia (Haynsworth): in(D + F'F - x) + in(-I) =
    in(D - x) + in(-I - F (D - x)^-1 F').
    """
    shifted = diagonal - x
    shifted = torch.where(shifted == 0, torch.finfo(shifted.dtype).eps * diagonal, shifted)  # x is a pole: step past it
    small = torch.eye(len(factor)).to(factor) + (factor / shifted) @ factor.mT
    return int((shifted < 0).sum()) - int((torch.linalg.eigvalsh(small) < 0).sum())


def _bisect(beyond: Callable[[float], bool], low: float, high: float) -> float:
    """The point between low and high at which `beyond` becomes true, to rounding."""
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return high
        low, high = (low, middle) if beyond(middle) else (middle, high)


def _reflected(grid: Tensor) -> Tensor:
    """Entry -k in place of entry k, along all axes."""
    axes = tuple(range(grid.dim()))
    return grid.flip(axes).roll((1,) * grid.dim(), axes)


def _solved(factors: Any, x: Tensor) -> Tensor:
    rows = x.detach().reshape(-1, x.shape[-1]).to("cpu", torch.float64).numpy()
    return torch.from_numpy(np.ascontiguousarray(factors.solve(np.ascontiguousarray(rows.T)).T)).to(x).view(x.shape)
