from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence import ReferenceFailed, reference
from problems import PROBLEMS, ProxLogistic, Quadratic
from tests.independent import EPS, Dense, assert_near
from tests.strategies import normal, quadratics, seeds
from tests.twins import Scalar, Twin, UserRidge


def all_tasks(problem):
    return problem.sample(None, torch.Generator())


@given(problem=quadratics(), seed=seeds)
def test_on_a_quadratic_without_its_closed_forms_the_reference_equals_them(problem, seed):
    phi = {"phi": normal(seed, problem.p)}
    exact = reference(Twin(problem), phi, all_tasks(problem))
    # Newton ends with a full step from a residual of 1e-13; kappa <= 30
    assert_near(exact.theta, problem.lower_solution(phi, all_tasks(problem)), within=1e-11)
    assert_near(exact.value, problem.value(phi), within=1e-11)
    assert_near(exact.hypergradient["phi"], problem.hypergradient(phi)["phi"], within=1e-10)
    Q, u, A = (problem.data[name] for name in "QuA")
    v = torch.linalg.solve(A, Q @ (exact.theta - u).unsqueeze(-1)).squeeze(-1)
    assert_near(exact.v, v, within=1e-10)


@settings(max_examples=10)  # five references each
@given(seed=seeds, size=st.sampled_from([0.1, 1.0, 10.0]))
def test_on_logistic_heads_it_equals_finite_differences_of_the_upper_objective(seed, size):
    problem = ProxLogistic.random(tasks=3, q=3, examples=8, prox=0.3, seed=seed)
    tasks, phi, d = all_tasks(problem), size * normal(seed, 3), normal(seed + 1, 3)

    def upper(t: float) -> float:
        return float(reference(problem, {"centre": phi + t * d}, tasks).value)

    # Richardson: the error is h^4 times a fifth derivative, below 1e-7, and 1e-16 |Phi| / h of rounding
    h = 1e-2
    estimate = (8 * (upper(h) - upper(-h)) - (upper(2 * h) - upper(-2 * h))) / (12 * h)
    slope = float(reference(problem, {"centre": phi}, tasks).hypergradient["centre"] @ d)
    assert slope == pytest.approx(estimate, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", [*PROBLEMS, "user-ridge"])
@pytest.mark.parametrize("far", [0.0, 100.0])
def test_the_lower_level_is_solved_to_rounding_from_wherever_newton_starts(name, far):
    problem = UserRidge().to(dtype=torch.float64) if name == "user-ridge" else PROBLEMS[name](0)
    dense, tasks = Dense(problem), all_tasks(problem)
    phi = {n: normal(0, *tensor.shape) for n, tensor in dense.like.items()}
    start = far * normal(1, problem.tasks, problem.q)
    exact = reference(problem, phi, tasks, start=start)
    x = dense.vector(phi)
    slope, scale = dense.each(dense.lower_slope, x, exact.theta), dense.each(dense.hessian, x, exact.theta)
    limit = 1e-14 * (1 + torch.linalg.matrix_norm(scale) * exact.theta.norm(dim=-1))
    assert bool((slope.norm(dim=-1) <= 10 * limit).all())  # quadratic convergence: one step below the 1e-13 asked for
    plain = reference(problem, phi, tasks)
    assert_near(exact.theta, plain.theta, within=1e-12)
    for n, tensor in plain.hypergradient.items():
        assert_near(exact.hypergradient[n], tensor, within=1e-11)


def test_newton_ends_at_rounding_and_not_at_the_residual_it_asks_for():
    # of 60 starts some arrive between the two: 1e-13 asked for, and a few roundings of cosh and tanh
    def lower(x, theta):
        return torch.logaddexp(theta - x, x - theta) + 0.1 * theta.square()

    problem = Scalar(lower, lambda x, theta: theta)
    dense, tasks, phi = Dense(problem), all_tasks(problem), {"x": torch.tensor([0.7], dtype=torch.float64)}
    for start in torch.linspace(-2, 3, 60, dtype=torch.float64):
        theta = reference(problem, phi, tasks, start=start.expand(2, 1)).theta
        assert float(dense.each(dense.lower_slope, phi["x"], theta).abs().max()) <= 10 * EPS


def test_the_mean_is_over_the_tasks_given():
    problem = Quadratic.random(tasks=4, p=2, q=3, kappa=5.0)
    phi, tasks = {"phi": normal(0, 2)}, all_tasks(problem)
    singles = [reference(problem, phi, tasks[i : i + 1]) for i in (1, 3)]
    both = reference(problem, phi, tasks[torch.tensor([1, 3])])
    assert_near(both.value, (singles[0].value + singles[1].value) / 2, within=1e-13)
    mean = (singles[0].hypergradient["phi"] + singles[1].hypergradient["phi"]) / 2
    assert_near(both.hypergradient["phi"], mean, within=1e-13)


def test_undamped_newton_fails_where_the_reference_does_not():
    # g = log(2 cosh(theta - x)) + 0.01 (theta - x)^2: full steps from afar overshoot ever more
    def lower(x, theta):
        gap = theta - x
        return torch.logaddexp(gap, -gap) + 0.01 * gap.square()

    problem = Scalar(lower, lambda x, theta: theta.square() / 2)
    phi, start = {"x": torch.tensor([0.5], dtype=torch.float64)}, torch.full((2, 1), 3.0, dtype=torch.float64)
    dense, theta = Dense(problem), start
    x = dense.vector(phi)
    for _ in range(3):
        slope = dense.each(dense.lower_slope, x, theta)
        theta = theta - slope / dense.each(dense.hessian, x, theta).squeeze(-1)
    assert float(theta.abs().min()) > 10  # the control: without damping the start is not one that converges
    exact = reference(problem, phi, all_tasks(problem), start=start)
    assert_near(exact.theta, torch.full((2, 1), 0.5, dtype=torch.float64), within=1e-12)
    assert_near(exact.hypergradient["x"], torch.tensor([0.5], dtype=torch.float64), within=1e-12)


@pytest.mark.parametrize(
    "lower",
    [
        pytest.param(lambda x, theta: -(theta - x).square() / 2, id="concave"),
        pytest.param(lambda x, theta: x * theta, id="linear"),
        pytest.param(lambda x, theta: (theta - x) ** 4 / 4, id="flat-at-its-minimum"),
        pytest.param(lambda x, theta: torch.logaddexp(theta + x, torch.zeros_like(theta)), id="minimum-not-attained"),
        pytest.param(lambda x, theta: theta.square() - 2 * torch.cos(3 * theta) + 0 * x, id="several-minima"),
    ],
)
def test_a_lower_level_that_is_not_strongly_convex_is_refused(lower):
    problem = Scalar(lower, lambda x, theta: theta.square())
    start = torch.full((2, 1), 1.0, dtype=torch.float64)
    with pytest.raises(ReferenceFailed, match=r"Scalar.*strongly convex"):
        reference(problem, {"x": torch.tensor([0.3], dtype=torch.float64)}, all_tasks(problem), start=start)


def test_a_lower_level_without_a_stationary_point_is_refused():
    problem = Scalar(lambda x, theta: theta - torch.exp(-theta - x), lambda x, theta: theta.square())
    with pytest.raises(ReferenceFailed, match=r"Scalar.*strongly convex"):
        reference(problem, {"x": torch.tensor([0.3], dtype=torch.float64)}, all_tasks(problem))


def test_a_problem_in_single_precision_is_solved_in_double():
    single = Quadratic.random(tasks=2, p=2, q=3, kappa=5.0).to(dtype=torch.float32)
    exact = reference(single, {"phi": torch.ones(2)}, all_tasks(single))
    double = single.to(dtype=torch.float64)  # the same rounded numbers
    expected = double.hypergradient({"phi": torch.ones(2, dtype=torch.float64)})["phi"]
    assert exact.hypergradient["phi"].dtype == torch.float64
    assert_near(exact.hypergradient["phi"], expected, within=1e-12)


def test_newton_goes_on_where_the_terms_of_a_stiff_objective_cancel_in_its_value():
    """kappa = 1e4: near theta* the value is rounded at |H| |theta|^2, far more than 1 + |g|."""
    problem = Quadratic.random(tasks=8, p=4, q=12, kappa=1e4, seed=3)
    pool = problem.sample(None, torch.Generator())
    phi = problem.phi0(torch.Generator().manual_seed(0))["phi"]
    near = reference(problem, {"phi": phi}, pool).theta
    for seed in range(10):
        there = {"phi": phi + 1e-7 * normal(seed, 4)}
        near = reference(problem, there, pool, start=near).theta
        assert_near(near, problem.lower_solution(there, pool), within=1e-9)
