"""The registered methods: one line each makes it known to the command line."""

from __future__ import annotations

from collections.abc import Callable

from convergence.memory_reduced import MemoryReduced
from convergence.method import Method
from convergence.methods import (
    ALSET,
    ANIL,
    BOIL,
    BSA,
    F2SA,
    FOMAML,
    HFMAML,
    IMAML,
    MAML,
    SABA,
    SOBA,
    SRBA,
    STABLE,
    TTSA,
    AIDBiO,
    ITDBiO,
    Reptile,
    StocBiO,
)

# name -> a frozen dataclass of hyperparameters, with `needs` and `declared`; tests/convergence/methods/test_contract.py
# holds each to what it declares
METHODS: dict[str, Callable[..., Method]] = {
    "memory_reduced": MemoryReduced,
    "aid_bio": AIDBiO,
    "itd_bio": ITDBiO,
    "maml": MAML,
    "fomaml": FOMAML,
    "anil": ANIL,
    "boil": BOIL,
    "reptile": Reptile,
    "hf_maml": HFMAML,
    "imaml": IMAML,
    "bsa": BSA,
    "stocbio": StocBiO,
    "ttsa": TTSA,
    "alset": ALSET,
    "stable": STABLE,
    "soba": SOBA,
    "saba": SABA,
    "srba": SRBA,
    "f2sa": F2SA,
}
