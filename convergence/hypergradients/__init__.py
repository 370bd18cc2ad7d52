"""Estimators of grad Phi(phi), which compose with a lower solver and an upper step: `Composed`."""

from convergence.hypergradients.estimate import Estimate, Estimator, non_finite
from convergence.hypergradients.first_order import Displacement, FirstOrder, HessianFree
from convergence.hypergradients.forward import ForwardGradient, ForwardMode
from convergence.hypergradients.implicit import Implicit
from convergence.hypergradients.reverse import Checkpointed, Reversed
from convergence.hypergradients.unrolled import Unrolled

__all__ = [
    "Checkpointed",
    "Displacement",
    "Estimate",
    "Estimator",
    "FirstOrder",
    "ForwardGradient",
    "ForwardMode",
    "HessianFree",
    "Implicit",
    "Reversed",
    "Unrolled",
    "non_finite",
]
