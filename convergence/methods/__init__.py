"""Other published methods, each re-derived from its source on the same oracle, to compare the paper's with."""

from convergence.methods.closed_form import ClosedForm
from convergence.methods.fomaml import FOMAML
from convergence.methods.itd_bio import ITDBiO

__all__ = ["FOMAML", "ClosedForm", "ITDBiO"]
