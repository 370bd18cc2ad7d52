"""The oracle: first- and second-order information on a problem, counted."""

from convergence.oracle.oracle import Oracle
from convergence.oracle.parts import CALLS, Calls, Features, LowerHessian, per_task

__all__ = ["CALLS", "Calls", "Features", "LowerHessian", "Oracle", "per_task"]
