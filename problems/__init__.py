"""Bilevel meta-learning problems with known optima."""

from problems.base import Constants, Parameters, Problem, Tasks, map_parameters
from problems.catalogue import PROBLEMS
from problems.logistic import ProxLogistic
from problems.quadratic import Quadratic
from problems.tight import Huber, Plateau, Tight, Zigzag

__all__ = [
    "PROBLEMS",
    "Constants",
    "Huber",
    "Parameters",
    "Plateau",
    "Problem",
    "ProxLogistic",
    "Quadratic",
    "Tasks",
    "Tight",
    "Zigzag",
    "map_parameters",
]
