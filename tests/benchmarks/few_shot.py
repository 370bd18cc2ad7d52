"""A few-shot iteration beside a plain network on the same images: Conv4 of 64 channels, 3 x 32 x 32, 5-way 5-shot.

`python -m tests.benchmarks.few_shot [cpu | cuda]` measures this alone and writes nothing. On a CPU times are CPU
seconds of this process on one thread and peaks exact; on CUDA seconds by the clock and the allocator's peaks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from convergence import ITDBiO, peak_bytes, resolve_device
from convergence.recipes import RECIPES
from paper_checks.network_costs import COSTS, Iteration, Plain, cpu_seconds, episodes
from problems.few_shot import Conv4
from tests.benchmarks.rounds import Figure, figure_of, in_turn, ratios

CHANNELS = 64
EPISODES = episodes((3, 32, 32), seed=0)
ROUNDS = 4
MIB = 2**20
RECIPE = RECIPES["memory_reduced"]  # K = 20, N = 10


def few_shot(device: str = "cpu") -> dict[str, Figure]:
    """Times as ratios within a round, peaks in MiB."""
    return {**_limit(device), **_variants(device), **_peaks(device)}


def _iteration(tasks: int, device: str, *, chunk: int = 1, lower_steps: int = 20, **options: Any) -> Iteration:
    """Of the memory-reduced recipe; options of its method or of its problem."""
    network = {name: options.pop(name) for name in ("channels_last", "autocast") if name in options}
    method = RECIPE.varied(lower_steps=lower_steps, **options).method
    problem = RECIPE.problem(EPISODES, embedding=Conv4(CHANNELS), **network)
    return Iteration(problem, method, EPISODES.draw(range(tasks)), device, chunk)


def _timed(step: Callable[[], object], device: str) -> Callable[[], float]:
    return partial(cpu_seconds, step, device)


def _limit(device: str) -> dict[str, Figure]:
    """All of 32 tasks against the plain network, forward and backward, in the faster of two sizes of minibatch."""
    tasks, found = EPISODES.draw(range(32)), {}
    kinds = (
        (False, "few-shot step / plain network", "<= 1.3"),
        (True, "few-shot step / plain, both channels_last", ""),
    )
    for last, name, aim in kinds:
        plain = [
            Plain(tasks, channels=CHANNELS, minibatch=size, device=device, channels_last=last) for size in (25, 50)
        ]
        steps = (_timed(each, device) for each in (_iteration(32, device, channels_last=last), *plain))
        step, small, large = in_turn(*steps, label=f"{name}, 32 tasks", rounds=ROUNDS)
        limit = [min(pair) for pair in zip(small, large, strict=True)]
        found[f"{name}, 32 tasks"] = figure_of(ratios(step, limit), "ratio", aim)
    return found


def _variants(device: str) -> dict[str, Figure]:
    """Other ways through the network, on 8 tasks, against the default: one task at a time, float32."""
    variants = {
        "low memory": ({"recompute": True}, "1.5: one forward pass more"),
        "channels_last": ({"channels_last": True}, ""),
        "bfloat16 autocast": ({"autocast": torch.bfloat16}, ""),
        "2 tasks at a time": ({"chunk": 2}, ""),
        "4 tasks at a time": ({"chunk": 4}, ""),
    }
    steps = [_iteration(8, device), *(_iteration(8, device, **options) for options, _ in variants.values())]
    timed = (_timed(each, device) for each in steps)
    default, *others = in_turn(*timed, label="few-shot, variants", rounds=ROUNDS)
    return {
        f"few-shot step, {name} / default": figure_of(ratios(own, default), "ratio", aim)
        for (name, (_, aim)), own in zip(variants.items(), others, strict=True)
    }


def _peaks(device: str) -> dict[str, Figure]:
    """The smallest and the largest are equal: neither the tasks nor K count."""
    cells = [(tasks, K) for tasks in (4, 32) for K in (1, 20, 40)]
    found: dict[str, Figure] = {}
    kinds: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("peak", {}, "<= 55"),
        ("low-memory peak", {"recompute": True}, "<= 30"),
        ("channels_last peak", {"channels_last": True}, ""),
    )
    for name, options, aim in kinds:
        peaks = [_peak(_iteration(B, device, lower_steps=K, **options), device) for B, K in cells]
        found[f"few-shot {name}, 4 and 32 tasks, K 1, 20, 40"] = figure_of(peaks, "MiB", aim)
    cost, tasks = COSTS["itd_anew"], EPISODES.draw(range(4))
    published = Iteration(cost.problem(EPISODES, Conv4(CHANNELS)), cost.method(20, 0, ITDBiO), tasks, device)
    own = _peak(_iteration(4, device), device)
    ratio = figure_of([_peak(published, device) / own], "ratio", ">= 5")
    return found | {"few-shot peak, ITD-BiO as published / memory-reduced, K 20": ratio}


def _peak(step: Iteration, device: str) -> float:
    if device != "cpu":
        step()  # libraries set up their workspaces in the first call
    return peak_bytes(step, device=device) / MIB


def _print(figures: dict[str, Figure]) -> None:
    table = Table("figure", "median", "min", "max", "unit", "aim")
    for name, figure in figures.items():
        table.add_row(name, *(f"{figure[key]:.4g}" for key in ("median", "min", "max")), figure["unit"], figure["aim"])
    Console().print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    resolve_device(chosen)
    _print(few_shot(chosen))
