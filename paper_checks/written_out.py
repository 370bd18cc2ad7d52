"""Algorithm 1 written out line by line for any problem: dense derivatives by torch.func, scipy's CG, no oracle.

Only `lower`, `upper`, `embed`, `theta0` of the problem are shared with the methods, none of their closed forms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse.linalg import cg
from torch import Tensor
from torch.func import grad, jacrev, vmap

from paper_checks.quadratic_theory import Array
from problems import Parameters, Problem, Tasks


def written_out(
    problem: Problem,
    phi: Parameters,
    batches: Iterable[Array],
    *,
    K: int,
    N: int,
    lower_step_size: float,
    upper_step_size: float,
    warm: bool | Literal["theta"],
) -> Array:
    """phi_0, phi_1, ... as flat rows, (T + 1, p), from phi with one tensor and no replica axis, in float64.

    `batches` hold indices of tasks; one that is drawn twice is solved once and counts twice. All tasks of the pool
    take the K lower steps, those of the batch keep them.
    """
    ((name, x),) = phi.items()
    pool = problem.sample(None, torch.Generator())
    each = (pool.index, pool.tensors)

    def objective(which: str) -> Any:
        def one(x: Tensor, theta: Tensor, index: Tensor, tensors: dict[str, Tensor]) -> Tensor:
            task = Tasks(index[None], **{key: tensor[None] for key, tensor in tensors.items()})
            return getattr(problem, which)(problem.embed({name: x}, task), theta[None], task)[0]

        return one

    g, f = objective("lower"), objective("upper")
    of_tasks = lambda function: vmap(function, (None, 0, 0, 0))  # noqa: E731
    slope, hessian = of_tasks(grad(g, argnums=1)), of_tasks(jacrev(grad(g, argnums=1), argnums=1))
    cross = of_tasks(jacrev(grad(g, argnums=1), argnums=0))  # (M, q, *shape of phi)
    upper_slopes = of_tasks(grad(f, argnums=(0, 1)))

    theta = problem.theta0(phi, pool)
    v = np.zeros(theta.shape)
    iterates = [x.flatten().numpy()]
    for batch in batches:
        last = theta if warm else problem.theta0({name: x}, pool)
        for _ in range(K):
            last = last - lower_step_size * slope(x, last, *each)
        direct, b = upper_slopes(x, last, *each)
        H = hessian(x, last, *each).numpy()
        drawn = sorted({int(task) for task in batch})
        theta = theta.clone()
        theta[drawn] = last[drawn]
        for i in drawn:
            start = v[i] if warm is True else np.zeros(len(v[i]))
            v[i], _ = cg(H[i], b[i].numpy(), x0=start, rtol=0.0, atol=0.0, maxiter=N)
        product = torch.einsum("mi...,mi->m...", cross(x, last, *each), torch.from_numpy(v))
        x = x - upper_step_size * (direct - product)[torch.from_numpy(np.asarray(batch))].mean(0)
        iterates.append(x.flatten().numpy())
    return np.stack(iterates)
