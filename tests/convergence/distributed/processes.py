"""Several processes as the ranks of one run: forked from one that has torch already, joined through a file."""

from __future__ import annotations

import signal
import traceback
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from convergence.distributed import Ranks
from tests.forked import context


def on_ranks(size: int, target: Callable[..., Any], folder: Path, *arguments: object, timeout: float = 60) -> list[Any]:
    """target(ranks, *arguments) of each rank; the exception where it raised one, the signal where it was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    forked = context()
    processes = [
        forked.Process(target=_rank, args=(rank, size, target, folder, arguments, timeout)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode is not None, "a rank hangs"
    return [_outcome(folder / f"{rank}.pt", process) for rank, process in enumerate(processes)]


def outcomes(size: int, target: Callable[..., Any], folder: Path, *arguments: object) -> list[Any]:
    """The same; raises what one of them raised."""
    found = on_ranks(size, target, folder, *arguments)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
    return found


def _outcome(path: Path, process: Any) -> Any:
    if process.exitcode < 0:
        return signal.Signals(-process.exitcode)
    assert process.exitcode == 0
    return torch.load(path, weights_only=False)


def _rank(
    rank: int, size: int, target: Callable[..., Any], folder: Path, arguments: tuple[Any, ...], timeout: float
) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    dist.barrier()  # none ends while another is still being connected
    try:
        outcome = target(Ranks(rank, size, dist.PrefixStore("run", store)), *arguments)
    except Exception as error:
        traceback.print_exc()  # pickled it would be lost
        outcome = error
    torch.save(outcome, folder / f"{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def under_torchrun(size: int, target: Callable[..., Any], *arguments: object, restarts: int) -> bool:
    """Whether target(*arguments) ended well on every rank, started by torchrun's own agent, within this process."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex,
        max_restarts=restarts,
        start_method="forkserver",
        monitor_interval=0.1,
    )
    context()
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        elastic_launch(config, target)(*arguments)
    except ChildFailedError:
        return False
    finally:  # the agent leaves handlers of its own behind
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    return True


def among(ranks: Ranks, sizes: tuple[int, ...]) -> dict[int, Ranks]:
    """The same process as one of the first 1, 2, ... ranks, for each of these sizes that it belongs to."""
    groups = {size: dist.new_group(list(range(size))) for size in sizes}
    return {
        size: Ranks(ranks.rank, size, dist.PrefixStore(f"{size}", ranks.store), group)
        for size, group in groups.items()
        if ranks.rank < size
    }
