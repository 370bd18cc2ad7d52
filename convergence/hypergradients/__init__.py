"""Estimators of grad Phi(phi), which compose with a lower solver and an upper step: `Composed`."""

from convergence.hypergradients.estimate import Estimate, Estimator, non_finite
from convergence.hypergradients.first_order import Displacement, FirstOrder
from convergence.hypergradients.implicit import Implicit
from convergence.hypergradients.unrolled import Unrolled

__all__ = ["Displacement", "Estimate", "Estimator", "FirstOrder", "Implicit", "Unrolled", "non_finite"]
