"""Exact moments against all batches, enumerated and followed step by step."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_checks.quadratic_theory import QuadraticTheory, zeta
from paper_checks.stochastic_theory import (
    RandomAffine,
    StaleBound,
    batch_moments,
    fourth_moment_radius,
    stale_moments,
    task_variance,
)
from problems import Quadratic

seeds = st.integers(0, 1000)
START = np.array([1.5, -0.5])


def all_batches(pool, batch, *, replacement):
    return list(product(range(pool), repeat=batch) if replacement else combinations(range(pool), batch))


def small(seed, tasks=3):
    problem = Quadratic.random(tasks=tasks, p=2, q=2, kappa=3.0, seed=seed)
    return QuadraticTheory.of(problem), 0.8 / problem.constants.L_Phi


def squares(theory, phi):
    return np.square(theory.gradient(phi)).sum()


@given(seeds, st.booleans(), st.sampled_from([None, 2]))
def test_the_moments_of_batches_are_those_of_every_sequence_of_batches(seed, replacement, lower_steps):
    theory, beta = small(seed)
    H, h = theory.direction(lower_steps, 0.4)
    batches = [list(batch) for batch in all_batches(3, 2, replacement=replacement)]
    points = [START]
    expected = []
    for _ in range(4):
        expected.append(np.mean([squares(theory, phi) for phi in points]))
        points = [phi - beta * (H[b] @ phi - h[b]).mean(0) for phi in points for b in batches]
    share = zeta(2, 3, replacement=replacement)
    moments = batch_moments(theory, beta, share, lower=(lower_steps, 0.4))
    np.testing.assert_allclose(moments.curve(START, 4), expected, rtol=1e-10)


@given(seeds, st.sampled_from([1, 2, 3]), st.sampled_from([1, 3]))
def test_the_stale_moments_are_those_of_every_sequence_of_subsets_replayed(seed, batch, K):
    theory, beta = small(seed)
    subsets = [np.array(subset) for subset in all_batches(3, batch, replacement=False)]
    # N = q: scipy's conjugate gradients make v exact
    paths = [
        theory.replay(START, sequence, K=K, N=2, lower_step_size=0.4, upper_step_size=beta)
        for sequence in product(subsets, repeat=3)
    ]
    expected = np.mean([[squares(theory, phi) for phi in path] for path in paths], axis=0)
    moments = stale_moments(theory, beta, batch, lower=(K, 0.4))
    found = moments.curve(np.concatenate([START, np.zeros(6)]), 4)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_curve_ends_at_the_stationary_moment(batch):
    theory, beta = small(3)
    for moments, start in (
        (batch_moments(theory, beta, zeta(batch, 3, replacement=False), lower=(2, 0.4)), START),
        (stale_moments(theory, beta, batch, lower=(1, 0.4)), np.ones(8)),
    ):
        assert moments.radius < 1
        assert moments.curve(start, 2000)[-1] == pytest.approx(moments.stationary, rel=1e-10)


def test_many_lower_steps_leave_neither_bias_nor_staleness():
    theory, beta = small(4)
    exact = batch_moments(theory, beta, zeta(1, 3, replacement=False)).stationary
    cold = batch_moments(theory, beta, zeta(1, 3, replacement=False), lower=(60, 0.4))
    stale = stale_moments(theory, beta, 1, lower=(60, 0.4))
    assert cold.stationary == pytest.approx(exact, rel=1e-9)
    assert stale.stationary == pytest.approx(exact, rel=1e-9)
    few = batch_moments(theory, beta, 1.0, lower=(2, 0.4))
    assert np.linalg.norm(few.gradient) > 1e-3


def test_a_process_in_one_dimension_has_the_moments_of_its_geometric_law():
    maps, shifts = np.array([[[0.5]], [[-0.9]]]), np.array([[1.0], [-1.0]])
    process = RandomAffine.of_maps(maps, shifts)
    square = (0.25 + 0.81) / 2
    assert process.radius == pytest.approx(square)
    assert process.stationary[0, 0] == pytest.approx(1 / (1 - square))
    assert fourth_moment_radius(maps) == pytest.approx((0.5**4 + 0.9**4) / 2)


@given(seeds)
def test_the_fourth_moment_is_that_of_the_moments_of_all_products(seed):
    maps = np.random.default_rng(seed).standard_normal((3, 2, 2))
    operator = np.mean([np.kron(np.kron(T, T), np.kron(T, T)) for T in maps], axis=0)
    assert fourth_moment_radius(maps) == pytest.approx(np.abs(np.linalg.eigvals(operator)).max(), rel=1e-9)


def test_no_stationary_moment_beyond_the_mean_square_limit():
    process = RandomAffine.of_maps(np.array([[[1.3]], [[-0.8]]]), np.array([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="mean-square stable"):
        _ = process.stationary


@given(seeds, st.sampled_from([1, 2]))
def test_the_variance_of_a_task_is_that_along_every_sequence_of_batches(seed, batch):
    theory, beta = small(seed)
    H, h = theory.direction()
    subsets = [list(subset) for subset in all_batches(3, batch, replacement=False)]
    points, expected = [START], []
    for _ in range(3):
        each = np.stack([H @ phi - h for phi in points])
        expected.append(np.square(each - each.mean(1, keepdims=True)).sum(-1).mean())
        points = [phi - beta * (H[b] @ phi - h[b]).mean(0) for phi in points for b in subsets]
    moments = batch_moments(theory, beta, zeta(batch, 3, replacement=False))
    np.testing.assert_allclose(task_variance(theory, moments, START, 3), expected, rtol=1e-9)


@given(seeds)
def test_with_all_tasks_the_stale_map_is_the_warm_map(seed):
    theory, beta = small(seed)
    mean = stale_moments(theory, beta, 3, lower=(2, 0.4)).process.mean
    np.testing.assert_allclose(mean, theory.warm_map(2, 0.4, beta), atol=1e-13)


@given(seeds, st.integers(1, 4), st.sampled_from([1, 3, 10]), st.floats(1.5, 30.0), st.floats(0.1, 1.0))
def test_exact_averages_obey_theorem_4b_at_every_horizon(seed, batch, K, kappa, share):
    problem = Quadratic.random(tasks=4, p=2, q=2, kappa=kappa, seed=seed)
    theory, constants = QuadraticTheory.of(problem), problem.constants
    lower = (K, constants.lower_step_size)
    bound = StaleBound.of(constants, pool=4, batch=batch, lower=lower)
    beta = share * bound.largest_step
    moments = stale_moments(theory, beta, batch, lower=lower)
    state = np.concatenate([START, np.zeros(8)])
    H, h = theory.upper_form
    away = START - np.linalg.solve(H, h)
    stale = np.square(theory.lower_optimum(START)).sum(-1).mean()
    noise = zeta(batch, 4, replacement=False) * task_variance(theory, moments, state, 60)
    averages = np.cumsum(moments.curve(state, 60)) / np.arange(1, 61)
    assert (averages <= bound.average(beta, away @ H @ away / 2, stale, noise)).all()


def test_the_step_of_theorem_4b_is_the_smaller_of_its_two_limits():
    constants = Quadratic.random(tasks=4, p=2, q=2, kappa=9.0, seed=1).constants
    alpha = constants.lower_step_size
    varrho, gamma = 0.8, 2 / 8 * (1 - 0.8**2)  # (kappa - 1) / (kappa + 1); b of M = 2 of 4
    few = StaleBound.of(constants, pool=4, batch=2, lower=(1, alpha)).largest_step
    assert few == pytest.approx(gamma / (4 * constants.Lambda * varrho * constants.tau))
    many = StaleBound.of(constants, pool=4, batch=2, lower=(60, alpha)).largest_step
    assert many == pytest.approx(1 / (2 * constants.L_Phi))
