"""Processes that have imported everything already: forked from a server that did, once for a whole test session."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

_IMPORTED = [
    "pytest",
    "torch._dynamo",
    "paper_checks.__main__",
    "tests.convergence.distributed.dies_once",
    "tests.convergence.training.small",
    "figures.training",
]


def context() -> ForkServerContext:
    """Where processes start within milliseconds; the server itself takes seconds, and is started with the first."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_IMPORTED)
    return found
