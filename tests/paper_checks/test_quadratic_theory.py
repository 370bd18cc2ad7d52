"""The closed forms that claims predict with, against brute force that shares nothing with them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.chebyshev import Chebyshev as Polynomial

from paper_checks.quadratic_theory import Chebyshev, QuadraticTheory, chi, cold_cg_problem, slowest_start, zeta
from problems import LearnedStart, ProxLogistic, Quadratic

seeds = st.integers(0, 1000)


@given(st.integers(1, 15), st.floats(1.1, 100.0))
def test_chi_is_one_over_the_chebyshev_polynomial(steps, kappa):
    assert chi(steps, kappa) == pytest.approx(1 / Polynomial.basis(steps)((kappa + 1) / (kappa - 1)), rel=1e-9)


@given(seeds)
def test_the_contraction_is_the_matrix_power(seed):
    theory = QuadraticTheory.of(Quadratic.random(tasks=2, p=2, q=4, kappa=10.0, seed=seed))
    power = [np.linalg.matrix_power(np.eye(4) - 0.1 * A, 7) for A in theory.A]
    np.testing.assert_allclose(theory.contraction(7, 0.1), power, atol=1e-13)


@given(seeds, st.booleans())
def test_the_cold_fixed_point_is_where_the_affine_iteration_rests(seed, initialisation):
    theory = QuadraticTheory.of(
        Quadratic.random(tasks=3, p=3, q=3, kappa=3.0, seed=seed, initialisation=initialisation)
    )
    limit, _ = theory.cold_fixed_point(4, 0.4)
    directions = []
    for i in range(3):  # four gradient steps by hand, then the exact v
        theta = theory.start[i] + theory.gain[i] @ limit
        for _ in range(4):
            theta = theta - 0.4 * (theory.A[i] @ theta - theory.C[i] @ limit - theory.b[i])
        v = np.linalg.solve(theory.A[i], theory.Q[i] @ (theta - theory.u[i]))
        directions.append(theory.R[i] @ (limit - theory.w[i]) + theory.C[i].T @ v)
    np.testing.assert_allclose(np.mean(directions, 0), 0, atol=1e-11)


@given(seeds, st.integers(1, 8), st.booleans())
def test_additive_noise_has_the_diagonal_moment(seed, batch, replacement):
    problem = Quadratic.random(tasks=9, p=3, q=3, kappa=2.0, equal_hessians=True, seed=seed)
    theory = QuadraticTheory.of(problem)
    beta, share = 0.7 / problem.constants.L_Phi, zeta(batch, 9, replacement=replacement)
    H, h = theory.upper_form
    H_i, h_i = theory.direction()
    noise = H_i @ np.linalg.solve(H, h) - h_i
    eigenvalues, vectors = np.linalg.eigh(H)
    variances = np.diag(vectors.T @ (noise.T @ noise / 9) @ vectors)
    expected = share * (beta * eigenvalues / (2 - beta * eigenvalues) * variances).sum()
    assert theory.stationary_moment(beta, share)[0] == pytest.approx(expected, rel=1e-10)


def test_the_stationary_moment_of_unequal_hessians_is_that_of_all_batches_enumerated():
    problem = Quadratic.random(tasks=4, p=2, q=2, kappa=2.0, seed=5)
    theory = QuadraticTheory.of(problem)
    beta = 0.8 / problem.constants.L_Phi
    H_i, h_i = theory.direction()
    H, h = theory.upper_form
    optimum = np.linalg.solve(H, h)
    X = np.zeros((2, 2))
    pairs = [(i, j) for i in range(4) for j in range(i)]  # batches of 2 without replacement
    for _ in range(2000):
        total = np.zeros((2, 2))
        for i, j in pairs:
            A = np.eye(2) - beta * (H_i[i] + H_i[j]) / 2
            g = ((H_i[i] @ optimum - h_i[i]) + (H_i[j] @ optimum - h_i[j])) / 2
            total += A @ X @ A.T + beta**2 * np.outer(g, g)
        X = total / len(pairs)
    moment, radius = theory.stationary_moment(beta, zeta(2, 4, replacement=False))
    assert moment == pytest.approx(np.trace(H @ X @ H), rel=1e-10)
    assert radius < 1


def test_a_step_size_without_a_second_moment_is_refused():
    problem = Quadratic.random(tasks=4, p=2, q=2, kappa=2.0, seed=5)
    with pytest.raises(ValueError, match="mean-square stable"):
        QuadraticTheory.of(problem).stationary_moment(3 / problem.constants.L_Phi, 1.0)


def test_the_chebyshev_spectrum_has_both_ends_and_the_floor_vanishes_with_chi():
    spectrum = Chebyshev.of(6, 50.0)
    assert spectrum.eigenvalues.max() == pytest.approx(50)
    assert spectrum.eigenvalues.min() == pytest.approx(1)
    floors = [cold_cg_problem(N, 10.0, R=1.0, w=1.0, u0=0.0)[1] for N in (1, 3, 6, 9)]
    assert all(b < a for a, b in itertools.pairwise(floors))


@given(seeds, st.integers(1, 4))
def test_the_warm_map_moves_the_difference_of_two_replayed_runs(seed, K):
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=5.0, seed=seed)
    theory, rng = QuadraticTheory.of(problem), np.random.default_rng(seed)
    steps = {"K": K, "N": 3, "lower_step_size": 0.3, "upper_step_size": 0.2}
    first, second = (theory.replay(rng.standard_normal(2), 5 * [np.arange(3)], **steps) for _ in range(2))
    z = np.concatenate([second[0] - first[0], np.zeros(9)])  # both start at theta = 0
    for t in range(6):
        np.testing.assert_allclose(z[:2], second[t] - first[t], atol=1e-11)
        z = theory.warm_map(K, 0.3, 0.2) @ z


@given(seeds, st.booleans(), st.integers(0, 5))
def test_the_unrolled_form_is_the_gradient_of_the_objective_after_k_steps(seed, initialisation, K):
    problem = Quadratic.random(tasks=3, p=3, q=3, kappa=5.0, seed=seed, initialisation=initialisation)
    theory = QuadraticTheory.of(problem)

    def objective(phi):
        total = 0.0
        for i in range(3):
            theta = theory.start[i] + theory.gain[i] @ phi
            for _ in range(K):
                theta = theta - 0.3 * (theory.A[i] @ theta - theory.C[i] @ phi - theory.b[i])
            for matrix, vector in ((theory.Q[i], theta - theory.u[i]), (theory.R[i], phi - theory.w[i])):
                total += vector @ matrix @ vector / 6
        return total

    phi = np.random.default_rng(seed).standard_normal(3)
    # Exact for a quadratic, up to rounding of the values over the width of the difference
    gradient = [(objective(phi + e) - objective(phi - e)) / 2 for e in np.eye(3)]
    H, h = (x.mean(0) for x in theory.unrolled_form(K, 0.3))
    np.testing.assert_allclose(H @ phi - h, gradient, atol=1e-10)


@pytest.mark.parametrize("kappa", [3.0, 100.0])
def test_the_slowest_start_is_off_the_optimum_along_the_eigenvector_of_mu(kappa):
    problem, phi = slowest_start(kappa, np.random.default_rng(0), distance=2.0)
    theory = QuadraticTheory.of(problem)
    off = (theory.start - theory.lower_optimum(phi))[0]
    np.testing.assert_allclose(theory.A[0] @ off, off, atol=1e-13 * kappa)
    assert np.linalg.norm(off) == pytest.approx(2.0, rel=1e-12)
    H, h = theory.direction(5, 1 / kappa)
    error = H[0] @ phi - h[0] - theory.gradient(phi)
    assert np.linalg.norm(error) == pytest.approx(2.0 * (1 - 1 / kappa) ** 5, rel=1e-10)


@given(seeds)
def test_a_learned_start_is_a_part_of_phi_that_theta_0_alone_sees(seed):
    inside = Quadratic.random(tasks=3, p=2, q=4, kappa=5.0, seed=seed)
    theory, bare = QuadraticTheory.of(LearnedStart(inside)), QuadraticTheory.of(inside)
    x = np.random.default_rng(seed).standard_normal(6)
    np.testing.assert_allclose(theory.gradient(x), [*bare.gradient(x[:2]), 0, 0, 0, 0], atol=1e-13)
    by_hand = np.broadcast_to(x[2:], (3, 4))
    for _ in range(3):
        by_hand = by_hand - 0.2 * (np.einsum("mij,mj->mi", bare.A, by_hand) - bare.C @ x[:2] - bare.b)
    np.testing.assert_allclose(theory.cold_iterate(x, 3, 0.2), by_hand, atol=1e-13)


def test_there_is_no_theory_of_other_problems():
    with pytest.raises(TypeError, match="expected a Quadratic or a LearnedStart of one, got ProxLogistic"):
        QuadraticTheory.of(LearnedStart(ProxLogistic.random(tasks=2, q=2, examples=4)))
