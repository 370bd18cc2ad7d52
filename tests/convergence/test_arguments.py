from __future__ import annotations

import math
import re

import numpy as np
import pytest

from convergence.arguments import integer, non_negative, positive, share


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_python_and_numpy_pass_and_become_ints(value):
    found = integer("steps", value, least=3)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [2, -1, True, 3.0, "3", None, np.True_, np.float64(3)])
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
    for value in (0.0, -1.0, math.inf, math.nan, "0.1", 1j, None, True):
        with pytest.raises(ValueError, match=f"expected alpha a finite number > 0, got {value!r}"):
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
