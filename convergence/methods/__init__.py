"""Other published methods, each re-derived from its source on the same oracle, to compare the paper's with."""

from convergence.methods.aid_bio import AIDBiO
from convergence.methods.alset import ALSET
from convergence.methods.anil import ANIL
from convergence.methods.boil import BOIL
from convergence.methods.bsa import BSA
from convergence.methods.closed_form import ClosedForm
from convergence.methods.f2sa import F2SA
from convergence.methods.fomaml import FOMAML
from convergence.methods.hf_maml import HFMAML
from convergence.methods.imaml import IMAML
from convergence.methods.itd_bio import ITDBiO
from convergence.methods.maml import MAML
from convergence.methods.reptile import Reptile
from convergence.methods.saba import SABA
from convergence.methods.soba import SOBA
from convergence.methods.srba import SRBA
from convergence.methods.stable import STABLE
from convergence.methods.stocbio import StocBiO
from convergence.methods.ttsa import TTSA

__all__ = [
    "ALSET",
    "ANIL",
    "BOIL",
    "BSA",
    "F2SA",
    "FOMAML",
    "HFMAML",
    "IMAML",
    "MAML",
    "SABA",
    "SOBA",
    "SRBA",
    "STABLE",
    "TTSA",
    "AIDBiO",
    "ClosedForm",
    "ITDBiO",
    "Reptile",
    "StocBiO",
]
