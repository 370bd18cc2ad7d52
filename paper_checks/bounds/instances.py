"""Many quadratic instances at once: n points of a box become n problems, one a replica, with constants of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paper_checks.quadratic_theory import Array, apply, norm
from problems import Constants, Parameters, Quadratic, Tasks


@dataclass(frozen=True)
class Shape:
    """M tasks, phi of size p, theta of size q; `gain`: a start that depends on phi."""

    tasks: int
    p: int
    q: int
    gain: bool = False

    @property
    def blocks(self) -> dict[str, tuple[int, ...]]:
        """The arrays of one instance and their shapes; A is diagonal and b = 0 without loss of generality.

        A rotation of theta makes A_i diagonal, a translation b_i zero; both are free for each task.
        """
        M, p, q = self.tasks, self.p, self.q
        blocks = {"A": (M, q), "C": (M, q, p), "Q": (M, q, q), "R": (M, p, p), "u": (M, q), "w": (M, p)}
        blocks |= {"start": (M, q), "phi": (p,)}
        return blocks | ({"gain": (M, q, p)} if self.gain else {})

    @property
    def dimensions(self) -> int:
        """The number of coordinates of one instance."""
        return sum(int(np.prod(shape)) for shape in self.blocks.values())

    def decode(self, x: Array) -> dict[str, Array]:
        """Points (n, d) of the unit box to arrays with leading axis n.

        Eigenvalues of A from 1e-3 to 1.995, evenly in their logarithm: alpha = 1 is then any alpha < 2 / L. Q and R
        are F F', with entries of F from -1 to 1; the entries of all others lie between -3 and 3.
        """
        arrays, at = {}, 0
        for name, shape in self.blocks.items():
            size = int(np.prod(shape))
            arrays[name] = 2 * x[:, at : at + size].reshape(-1, *shape) - 1
            at += size
        arrays["A"] = _diagonal(10 ** (-3 + 3.3 * (arrays["A"] + 1) / 2))
        for name in ("Q", "R"):
            arrays[name] = arrays[name] @ np.swapaxes(arrays[name], -1, -2)
        for name in ("u", "w", "start", "phi"):
            arrays[name] = 3 * arrays[name]
        arrays["b"] = np.zeros_like(arrays["u"])
        arrays.setdefault("gain", np.zeros_like(arrays["C"]))
        return arrays


def _diagonal(values: Array) -> Array:
    return np.asarray(values[..., None] * np.eye(values.shape[-1]))


@dataclass(frozen=True)
class Theory:
    """Closed forms of n instances, leading axes (n, M); alpha = 1. No code is shared with the method."""

    arrays: dict[str, Array]

    def __getattr__(self, name: str) -> Array:
        try:
            return self.arrays[name]
        except KeyError:
            raise AttributeError(name) from None

    @cached_property
    def J(self) -> Array:
        """A^-1 C."""
        return np.linalg.solve(self.A, self.C)

    @cached_property
    def H_i(self) -> Array:
        """R + J'QJ, (n, M, p, p)."""
        return self.R + _t(self.J) @ self.Q @ self.J

    @cached_property
    def h_i(self) -> Array:
        """R w + J'Q u, (n, M, p): grad Phi_i = H_i phi - h_i (b = 0)."""
        return apply(self.R, self.w) + apply(_t(self.J) @ self.Q, self.u)

    def gradients(self, phi: Array) -> Array:
        """grad Phi_i at phi (n, p): (n, M, p)."""
        return apply(self.H_i, phi[:, None]) - self.h_i

    def gradient(self, phi: Array) -> Array:
        """grad Phi, (n, p)."""
        return self.gradients(phi).mean(1)

    @cached_property
    def optimum(self) -> Array:
        """phi*, (n, p): the one of least norm."""
        return apply(np.linalg.pinv(self.H_i.mean(1), hermitian=True), self.h_i.mean(1))

    def gap(self, phi: Array) -> Array:
        """Phi(phi) - Phi*, (n,), as a square."""
        x = phi - self.optimum
        return 0.5 * np.einsum("ni,nij,nj->n", x, self.H_i.mean(1), x)

    def theta(self, phi: Array) -> Array:
        """theta_i*(phi), (n, M, q)."""
        return apply(self.J, phi[:, None])

    def v(self, theta: Array) -> Array:
        """v_i*(theta), (n, M, q)."""
        return np.linalg.solve(self.A, apply(self.Q, theta - self.u)[..., None])[..., 0]

    @property
    def start_at(self) -> Array:
        """theta_0 at the start, (n, M, q)."""
        return self.start + apply(self.gain, self.phi[:, None])

    @cached_property
    def bounds(self) -> dict[str, Array]:
        """The exact constants of each instance, (n,): mu, L, L_c, ell, Lambda, tau, nu, L_Phi, varrho."""
        eigenvalues = np.diagonal(self.A, axis1=-2, axis2=-1)
        JQ = _t(self.J) @ self.Q
        return {
            "mu": eigenvalues.min((1, 2)),
            "L": eigenvalues.max((1, 2)),
            "L_c": norm(self.C).max(1),
            "ell": norm(self.Q).max(1),
            "Lambda": norm(JQ).max(1),
            "tau": norm(self.J).max(1),
            "nu": norm(np.linalg.solve(self.A, self.Q)).max(1),
            "L_Phi": norm(self.H_i.mean(1)),
            "varrho": np.abs(1 - eigenvalues).max((1, 2)),
        }

    @cached_property
    def constants(self) -> list[Constants]:
        """The same as `Constants`, one an instance."""
        names = ("mu", "L", "L_c", "ell", "Lambda", "tau", "nu", "L_Phi")
        rows = np.stack([self.bounds[name] for name in names], -1)
        fixed = {"rho_1": 0.0, "rho_2": 0.0, "ell_1": 0.0}
        return [Constants(**dict(zip(names, map(float, row), strict=True)), **fixed) for row in rows]

    def scaled(self, factor: Array) -> Theory:
        """f times factor (n,): grad Phi, Lambda, nu, L_Phi are so too; beta = 1 is then any beta."""
        return Theory(self.arrays | {name: self.arrays[name] * factor[:, None, None, None] for name in ("Q", "R")})

    def repeated(self, times: int) -> Theory:
        """Each instance so many times in a row."""
        return Theory({name: np.repeat(array, times, 0) for name, array in self.arrays.items()})


class Instances(Quadratic):
    """n quadratics as n replicas, the tasks of replica r those of instance r. For a method's step, not for `run`."""

    def __init__(self, theory: Theory):
        self.data = {name: torch.as_tensor(x) for name, x in theory.arrays.items() if name != "phi"}
        self.p, self.q = theory.C.shape[-1], theory.C.shape[-2]
        self._count, self._tasks = theory.C.shape[:2]

    @property
    def tasks(self) -> int:  # type: ignore[override]  # the pool has an axis of instances before that of its tasks
        """M."""
        return self._tasks

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        """All tasks of every instance, (n, M)."""
        assert size is None
        return Tasks(torch.arange(self._tasks).expand(self._count, -1), **self.data)

    def batch(self, index: Array) -> Tasks:
        """The tasks (n, b) of each instance."""
        rows, columns = torch.arange(self._count)[:, None], torch.as_tensor(index)
        return Tasks(columns, **{name: tensor[rows, columns] for name, tensor in self.data.items()})


def parameters(phi: Array) -> Parameters:
    """phi (n, p) as the method takes it."""
    return {"phi": torch.as_tensor(phi)}


def numbers(tensor: Tensor) -> Array:
    """Back in numpy."""
    return np.asarray(tensor.detach().cpu().numpy())


def _t(matrices: Array) -> Array:
    return np.swapaxes(matrices, -1, -2)


def share(x: Array) -> Array:
    """A coordinate as a share of the largest step allowed, from 1e-3 to 1."""
    return 1e-3 + (1 - 1e-3) * x


def instance(shape: Shape) -> Any:
    """(cell, x) -> the arrays of one instance, by names, for `Bound.instance`."""

    def arrays(cell: Any, x: Array) -> dict[str, Array]:
        return {name: array[0] for name, array in shape.decode(x[None]).items()}

    return arrays
