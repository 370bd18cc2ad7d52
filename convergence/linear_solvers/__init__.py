"""Solvers of H v = b, one system a task, all rows of a batch at once."""

from convergence.linear_solvers.conjugate_gradient import ConjugateGradient
from convergence.linear_solvers.direct import Direct
from convergence.linear_solvers.series import Neumann, RandomNeumann, Richardson
from convergence.linear_solvers.solution import LinearSolution, LinearSolver

__all__ = [
    "ConjugateGradient",
    "Direct",
    "LinearSolution",
    "LinearSolver",
    "Neumann",
    "RandomNeumann",
    "Richardson",
]
