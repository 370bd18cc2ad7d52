"""`run` on several ranks, by replicas or by the tasks of a batch; runs that are kept in a folder and gone on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convergence import budget, checkpoints, driver
from convergence.arguments import integer
from convergence.chunks import Joined
from convergence.described import described
from convergence.distributed.kept import Kept
from convergence.distributed.ranks import Ranks
from convergence.distributed.seen import Seen
from convergence.distributed.shards import Numbered, Sharded
from convergence.files import locked
from convergence.memory import peak_bytes
from convergence.method import Method
from convergence.recording import resolve_probes
from convergence.reference import ReferenceFailed
from convergence.result import Chunks, Result, RunFailed
from convergence.status import Status
from convergence.streams import generator
from convergence.trees import map_tensors, tensors_of
from problems import Parameters, Problem

_OF_ONE_BATCH = "certified_direction_error"  # a probe of theta and v of the whole batch
_WITHIN_ONE = ("compile", "memory", "chunks", "first")  # options of the run of one process
_NOT_KEPT = ("replicas", "optimizer")


def run(
    problem: Problem,
    method: Method,
    *,
    ranks: Ranks,
    iterations: int,
    replicas: int | None = None,
    seed: int = 0,
    keep: Path | str | None = None,
    keep_every: int = 1000,
    resume: bool = False,
    stop: Callable[[], object] = lambda: False,
    progress: bool = False,
    raise_on_failure: bool = True,
    **options: Any,
) -> Result:
    """`convergence.run` by all ranks together: each calls it with the same arguments and gets the same phi and traces.

    With replicas each rank runs some of them, and nothing is sent before the end. Without, the tasks of a batch are
    spread (`Sharded`): phi is that of one process up to the order of sums, and `Result.state` holds the rows of this
    rank's tasks. Probes are measured on all tasks, by every rank: `probes=()` where that is too much.

    keep        a folder from which the run can go on, with any number of ranks that share it (`Kept`)
    keep_every  iterations between two times of keeping
    resume      go on from what the folder holds; `iterations` counts from the start of the run
    stop        asked whenever the run is kept: where it is true on some rank, the run ends there
    options     the other arguments of `convergence.run`

    Raises ValueError as `convergence.run`, `Sharded` and `Kept` do, and on options of a run of one process where tasks
    are spread or the run is kept; RankLost; RunFailed and ReferenceFailed as `convergence.run`, what was kept intact.
    """
    alone = keep is None and (ranks.size == 1 or replicas is not None)
    common = {"seed": seed, "raise_on_failure": raise_on_failure, "progress": progress and ranks.first, **options}
    if alone and ranks.size == 1:
        return driver.run(problem, method, iterations=iterations, replicas=replicas, **common)
    if alone:
        assert replicas is not None
        return _side_by_side(problem, method, ranks, integer("replicas", replicas, least=1), iterations, common)
    given = {"replicas": replicas, **options}
    for name in (*_WITHIN_ONE, *(_NOT_KEPT if keep is not None else ())):
        if given.get(name):
            where = "a run that is kept" if keep is not None else "tasks that are spread over ranks"
            raise ValueError(f"expected no {name} with {where}, got {given[name]!r}")
    if (limit := budget.limit(None)) is not None:  # its measurements would be messages, another number on each rank
        raise ValueError(f"expected no memory limit around a run that is kept or spread over ranks, got {limit} bytes")
    spread = _Spread(problem, method, ranks, common)
    if keep is None:
        result = spread.run(iterations)
    else:
        keep_every = integer("keep_every", keep_every, least=1)
        result = _kept(spread, Path(keep), iterations, every=keep_every, resume=resume, stop=stop)
    if result.status.failed and raise_on_failure:
        raise RunFailed(result.status, result)
    return result


# ---- the tasks of a batch on several ranks


class _Spread:
    """A run whose tasks are spread over ranks, from one iteration to a later one."""

    def __init__(self, problem: Problem, method: Method, ranks: Ranks, options: Mapping[str, Any]):
        problem.check()
        self.problem, self.method, self.ranks = problem, method, ranks
        self.options = {**options, "raise_on_failure": False, "compile": False}  # messages are no part of a program
        self.probes = resolve_probes(options.get("probes"), options.get("stop_at"), finite=problem.tasks is not None)
        if ranks.size > 1 and _OF_ONE_BATCH in {probe.name for probe in self.probes}:
            raise ValueError(f"expected no probe {_OF_ONE_BATCH} with tasks that are spread over ranks, got it")
        self.device = driver.resolve_device(options.get("device", "cpu"))
        self.dtype = options.get("dtype", torch.float64)
        self.own = slice(0, 0) if problem.tasks is None else ranks.part(problem.tasks)

    def run(
        self,
        iterations: int,
        *,
        first: int = 0,
        phi0: Parameters | None = None,
        rows: list[Tensor] | None = None,
        **changes: Any,
    ) -> Result:
        """The iterations from `first` on, from phi0 and these rows of the state; None: from the start."""
        sharded = Sharded(self.method, self.problem, self.ranks, device=self.device, dtype=self.dtype, rows=rows)
        options = self.options | changes | ({} if phi0 is None else {"phi0": phi0})
        certified = _OF_ONE_BATCH in {probe.name for probe in self.probes}  # on one rank: it looks at the batch itself
        seen = self.problem if certified else Numbered(self.problem, moved=bool(self.probes))
        return driver.run(seen, sharded, iterations=iterations, first=first, **options)

    def peak_bytes(self) -> int:
        """Of the tensors that one upper iteration makes on this rank, from the start, without probes.

        Taken of the second such iteration: what a problem works out once, as its constants, is then there.
        """
        bare: dict[str, Any] = {"probes": (), "stop_at": None, "watch": None, "progress": False}
        self.run(1, **bare)
        return peak_bytes(lambda: self.run(1, **bare), device=self.device)

    @property
    def config(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one before."""
        return {
            "problem": {
                "type": type(self.problem).__name__,
                "tasks": self.problem.tasks,
                "sha256": checkpoints.digest(getattr(self.problem, "data", None) or {}),
            },
            "method": described(self.method),
            "probes": [probe.name for probe in self.probes],
            "dtype": str(self.dtype),
            **{name: self.options.get(name) for name in ("seed", "batch", "replacement", "probe_every")},
        }


# ---- kept in a folder


def _kept(
    spread: _Spread, folder: Path, iterations: int, *, every: int, resume: bool, stop: Callable[[], object]
) -> Result:
    """The run up to `iterations`, kept every so many of them unless it fails; with `resume` on from what is kept."""
    ranks = spread.ranks
    with ExitStack() as stack:
        ranks.from_first(lambda: stack.enter_context(locked(folder)))
        kept = Kept(folder, ranks, spread.config)
        state = kept.found(resume=resume)
        done = 0 if state is None else state["iteration"]
        if done > iterations:
            raise ValueError(f"expected iterations of at least the {done} done, got {iterations}")
        seen = Seen(folder, ranks, {"iterations": iterations, "keep_every": every, **spread.config})
        with seen.until_the_end() as ended:
            seen.begin(state, peak_bytes=spread.peak_bytes() if state is None and iterations else None)
            phi0 = None if state is None else state["phi"]
            rows = None if state is None else kept.rows(state, spread.own)
            while True:
                count = min(every, iterations - done)
                result = _after(state, spread.run(count, first=done, phi0=phi0, rows=rows, watch=seen.measured))
                if result.status.failed:
                    return ended(result)
                more = state is None or result.iterations > done  # a run that had ended already is kept already
                state, done, phi0, rows = _state(result), result.iterations, result.phi, tensors_of(result.state)
                if more:
                    seen.kept(state)
                    kept.write(state, result.state, spread.own)
                wished = bool(ranks.sum(torch.tensor([float(bool(stop()))])))
                if wished or done == iterations or result.status is Status.CONVERGED:
                    return ended(result)


def _state(result: Result) -> dict[str, Any]:
    """What a run goes on from, beside the rows of its tasks: the same on every rank."""
    return {
        "iteration": result.iterations,
        "phi": {name: tensor.cpu() for name, tensor in result.phi.items()},
        "trace": result.trace,
        "probed_at": result.probed_at,
        "calls": result.calls,
        "examples": result.examples,
        "seconds": result.seconds,
    }


def _after(state: Mapping[str, Any] | None, result: Result) -> Result:
    """The result of the whole run, from what was kept and the iterations after it."""
    if state is None:
        return result
    done = state["iteration"]
    before = state["probed_at"] < done  # a run that ended at a threshold has measured the iteration it goes on with
    return replace(
        result,
        trace={name: torch.cat([state["trace"][name][before], more]) for name, more in result.trace.items()},
        probed_at=torch.cat([state["probed_at"][before], result.probed_at]),
        calls={name: state["calls"][name] + more for name, more in result.calls.items()},
        examples={name: state["examples"][name] + more for name, more in result.examples.items()},
        iterations=done + result.iterations,
        iterations_of=(done + result.iterations,),
        seconds=state["seconds"] + result.seconds,
    )


# ---- replicas on several ranks


def _side_by_side(
    problem: Problem, method: Method, ranks: Ranks, replicas: int, iterations: int, options: Mapping[str, Any]
) -> Result:
    """Some of the replicas on each rank, put together on all of them."""
    own = ranks.part(replicas)
    outcome: Result | ReferenceFailed | None = None
    if own.start < own.stop:
        mine = {**options, "seed": options["seed"] + own.start, "replicas": own.stop - own.start}
        if (phi0 := options.get("phi0")) is not None:
            mine["phi0"] = _rows_of(phi0, problem.phi0(generator(options["seed"], "start")), own)
        try:
            outcome = driver.run(problem, method, iterations=iterations, **mine)
        except RunFailed as failed:
            outcome = failed.result
        except ReferenceFailed as failed:
            outcome = failed
    found = ranks.gather(outcome if not isinstance(outcome, Result) else _on_cpu(outcome))
    joined = Joined(replicas, len(range(0, iterations, options.get("probe_every", 1))))
    for part in found:
        if isinstance(part, ReferenceFailed):
            raise part
        if part is not None:
            joined.add(part)
    result = joined.result(Chunks())
    device = driver.resolve_device(options.get("device", "cpu"))
    seconds = max(part.seconds for part in found if isinstance(part, Result))
    result = replace(result, phi={name: x.to(device) for name, x in result.phi.items()}, seconds=seconds)
    if result.status.failed and options["raise_on_failure"]:
        raise RunFailed(result.status, result)
    return result


def _rows_of(phi0: Parameters, like: Parameters, own: slice) -> Parameters:
    """phi0 of these replicas, where it has a replica axis."""
    return {
        name: x[own] if name in like and torch.as_tensor(x).dim() > like[name].dim() else x for name, x in phi0.items()
    }


def _on_cpu(result: Result) -> Result:
    return replace(result, phi=map_tensors(Tensor.cpu, result.phi), state=map_tensors(Tensor.cpu, result.state))
