"""What the claim predicts with: medians of heavy-tailed means against samples, recurrences written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binomtest

from paper_checks.counterexamples import coupled, quartic_law, quartic_time
from paper_checks.heavy_tails import characteristic, exponent, median_of_mean
from problems.counterexamples import cancelling_modes


@given(st.floats(1.05, 1.95) | st.floats(2.05, 3.9), st.floats(0.05, 9.9))
def test_the_characteristic_function_is_the_integral_of_the_density(index, u):
    integral, _ = quad(lambda x: index * x ** (-index - 1), 1, np.inf, weight="cos", wvar=u, limlst=200)
    # the series has terms up to e^10, of which rounding leaves 1e-12; the quadrature of the tail is the coarser one
    assert characteristic(np.array([u]), index)[0] == pytest.approx(integral, abs=2e-8)


@pytest.mark.parametrize("index", [1.2, 1.5, 3.0])
@pytest.mark.parametrize("batch", [16, 100])
def test_half_of_the_sampled_means_lie_below_the_median(index, batch):
    rng = np.random.default_rng(0)
    sizes = rng.random((40_000, batch)) ** (-1 / index)
    means = np.abs((sizes * rng.choice([-1, 1], sizes.shape)).mean(1))
    below = int((means < median_of_mean(batch, index)).sum())
    assert binomtest(below, len(means)).pvalue > 1e-4


@pytest.mark.parametrize("index", [1.2, 1.5, 3.0])
def test_the_local_exponent_of_the_squared_median_tends_to_its_limit(index):
    batches = 4.0 ** np.arange(2, 12)
    medians = np.array([median_of_mean(int(batch), index) for batch in batches])
    local = 2 * np.diff(np.log(medians)) / np.log(4)
    gaps = np.abs(local - exponent(index))
    assert np.all(np.diff(gaps[2:]) < 0)
    assert gaps[-1] < 5e-3


@given(st.floats(0.02, 0.2), st.integers(1, 2000))
def test_the_quartic_time_counts_steps_to_within_half_of_one(alpha, steps):
    error = 1.0
    for _ in range(steps):
        error -= alpha * error**3
    assert abs(quartic_time(np.array([error]), alpha)[0] - steps) < 0.5
    assert quartic_law(np.array([steps]), alpha)[0] == pytest.approx(error, rel=0.6 * alpha)  # half a step at most


def test_the_coupled_recurrence_is_the_algorithm_task_by_task():
    problem = cancelling_modes(kappa=10.0, s=0.9, opposed="slow")
    A, C, Q, u = (problem.data[name][0].numpy() for name in ("A", "C", "Q", "u"))
    beta, alpha, phi, theta, iterates = 2.0, 0.1, 1.0, np.zeros(2), [1.0]
    for _ in range(6):
        theta = theta - alpha * (A @ theta - C[:, 0] * phi)
        phi = phi - beta * C[:, 0] @ np.linalg.solve(A, Q @ (theta - u))
        iterates.append(phi)
    radius, found = coupled(problem, beta, alpha, 1.0, 6)
    np.testing.assert_allclose(found, iterates, rtol=1e-12)
    long = np.abs(np.diff(coupled(problem, 100.0, alpha, 1.0, 60)[1]))
    assert coupled(problem, 100.0, alpha, 1.0, 0)[0] == pytest.approx(long[-1] / long[-2], rel=1e-9)
    assert radius > 0
