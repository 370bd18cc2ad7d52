"""What a run ends with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from convergence.oracle import Calls
from convergence.status import Status
from problems import Parameters


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


class RunFailed(RuntimeError):
    """A run ended with BREAKDOWN or NON_FINITE; `result` holds what it had reached, `status` why."""

    def __init__(self, status: Status, result: Result):
        super().__init__(f"{status.name} after {result.iterations} upper iterations: {status.advice}")
        self.status = status
        self.result = result

    def __reduce__(self) -> tuple[type[RunFailed], tuple[Status, Result]]:
        return RunFailed, (self.status, self.result)
