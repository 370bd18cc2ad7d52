"""Algorithm 1 written out line by line for any problem: derivatives by torch.func, scipy's CG, no oracle.

Only `lower`, `upper`, `embed`, `theta0` of the problem are shared with the methods, none of their closed forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import cg
from torch import Tensor
from torch.func import grad, jacrev, vmap

from paper_checks.quadratic_theory import Array
from problems import Parameters, Problem, Tasks

_ROUNDING = float(np.finfo(np.float64).eps)


def flattened(phi: Parameters, *, lead: int = 0) -> Tensor:
    """phi as one row, (..., p): its tensors one after the other; `lead` counts the axes that are kept."""
    # Not flatten, which gives a number with kept axes no axis of its own
    return torch.cat([x.reshape(*x.shape[:lead], x.shape[lead:].numel()) for x in phi.values()], -1)


def written_out(
    problem: Problem,
    starts: Sequence[Parameters],
    batches: npt.NDArray[np.int64],
    *,
    K: int,
    N: int,
    lower_step_size: float,
    upper_step_size: float,
    warm: bool | Literal["theta"],
) -> Array:
    """phi_0, ..., phi_T of R runs as flat rows, (R, T + 1, p), each from its own phi without replica axis, in float64.

    `batches` (R, T, b) hold indices of tasks; one that is drawn twice is solved once and counts twice. All tasks of
    the pool take the K lower steps, those of the batch keep them. Memory: R M (p + q^2) numbers; no (q, p) matrix.
    """
    slopes, hessians, cross_products, upper_slopes, theta0 = _derivatives(problem, starts[0])
    x = torch.stack([flattened(phi) for phi in starts])  # (R, p)
    theta = theta0(x)  # (R, M, q)
    v = np.zeros(theta.shape)
    iterates = [x]
    for t in range(batches.shape[1]):
        last = theta if warm else theta0(x)
        for _ in range(K):
            last = last - lower_step_size * slopes(x, last)
        direct, b = upper_slopes(x, last)
        H = hessians(x, last).numpy()
        theta = theta.clone()
        for r, i in sorted({(r, int(task)) for r, batch in enumerate(batches[:, t]) for task in batch}):
            theta[r, i] = last[r, i]
            start = v[r, i] if warm is True else np.zeros(len(v[r, i]))
            # Where the residual is rounding the method stops as well; scipy would divide zero by zero
            v[r, i], _ = cg(H[r, i], b[r, i].numpy(), x0=start, rtol=_ROUNDING, atol=0.0, maxiter=N)
        each = direct - cross_products(x, last, torch.from_numpy(v))
        d = torch.stack([each[r, torch.from_numpy(batch)].mean(0) for r, batch in enumerate(batches[:, t])])
        x = x - upper_step_size * d
        iterates.append(x)
    return torch.stack(iterates, 1).numpy()


def _derivatives(problem: Problem, like: Parameters) -> tuple[Any, ...]:
    """Functions of flat phi (R, p) and theta (R, M, q), for every run and every task of the pool.

    dg/dtheta (R, M, q), d2g/dtheta2 (R, M, q, q), (d2g/dphi dtheta) v (R, M, p) of v (R, M, q) as well, the pair of
    df/dphi (R, M, p) and df/dtheta (R, M, q); and theta0 (R, M, q) of phi alone.
    """
    pool = problem.sample(None, torch.Generator())
    shapes = {name: tensor.shape for name, tensor in like.items()}

    def shaped(x: Tensor) -> Parameters:
        pieces = x.split([shape.numel() for shape in shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    def objective(which: str) -> Any:
        def one(x: Tensor, theta: Tensor, index: Tensor, tensors: dict[str, Tensor]) -> Tensor:
            task = Tasks(index[None], **{key: tensor[None] for key, tensor in tensors.items()})
            return getattr(problem, which)(problem.embed(shaped(x), task), theta[None], task)[0]

        return one

    def of_all(function: Any) -> Any:
        def of_tasks(x: Tensor, *rows: Tensor) -> Any:
            return vmap(function, (None, *(0 for _ in rows), 0, 0))(x, *rows, pool.index, pool.tensors)

        return vmap(of_tasks)

    slope = grad(objective("lower"), argnums=1)
    hessian = jacrev(slope, argnums=1)

    def slope_along(x: Tensor, theta: Tensor, v: Tensor, index: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return torch.dot(slope(x, theta, index, tensors), v)

    upper_slopes = grad(objective("upper"), argnums=(0, 1))
    theta0 = vmap(lambda x: problem.theta0(shaped(x), pool))
    return *map(of_all, (slope, hessian, grad(slope_along), upper_slopes)), theta0
