"""What a run keeps as it goes: traces of the probes, and which replicas still run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convergence.arguments import shown
from convergence.method import Step
from convergence.probes import PROBES, Probe, Snapshot
from convergence.status import Status
from convergence.trees import map_tensors

_FAILURES = (Status.BREAKDOWN, Status.NON_FINITE)


class Going(NamedTuple):
    """Which replicas still run, the Status code of each, iterations completed; all of the shape of the replica axes."""

    which: Tensor
    status: Tensor
    completed: Tensor

    def after(self, step: Step) -> Going:
        """After this step: replicas in which it failed have stopped, the others have completed one iteration more."""
        failure = failure_of(step, self.which)
        which = self.which & (failure == 0)
        status = torch.where(self.which, torch.where(failure > 0, failure, self.status), self.status)
        return Going(which, status, self.completed + which)

    def keep(self, new: Any, old: Any) -> Any:
        """A tree of new tensors, with the old ones in the replicas that have stopped (the leading axis)."""

        def choose(after: Tensor, before: Tensor) -> Tensor:
            mask = self.which.view(*self.which.shape, *(1,) * (after.dim() - self.which.dim()))
            return torch.where(mask, after, before)

        return map_tensors(choose, new, old)


class Running:
    """Which replicas still run (`which`, the shape of the replica axes), how the others ended, iterations completed."""

    def __init__(self, lead: tuple[int, ...], device: torch.device):
        self.going = Going(
            torch.ones(lead, dtype=torch.bool, device=device),
            torch.full(lead, Status.MAX_ITERATIONS, dtype=torch.int32, device=device),
            torch.zeros(lead, dtype=torch.int64, device=device),
        )
        self._all = True  # spares the masking of stopped replicas until one has stopped

    @property
    def which(self) -> Tensor:
        """The replicas that run."""
        return self.going.which

    def stop(self, which: Tensor | None, status: Tensor | Status) -> bool:
        """End these replicas with this status (None: none of them); return whether any runs on."""
        if which is not None and bool(which.any()):
            ended = which & self.which
            codes = torch.as_tensor(status, dtype=torch.int32, device=ended.device)
            if wrong := set(codes.expand(ended.shape)[ended].tolist()) - {Status.CONVERGED, *_FAILURES}:
                raise ValueError(
                    f"expected failure of a step of 0, or {', '.join(f'{code.value} ({code})' for code in _FAILURES)}, "
                    f"got {min(wrong)}"
                )
            status = torch.where(ended, codes, self.going.status)
            self.took(self.going._replace(which=self.which & ~ended, status=status))
        return self.any

    def took(self, going: Going) -> None:
        """These run, ended and completed after some more iterations."""
        self.going, self._all = going, bool(going.which.all())

    def completed(self) -> None:
        """Those that run have completed one iteration more."""
        self.going = self.going._replace(completed=self.going.completed + self.which)

    @property
    def any(self) -> bool:
        """Whether any runs on."""
        return self._all or bool(self.which.any())

    def keep(self, new: Any, old: Any) -> Any:
        """A tree of new tensors, with the old ones in the replicas that have stopped (the leading axis)."""
        return new if self._all else self.going.keep(new, old)

    @property
    def ends(self) -> tuple[Status, ...]:
        """The status of each replica."""
        return tuple(Status(code) for code in self.going.status.reshape(-1).tolist())

    @property
    def counts(self) -> tuple[int, ...]:
        """The iterations that each replica completed."""
        return tuple(self.going.completed.reshape(-1).tolist())


def failure_of(step: Step, which: Tensor) -> Tensor:
    """The worst Status code of each replica's step, 0 where it went well; NON_FINITE where phi is not finite.

    Read off the sums of its tensors, which are not finite where an entry is not (nor where entries are so large that
    their sum overflows): one pass without scratch, where isfinite of 1e6 numbers takes the time of 25.
    """
    sums = []
    for x in step.phi.values():
        wide = torch.promote_types(x.dtype, torch.float32)
        sums.append(x.reshape(*which.shape, -1).sum(-1, dtype=wide))
    wild = torch.where(torch.isfinite(torch.stack(sums)).all(0), 0, Status.NON_FINITE)
    return torch.maximum(step.failure.amax(-1), wild).int()


Watch = Callable[[int, Mapping[str, Tensor]], object]  # hears of an iteration, and what its probes measured


class Recorder:
    """Traces of probes, NaN in replicas that have stopped; tells which replicas meet a stopping threshold."""

    def __init__(
        self,
        probes: Sequence[Probe],
        thresholds: Mapping[str, float],
        *,
        every: int,
        lead: tuple[int, ...],
        device: torch.device,
        watch: Watch | None = None,
    ):
        self.probed_at: list[int] = []
        self._every = every
        self._probes, self._thresholds = probes, thresholds
        self._lead, self._device = lead, device
        self._values: dict[str, list[Tensor]] = {probe.name: [] for probe in probes}
        self._watches_steps = any(probe.of_step for probe in probes)
        self._watch = watch if probes else None

    def probes(self, t: int) -> bool:
        """Whether iteration t is measured."""
        return t % self._every == 0

    def probes_step(self, t: int) -> bool:
        """Whether its step is."""
        return self._watches_steps and self.probes(t)

    def next(self, t: int, end: int) -> int:
        """The next iteration that is measured, or the end."""
        return end if not self._probes else min(end, t - t % self._every + self._every)

    def of_phi(self, snapshot: Snapshot, running: Running) -> Tensor | None:
        """Measure the probes of phi; the replicas that meet every threshold among them, None where there is none."""
        if self._probes:
            self.probed_at.append(snapshot.iteration)
        return self._told(self._record(snapshot, running, of_step=False), is_last=not self._watches_steps)

    def of_step(self, snapshot: Snapshot, running: Running) -> Tensor | None:
        """Measure the probes of the step, likewise."""
        return self._told(self._record(snapshot, running, of_step=True), is_last=self._watches_steps)

    def no_step(self) -> None:
        """The last probed iteration has no step: NaN, so that all traces have one length."""
        for probe in self._probes:
            if probe.of_step:
                self._values[probe.name].append(
                    torch.full(self._lead, torch.nan, dtype=torch.float64, device=self._device)
                )
        self._told(None, is_last=self._watches_steps)

    def traces(self) -> dict[str, Tensor]:
        """probe -> (T,) or (T, R), float64 on the CPU."""
        empty = torch.empty(0, *self._lead, dtype=torch.float64)
        return {
            name: torch.stack(values).to("cpu", torch.float64) if values else empty
            for name, values in self._values.items()
        }

    def _told(self, reached: Tensor | None, *, is_last: bool) -> Tensor | None:
        """`reached`, after who watches has heard of the iteration if its last probe is measured."""
        if self._watch is not None and is_last:
            self._watch(self.probed_at[-1], {name: values[-1] for name, values in self._values.items()})
        return reached

    def _record(self, snapshot: Snapshot, running: Running, *, of_step: bool) -> Tensor | None:
        reached = None
        for probe in self._probes:
            if probe.of_step is not of_step:
                continue
            measured = torch.as_tensor(probe.measure(snapshot), device=self._device).detach()
            if measured.shape != self._lead:
                raise ValueError(
                    f"expected probe {probe.name!r} to return one number a run, shape {tuple(self._lead)}, "
                    f"got {tuple(measured.shape)}"
                )
            self._values[probe.name].append(running.keep(measured, torch.full((), torch.nan, device=self._device)))
            if probe.name in self._thresholds:
                below = measured <= self._thresholds[probe.name]
                reached = below if reached is None else reached & below
        return reached


def resolve_probes(
    probes: Sequence[str | Probe | Callable[[Snapshot], Tensor]] | None,
    stop_at: Mapping[str, float] | None,
    *,
    finite: bool,
) -> list[Probe]:
    """The probes asked for, with those that `stop_at` needs. Functions are probes of the step."""
    if isinstance(probes, str):
        probes = (probes,)
    if probes is None:
        probes = ("grad_norm_sq",) if finite else ()
    if not isinstance(probes, (list, tuple)):
        raise TypeError(f"expected probes as a list or tuple of names and functions, got {shown(probes)}")
    found: dict[str, Probe] = {}
    for asked in probes:
        probe = asked if isinstance(asked, Probe) else _probe(asked)
        if found.get(probe.name, probe) != probe:
            raise ValueError(f"expected probes of different names, got two named {probe.name!r}")
        found[probe.name] = probe
    for name in stop_at or ():
        if name not in found:
            found[name] = _probe(name)
    return list(found.values())


def _probe(asked: str | Callable[[Snapshot], Tensor]) -> Probe:
    if not isinstance(asked, str):
        name = getattr(asked, "__name__", None)
        if not callable(asked) or name is None:
            raise TypeError(f"expected a probe's name, a named function or a Probe(name, measure), got {shown(asked)}")
        return Probe(name, asked, of_step=True)
    if asked in PROBES:
        return PROBES[asked]
    near = difflib.get_close_matches(asked, PROBES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"expected a probe out of {', '.join(PROBES)}, got {asked!r}{hint}")
