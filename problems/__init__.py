"""Bilevel meta-learning problems with known optima."""

from problems.base import Constants, Examples, Parameters, Problem, Tasks, Terms, map_parameters
from problems.catalogue import COUNTEREXAMPLES, LARGE, PROBLEMS, REAL_DATA, STOCHASTIC
from problems.counterexamples import HeavyTailed, LassoLower, QuarticLower, SingularLower
from problems.embedded import Embedded
from problems.heads import ProxHeads
from problems.hyper_cleaning import HyperCleaning
from problems.learned_start import LearnedStart
from problems.logistic import ProxLogistic
from problems.minibatch import Minibatch
from problems.noisy import Noisy
from problems.proximal import Proximal
from problems.quadratic import Quadratic
from problems.regularisation import LogisticRegularisation
from problems.representation import Representation
from problems.softmax import ProxSoftmax
from problems.structured import Circulant, DiagonalPlusLowRank, Expansion, Operator, Sparse, Structured
from problems.tails import PowerTail, PowerWell
from problems.tight import Huber, Plateau, Tight, Zigzag
from problems.wrapper import Wrapper

__all__ = [
    "COUNTEREXAMPLES",
    "LARGE",
    "PROBLEMS",
    "REAL_DATA",
    "STOCHASTIC",
    "Circulant",
    "Constants",
    "DiagonalPlusLowRank",
    "Embedded",
    "Examples",
    "Expansion",
    "HeavyTailed",
    "Huber",
    "HyperCleaning",
    "LassoLower",
    "LearnedStart",
    "LogisticRegularisation",
    "Minibatch",
    "Noisy",
    "Operator",
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
    "Sparse",
    "Structured",
    "Tasks",
    "Terms",
    "Tight",
    "Wrapper",
    "Zigzag",
    "map_parameters",
]
