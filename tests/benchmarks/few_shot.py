"""A few-shot iteration beside a plain network on the same images: Conv4 of 64 channels, 3 x 32 x 32, 5-way 5-shot.

`python -m tests.benchmarks.few_shot [cpu | cuda]` measures this alone and writes nothing. On a CPU times are CPU
seconds of this process on one thread and peaks exact; on CUDA seconds by the clock and the
allocator's peaks. Freed memory is kept, as the command line does it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from convergence import ITDBiO, peak_bytes, resolve_device
from convergence.recipes import RECIPES
from convergence.training.fastest import fastest_chunk
from convergence.training.plan import Plan
from convergence.training.process import keep_freed_memory
from convergence.training.run import Run
from paper_checks.network_costs import COSTS, Iteration, Plain, cpu_seconds, episodes
from problems.few_shot import Augmentation, Conv4, Embedding, Episodes, ImageSet, ResNet12
from problems.few_shot.compiled import Compiled
from tests.benchmarks.rounds import Figure, figure_of, in_turn, ratios

CHANNELS = 64
EPISODES = episodes((3, 32, 32), seed=0)
ROUNDS = 4
MIB = 2**20
RECIPE = RECIPES["memory_reduced"]  # K = 20, N = 10


def few_shot(device: str = "cpu") -> dict[str, Figure]:
    """Times as ratios within a round, peaks in MiB."""
    keep_freed_memory()
    return {**_limit(device), **_variants(device), **_peaks(device), **_resnet(device), **_drawing(device)}


def _iteration(
    tasks: int,
    device: str,
    *,
    chunk: int = 1,
    lower_steps: int = 20,
    embedding: Embedding | None = None,
    source: Episodes = EPISODES,
    **options: Any,
) -> Iteration:
    """Of the memory-reduced recipe; options of its method or of its problem."""
    network = {name: options.pop(name) for name in ("channels_last", "autocast") if name in options}
    method = RECIPE.varied(lower_steps=lower_steps, **options).method
    problem = RECIPE.problem(source, embedding=embedding or Conv4(CHANNELS), **network)
    return Iteration(problem, method, source.draw(range(tasks)), device, chunk)


def _timed(step: Callable[[], object], device: str) -> Callable[[], float]:
    return partial(cpu_seconds, step, device)


def _limit(device: str) -> dict[str, Figure]:
    """All of 32 tasks against the plain network, forward and backward, in the faster of two sizes of minibatch."""
    tasks, found = EPISODES.draw(range(32)), {}
    plan = Plan(iterations=1, queries=EPISODES.queries, batch=32, device=device, validate_every=None)
    chunk = fastest_chunk(RECIPE, {"train": EPISODES.images}, Conv4(CHANNELS), plan)
    for last in (True, False):
        plain = [
            Plain(tasks, channels=CHANNELS, minibatch=size, device=device, channels_last=last) for size in (25, 50)
        ]
        own = [_iteration(32, device, channels_last=last, chunk=size) for size in (1, chunk)]
        steps = (_timed(each, device) for each in (*own, *plain))
        layout = "channels last" if last else "channels first"
        one, several, small, large = in_turn(*steps, label=f"few-shot step / plain, {layout}", rounds=ROUNDS)
        limit = [min(pair) for pair in zip(small, large, strict=True)]
        name = f"few-shot step / plain network, both {layout}, 32 tasks"
        found[f"{name}, 1 at a time"] = figure_of(ratios(one, limit), "ratio", "<= 1.1" if last else "")
        found[f"{name}, as measured ({chunk} at a time)"] = figure_of(ratios(several, limit), "ratio", "<= 1.1")
    return found


def _variants(device: str) -> dict[str, Figure]:
    """Other ways through the network, on 8 tasks, against the default: one task at a time, float32."""
    compiled = Compiled(Conv4(CHANNELS))
    variants = {
        "low memory": ({"recompute": True}, "1.33: one forward pass more"),
        "activation checkpoints": ({"embedding": Conv4(CHANNELS, checkpointed=True)}, "1.33: one forward pass more"),
        "channels first": ({"channels_last": False}, ""),
        "bfloat16 autocast": ({"autocast": torch.bfloat16}, ""),
        "compiled": ({"embedding": compiled}, ""),
        "2 tasks at a time": ({"chunk": 2}, ""),
        "4 tasks at a time": ({"chunk": 4}, ""),
    }
    steps = [_iteration(8, device), *(_iteration(8, device, **options) for options, _ in variants.values())]
    timed = (_timed(each, device) for each in steps)
    default, *others = in_turn(*timed, label="few-shot, variants", rounds=ROUNDS)
    found = {
        f"few-shot step, {name} / default": figure_of(ratios(own, default), "ratio", aim)
        for (name, (_, aim)), own in zip(variants.items(), others, strict=True)
    }
    return found | {"few-shot network, to compile it": figure_of([compiled.seconds], "s", "")}


def _peaks(device: str) -> dict[str, Figure]:
    """The smallest and the largest are equal: neither the tasks nor K count."""
    cells = [(tasks, K) for tasks in (4, 32) for K in (1, 20, 40)]
    found: dict[str, Figure] = {}
    kinds: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("peak", {}, "<= 55"),
        ("low-memory peak", {"recompute": True}, "<= 30"),
        ("channels first peak", {"channels_last": False}, ""),
        ("checkpointed peak", {"embedding": Conv4(CHANNELS, checkpointed=True)}, ""),
    )
    for name, options, aim in kinds:
        peaks = [_peak(_iteration(B, device, lower_steps=K, **options), device) for B, K in cells]
        found[f"few-shot {name}, 4 and 32 tasks, K 1, 20, 40"] = figure_of(peaks, "MiB", aim)
    cost, tasks = COSTS["itd_anew"], EPISODES.draw(range(4))
    published = Iteration(cost.problem(EPISODES, Conv4(CHANNELS)), cost.method(20, 0, ITDBiO), tasks, device)
    own = _peak(_iteration(4, device), device)
    ratio = figure_of([_peak(published, device) / own], "ratio", ">= 5")
    return found | {"few-shot peak, ITD-BiO as published / memory-reduced, K 20": ratio}


def _resnet(device: str) -> dict[str, Figure]:
    """ResNet12 of 64 channels on a task of 50 images of 84 x 84."""
    source, found = episodes((3, 84, 84), seed=0), {}
    variants: dict[str, dict[str, Any]] = {
        "default": {"embedding": ResNet12()},
        "low memory": {"embedding": ResNet12(), "recompute": True},
        "activation checkpoints": {"embedding": ResNet12(checkpointed=True)},
    }
    steps = {name: _iteration(1, device, source=source, **options) for name, options in variants.items()}
    timed = (_timed(each, device) for each in steps.values())
    default, *others = in_turn(*timed, label="ResNet12 at 84 x 84", rounds=2)
    for name, own in zip(list(steps)[1:], others, strict=True):
        found[f"ResNet12 at 84 x 84, {name} / default"] = figure_of(ratios(own, default), "ratio", "")
    for name, step in steps.items():
        found[f"ResNet12 at 84 x 84, peak, {name}"] = figure_of([_peak(step, device)], "MiB", "")
    return found


def _drawing(device: str) -> dict[str, Figure]:
    """Tasks drawn ahead, by the clock, and gathered where the images are resident; with every augmentation."""
    images = EPISODES.images
    splits: dict[str, ImageSet] = {"train": images}
    every = Augmentation(rotate_classes=True, crop=4, flip=True)

    def iterations(*, ahead: bool) -> Callable[[], float]:
        plan = Plan(
            iterations=10**6,
            queries=EPISODES.queries,
            augmentation=every,
            device=device,
            validate_every=None,
            ahead=ahead,
        )
        run = Run(RECIPE, splits, Conv4(CHANNELS), plan)

        def measure() -> float:
            began = time.perf_counter()
            for _ in range(5):
                run.advance()
            return (time.perf_counter() - began) / 5

        return measure

    def drawn(resident: str | None) -> Callable[[], float]:
        source = Episodes(images=images, split="train", queries=5, augmentation=every, resident=resident)
        return _timed(lambda: source.draw(range(32)).to(device), device)

    ahead, at_once = in_turn(iterations(ahead=True), iterations(ahead=False), label="tasks drawn ahead")
    there, here = in_turn(drawn(device), drawn(None), label="episodes drawn")
    return {
        "training iteration by the clock, tasks drawn ahead / at once": figure_of(
            ratios(ahead, at_once), "ratio", "< 1"
        ),
        "32 augmented episodes, images resident / not": figure_of(ratios(there, here), "ratio", ""),
        "32 augmented episodes / few-shot step on them": figure_of(
            [statistics.median(here) / (8 * statistics.median(at_once))], "ratio", ""
        ),
    }


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
