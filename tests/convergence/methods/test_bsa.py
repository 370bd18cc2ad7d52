"""BSA against its loop in numpy."""

from __future__ import annotations

import math

import pytest

from convergence import BSA
from tests.convergence.methods.in_numpy import TERMS, assert_alternates, quadratic, step_size_of


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_it_starts_cold_and_takes_ever_more_steps_where_they_grow(batch, growth):
    problem = quadratic()
    method = BSA(
        lower_steps=2, lower_growth=growth, terms=TERMS, lower_step_size=0.2, lower_decay=0.5, upper_step_size=0.1
    )
    assert_alternates(
        method, problem, batch=batch, cold=True, steps=lambda t: math.ceil(2 * (t + 1) ** growth),
        rho=lambda t: 0.2 / math.sqrt(t + 1), eta=step_size_of(problem), beta=lambda t: 0.1,
    )  # fmt: skip
    counts = [method.declared_calls(3, iteration=t)["lower_gradient"] for t in range(4)]
    assert counts == ([6, 9, 12, 12] if growth else [6, 6, 6, 6])
