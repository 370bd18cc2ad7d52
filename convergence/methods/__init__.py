"""Other published methods, each re-derived from its source on the same oracle, to compare the paper's with."""

from convergence.methods.aid_bio import AIDBiO
from convergence.methods.anil import ANIL
from convergence.methods.boil import BOIL
from convergence.methods.closed_form import ClosedForm
from convergence.methods.fomaml import FOMAML
from convergence.methods.imaml import IMAML
from convergence.methods.itd_bio import ITDBiO
from convergence.methods.maml import MAML
from convergence.methods.reptile import Reptile

__all__ = ["ANIL", "BOIL", "FOMAML", "IMAML", "MAML", "AIDBiO", "ClosedForm", "ITDBiO", "Reptile"]
