"""What the constants of a problem bound, measured between points: no larger than the constants where they are true."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from convergence import reference
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks
from problems import Parameters

_NUMBERS = 2**22  # of a dense d2g/dphi dtheta


class Place(NamedTuple):
    """x = phi as a vector and theta (M, q); there H (M, q, q), v*(phi, theta); and theta*(phi), grad Phi_i (M, p)."""

    x: Tensor
    theta: Tensor
    H: Tensor
    v: Tensor
    optimum: Tensor
    gradients: Tensor


def place(problem: SomeTasks, single: SingleTasks, phi: Parameters, theta: Tensor) -> Place:
    """Dense Hessians, damped Newton. Raises ReferenceFailed where there is no theta*."""
    exact, x = reference(problem, phi, problem.sample(None, torch.Generator())), vector(phi)
    M = range(len(single))
    H = torch.stack([single.hessian(i, x, theta[i]) for i in M])
    slopes = torch.stack([single.slope("upper", i, x, theta[i]) for i in M])
    gradients = torch.stack([single.direction(i, x, exact.theta[i], exact.v[i]) for i in M])
    return Place(x, theta, H, torch.linalg.solve(H, slopes), exact.theta, gradients)


def measured(problem: SomeTasks, single: SingleTasks, at: list[tuple[Parameters, Tensor]]) -> dict[str, float]:
    """By the names of `Constants`, the largest over the tasks and the points (phi, theta); mu as the least.

    sigma_sq is left out: it is said of an optimum. Cost: one reference a point, and the dense derivatives there.
    """
    places = [place(problem, single, *each) for each in at]
    found: dict[str, list[float]] = {}
    for number, here in enumerate(places):
        for name, value in _at(single, here, dense=number == 0).items():
            found.setdefault(name, []).append(value)
    for here, there in pairwise(places):
        for name, value in _between(single, here, there).items():
            found.setdefault(name, []).append(value)
    return {name: (min if name == "mu" else max)(values) for name, values in found.items()}


def _at(single: SingleTasks, here: Place, *, dense: bool) -> dict[str, float]:
    """What is measured at one point."""
    x, theta = here.x, here.theta
    eigenvalues = torch.linalg.eigvalsh(here.H)
    slopes = torch.stack([single.slope("upper", i, x, theta[i]) for i in range(len(single))])
    D = torch.stack([single.direction(i, x, theta[i], here.v[i]) for i in range(len(single))])
    away = (theta - here.optimum).norm(dim=-1)
    found = {
        "mu": float(eigenvalues.min()),
        "L": float(eigenvalues.max()),
        "B": float(slopes.norm(dim=-1).max()),
        "Lambda": float(((D - here.gradients).norm(dim=-1) / away).max()),
    }
    if dense:
        found["L_c"] = max(_norm(_cross(single, i, x, theta[i])) for i in range(len(single)))
    return found


def _between(single: SingleTasks, here: Place, there: Place) -> dict[str, float]:
    """Difference quotients of two points."""
    M = range(len(single))
    along_phi = (there.x - here.x).norm()
    along_theta = (there.theta - here.theta).norm(dim=-1)
    together = (along_phi.square() + along_theta.square()).sqrt()
    slopes = [torch.stack([single.slope("upper", i, p.x, p.theta[i]) for i in M]) for p in (here, there)]
    direct = [torch.stack([single.phi_slope("upper", i, here.x, p.theta[i]) for i in M]) for p in (here, there)]
    crosses = [_norm(_cross(single, i, there.x, there.theta[i]) - _cross(single, i, here.x, here.theta[i])) for i in M]
    quotients = {
        "rho_1": torch.tensor(crosses, dtype=together.dtype, device=together.device) / together,
        "rho_2": torch.linalg.matrix_norm(there.H - here.H, 2) / together,
        "ell": (slopes[1] - slopes[0]).norm(dim=-1) / together,
        "ell_1": (direct[1] - direct[0]).norm(dim=-1) / along_theta,
        "tau": (there.optimum - here.optimum).norm(dim=-1) / along_phi,
        "nu": (there.v - here.v).norm(dim=-1) / (along_phi + along_theta),
        "L_Phi": (there.gradients - here.gradients).mean(0).norm()[None] / along_phi,
    }
    return {name: float(quotient.max()) for name, quotient in quotients.items()}


def _cross(single: SingleTasks, i: int, x: Tensor, theta: Tensor) -> Tensor:
    """Rows of d2g/dtheta dphi: all q of them, or as many random combinations as are at most 4 million numbers."""
    q = len(theta)
    rows = torch.eye(q, dtype=theta.dtype, device=theta.device)
    if q * len(x) > _NUMBERS:
        rng = torch.Generator().manual_seed(i)
        rows = torch.randn(max(1, _NUMBERS // len(x)), q, generator=rng, dtype=theta.dtype).to(theta.device)[:q]
        rows = torch.linalg.qr(rows.mT).Q.mT
    return torch.stack([single.cross(i, x, theta, row) for row in rows])


def _norm(matrix: Tensor) -> float:
    """The spectral norm, by the smaller Gram matrix."""
    gram = matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
    return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt())
