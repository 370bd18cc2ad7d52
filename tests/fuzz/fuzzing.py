"""`fuzz`: a test of Hypothesis that feeds so many different malformed inputs to `ends_well`.

In the suite the inputs are the same each time (derandomised, no database). `FUZZ=50 python -m pytest tests/fuzz` makes
fifty times as many, other ones each time, and lists every bad ending, not the first alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.ends import BadEnding, Case, ends_well

FACTOR = int(os.environ.get("FUZZ", "0"))  # 0: the suite
PROMISED: dict[str, int] = {}  # test -> different inputs in each run of the suite, which the test asserts


def fuzz(cases: st.SearchStrategy[Case], *, distinct: int, examples: int | None = None) -> Callable[[], None]:
    """A test on at least `distinct` different cases, of `examples` drawn (by default a quarter more)."""
    count = examples or distinct + distinct // 4 + 2

    def decorate(body: Callable[[], None]) -> Callable[[], None]:
        seen: set[str] = set()
        bad: dict[str, list[str]] = {}

        @settings(
            max_examples=count * max(1, FACTOR),
            derandomize=not FACTOR,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def each(case: Case) -> None:
            seen.add(case.name)
            try:
                ends_well(case)
            except BadEnding as ending:
                if not FACTOR:
                    raise
                bad.setdefault(_kind(case, str(ending)), []).append(str(ending))

        def test() -> None:
            seen.clear()
            bad.clear()
            each()
            if bad:
                listed = [f"{len(endings)} times: {min(endings, key=len)}" for endings in bad.values()]
                pytest.fail("\n".join([f"of {len(seen)} inputs ended badly", *listed]), pytrace=False)
            assert len(seen) >= distinct, f"{len(seen)} different inputs, {distinct} were promised"

        test.__name__, test.__doc__, test.__module__ = body.__name__, body.__doc__, body.__module__
        PROMISED[f"{body.__module__}.{body.__name__}"] = distinct
        return test

    return decorate


def _kind(case: Case, ending: str) -> str:
    """Which surface and argument, and the beginning of what is wrong."""
    return case.name.partition("=")[0] + ending[len(case.name) :][:40]
