"""Runs on several processes and machines, by torch.distributed: docs/scaling.md."""

from convergence.distributed.ranks import RankLost, Ranks, launched, restarted
from convergence.distributed.run import run
from convergence.distributed.shards import Sharded

__all__ = ["RankLost", "Ranks", "Sharded", "launched", "restarted", "run"]
