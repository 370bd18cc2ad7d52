"""ALSET against its loop in numpy."""

from __future__ import annotations

import math

import pytest

from convergence import ALSET
from tests.convergence.methods.in_numpy import TERMS, assert_alternates, quadratic, step_size_of


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("K", [0, 1, 3])
def test_it_goes_on_from_theta(batch, K):
    problem = quadratic()
    method = ALSET(lower_steps=K, terms=TERMS, linear_step_size=0.15, upper_step_size=0.1, upper_decay=0.5)
    known = step_size_of(problem)
    assert_alternates(
        method, problem, batch=batch, steps=lambda t: K, rho=lambda t: known, eta=0.15,
        beta=lambda t: 0.1 / math.sqrt(t + 1),
    )  # fmt: skip
