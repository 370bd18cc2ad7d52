"""`python -m convergence`, where rank 1 is killed before its third iteration, unless torchrun has started it anew."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

import convergence.__main__
from convergence.distributed import restarted
from convergence.training.run import Run

_advance = Run.advance


def _dying(run, stop):
    if run.iteration == 2 and os.environ["RANK"] == "1" and not restarted():
        os.kill(os.getpid(), signal.SIGKILL)
    return _advance(run, stop)


def command(folder: Path, arguments: list[str]) -> None:
    """The command line with its standard error in a file of this attempt and rank."""
    torch.set_num_threads(1)
    Run.advance = _dying
    sys.argv = ["convergence", *arguments]
    attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
    with (folder / f"attempt-{attempt}-rank-{rank}.txt").open("w") as sys.stderr:
        try:
            convergence.__main__.main()
        except SystemExit as end:
            if end.code:
                sys.stderr.flush()
                os._exit(end.code)
