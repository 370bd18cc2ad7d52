"""Controls: every ending that must not be is seen by `ends_well`, and what is allowed passes; the counts are kept."""

from __future__ import annotations

import contextlib
import importlib
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from convergence import MemoryReduced
from problems import Quadratic
from tests.fuzz import ends
from tests.fuzz.ends import BadEnding, Case, Own, ends_well
from tests.fuzz.fuzzing import PROMISED, fuzz

SUITE = tuple(f"test_{name}" for name in ("api", "arrays", "command_line", "few_shot", "files", "methods", "problems"))


def _raise(error: BaseException) -> None:
    raise error


def _swallows() -> None:
    with contextlib.suppress(Exception):
        time.sleep(5)


BAD = {
    "from inside torch": (lambda: torch.ones(2) @ torch.ones(3), "RuntimeError"),
    "a ValueError from inside numpy": (lambda: np.linspace(0, 1, -1), "not our sentence"),
    "a TypeError of the language": (lambda: MemoryReduced(**{"lower_stepz": 1}), "not our sentence|no clear sentence"),
    "a bare KeyError": (lambda: {}["a"], "KeyError"),
    "an assertion": (lambda: _raise(AssertionError("expected 1, got 2")), "AssertionError"),
    "out of memory": (lambda: np.ones(2**40), "MemoryError"),
    "a warning only": (lambda: warnings.warn("expected 1, got 2", UserWarning, stacklevel=1), "UserWarning"),
    "no end": (lambda: time.sleep(5), "Hang: more than 0.2 s"),
    "no end, and every exception caught": (_swallows, "Hang: more than 0.2 s"),
    "accepted": (lambda: 3, "expected to be refused, was accepted, and gave 3"),
    "the end of the process": (lambda: _raise(SystemExit(1)), "SystemExit"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_must_not_be_is_seen(name, monkeypatch):
    monkeypatch.setattr(ends, "SECONDS", 0.2)
    call, said = BAD[name]
    with pytest.raises(BadEnding, match=said):
        ends_well(Case(name, call))


def test_a_wrong_result_is_seen_and_a_right_one_passes():
    def call() -> float:
        return float(Quadratic.random(tasks=2, p=1, q=1, kappa=1.0).constants.mu)

    ends_well(Case("mu", call, lambda mu: abs(mu - 1) < 1e-12))
    with pytest.raises(BadEnding, match="a wrong result without a word"):
        ends_well(Case("mu", call, lambda mu: mu == 2))
    with pytest.raises(BadEnding, match="no result that can be used: ZeroDivisionError"):
        ends_well(Case("mu", call, lambda mu: 1 / 0))


def test_our_sentences_and_exceptions_of_ones_own_pass():
    ends_well(Case("K", lambda: MemoryReduced(lower_steps=-1, cg_steps=2)))
    ends_well(Case("own", lambda: _raise(Own("of the problem"))))


def test_a_sentence_has_one_line_and_says_what_was_expected():
    assert ends.is_sentence("expected lower_steps an integer >= 0, got -1")
    assert ends.is_sentence("expected one of these:\n  a\n  b")
    for said in ("expected one\nand another", "invalid value", "", "expected " + "x" * 2000):
        assert not ends.is_sentence(said)


def test_the_limits_are_lifted_afterwards():
    ends_well(Case("mu", lambda: 1, lambda found: True))
    assert len(np.ones(2**10)) == 2**10
    assert ends.signal.getitimer(ends.signal.ITIMER_REAL) == (0.0, 0.0)


def test_too_few_different_inputs_are_seen():
    @fuzz(st.just(Case("one", lambda: 1, lambda found: True)), distinct=2)
    def few():
        """One."""

    del PROMISED[f"{few.__module__}.{few.__name__}"]
    with pytest.raises(AssertionError, match="1 different inputs, 2 were promised"):
        few()


def test_the_suite_feeds_at_least_five_hundred_different_inputs():
    for name in SUITE:
        importlib.import_module(f"tests.fuzz.{name}")
    assert {name.split(".")[2] for name in PROMISED} == set(SUITE)
    assert sum(PROMISED.values()) >= 500, PROMISED
