"""The processes of one run: which one this is, what it adds up with the others, and what is heard when one is lost."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from convergence.arguments import positive
from convergence.driver import resolve_device

T = TypeVar("T")
TIMEOUT = 300.0  # seconds
_GRACE = 3.0  # seconds in which a rank that still runs finds out that another one is lost, and says that it runs
_PIECE = 2**22  # bytes: a TCPStore takes no value of more than 8 MiB
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what every process is told by torchrun


class RankLost(RuntimeError):
    """A rank ended or fell silent while the others waited for it; `ranks` are those not heard of since."""

    def __init__(self, ranks: tuple[int, ...], size: int):
        found = "a connection that broke" if not ranks else f"none from rank {', '.join(map(str, ranks))}"
        super().__init__(f"expected word from all {size} ranks, got {found}.")
        self.ranks, self.size = ranks, size

    @property
    def speaker(self) -> int:
        """The first rank that still runs, which says so for all."""
        return min(set(range(self.size)) - set(self.ranks), default=0)

    def __reduce__(self) -> tuple[type[RankLost], tuple[tuple[int, ...], int]]:
        return RankLost, (self.ranks, self.size)


@dataclass(frozen=True)
class Ranks:
    """This process, `rank` out of 0 .. size - 1. By default it is alone, and every sum is what was given.

    store   where the ranks leave messages for each other: values by name
    group   of torch.distributed, whose ranks these are; None: all there are
    """

    rank: int = 0
    size: int = 1
    store: Store | None = None
    group: dist.ProcessGroup | None = None
    _gathers: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes, prints and shows."""
        return self.rank == 0

    def part(self, total: int) -> slice:
        """The places 0 .. total - 1 that are this rank's: of every rank one stretch, none longer by two than another.

        >>> [Ranks(rank, 3).part(7) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
        """
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    # ---- all at the same time: each rank makes the same calls in the same order

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor, in place, summed over the ranks: one all-reduce, the same bits on every rank.

        Raises RankLost where one has ended, or is silent for longer than the timeout.
        """
        if self.size > 1:
            try:
                dist.all_reduce(tensor, group=self.group)
            except RuntimeError as error:
                raise self._lost(error) from error
        return tensor

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank: a pickle is broadcast. A ValueError or OSError there is raised on all.

        Raises RankLost as `sum` does, on rank 0 whatever else `make` raises.
        """
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = make()
            except (ValueError, OSError) as error:
                box[1] = error
        try:
            dist.broadcast_object_list(box, src=0, group=self.group)
        except RuntimeError as error:
            raise self._lost(error) from error
        if box[1] is not None:
            raise box[1]
        made: T = box[0]
        return made

    # ---- whenever each of them is ready

    def put(self, name: str, value: object) -> None:
        """Leave a value for the others, under a name that is used once."""
        assert self.store is not None
        content = pickle.dumps(value)
        pieces = range(0, len(content), _PIECE)
        for k, first in enumerate(pieces):
            self.store.set(f"{name}/{k}", cast(Any, content[first : first + _PIECE]))  # bytes as well as str
        self.store.set(name, str(len(pieces)))  # last, so that what can be seen is whole

    def ready(self, name: str) -> bool:
        """Whether a rank has left a value of this name."""
        assert self.store is not None
        return self.store.check([name])

    def take(self, name: str) -> Any:
        """The value of this name, waited for as long as it takes (torchrun ends all ranks where one is lost)."""
        assert self.store is not None
        while not self.ready(name):
            time.sleep(0.05)
        count = int(self.store.get(name))
        return pickle.loads(b"".join(self.store.get(f"{name}/{k}") for k in range(count)))

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order, on each of them; waits as `take` does."""
        if self.size == 1:
            return [value]
        name = f"gathered/{next(self._gathers)}"
        self.put(f"{name}/{self.rank}", value)
        return [self.take(f"{name}/{rank}") for rank in range(self.size)]

    def ticket(self, name: str) -> int:
        """0, 1, 2, ...: each number goes to one rank, that which asks first."""
        assert self.store is not None
        return self.store.add(name, 1) - 1

    # ---- when one is lost

    def _lost(self, error: RuntimeError) -> RankLost:
        """The ranks that do not say within a moment that they still run.

        Closing the connections first, which frames in the traceback still hold, tells those that wait for this rank
        (not where the ranks are a `group` of others, which this holds itself). Torchrun, which has seen a process end,
        tells the others to end (SIGTERM); they do, once they have said why.
        """
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN) if main else None
        silent = set(range(self.size)) - {self.rank}
        try:
            traceback.clear_frames(error.__traceback__)
            with suppress(RuntimeError):  # the connections are broken already
                dist.destroy_process_group()
            with suppress(RuntimeError):  # the store may have gone with the rank that is lost
                self._hear(silent)
        finally:
            if main:
                signal.signal(signal.SIGTERM, before)
        return RankLost(tuple(sorted(silent)), self.size)

    def _hear(self, silent: set[int]) -> None:
        """Take those who are heard of out of the set."""
        assert self.store is not None
        self.store.set(f"runs/{self.rank}", "")
        until = time.monotonic() + _GRACE
        while silent and time.monotonic() < until:
            silent -= {rank for rank in silent if self.store.check([f"runs/{rank}"])}
            time.sleep(0.05)


@contextmanager
def launched(device: str = "cpu", *, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """The ranks that torchrun has started, joined for the length of the block; one that is alone without torchrun.

    device    "cpu": gloo. "cuda": NCCL, each rank with the GPU of its number on its machine
    timeout   seconds that a rank waits for the others in one sum

    Raises ValueError on a device that is not there, or a GPU by its number, which several ranks would share.
    """
    positive("timeout", timeout)
    size = int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _TORCHRUN) else 1
    if size == 1:
        yield Ranks()
        return
    kind = resolve_device(device)
    if kind.type == "cuda":
        if kind.index is not None:
            raise ValueError(f"expected device cuda with {size} ranks, each of which has its own, got {device}")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", os.environ["RANK"])))
    limit = timedelta(seconds=timeout)
    shared, rank, size = next(rendezvous("env://", timeout=limit))
    store = PrefixStore(_name_of_this_start(shared, rank, size, timeout), shared)
    backend = "cpu:gloo,cuda:nccl" if kind.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    ranks = Ranks(rank, size, store)
    try:
        ranks.sum(torch.zeros(1))  # none goes on, and may end, while another is still being connected
        yield ranks
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _name_of_this_start(store: Store, rank: int, size: int, timeout: float) -> str:
    """A name that all ranks agree on, and none of an earlier start: torchrun keeps the store when it restarts them.

    (What is left in it, addresses of ended processes among it, makes torch.distributed wait in vain:
    github.com/pytorch/pytorch/issues/135712. Numbers of restarts differ between machines.) Each rank says hello with a
    word of its own; rank 0 answers whatever hello it finds with the name, until all have thanked for this one. Raises
    RankLost where some do not come.
    """
    word = uuid.uuid4().hex
    if rank > 0:
        store.set(f"hello/{rank}", word)
        try:
            name = store.get(f"answer/{word}").decode()
        except RuntimeError as error:
            raise RankLost((0,), size) from error
        store.set(f"{name}/{rank}", "")
        return name
    name, missing, until = f"start/{word}", set(range(1, size)), time.monotonic() + timeout
    while missing:
        if time.monotonic() > until:
            raise RankLost(tuple(sorted(missing)), size)
        for other in missing:
            if store.check([f"hello/{other}"]):
                store.set(f"answer/{store.get(f'hello/{other}').decode()}", name)
        time.sleep(0.02)
        missing = {other for other in missing if not store.check([f"{name}/{other}"])}
    return name


def restarted() -> bool:
    """Whether torchrun has started this process anew, after a rank was lost (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
