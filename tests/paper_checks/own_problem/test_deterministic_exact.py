"""Warm starts are exact on right problems whatever their curvature does; what is wrong is not excused by that."""

from __future__ import annotations

from types import SimpleNamespace as Namespace

import numpy as np
import pytest
import torch

from convergence import RunFailed
from paper_checks.claim import Outcome
from paper_checks.own_problem import deterministic_exact
from paper_checks.own_problem.deterministic_exact import PROBED, judge
from paper_checks.planted import LongerStep
from tests.paper_checks.own_problem.problems import Centred, Linear, Spring, setting_of

T = np.arange(PROBED + 1) * 100.0


def evidence(last, *, first=1.0, moved=1.0, needed=np.inf, cold=1.0, level=1e-20):
    """|grad Phi|^2 falls from first to last, |d|^2 is `moved` times as large."""
    squares = np.concatenate([[first], np.geomspace(first, last, PROBED)]) if np.isscalar(last) else np.array(last)
    numbers = {"level": level, "K": 10.0, "kappa": 5.0, "beta": 0.1, "needed": needed, "cold_norm_sq": cold}
    arrays = {"t": T, "grad_norm_sq": squares, "direction_norm_sq": moved * squares}
    return {name: np.array(value) for name, value in (numbers | arrays).items()}


CYCLE = np.tile([1.0, 2.0, 3.0, 2.0], 11)[: PROBED + 1]
JUDGED = [
    (evidence(1e-21), Outcome.HOLDS, "consistent"),
    (evidence(1e-4), Outcome.INCONCLUSIVE, "still moving"),
    (evidence(np.ones(PROBED + 1), moved=1e-5), Outcome.VIOLATED, "exceeds"),
    (evidence(CYCLE), Outcome.INCONCLUSIVE, "still moving"),
    (evidence(CYCLE, needed=500.0), Outcome.VIOLATED, "exceeds"),
    (evidence(CYCLE, needed=501.0), Outcome.INCONCLUSIVE, "still moving"),
    (evidence(1e-4, needed=500.0), Outcome.INCONCLUSIVE, "still moving"),
    (evidence(1e-21, cold=1e-21), Outcome.INCONCLUSIVE, "a cold start has no error either"),
    (evidence(1e-21, first=1e-20), Outcome.INCONCLUSIVE, "zero at phi_0"),
    ({"level": np.array(1e-20)}, Outcome.INCONCLUSIVE, "no step sizes were found"),
]


@pytest.mark.parametrize(("found", "outcome", "sentence"), JUDGED)
def test_what_is_wrong_is_told_from_what_is_slow_or_says_nothing(found, outcome, sentence):
    (comparison,) = judge(found)
    assert comparison.outcome is outcome
    assert sentence in comparison.reason


@pytest.fixture
def short(monkeypatch):
    """A horizon of few iterations: enough for a problem that is solved in them."""
    monkeypatch.setattr(deterministic_exact, "affordable", lambda *_, **__: 4)


@pytest.mark.usefixtures("short")
def test_curvature_that_grows_on_the_way_is_met_with_smaller_steps():
    """At the alpha of phi_0 the lower level diverges: exp(log_pull) grows from 1 to 20."""
    found = deterministic_exact.run(setting_of(Spring))
    assert judge(found)[0].outcome is Outcome.HOLDS
    assert found["K"] >= 4  # alpha was halved twice or more


class Longer(LongerStep):
    """Diverges where the paper's algorithm does not."""

    share = 1e3


def test_a_method_that_fails_with_the_steps_of_the_papers_algorithm_is_refuted(monkeypatch):
    steps = {"lower_steps": 3, "lower_step_size": 0.04, "cg_steps": 2, "upper_step_size": 0.02, "warm_start": True}
    here = deterministic_exact._Found(steps, 1, Namespace(iterations=1, trace={"grad_norm_sq": torch.zeros(1)}))
    monkeypatch.setattr(deterministic_exact, "_search", lambda *_: here)
    with pytest.raises(RunFailed, match="NON_FINITE"):
        deterministic_exact.run(setting_of(Spring, Longer))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("make", [Linear, Centred])
def test_where_nothing_can_converge_nothing_is_refuted(make):
    assert judge(deterministic_exact.run(setting_of(make)))[0].outcome is Outcome.INCONCLUSIVE
