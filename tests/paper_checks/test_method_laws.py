"""The formulas of other methods' directions against plain loops, scipy and finite differences."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.sparse.linalg import cg

from paper_checks import method_laws as laws
from paper_checks.quadratic_theory import QuadraticTheory
from problems import Quadratic

THEORY = QuadraticTheory.of(Quadratic.random(tasks=3, p=4, q=4, kappa=10.0, initialisation=True, seed=1))
PHI = np.random.default_rng(0).standard_normal(4)
ALPHA, GAMMA = 0.12, 0.5


def upper(theory: QuadraticTheory, phi, theta) -> float:
    """mean_i f_i."""
    a, b = theta - theory.u, phi - theory.w
    return float(0.5 * (np.einsum("mi,mij,mj->m", a, theory.Q, a) + np.einsum("mi,mij,mj->m", b, theory.R, b)).mean())


def iterate(theory: QuadraticTheory, phi, steps: int, momentum: float = 0.0, theta=None):
    """theta_K, step by step."""
    theta = theory.start + theory.gain @ phi if theta is None else theta
    m = np.zeros_like(theta)
    for _ in range(steps):
        m = momentum * m + laws.apply(theory.A, theta) - (theory.C @ phi + theory.b)
        theta = theta - ALPHA * m
    return theta


def slope(objective) -> np.ndarray:
    return np.array([(objective(PHI + e) - objective(PHI - e)) / 2e-4 for e in 1e-4 * np.eye(4)])  # exact: quadratic


@pytest.mark.parametrize("momentum", [0.0, GAMMA])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_unrolled_is_the_slope_of_the_objective_after_k_steps(steps, momentum):
    remaining = laws.heavy_ball(THEORY, steps, ALPHA, momentum)
    assert np.allclose(laws.moved(THEORY, PHI, remaining), iterate(THEORY, PHI, steps, momentum), atol=1e-12)
    expected = slope(lambda phi: upper(THEORY, phi, iterate(THEORY, phi, steps, momentum)))
    assert np.allclose(laws.unrolled(THEORY, PHI, remaining), expected, atol=1e-8)
    if momentum == 0:
        assert np.allclose(remaining, THEORY.contraction(steps, ALPHA), atol=1e-13)


@pytest.mark.parametrize(("steps", "last"), [(6, 0), (6, 2), (6, 6), (6, 9)])
def test_truncated_is_the_slope_through_the_last_steps(steps, last):
    held = iterate(THEORY, PHI, steps - last) if last < steps else None
    expected = slope(lambda phi: upper(THEORY, phi, iterate(THEORY, phi, min(last, steps), theta=held)))
    assert np.allclose(laws.truncated(THEORY, PHI, steps, last, ALPHA), expected, atol=1e-8)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 9])
def test_galerkin_solutions_are_those_of_scipys_cg(steps):
    b = laws.upper_slope(THEORY, THEORY.lower_optimum(PHI))
    for A, right, v in zip(THEORY.A, b, laws.krylov(THEORY, b, steps), strict=True):
        expected, _ = cg(A, right, rtol=0.0, atol=0.0, maxiter=min(steps, 4))
        assert np.allclose(v, expected, atol=1e-11)


@pytest.mark.parametrize("terms", [0, 1, 6])
def test_a_series_is_its_sum(terms):
    total = sum((ALPHA * np.linalg.matrix_power(np.eye(4) - ALPHA * THEORY.A, j) for j in range(terms)), 0 * THEORY.A)
    assert np.allclose(laws.series(THEORY, terms, ALPHA), total, atol=1e-12)


@pytest.mark.parametrize("multiplier", [0.5, 10.0])
def test_the_penalty_is_the_slope_of_its_objective(multiplier):
    def objective(phi):
        linear = THEORY.C @ phi + THEORY.b
        y = np.linalg.solve(
            THEORY.Q + multiplier * THEORY.A, (laws.apply(THEORY.Q, THEORY.u) + multiplier * linear)[..., None]
        )[..., 0]
        g = [
            0.5 * np.einsum("mi,mij,mj->m", x, THEORY.A, x) - (linear * x).sum(1)
            for x in (y, THEORY.lower_optimum(phi))
        ]
        return upper(THEORY, phi, y) + multiplier * (g[0] - g[1]).mean()

    assert np.allclose(laws.penalty(THEORY, PHI, multiplier), approx_fprime(PHI, objective, 1e-7), atol=1e-4)
    assert np.allclose(laws.penalty(THEORY, PHI, multiplier), slope(objective), atol=1e-7)


def test_the_error_of_the_penalty_falls_like_its_inverse():
    errors = [np.linalg.norm(laws.penalty(THEORY, PHI, x) - THEORY.gradient(PHI)) for x in (1e3, 2e3)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=1e-2)


def test_exact_v_gives_the_gradient_and_the_displacement_is_the_way_back():
    v = np.linalg.solve(THEORY.A, laws.upper_slope(THEORY, THEORY.lower_optimum(PHI))[..., None])[..., 0]
    assert np.allclose(laws.implicit(THEORY, PHI, v), THEORY.gradient(PHI), atol=1e-12)
    found = laws.displacement(THEORY, PHI, THEORY.contraction(3, ALPHA))
    assert np.allclose(found, PHI - iterate(THEORY, PHI, 3).mean(0), atol=1e-12)
