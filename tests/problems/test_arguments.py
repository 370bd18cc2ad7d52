from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch

from problems import Quadratic
from problems.arguments import (
    capable,
    checked,
    instance,
    integer,
    is_finite,
    non_negative,
    positive,
    room,
    share,
    shown,
    truth,
)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_python_and_numpy_pass_and_become_ints(value):
    found = integer("steps", value, least=3)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [2, -1, True, 3.0, "3", None, np.True_, np.float64(3), torch.tensor(True), 2**63])
def test_what_is_no_integer_or_too_small_is_named_with_what_was_expected(value):
    with pytest.raises(ValueError, match="expected steps an integer >= 3, got ") as caught:
        integer("steps", value, least=3)
    assert str(caught.value).endswith(repr(value))
    with pytest.raises(ValueError, match="expected steps None or an integer >= 3, got "):
        integer("steps", value, least=3, otherwise="None or ")


def test_a_step_size_is_finite_and_above_zero():
    positive("alpha", 5e-324)
    positive("alpha", np.float32(0.5))
    positive("alpha", np.uint8(1))
    for value in (0.0, -1.0, math.inf, math.nan, "0.1", 1j, None, True, np.float32(math.nan), Fraction(1, 2)):
        with pytest.raises(ValueError, match=re.escape(f"expected alpha a finite number > 0, got {value!r}")):
            positive("alpha", value)


def test_a_decay_may_be_zero_and_a_share_one():
    non_negative("a", 0)
    non_negative("a", np.float32(2.5))
    share("tau", 1)
    share("tau", 5e-324)
    for value in (-5e-324, math.inf, math.nan, "0.1", None, True):
        with pytest.raises(ValueError, match=f"expected a a finite number >= 0, got {value!r}"):
            non_negative("a", value)
    for value in (0.0, 1.0000001, math.nan, "0.1", None, True):
        with pytest.raises(ValueError, match=re.escape(f"expected tau a number in (0, 1], got {value!r}")):
            share("tau", value)


def test_a_number_that_no_float_can_hold_is_none():
    with pytest.raises(ValueError, match="expected alpha a finite number > 0, got 1000"):
        positive("alpha", 10**400)


def test_a_truth_value_is_true_or_false_alone():
    truth("recompute", True)
    truth("recompute", False)
    for value in (0, 1, None, "no", [], np.True_):
        with pytest.raises(ValueError, match=re.escape(f"expected recompute True or False, got {value!r}")):
            truth("recompute", value)


def test_an_object_is_asked_for_its_methods_and_a_class_is_none():
    capable("words", "a b", "split", "join")
    for value in (3, None, str):
        with pytest.raises(TypeError, match=re.escape(f"expected words an object with split, join, got {value!r}")):
            capable("words", value, "split", "join")


def test_what_is_shown_has_one_line_and_an_end():
    assert shown(torch.eye(2)) == "tensor([[1., 0.], [0., 1.]])"
    assert shown("a" * 1000) == "'" + "a" * 199 + "..."
    assert shown(10**5000) == "an int of more digits than can be shown"


def test_an_instance_is_one_of_the_class():
    instance("of", np.float64(1), float)
    with pytest.raises(TypeError, match=re.escape("expected of a float, got 1")):
        instance("of", 1, float)


def test_finite_numbers_are_those_of_python_and_numpy():
    for value in (0, 1.5, np.int8(3), np.float32(0.5), 5e-324):
        assert is_finite(value)
    for value in (math.nan, math.inf, True, 1j, "1", None, 10**400, torch.tensor(1.0)):
        assert not is_finite(value)


def test_more_than_the_machine_holds_is_refused_before_it_is_asked_for():
    room("replicas", 10, 8)
    with pytest.raises(ValueError, match=r"expected replicas that fit the \d+ bytes .*, got 10+ of 8 bytes"):
        room("replicas", 10**18, 8)


# ---- all arguments at once


@checked
def made(
    size: int,
    scale: float = 1.0,
    *,
    seed: int = 0,
    turned: bool = False,
    pair: tuple[float, float] = (0.0, 1.0),
    many: Sequence[float] = (1.0,),
    like: torch.Tensor | None = None,
    of: Quadratic | None = None,
    other: str = "",
) -> tuple[object, ...]:
    """What it was given."""
    return size, scale, seed, turned, pair, many, like, of, other


def test_legal_arguments_come_as_their_types():
    found = made(np.int64(2), 3, seed=0, many=[1, 2.5], other=3)  # what is not listed is not looked at
    assert found == (2, 3.0, 0, False, (0.0, 1.0), [1, 2.5], None, None, 3)
    assert [type(x) for x in found[:3]] == [int, float, int]
    assert made.__doc__ == "What it was given."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 0}, "expected size an integer >= 1, got 0"),
        ({"size": None}, "expected size an integer >= 1, got None"),
        ({"scale": math.nan}, "expected scale a finite number, got nan"),
        ({"scale": "1"}, "expected scale a finite number, got '1'"),
        ({"seed": -1}, "expected seed an integer >= 0, got -1"),
        ({"turned": 1}, "expected turned True or False, got 1"),
        ({"pair": (1.0,)}, "expected pair 2 finite numbers, got (1.0,)"),
        ({"pair": (1.0, math.inf)}, "expected pair 2 finite numbers, got (1.0, inf)"),
        ({"many": []}, "expected many a list of finite numbers, got []"),
        ({"many": 1.0}, "expected many a list of finite numbers, got 1.0"),
        ({"like": [1.0]}, "expected like a Tensor, got [1.0]"),
        ({"of": made}, "expected of a Quadratic, got <function made"),
        ({"nothing": 1}, "got an unexpected keyword argument 'nothing'"),
    ],
)
def test_arguments_of_other_types_are_named(arguments, said):
    with pytest.raises((TypeError, ValueError), match="^expected .*" + re.escape(said.removeprefix("expected "))):
        made(**{"size": 1, **arguments})


def test_sizes_that_do_not_fit_are_named_and_other_errors_pass():
    @checked
    def ones(size: int, fails: bool = False) -> torch.Tensor:
        if fails:
            raise RuntimeError("of its own")
        return torch.ones(size, size)

    with pytest.raises(ValueError, match="expected sizes that this machine can hold, got size=1000000000000"):
        ones(10**12)
    with pytest.raises(RuntimeError, match="of its own"):
        ones(1, fails=True)
