"""The lower level that shortens a truncated hypergradient by an exact factor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import ConjugateGradient, Implicit, Oracle, reference
from problems import Huber, Zigzag
from problems.shortened import Shortened
from tests.independent import Dense, assert_near, norm
from tests.strategies import normal

kappas = st.floats(1.1, 200.0)


def instance(cg_steps: int, kappa: float) -> Shortened:
    return Shortened(Huber(horizon=6, gradient=2.0), cg_steps=cg_steps, kappa=kappa)


@given(cg_steps=st.integers(1, 6), kappa=kappas, phi=st.floats(-3, 3))
def test_n_cold_cg_steps_shorten_the_hypergradient_by_the_factor_of_the_theory(cg_steps, kappa, phi):
    problem = instance(cg_steps, kappa)
    oracle, at = Oracle(problem), {"phi": torch.tensor([phi], dtype=torch.float64)}
    z, theta = oracle.embed(at, oracle.pool), problem.theta0(at, oracle.pool)
    true = problem.hypergradient(at)["phi"]
    truncated = Implicit(ConjugateGradient(cg_steps)).at(oracle, z, theta, oracle.pool)
    # the error is what CG leaves: rounding of kappa <= 200 in N + 1 dimensions
    assert_near(truncated.direction["phi"], (1 - problem.relative_error) * true, within=1e-9)
    exact = Implicit(ConjugateGradient(cg_steps + 1)).at(oracle, z, theta, oracle.pool)
    assert_near(exact.direction["phi"], true, within=1e-9)


@pytest.mark.parametrize("cg_steps", [1, 4])
def test_closed_forms_equal_automatic_differentiation_and_the_reference(cg_steps):
    problem = Shortened(Zigzag(horizon=4), cg_steps=cg_steps, kappa=10.0)
    dense = Dense(problem)
    tasks = dense.tasks
    for seed in range(5):
        phi, theta, v = {"phi": normal(seed, 1)}, normal(seed + 9, 1, problem.q), normal(seed + 99, 1, problem.q)
        x = dense.vector(phi)
        z = problem.embed(phi, tasks)
        crosses = (dense.each(dense.cross, x, theta).mT @ v[..., None])[..., 0].mean(0)
        pairs = [
            (problem.lower_gradient(z, theta, tasks), dense.each(dense.lower_slope, x, theta)),
            (problem.lower_hvp(z, theta, v, tasks), (dense.each(dense.hessian, x, theta) @ v[..., None])[..., 0]),
            (problem.upper_gradient(z, theta, tasks), dense.each(dense.upper_slope, x, theta)),
            (problem.surrogate_gradient(phi, z, theta, v, tasks)["phi"], -crosses),
        ]
        exact = reference(problem, phi, tasks)
        pairs += [
            (problem.lower_solution(phi, tasks), exact.theta),
            (problem.value(phi), exact.value),
            (problem.hypergradient(phi)["phi"], exact.hypergradient["phi"]),
        ]
        for closed, independent in pairs:
            assert_near(closed, independent, within=1e-11)


@given(cg_steps=st.integers(1, 5), kappa=kappas)
def test_the_constants_are_those_of_dense_derivatives_in_the_quadratic_part(cg_steps, kappa):
    problem = instance(cg_steps, kappa)
    dense, given_ones = Dense(problem), problem.constants
    x, theta = torch.full((1,), 0.1, dtype=torch.float64), torch.zeros(1, problem.q, dtype=torch.float64)
    H, cross = dense.each(dense.hessian, x, theta), dense.each(dense.cross, x, theta)
    upper = dense.each(torch.func.jacrev(dense.upper_slope, argnums=1), x, theta)
    J = torch.linalg.solve(H, -cross)
    found = {
        "mu": float(torch.linalg.eigvalsh(H).min()),
        "L": float(torch.linalg.eigvalsh(H).max()),
        "L_c": norm(cross),
        "ell": norm(upper),
        "Lambda": norm(J.mT @ upper),
        "tau": norm(J),
        "nu": norm(torch.linalg.solve(H, upper)),
        "L_Phi": norm(J.mT @ upper @ J),
    }
    for name, number in found.items():
        assert number == pytest.approx(getattr(given_ones, name), rel=1e-9)
    far = problem.upper_gradient({"phi": x}, problem.theta0({"phi": 100 * x}, dense.tasks), dense.tasks)
    assert float(far.norm()) == pytest.approx(given_ones.B, rel=1e-9)


@pytest.mark.parametrize("arguments", [{"cg_steps": 0, "kappa": 10.0}, {"cg_steps": 2, "kappa": 1.0}])
def test_impossible_spectra_are_refused(arguments):
    with pytest.raises(ValueError, match=r"expected (kappa > 1|cg_steps an integer >= 1), got"):
        Shortened(Huber(horizon=2), **arguments)
