"""The registered methods: one line each makes it known to the command line."""

from __future__ import annotations

from collections.abc import Callable

from convergence.memory_reduced import MemoryReduced
from convergence.method import Method
from convergence.methods import ITDBiO

# name -> constructor; takes lower_steps, lower_step_size, upper_step_size, and where it has them cg_steps, warm_start
METHODS: dict[str, Callable[..., Method]] = {"memory_reduced": MemoryReduced, "itd_bio": ITDBiO}
