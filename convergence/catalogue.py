"""The registered methods: one line each makes it known to the command line."""

from __future__ import annotations

from collections.abc import Callable

from convergence.memory_reduced import MemoryReduced
from convergence.method import Method

# name -> constructor, called with lower_steps, lower_step_size, cg_steps, upper_step_size, warm_start
METHODS: dict[str, Callable[..., Method]] = {"memory_reduced": MemoryReduced}
