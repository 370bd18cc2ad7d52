"""Arguments of `run`, of problems and their `random`, of rates, streams, budgets and what else is public."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

import problems
from convergence import Probe, run
from problems import Quadratic
from tests.fuzz.ends import Case, Own
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.strategies import VALUES, Named, is_integer, replaced
from tests.fuzz.test_problems import METHOD, Sound, solved

# ---- run


class Started(Own):
    """A run that would take for ever has begun as it should."""


def _begins(snapshot: Any) -> torch.Tensor:
    if snapshot.iteration > 3:
        raise Started("four iterations")
    return torch.tensor(0.0)


BASE: dict[str, Any] = {"iterations": 2, "compile": False, "probes": (Probe("begins", _begins),)}


def _count(least: int, most: float = 2**63 - 1) -> Callable[[Any], bool]:
    return lambda value: is_integer(value) and least <= int(value) <= most


def _or_none(legal: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or legal(value)


# argument -> whether a value is legal, and whether what came of it is right
RUN: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Callable[[Any], bool]]]] = {
    "iterations": (_count(0), lambda value: solved(int(value)) if value < 100 else None),
    "batch": (_or_none(_count(1, 3)), lambda value: solved(2) if value in (None, 3) else lambda result: True),
    "replacement": (lambda value: isinstance(value, bool), lambda value: solved(2)),
    "seed": (_count(0), lambda value: solved(2)),
    "replicas": (_or_none(_count(1, 10**6)), lambda value: solved(2)),
    "probe_every": (_count(1), lambda value: solved(2)),
    "first": (_count(0), lambda value: solved(2)),
    "dtype": (lambda value: False, lambda value: solved(2)),
    "device": (lambda value: False, lambda value: solved(2)),
    "phi0": (lambda value: value is None, lambda value: solved(2)),
    "optimizer": (lambda value: value is None, lambda value: solved(2)),
    "compile": (lambda value: value is False or value is None, lambda value: solved(2)),
    "memory": (_or_none(_count(1)), lambda value: solved(2)),
    "chunks": (lambda value: value is None, lambda value: solved(2)),
    "probes": (
        lambda value: value is None or (isinstance(value, (tuple, list)) and not value),
        lambda value: solved(2),
    ),
    "stop_at": (lambda value: value is None or (isinstance(value, dict) and not value), lambda value: solved(2)),
    "progress": (lambda value: isinstance(value, bool), lambda value: solved(2)),
    "raise_on_failure": (lambda value: isinstance(value, bool), lambda value: solved(2)),
}


def _run_case(argument: str, value: Named) -> Case:
    legal, right = RUN[argument]
    options = {**BASE, argument: value.value}
    return Case(
        f"run({argument}={value.name})",
        lambda: run(Sound(), METHOD, **options),
        right(value.value) if legal(value.value) else None,
    )


def _quick(case: Case) -> bool:
    return case.name != "run(compile=bool True)"  # takes seconds, and is told from other values by tests/convergence


@fuzz(st.builds(_run_case, st.sampled_from(sorted(RUN)), VALUES).filter(_quick), distinct=60)
def test_arguments_of_run():
    """Every one of them, replaced by what it is not."""


# ---- problems: every constructor and `random`

RANDOM: dict[str, dict[str, Any]] = {
    "Quadratic.random": {"tasks": 3, "p": 2, "q": 2, "kappa": 3.0},
    "Proximal.random": {"tasks": 3, "q": 2},
    "ProxLogistic.random": {"tasks": 3, "q": 2, "examples": 4},
    "ProxSoftmax.random": {"tasks": 3, "classes": 3, "features": 2, "examples": 6},
    "Representation.random": {"tasks": 3, "d": 3, "rank": 2, "examples": 4},
    "LassoLower.random": {"tasks": 3, "p": 2, "q": 2, "lasso": 0.5},
    "Structured.random": {"structure": "low-rank", "tasks": 2, "p": 4, "q": 4, "kappa": 3.0, "rank": 2},
    "HeavyTailed": {"index": 1.5},
    "Constants": {"mu": 1.0, "L": 2.0},
    "Huber": {"horizon": 5},
    "Plateau": {"horizon": 5},
    "Zigzag": {"horizon": 5},
    "PowerTail": {"exponents": [0.5]},
    "PowerWell": {"exponents": [3.0]},
    "Minibatch": {"problem": problems.ProxLogistic.random(tasks=2, q=2, examples=4), "lower": 2, "upper": 2},
    "Noisy": {"problem": Quadratic.random(tasks=2, p=2, q=2, kappa=2.0), "lower": 0.1},
    "LearnedStart": {"problem": Quadratic.random(tasks=2, p=2, q=2, kappa=2.0)},
    "HyperCleaning.digits": {"train": 6, "validation": 3, "tasks": 1, "classes": 3, "pool": 1},
    "LogisticRegularisation.breast_cancer": {"tasks": 2},
}


def _made(name: str) -> Callable[..., Any]:
    first, _, rest = name.partition(".")
    found = getattr(problems, first)
    return getattr(found, rest) if rest else found


def _sound(made: Any) -> bool:
    """What was made of legal values has data and a start that are finite."""
    if not isinstance(made, problems.Problem):
        return True
    made.check()
    start = made.phi0(torch.Generator().manual_seed(0))
    return all(bool(torch.isfinite(x).all()) for x in start.values())


@fuzz(st.sampled_from(sorted(RANDOM)).flatmap(lambda n: replaced(n, _made(n), RANDOM[n], right=_sound)), distinct=60)
def test_problems_made_of_numbers():
    """`random` and constructors of numbers."""
