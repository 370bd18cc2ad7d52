"""What a run keeps as it goes: traces of the probes, and which replicas still run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from convergence.probes import PROBES, Probe, Snapshot
from convergence.status import Status
from convergence.trees import map_tensors


class Running:
    """Which replicas still run (`which`, the shape of the replica axes), how the others ended, iterations completed."""

    def __init__(self, lead: tuple[int, ...], device: torch.device):
        self.which = torch.ones(lead, dtype=torch.bool, device=device)
        self.completed = torch.zeros(lead, dtype=torch.int64, device=device)
        self._status = torch.full(lead, Status.MAX_ITERATIONS, dtype=torch.int32, device=device)
        self._all = True  # spares the masking of stopped replicas until one has stopped

    def stop(self, which: Tensor | None, status: Tensor | Status) -> bool:
        """End these replicas with this status (None: none of them); return whether any runs on."""
        if which is not None and bool(which.any()):
            ended = which & self.which
            codes = torch.as_tensor(status, dtype=torch.int32, device=ended.device)
            self._status = torch.where(ended, codes, self._status)
            self.which = self.which & ~ended
            self._all = bool(self.which.all())
        return self._all or bool(self.which.any())

    def keep(self, new: Any, old: Any) -> Any:
        """A tree of new tensors, with the old ones in the replicas that have stopped (the leading axis)."""
        if self._all:
            return new

        def choose(after: Tensor, before: Tensor) -> Tensor:
            mask = self.which.view(*self.which.shape, *(1,) * (after.dim() - self.which.dim()))
            return torch.where(mask, after, before)

        return map_tensors(choose, new, old)

    @property
    def ends(self) -> tuple[Status, ...]:
        """The status of each replica."""
        return tuple(Status(code) for code in self._status.reshape(-1).tolist())

    @property
    def counts(self) -> tuple[int, ...]:
        """The iterations that each replica completed."""
        return tuple(self.completed.reshape(-1).tolist())


class Recorder:
    """Traces of probes, NaN in replicas that have stopped; tells which replicas meet a stopping threshold."""

    def __init__(
        self, probes: Sequence[Probe], thresholds: Mapping[str, float], *, lead: tuple[int, ...], device: torch.device
    ):
        self.probed_at: list[int] = []
        self._probes, self._thresholds = probes, thresholds
        self._lead, self._device = lead, device
        self._values: dict[str, list[Tensor]] = {probe.name: [] for probe in probes}
        self.watches_steps = any(probe.of_step for probe in probes)

    def of_phi(self, snapshot: Snapshot, running: Running) -> Tensor | None:
        """Measure the probes of phi; the replicas that meet every threshold among them, None where there is none."""
        self.probed_at.append(snapshot.iteration)
        return self._record(snapshot, running, of_step=False)

    def of_step(self, snapshot: Snapshot, running: Running) -> Tensor | None:
        """Measure the probes of the step, likewise."""
        return self._record(snapshot, running, of_step=True)

    def no_step(self) -> None:
        """The last probed iteration has no step: NaN, so that all traces have one length."""
        for probe in self._probes:
            if probe.of_step:
                self._values[probe.name].append(
                    torch.full(self._lead, torch.nan, dtype=torch.float64, device=self._device)
                )

    def traces(self) -> dict[str, Tensor]:
        """probe -> (T,) or (T, R), float64 on the CPU."""
        empty = torch.empty(0, *self._lead, dtype=torch.float64)
        return {
            name: torch.stack(values).to("cpu", torch.float64) if values else empty
            for name, values in self._values.items()
        }

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
            raise TypeError(f"expected a probe's name, a named function or a Probe(name, measure), got {asked!r}")
        return Probe(name, asked, of_step=True)
    if asked in PROBES:
        return PROBES[asked]
    near = difflib.get_close_matches(asked, PROBES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"expected a probe out of {', '.join(PROBES)}, got {asked!r}{hint}")
