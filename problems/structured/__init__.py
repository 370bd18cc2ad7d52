"""Problems of a million parameters: Hessians that are structured and never formed."""

from problems.structured.operators import Circulant, DiagonalPlusLowRank, Operator, Sparse
from problems.structured.problem import Expansion, Structured

__all__ = ["Circulant", "DiagonalPlusLowRank", "Expansion", "Operator", "Sparse", "Structured"]
