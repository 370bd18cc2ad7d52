"""TTSA against its loop in numpy."""

from __future__ import annotations

import pytest

from convergence import TTSA
from tests.convergence.methods.in_numpy import TERMS, assert_alternates, quadratic


@pytest.mark.parametrize("batch", [None, 2])
def test_it_takes_one_step_each_on_two_timescales(batch):
    problem = quadratic()
    method = TTSA(terms=TERMS, lower_step_size=0.3, linear_step_size=0.15, upper_step_size=0.1)
    assert_alternates(
        method, problem, batch=batch, steps=lambda t: 1, rho=lambda t: 0.3 * (t + 1) ** -0.4, eta=0.15,
        beta=lambda t: 0.1 * (t + 1) ** -0.6,
    )  # fmt: skip
