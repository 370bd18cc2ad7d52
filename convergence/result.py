"""What a run ends with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from convergence.arguments import integer
from convergence.oracle import Calls
from convergence.status import Status
from problems import Parameters


class Chunks(NamedTuple):
    """How many replicas of a run, and how many tasks of an iteration, are computed at a time; None: all of them.

    peak    bytes that the run was found to take, where a memory budget chose
    """

    replicas: int | None = None
    tasks: int | None = None
    peak: int | None = None

    def at_most(self, whole: Chunks) -> Chunks:
        """These, no larger than what there is. Raises ValueError unless each is None or an integer >= 1."""
        found = []
        for name, size, most in zip(("replicas", "tasks"), self, whole, strict=False):
            if size is not None:
                integer(f"chunks.{name}", size, least=1, otherwise="None or ")
            found.append(most if size is None or most is None else min(size, most))
        return Chunks(*found)


@dataclass(frozen=True)
class Result:
    """What a run ended with.

    phi          the last iterate, named tensors, (R, ...) with replicas
    trace        probe -> values at t = 0, probe_every, ..., float64 on the CPU, (T,) or (T, R); NaN in a replica
                 after it stopped
    calls        oracle calls of one replica (the one that ran longest), a call being that of one task
    examples     terms of the objectives that those calls looked at: more than the calls where tasks are finite sums
    status       how the run ended; with replicas the worst of `statuses`
    iterations   upper iterations completed (of the replica that ran longest)
    seconds, compile_seconds  of the run, and of these what tracing and compiling took
    statuses, iterations_of   one entry a replica; one entry where there are no replicas
    chunks       how many replicas and tasks were computed at a time
    """

    phi: Parameters
    trace: dict[str, Tensor]
    calls: Calls
    examples: Calls
    status: Status
    iterations: int
    statuses: tuple[Status, ...]
    iterations_of: tuple[int, ...]
    state: Any
    seeds: tuple[int, ...]
    seconds: float
    compile_seconds: float
    probed_at: Tensor = field(repr=False)
    chunks: Chunks = field(default_factory=Chunks)


class RunFailed(RuntimeError):
    """A run ended with BREAKDOWN or NON_FINITE; `result` holds what it had reached, `status` why."""

    def __init__(self, status: Status, result: Result):
        super().__init__(f"{status.name} after {result.iterations} upper iterations: {status.advice}")
        self.status = status
        self.result = result

    def __reduce__(self) -> tuple[type[RunFailed], tuple[Status, Result]]:
        return RunFailed, (self.status, self.result)
