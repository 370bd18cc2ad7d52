"""The Lyapunov function measured two ways, its constants, and Lemma 2, against what they promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import MemoryReduced, Oracle, reference, run
from paper_checks.far_heads import FarStart
from paper_checks.lyapunov import (
    Drift,
    Lyapunov,
    dense_system,
    drift_probe,
    error_probes,
    potential,
    reference_potential,
    upper_minimum,
)
from problems import PROBLEMS, Constants, Quadratic
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
        assert pytest.approx((P, Q), rel=1e-12) == (found.P, found.Q)
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


def test_the_constants_of_lemma_2_by_hand():
    c = Constants(mu=1.0, L=3.0, L_c=2.0, rho_1=0.0, rho_2=0.5, B=0.4, Lambda=1.5, tau=2.0, nu=0.7, L_Phi=4.0)
    # varrho = 1/2, K = 2: 1/4; chi_1 = 1/2, s_bar = 1 * (1/2) / (1/2 * 1/2) = 2
    found = Drift.of(c, lower_steps=2, cg_steps=1, lower_step_size=0.5, slope=0.3)
    E_bar = max(0.4, 2 * 3**0.5 * 0.7 / 0.5)
    D_bar = 0.3 + 2 * (0.4 + E_bar)
    assert (found.allowed, found.v_error, found.direction) == pytest.approx((2.0, E_bar, D_bar), rel=1e-12)
    assert found.largest_step == pytest.approx(2 / 2 / (D_bar * (1 + 4 + 2 * (1 / 4) * 2 / (3 / 4))), rel=1e-12)
    # s_bar / 4 = 1/2 from 8 by halving: 4 steps; from a little more 5, from nearby none
    steps = [found.first_steps(c, lower_step_size=0.5, distance=distance) for distance in (8.0, 8.1, 0.5, 1e-6)]
    assert steps == [4, 5, 0, 0]
    # Where v* is far the start of v decides: |v^0 - v*_0| <= B / sqrt(mu)
    far = Drift.of(replace(c, B=1e3), lower_steps=2, cg_steps=1, lower_step_size=0.5, slope=0.0)
    assert far.v_error == pytest.approx(1e3, rel=1e-12)


def test_the_error_probes_measure_theta_and_v_of_the_worst_task():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=4.0, seed=1)
    pool, states = problem.sample(None, torch.Generator()), []

    def keep(snapshot):
        states.append((snapshot.phi, snapshot.step.theta, snapshot.step.v))
        return torch.zeros((), dtype=torch.float64)

    method = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.1)
    trace = run(problem, method, iterations=3, probes=(*error_probes(problem), keep)).trace
    for t, (phi, theta, v) in enumerate(states):
        away = theta - problem.lower_solution(phi, pool)
        e = v - torch.linalg.solve(pool.A, torch.einsum("mij,mj->mi", pool.Q, theta - pool.u))
        energy = torch.einsum("mi,mij,mj->m", e, pool.A, e)
        assert float(trace["theta_error"][t]) == pytest.approx(float(away.norm(dim=-1).max()), rel=1e-9)
        assert float(trace["v_error"][t]) == pytest.approx(float(energy.max()) ** 0.5, rel=1e-9)


def test_the_pull_of_far_heads_is_bounded_by_its_slope_and_its_curvature():
    problem = FarStart.of(lower_steps=3, cg_steps=1, pull=5.0, seed=1).problem
    heads = FarStart.of(lower_steps=3, cg_steps=1, pull=0.0, seed=1).problem
    pool, theta = problem.sample(None, torch.Generator()), torch.zeros(problem.tasks, problem.q, dtype=torch.float64)

    def pull(x):
        return (problem.upper({"centre": x}, theta, pool) - heads.upper({"centre": x}, theta, pool)).mean()

    for size in (0.0, 1e-3, 1.0, 100.0):
        x = size * problem.width * normal(3, problem.q)
        assert float(torch.func.grad(pull)(x).norm()) <= problem.slope
        curvature = torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(pull))(x))
        assert float(curvature.max()) <= problem.slope / problem.width * (1 + 1e-9)
        away = problem.width * ((1 + (x / problem.width).square().sum()) ** 0.5 - 1)
        assert float(pull(x)) == pytest.approx(problem.slope * float(away), rel=1e-6, abs=1e-9)
    assert problem.constants.kappa == pytest.approx(2.0, rel=1e-12)
    assert problem.constants.L_Phi == pytest.approx(heads.constants.L_Phi + problem.slope / problem.width, rel=1e-12)


def test_without_the_first_steps_the_drift_condition_of_lemma_2_breaks():
    far = FarStart.of(lower_steps=1, cg_steps=1, pull=0.0, seed=0)
    method = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=far.lemma.largest_step)

    def drift():
        trace = run(far.problem, method, iterations=3, phi0=far.phi, probes=(drift_probe(), *error_probes(far.problem)))
        return float(trace.trace["drift"].max()) / far.lemma.allowed, float(trace.trace["theta_error"][0])

    kept, error = drift()
    assert far.first_steps == 3
    assert error == pytest.approx(far.lemma.allowed / 4, rel=1e-6)  # the losses are flat: no slack in the start
    assert kept < 1
    # As far out as theta was before the first steps, which lie in a line with theta* where the losses are flat
    star = reference(far.problem, far.phi, far.problem.sample(None, torch.Generator())).theta
    varrho = far.problem.constants.lower_contraction(far.problem.constants.lower_step_size)
    far.problem.start = star + (far.problem.start - star) / varrho ** (far.first_steps - 1)
    assert drift()[0] > 1


def test_a_minimum_that_is_not_reached_is_refused():
    problem = PROBLEMS["prox-logistic"](0)
    with pytest.raises(ValueError, match=r"expected BFGS to reach \|grad Phi\| <= 1e-7, got"):
        upper_minimum(problem, problem.phi0(torch.Generator()), iterations=1)
