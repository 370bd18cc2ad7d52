"""The registered methods: one line each makes it known to the command line."""

from __future__ import annotations

from collections.abc import Callable

from convergence.memory_reduced import MemoryReduced
from convergence.method import Method
from convergence.methods import ANIL, BOIL, FOMAML, IMAML, MAML, AIDBiO, ITDBiO, Reptile

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
    "imaml": IMAML,
}
