"""`run`: the loop around a method. Randomness, probes, stopping; no algorithm inside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from convergence import budget
from convergence.arguments import integer, is_finite, room, shown, truth
from convergence.batches import Batches
from convergence.chunks import Joined, pieces, step_in_chunks
from convergence.compiled import BLOCK, CompiledSteps
from convergence.method import Method, Step, require_method, require_step
from convergence.needs import TWICE_DIFFERENTIABLE, require
from convergence.optimisers import MakeOptimizer, Optimised, require_upper_step
from convergence.oracle import Oracle
from convergence.probes import Probe, Snapshot
from convergence.recording import Recorder, Running, Watch, failure_of, resolve_probes
from convergence.result import Chunks, Result, RunFailed
from convergence.sound import require_parameters, require_sound
from convergence.status import Status
from convergence.streams import generator
from problems import Parameters, Problem
from problems.arrays import floating


def run(
    problem: Problem,
    method: Method,
    *,
    iterations: int,
    batch: int | None = None,
    replacement: bool = False,
    seed: int = 0,
    replicas: int | None = None,
    probes: Sequence[str | Probe | Callable[[Snapshot], Tensor]] | None = None,
    probe_every: int = 1,
    stop_at: Mapping[str, float] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    phi0: Parameters | None = None,
    optimizer: MakeOptimizer | None = None,
    compile: bool | None = None,
    first: int = 0,
    memory: str | int | None = None,
    chunks: Chunks | None = None,
    watch: Watch | None = None,
    progress: bool = False,
    raise_on_failure: bool = True,
) -> Result:
    """Run a method on a problem for T upper iterations.

    batch          tasks an iteration; None takes all tasks of the pool, in order
    replacement    i.i.d. tasks; otherwise the tasks of a batch differ
    replicas       R independent runs in one batched computation; replica r is the run with seed + r. With an
                   optimizer only elementwise ones (`convergence.optimisers.ELEMENTWISE`), which keep replicas apart
    probes         names of `convergence.probes.PROBES` or functions of a Snapshot; by default the true squared
                   gradient norm where there is a finite pool. Not counted as oracle calls. Functions see one chunk of
                   replicas at a time, and a budget's short runs before, each from the first iteration
    stop_at        probe -> threshold; a replica stops with CONVERGED before the first iteration t at which all its
                   probes of phi named here are at or below theirs, or after it for probes of the step
    phi0           the start, with or without a replica axis; by default drawn by the problem from the seed
    optimizer      makes a torch.optim.Optimizer of the tensors of phi, which then takes the upper step along d, in
                   place of a method's own (whose upper_step_size is None); not one that needs a closure (LBFGS)
    compile        True: compiled programs in place of Python (`convergence.compiled`), one for an iteration and one for
                   all those between two probes; the same to rounding, for 5 to 20 seconds once
                   (`Result.compile_seconds`), with a C++ compiler on a CPU. None: from 100000 iterations on, where it
                   pays back, if they can be compiled
    first          number of the first iteration, which tasks and noise are drawn by: another run's `iterations`, to go
                   on from its phi with a method that starts from its state
    memory         a budget such as "2GiB", or bytes: chunks of replicas, and of the tasks of a batch, as large as it
                   allows, see `convergence.budget`. The result is the same to rounding; `Result.chunks` says which
    chunks         `Chunks(replicas, tasks)`: so many at a time. By default all tasks, and on a CPU, where there are
                   many replicas, as many of them as fit its caches
    watch          called after each iteration that is measured with its number and what its probes found, tensors as in
                   a row of the traces; one chunk of replicas at a time

    Raises ValueError on wrong arguments, a problem that lacks what the method needs, a memory budget that one task of
    one replica exceeds (with the least that is enough), and chunks of tasks with a method that works on whole batches;
    RunFailed (which carries the result) on BREAKDOWN or NON_FINITE unless `raise_on_failure` is False; ReferenceFailed
    where a probe finds no true gradient though the method went on (with `raise_on_failure` False its trace holds NaN).

    >>> from problems import Quadratic
    >>> from convergence import MemoryReduced, run
    >>> problem = Quadratic.random(tasks=4, p=2, q=3, kappa=5.0, seed=0)
    >>> method = MemoryReduced(lower_steps=5, cg_steps=3, upper_step_size=0.3)
    >>> bool(run(problem, method, iterations=400).trace["grad_norm_sq"][-1] < 1e-25)
    True
    """
    device = resolve_device(device)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"expected a floating-point torch.dtype, got {shown(dtype)}")
    if stop_at is not None and not isinstance(stop_at, Mapping):
        raise ValueError(f'expected stop_at as {{"grad_norm_sq": 1e-10}}, got {shown(stop_at)}')
    for name, threshold in (stop_at or {}).items():
        if not is_finite(threshold):
            raise ValueError(f"expected stop_at[{name!r}] a finite number, got {shown(threshold)}")
    if chunks is not None and not isinstance(chunks, Chunks):
        raise ValueError(f"expected chunks None or Chunks(replicas, tasks), got {shown(chunks)}")
    for name, value in {"replacement": replacement, "progress": progress, "raise_on_failure": raise_on_failure}.items():
        truth(name, value)
    if compile is not None:
        truth("compile None,", compile)
    iterations, first = integer("iterations", iterations, least=0), integer("first", first, least=0)
    probe_every = integer("probe_every", probe_every, least=1)
    seed = integer("seed", seed, least=0)
    replicas = None if replicas is None else integer("replicas", replicas, least=1, otherwise="None or ")
    batch = None if batch is None else integer("batch", batch, least=1, otherwise="None or ")
    limit = budget.limit(memory)
    if not isinstance(problem, Problem):
        raise TypeError(f"expected a problems.Problem, got {shown(problem)}")
    problem.check()
    require_method(method)
    require(method, problem)
    asked = _Asked(
        problem=problem.to(device, dtype),
        method=method,
        iterations=range(first, first + iterations),
        batch=batch,
        replacement=replacement,
        seed=seed,
        replicas=replicas,
        probes=resolve_probes(probes, stop_at, finite=problem.tasks is not None),
        probe_every=probe_every,
        stop_at=stop_at or {},
        device=device,
        dtype=dtype,
        phi0=phi0,
        optimizer=optimizer,
        compile=bool(compile) if limit is not None or chunks is not None else compile,
        need_references=raise_on_failure,
        watch=watch,
    )
    if first == 0:  # a run that goes on was sound where it began
        asked.require_sound(given=problem)
    chosen = asked.chosen(limit, chunks, data=problem)
    with progress_bar(progress, iterations * len(asked.starts(chosen))) as advance:
        result = asked.in_chunks(chosen, advance)
    if result.status.failed and raise_on_failure:
        raise RunFailed(result.status, result)
    return result


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The arguments of `run`, checked; the problem on its device."""

    problem: Problem
    method: Method
    iterations: range
    batch: int | None
    replacement: bool
    seed: int
    replicas: int | None
    probes: list[Probe]
    probe_every: int
    stop_at: Mapping[str, float]
    device: torch.device
    dtype: torch.dtype
    phi0: Parameters | None
    optimizer: MakeOptimizer | None
    compile: bool | None
    need_references: bool
    watch: Watch | None

    def require_sound(self, *, given: Problem) -> None:
        """Raise TypeError or ValueError where the objectives are not what methods take them for."""
        phi = self._start(0, (self.seed,))
        room("replicas", self.replicas or 1, 8 * sum(x.numel() for x in phi.values()))
        if self.replicas is not None:
            phi = {name: x[0] for name, x in phi.items()}
        second = TWICE_DIFFERENTIABLE in getattr(self.method, "needs", ())
        require_sound(self.problem, phi, replicas=self.replicas is not None, second=second, given=given)

    # ---- in chunks

    def chosen(self, memory: int | None, given: Chunks | None, *, data: Problem) -> Chunks:
        """Those given, or the largest within the memory, or as many replicas as fit a processor's caches."""
        most = Chunks(self.replicas, self.batch or self.problem.tasks)
        count = self.replicas or 1
        if self.compile and (memory, given) != (None, None):
            raise ValueError("expected compile=False with memory or chunks, whose steps are not compiled, got True")
        if given is not None:
            if memory is not None:
                raise ValueError(f"expected memory or chunks, got both ({memory} bytes and {given})")
            return given.at_most(most)
        if most.tasks is None or not self.iterations:
            return most
        if memory is None:
            if count == 1 or self.compile or self.device.type != "cpu" or count * len(self.iterations) < _MANY:
                return most
            return most._replace(replicas=budget.within_caches(self._sizes(most, data)))
        found = budget.within(memory, self._sizes(most, data), name=type(self.method).__name__)
        return found._replace(replicas=None) if self.replicas is None else found

    def _sizes(self, most: Chunks, data: Problem) -> budget.Sizes:
        short = replace(
            self, iterations=self.iterations[:2], probe_every=1, stop_at={}, need_references=False, watch=None
        )

        def of(asked: _Asked) -> Callable[[int, int], Result]:
            return lambda replicas, tasks: asked.part(0, None if self.replicas is None else replicas, tasks)

        return budget.Sizes(
            short=of(short),
            bare=of(replace(short, probes=[])),
            replicas=self.replicas or 1,
            batch=most.tasks or 1,
            rows=len(self.iterations) // self.probe_every + 1,
            shared=budget.resident(self.problem.data, device=self.device) if self.batch is None else 0,
            held=lambda: budget.resident(data, self.problem, self.phi0, device=self.device),
            device=self.device,
        )

    def starts(self, chunks: Chunks) -> list[tuple[int, int | None]]:
        """The first replica of each chunk, and how many there are in it; (0, None) for a run without replicas."""
        if self.replicas is None:
            return [(0, None)]
        size = chunks.replicas or self.replicas
        return [(first, min(size, self.replicas - first)) for first in range(0, self.replicas, size)]

    def in_chunks(self, chunks: Chunks, advance: Callable[[], None]) -> Result:
        """The run on so many replicas and tasks at a time."""
        starts = self.starts(chunks)
        if len(starts) == 1:
            return replace(self.part(*starts[0], chunks.tasks, advance), chunks=chunks)
        joined = Joined(self.replicas or 1, rows=len(self.iterations) // self.probe_every + 1)
        for at, count in starts:
            joined.add(self.part(at, count, chunks.tasks, advance))
        return joined.result(chunks)

    # ---- at once

    def part(
        self, at: int, replicas: int | None, tasks: int | None, advance: Callable[[], None] = lambda: None
    ) -> Result:
        """The run of so many replicas from number `at` on, on so many tasks at a time (None: all of a batch)."""
        lead = () if replicas is None else (replicas,)
        seeds = tuple(self.seed + at + r for r in range(replicas or 1))
        oracle = Oracle(self.problem, replicas=replicas, seeds=seeds)
        batches = Batches(oracle, seeds, self.batch, replacement=self.replacement, device=self.device, dtype=self.dtype)
        recorder = Recorder(
            self.probes, self.stop_at, every=self.probe_every, lead=lead, device=self.device, watch=self.watch
        )
        loop = _Loop(
            self.method,
            oracle,
            batches,
            self._start(at, seeds),
            self.optimizer,
            recorder,
            Running(lead, self.device),
            compile=False if self.compile is None and len(self.iterations) < _LONG else self.compile,
            need_references=self.need_references,
            tasks=None if tasks is None or tasks >= (self.batch or self.problem.tasks or 1) else tasks,
        )
        began = time.perf_counter()
        t = self.iterations.start
        while t < self.iterations.stop and loop.running.any:
            before, t = t, loop.go_on(t, self.iterations.stop)
            for _ in range(before, t):
                advance()
        return Result(
            phi=loop.phi,
            trace=recorder.traces(),
            calls=dict(oracle.calls),
            examples=dict(oracle.examples),
            status=max(loop.running.ends),
            iterations=max(loop.running.counts),
            statuses=loop.running.ends,
            iterations_of=loop.running.counts,
            state=loop.state,
            seeds=seeds,
            seconds=time.perf_counter() - began,
            compile_seconds=loop.compile_seconds,
            probed_at=torch.tensor(recorder.probed_at, dtype=torch.int64),
        )

    def _start(self, at: int, seeds: tuple[int, ...]) -> Parameters:
        """phi_0 of these seeds, from number `at` on, on the device; with a replica axis where there are replicas."""
        drawn = [self.problem.phi0(generator(seed, "start")) for seed in seeds]
        require_parameters(f"phi0 of {type(self.problem).__name__}", drawn[0])
        start: Parameters = {}
        lead, whole = ((), ()) if self.replicas is None else ((len(seeds),), (self.replicas,))
        for name, like in drawn[0].items():
            if self.phi0 is None:
                tensor = torch.stack([phi[name] for phi in drawn]) if lead else like
            elif not isinstance(self.phi0, Mapping) or self.phi0.keys() != drawn[0].keys():
                held = sorted(map(str, self.phi0)) if isinstance(self.phi0, Mapping) else shown(self.phi0)
                raise ValueError(f"expected phi0 with the tensors {sorted(drawn[0])}, got {held}")
            else:
                tensor = floating(f"phi0[{name!r}]", self.phi0[name])
                if tensor.shape not in (like.shape, (*whole, *like.shape)):
                    raise ValueError(f"expected phi0[{name!r}] of shape {tuple(like.shape)}, got {tuple(tensor.shape)}")
                if lead and tensor.shape != like.shape:
                    tensor = tensor[at : at + len(seeds)]
            # A copy of its own: no method may write into what the caller holds.
            start[name] = tensor.detach().to(self.device, self.dtype).expand((*lead, *like.shape)).clone()
            if not bool(torch.isfinite(start[name]).all()):
                raise ValueError(f"expected finite values in phi0[{name!r}], got some that are not")
        return start


_LONG = 100_000  # iterations: half a minute or more in Python, of which compiling takes a part
_MANY = 2**14  # iterations times replicas: a second or more, of which looking for the caches takes 20 ms


class _Loop:
    """The iterate, the method's state and what was recorded of them, from one upper iteration to the next."""

    def __init__(
        self,
        method: Method,
        oracle: Oracle,
        batches: Batches,
        phi: Parameters,
        optimizer: MakeOptimizer | None,
        recorder: Recorder,
        running: Running,
        *,
        compile: bool | None,
        need_references: bool,
        tasks: int | None,
    ):
        self.method, self.oracle, self.batches, self.phi = method, oracle, batches, phi
        self.recorder, self.running = recorder, running
        self._need_references, self._tasks = need_references, tasks
        programs = CompiledSteps(method, oracle, batches) if compile or (compile is None and oracle.exact) else None
        self._one_step = programs if compile else None
        # On a GPU each turn of a compiled loop would wait for the host
        self._blocks = programs if optimizer is None and running.which.device.type == "cpu" and tasks is None else None
        self._must_compile, self._programs = compile, programs
        self.state = method.start(oracle, phi)
        self._snapshot: Snapshot | None = None
        self._optimised: Optimised | None = None
        if optimizer is None:
            require_upper_step(method)
        else:
            self._optimised = Optimised(method, phi, optimizer, replicas=oracle.replicas is not None)

    @property
    def compile_seconds(self) -> float:
        """What compiling took."""
        return 0.0 if self._programs is None else self._programs.seconds

    def go_on(self, t: int, end: int) -> int:
        """From iteration t on, of the replicas that run: one, or all before the next that is probed in one program.

        The number of the iteration after them. Raises ReferenceFailed if asked.
        """
        oracle, running, recorder = self.oracle, self.running, self.recorder
        snapshot = Snapshot.after(self._snapshot, oracle.problem, oracle, oracle.replicas, t, self.phi)
        self._snapshot = snapshot
        if recorder.probes(t) and not running.stop(recorder.of_phi(snapshot, running), Status.CONVERGED):
            recorder.no_step()
            return t
        after = t + 1 if recorder.probes_step(t) else min(recorder.next(t, end), t + BLOCK)
        if not self._in_one_program(t, after):
            after = t + 1
            self._iteration(t, snapshot)
        if self._need_references:
            snapshot.require_references(running.which)
        return after

    def _in_one_program(self, t: int, after: int) -> bool:
        if self._blocks is None or after == t + 1:
            return False
        seen = [self.batches.seen(k) for k in range(t, after)]
        try:
            self.phi, self.state = self._blocks.steps(self.phi, self.state, seen, self.running)
        except ValueError:
            if self._must_compile:
                raise
            self._blocks = None  # nobody asked for it
        return self._blocks is not None

    def _iteration(self, t: int, snapshot: Snapshot) -> None:
        running, recorder = self.running, self.recorder
        self.oracle.begin(t)
        seen = self.batches.seen(t)
        step = self._step(seen)
        if self._optimised is not None:
            step = step._replace(phi=self._optimised.from_point(self.phi, step.direction))
        snapshot.step = step
        if recorder.probes_step(t):
            snapshot.tasks = self.batches.of(seen)
        reached = recorder.of_step(snapshot, running) if recorder.probes(t) else None
        failure = failure_of(step, running.which)
        if running.stop(failure > 0, failure):
            self.phi, self.state = running.keep(step.phi, self.phi), running.keep(step.state, self.state)
            running.completed()
            running.stop(reached, Status.CONVERGED)

    def _step(self, seen: Any) -> Step:
        if self._tasks is not None:
            parts = pieces(self.batches, seen, self._tasks)
            return step_in_chunks(self.method, self.oracle, self.phi, parts, self.state)
        if self._one_step is not None:
            return self._one_step.step(self.phi, self.state, seen)
        tasks = self.batches.of(seen)
        step = self.method.step(self.oracle, self.phi, tasks, self.state)
        if not getattr(self.method, "of_a_share", False):  # of the tasks: `Sharded`, which looks at its steps itself
            require_step(step, self.method, self.phi, (*self.running.which.shape, len(tasks)))
        return step


# ---- before the loop


def resolve_device(device: torch.device | str) -> torch.device:
    """The device by name. Raises ValueError on an unknown name, or CUDA where there is none."""
    try:
        if not isinstance(device, (str, torch.device)):
            raise ValueError
        device = torch.device(device)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'expected a device such as "cpu" or "cuda", got {shown(device)}') from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'expected a device such as "cpu" or "cuda", got {str(device)!r}')
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"expected a CUDA device for {str(device)!r}, got a machine (or a torch) without one")
    return device


# ---- within it


@contextmanager
def progress_bar(shown: bool, total: int) -> Iterator[Callable[[], None]]:
    """A function that advances the bar by one iteration; does nothing where no bar is shown."""
    if not shown:
        yield lambda: None
        return
    columns = (TextColumn("upper iterations"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
