"""The Lyapunov function measured two ways, its constants, and Lemma 2, against what they promise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import MemoryReduced, Oracle, run
from paper_checks.lyapunov import (
    Drift,
    Lyapunov,
    dense_system,
    drift_probe,
    potential,
    reference_potential,
    upper_minimum,
)
from problems import PROBLEMS, Constants, ProxLogistic, Quadratic
from tests.strategies import normal
from tests.twins import Twin

seeds = st.integers(0, 1000)


@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_the_step_size_obeys_both_of_its_bounds_and_grows_with_more_steps(seed, K, N):
    constants = Quadratic.random(tasks=3, p=3, q=8, kappa=10.0, seed=seed).constants
    alpha = constants.lower_step_size
    fewer = Lyapunov.of(constants, lower_steps=K, cg_steps=N, lower_step_size=alpha)
    more = Lyapunov.of(constants, lower_steps=K + 1, cg_steps=N + 1, lower_step_size=alpha)
    exact = Lyapunov.of(constants, lower_steps=K, cg_steps=N, lower_step_size=alpha, exact_v=True)
    assert 0 < fewer.largest_step <= more.largest_step <= 1 / (2 * constants.L_Phi)
    assert fewer.largest_step <= exact.largest_step
    assert fewer.drift == np.inf


def test_the_constants_of_a_curved_lower_level_by_hand():
    c = Constants(mu=1.0, L=3.0, L_c=2.0, rho_1=0.0, rho_2=0.5, Lambda=1.5, tau=2.0, nu=0.7, L_Phi=4.0)
    # alpha = 1/2: varrho = 1/2, K = 2: 1/4. chi_1 = (kappa - 1)/(kappa + 1) = 1/2, chi_hat = 3/4
    found = Lyapunov.of(c, lower_steps=2, cg_steps=1, lower_step_size=0.5)
    c_a, c_b = (1 / 16) * 4 / (3 / 4), (1 / 4) * 3 * 0.49 / (1 / 4)
    Q = 4 / (1 / 4)
    P = (2.25 + 8 * Q * c_b) / (3 / 4)
    W = P * c_a + 2 * 5**2 * Q * c_b
    assert pytest.approx((P, Q), rel=1e-12) == (found.P, found.Q)
    assert found.largest_step == pytest.approx(min(1 / 8, 1 / (2 * W**0.5)), rel=1e-12)
    assert found.drift == pytest.approx(1 * (1 / 2) / (1 / 2 * 0.5), rel=1e-12)


def test_v_that_moves_with_theta_alone_allows_a_larger_step_and_a_constant_hessian_does_not_say_so():
    c = Constants(mu=1.0, L=3.0, L_c=2.0, rho_1=0.0, rho_2=0.0, Lambda=1.5, tau=2.0, nu=0.7, L_Phi=4.0)
    steps = {"lower_steps": 2, "cg_steps": 1, "lower_step_size": 0.5}
    general, alone = (Lyapunov.of(c, **steps, theta_alone=choice) for choice in (False, True))
    # f = 1/2 |theta|^2 + phi'theta has df/dtheta = theta + phi: rho_2 = 0, and v* moves with phi too
    assert Lyapunov.of(c, **steps) == general
    c_a, c_b, Q = (1 / 16) * 4 / (3 / 4), (1 / 4) * 3 * 0.49 / (1 / 2), 4 / (1 / 2)
    P = (2.25 + 8 * Q * c_b) / (3 / 4)
    for found, moves in ((general, 1 + 2 * 2), (alone, 2 * 2)):
        assert (found.P, found.Q) == pytest.approx((P, Q), rel=1e-12)
        W = P * c_a + 2 * moves**2 * Q * c_b
        assert found.largest_step == pytest.approx(1 / (2 * W**0.5), rel=1e-12)


def test_both_potentials_agree_on_a_quadratic():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=4.0, seed=2)
    alpha = problem.constants.lower_step_size
    lyapunov = Lyapunov.of(problem.constants, lower_steps=2, cg_steps=1, lower_step_size=alpha)
    twin = Twin(problem)
    minimum = upper_minimum(twin, twin.phi0(torch.Generator().manual_seed(0)))
    assert minimum == pytest.approx(float(problem.value(problem.upper_solution())), rel=1e-12)
    method = MemoryReduced(lower_steps=2, lower_step_size=alpha, cg_steps=1, upper_step_size=0.1)
    closed = run(problem, method, iterations=5, probes=(potential(problem, 0.1, lyapunov),)).trace["V"]
    general = run(twin, method, iterations=5, probes=(reference_potential(twin, minimum, 0.1, lyapunov),)).trace["V"]
    np.testing.assert_allclose(general, closed, rtol=1e-10)


@pytest.mark.parametrize("name", ["quadratic", "prox-logistic", "prox-softmax"])
def test_the_dense_system_is_that_of_the_oracle(name):
    problem = PROBLEMS[name](0)
    oracle = Oracle(problem)
    phi = {n: normal(0, *like.shape) for n, like in problem.phi0(torch.Generator()).items()}
    theta, v = normal(1, 2, problem.tasks, problem.q)
    z = oracle.embed(phi, oracle.pool)
    H, slope = dense_system(problem, phi, theta, oracle.pool)
    product = oracle.lower_hessian(z, theta, oracle.pool)(v)
    torch.testing.assert_close(torch.einsum("mij,mj->mi", H, v), product, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(slope, oracle.upper_gradient(z, theta, oracle.pool), rtol=1e-11, atol=1e-12)


def test_the_drift_is_the_way_of_phi_and_of_the_farthest_theta():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=4.0, seed=1)
    states = []

    def keep(snapshot):
        states.append((snapshot.phi["phi"], snapshot.step.theta))
        return torch.zeros((), dtype=torch.float64)

    method = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.1)
    drift = run(problem, method, iterations=4, probes=(drift_probe(), keep)).trace["drift"]
    assert drift[0] == 0
    for t in range(1, 4):
        way = np.linalg.norm(states[t][0] - states[t - 1][0])
        farthest = np.linalg.norm(states[t][1] - states[t - 1][1], axis=-1).max()
        assert float(drift[t]) == pytest.approx(way + farthest, rel=1e-12)


def test_lemma_2_asks_for_more_first_steps_from_farther_and_a_smaller_beta_for_larger_directions():
    constants = ProxLogistic.random(tasks=3, q=3, examples=9, prox=0.5, seed=0).constants
    options = {"lower_steps": 2, "cg_steps": 1, "lower_step_size": constants.lower_step_size, "v_error": 0.0}
    near = Drift.of(constants, **options, slope=0.0, distance=1e-6)
    far = Drift.of(constants, **options, slope=0.0, distance=1e3)
    steep = Drift.of(constants, **options, slope=100.0, distance=1e-6)
    assert near.first_steps == 0 < far.first_steps
    assert steep.largest_step < near.largest_step == far.largest_step
    varrho = constants.lower_contraction(constants.lower_step_size)
    s_bar = Lyapunov.of(constants, lower_steps=2, cg_steps=1, lower_step_size=constants.lower_step_size).drift
    assert 1e3 * varrho**far.first_steps <= s_bar / 4 < 1e3 * varrho ** (far.first_steps - 1)


def test_a_minimum_that_is_not_reached_is_refused():
    problem = PROBLEMS["prox-logistic"](0)
    with pytest.raises(ValueError, match=r"expected BFGS to reach \|grad Phi\| <= 1e-7, got"):
        upper_minimum(problem, problem.phi0(torch.Generator()), iterations=1)
