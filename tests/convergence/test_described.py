"""What a run is described by, and how the first difference of two is named."""

from pathlib import Path

import pytest

from convergence.described import described, require_same
from convergence.linear_solvers import Direct
from problems.few_shot import ResNet12


def test_a_description_holds_the_type_and_the_fields():
    assert described(Direct()) == {"type": "Direct"}
    assert described(ResNet12((1, 2, 3, 4)))["channels"] == [1, 2, 3, 4]


def test_the_first_entry_that_differs_is_named():
    held = {"plan": {"seed": 0, "batch": 2}, "versions": {"torch": "1"}}
    now = {"plan": {"seed": 1, "batch": 2}, "versions": {"torch": "2"}}
    with pytest.raises(ValueError, match=r"expected plan.seed = 0, as in run.pt, got 1"):
        require_same(now, held, Path("run.pt"), free=frozenset())
    require_same(now, held, Path("run.pt"), free=frozenset({"plan.seed"}))


def test_an_entry_that_is_missing_differs():
    with pytest.raises(ValueError, match=r"expected seed = 0, as in run.pt, got None"):
        require_same({}, {"seed": 0}, Path("run.pt"), free=frozenset())
