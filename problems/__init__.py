"""Bilevel meta-learning problems with known optima."""

from problems.base import Constants, Examples, Parameters, Problem, Tasks, Terms, map_parameters
from problems.catalogue import COUNTEREXAMPLES, PROBLEMS
from problems.counterexamples import HeavyTailed, QuarticLower, SingularLower
from problems.embedded import Embedded
from problems.heads import ProxHeads
from problems.logistic import ProxLogistic
from problems.proximal import Proximal
from problems.quadratic import Quadratic
from problems.representation import Representation
from problems.softmax import ProxSoftmax
from problems.tails import PowerTail, PowerWell
from problems.tight import Huber, Plateau, Tight, Zigzag

__all__ = [
    "COUNTEREXAMPLES",
    "PROBLEMS",
    "Constants",
    "Embedded",
    "Examples",
    "HeavyTailed",
    "Huber",
    "Parameters",
    "Plateau",
    "PowerTail",
    "PowerWell",
    "Problem",
    "ProxHeads",
    "ProxLogistic",
    "ProxSoftmax",
    "Proximal",
    "Quadratic",
    "QuarticLower",
    "Representation",
    "SingularLower",
    "Tasks",
    "Terms",
    "Tight",
    "Zigzag",
    "map_parameters",
]
