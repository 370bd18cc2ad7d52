from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from problems.arguments import capable, integer, non_negative, positive, share, shown, truth


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
