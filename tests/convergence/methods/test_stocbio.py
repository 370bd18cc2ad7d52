"""stocBiO against its loop in numpy, its mean on noisy objectives, and where its bias takes it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from convergence import Oracle, StocBiO, run
from convergence.methods.alternating import State
from problems import Noisy
from tests.convergence.methods.in_numpy import (
    TERMS,
    all_terms,
    assert_alternates,
    assert_unbiased,
    quadratic,
    step_from,
    step_size_of,
    tasks_of,
)
from tests.strategies import normal


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("K", [0, 1, 3])
def test_it_goes_on_from_theta(batch, K):
    problem = quadratic()
    method = StocBiO(lower_steps=K, terms=TERMS, linear_step_size=0.15, upper_step_size=0.1, upper_decay=0.5)
    known = step_size_of(problem)
    assert_alternates(
        method, problem, batch=batch, whole=True, steps=lambda t: K, rho=lambda t: known, eta=0.15,
        beta=lambda t: 0.1 / math.sqrt(t + 1),
    )  # fmt: skip


def test_the_mean_of_a_noisy_step_is_the_exact_one():
    problem = quadratic()
    levels = {"lower": 0.5, "upper": 0.5, "upper_phi": 0.5, "hessian": 0.5, "cross": 0.3}
    method = StocBiO(lower_steps=1, terms=TERMS, upper_step_size=0.3)
    assert_unbiased(method, problem, levels, State(0, normal(1, 3, 4)), {"phi": normal(3, 2)})


def test_each_product_sees_a_sample_of_its_own():
    # one sample for all products would add the order of eta^2 E|Xi|^2 = 0.25 of the mean
    problem, phi, count = quadratic(), {"phi": normal(3, 2)}, 20_000
    method = StocBiO(lower_steps=0, terms=TERMS, linear_step_size=0.25, upper_step_size=0.3)
    theta = normal(1, 3, 4)
    expected = step_from(method, problem, phi, State(0, theta)).v
    oracle = Oracle(Noisy(problem, hessian=2.0), replicas=count, seeds=range(count))
    many = {"phi": phi["phi"].expand(count, 2)}
    v = method.step(oracle, many, oracle.pool, State(0, theta.expand(count, 3, 4))).v
    error = v.std(0) / count**0.5
    assert float(error.max()) < 0.02 * float(expected.abs().max())
    assert float(((v.mean(0) - expected) / error).abs().max()) < 6


def test_the_bias_of_the_series_is_where_it_ends():
    problem = quadratic()
    method = StocBiO(lower_steps=3, terms=TERMS, linear_step_size=0.15, upper_step_size=0.3)
    phi = run(problem, method, iterations=400).phi["phi"].numpy()
    left = np.mean(
        [t.direction(phi, all_terms(t, t.upper_slope(t.star(phi)), 0.15)) for t in tasks_of(problem)], axis=0
    )
    assert np.abs(left).max() < 1e-13
    assert float(problem.hypergradient({"phi": torch.from_numpy(phi)})["phi"].abs().max()) > 1e-3
