"""Step sizes for every declared rate, slopes with the interval that a settled constant allows, a gradient by Newton."""

import math

import numpy as np
import pytest
import torch

from convergence import run
from convergence.catalogue import METHODS
from convergence.methods import SABA, SOBA
from convergence.needs import FINITE_SUM
from convergence.reference import reference
from paper_checks.method_rates import FIELDS
from paper_checks.rate_settings import (
    SCHEDULES,
    OneTerm,
    accepts,
    build,
    logistic_gradient,
    logistic_probe,
    settled_slope,
    terms_for,
)
from problems import Constants, ProxLogistic, Quadratic


def test_every_method_with_a_noisy_rate_has_the_step_sizes_of_its_theorem():
    wanted = {
        name
        for name, make in METHODS.items()
        if make.declared.noisy_rate and FINITE_SUM not in build(make, FIELDS).needs
    }
    assert wanted == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_transient_of_a_schedule_has_the_declared_exponent(name):
    c = Constants(mu=1.0, L=2.0, ell=1.0, L_Phi=3.0)
    # a / (sum of the steps on phi) is the least that any start costs: its exponent is the rate declared
    T = np.array([2**14, 2**18])
    total = []
    for horizon in map(int, T):
        method = build(METHODS[name], SCHEDULES[name].values(horizon, c))
        t = np.arange(1, horizon + 1.0)
        total.append((method.upper_step_size * t**-method.upper_decay).sum())
    exponent = math.log(total[1] / total[0]) / math.log(T[1] / T[0])
    assert exponent == pytest.approx(METHODS[name].declared.noisy_rate, abs=0.02)  # 2/7: the sum is off t^2/7 / (2/7)


def test_the_series_is_long_enough_for_a_squared_bias_of_1_over_T():
    c = Constants(mu=1.0, L=4.0)
    for T in (10, 1000):
        Q = terms_for(T, c)
        assert c.lower_contraction(c.lower_step_size) ** (2 * Q) <= 1 / T
        assert c.lower_contraction(c.lower_step_size) ** (2 * (Q - 1)) > 1 / T


def test_a_table_of_one_term_is_no_table():
    problem = Quadratic.random(tasks=3, p=2, q=2, kappa=4.0, seed=1)
    assert not accepts(SABA(upper_step_size=0.1), problem)
    assert accepts(SABA(upper_step_size=0.1), OneTerm(problem))
    with_table = run(OneTerm(problem), SABA(upper_step_size=0.1), iterations=20, replicas=2)
    without = run(problem, SOBA(upper_step_size=0.1), iterations=20, replicas=2)
    assert torch.allclose(with_table.phi["phi"], without.phi["phi"], rtol=1e-12, atol=1e-12)


# ---- slopes


def test_horizons_before_the_constant_settles_are_dropped():
    x = 2.0 ** np.arange(4, 14)
    slope = settled_slope(x, (1 + 3 / x) / x, within=0.01)
    assert slope.low <= -1 <= slope.high
    assert abs(slope.value + 1) < 0.004
    assert slope.half_width < 0.01
    whole = settled_slope(x, (1 + 3 / x) / x, within=1.0)  # keeps them all
    assert abs(whole.value + 1) > 0.015


@pytest.mark.parametrize("exponent", [-0.98, -1.02])
def test_another_exponent_has_no_settled_constant_to_hide_in(exponent):
    x = 2.0 ** np.arange(4, 14)
    slope = settled_slope(x, x**exponent, within=0.01)
    assert not (slope.low <= -1 <= slope.high and slope.half_width <= 0.01)


def test_one_settled_horizon_says_nothing():
    x = 2.0 ** np.arange(4, 8)
    assert settled_slope(x, np.ones(4), within=0.01).half_width == math.inf


def test_the_interval_is_that_over_seeds_and_what_the_constant_allows():
    x, seeds = 2.0 ** np.arange(4, 10), np.random.default_rng(0).uniform(0.9, 1.1, (6, 30))
    mean = seeds.mean(1, keepdims=True)
    alone = settled_slope(x, 1 / x, within=0.01)
    both = settled_slope(x, seeds / mean / x[:, None], within=0.01)
    assert both.value == pytest.approx(-1, abs=1e-12)
    assert both.half_width > alone.half_width > 0


# ---- the gradient of logistic heads


def test_the_gradient_of_logistic_heads_is_that_of_the_reference():
    problem = ProxLogistic.random(tasks=3, q=2, examples=6, prox=0.7, regulariser=0.3, seed=4)
    phi = np.random.default_rng(0).standard_normal((5, 2))
    arrays = {name: tensor.numpy() for name, tensor in problem.data.items()}
    gradient, theta = logistic_gradient(arrays, phi, 0.7, 0.3)
    again, _ = logistic_gradient(arrays, phi, 0.7, 0.3, theta + 1e-3)
    for r in range(5):
        at = {"centre": torch.as_tensor(phi[r])}
        right = reference(problem, at, problem.sample(None, torch.Generator()))
        assert np.allclose(gradient[r], right.hypergradient["centre"].numpy(), rtol=0, atol=1e-12)
        assert np.allclose(theta[r], right.theta.numpy(), rtol=0, atol=1e-12)
    assert np.allclose(again, gradient, rtol=0, atol=1e-12)


def test_the_probe_measures_each_replica_along_a_run():
    problem = ProxLogistic.random(tasks=2, q=2, examples=4, seed=2)
    probes = ("grad_norm_sq", logistic_probe(problem))
    trace = run(problem, SOBA(upper_step_size=0.1), iterations=4, replicas=3, probes=probes).trace
    right, own = trace.values()
    assert torch.allclose(right, own, rtol=1e-10, atol=0)


def test_a_newton_iteration_that_does_not_arrive_is_an_error():
    arrays = {"X": np.full((1, 1, 1), 1e3), "y": np.ones((1, 1))}
    with pytest.raises(ArithmeticError, match="Newton"):
        logistic_gradient(arrays, np.full((1, 1), -1.0), 1e-6, 0.0)
