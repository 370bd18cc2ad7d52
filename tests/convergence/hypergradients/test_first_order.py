from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad

from convergence import (
    Composed,
    Displacement,
    FirstOrder,
    GradientDescent,
    HeavyBall,
    HessianFree,
    Oracle,
    Status,
    Unrolled,
    peak_bytes,
    run,
)
from problems import PROBLEMS, ProxLogistic, Quadratic
from tests.convergence.hypergradients.estimates import (
    LOWER,
    FromCentre,
    estimated,
    flat,
    quadratic_law,
    somewhere,
    step_polynomial,
)
from tests.independent import Dense, assert_near
from tests.strategies import normal, seeds
from tests.twins import UserRidge

# ---- first order


@pytest.mark.parametrize("name", ["quadratic", "quadratic-initialisation", "prox-logistic", "representation"])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_first_order_keeps_the_derivative_of_the_start_and_of_f_alone(name, steps):
    problem = PROBLEMS[name](1)
    dense, oracle = Dense(problem), Oracle(problem)
    x = dense.vector({n: normal(1, *tensor.shape) for n, tensor in dense.like.items()})
    z = oracle.embed(dense.named(x), oracle.pool, keep_graph=True)
    found = FirstOrder().estimate(
        oracle, z, oracle.theta0(z.phi, oracle.pool, keep_graph=True), oracle.pool, lower=GradientDescent(steps, 0.1)
    )
    theta = problem.theta0(dense.named(x), dense.tasks)
    moved = theta
    for _ in range(steps):
        moved = moved - 0.1 * dense.each(dense.lower_slope, x, moved)
    assert_near(found.theta, moved, within=1e-13)

    def composed(own: Tensor) -> Tensor:  # the steps as a constant
        return dense.each(dense.f, own, problem.theta0(dense.named(own), dense.tasks) + (moved - theta)).mean()

    assert_near(dense.vector(found.direction), grad(composed)(x), within=1e-12)
    assert oracle.calls == {
        "lower_gradient": steps * len(oracle.pool),
        "hvp": 0,
        "cross_product": 0,
        "upper_gradient": len(oracle.pool),
    }
    assert not found.v.any()
    assert not found.theta.requires_grad
    full, _ = estimated(problem, dense.named(x), Unrolled(), GradientDescent(steps, 0.1))
    gap = float((dense.vector(full.direction) - dense.vector(found.direction)).abs().max())
    assert gap <= 1e-13 if steps == 0 else gap > 1e-3


@pytest.mark.parametrize("estimator", [Unrolled, FirstOrder])
def test_lower_steps_that_overflow_fail_in_their_task_alone(estimator):
    problem = Quadratic.random(tasks=3, p=2, q=2, kappa=2.0)
    oracle = Oracle(problem)
    z = oracle.embed({"phi": normal(0, 2)}, oracle.pool, keep_graph=True)
    theta = torch.tensor([[0.0, 0.0], [1e308, 1e308], [1.0, 1.0]], dtype=torch.float64)
    found = estimator().estimate(oracle, z, theta, oracle.pool, lower=GradientDescent(6, 10.0))
    assert found.failure.tolist() == [0, Status.NON_FINITE, 0]
    assert not found.v.any()


def test_the_memory_of_first_order_does_not_depend_on_the_lower_steps():
    problem = ProxLogistic.random(tasks=4, q=6, examples=9)

    def estimate(steps: int) -> None:
        oracle = Oracle(problem)
        z = oracle.embed(problem.phi0(torch.Generator()), oracle.pool, keep_graph=True)
        FirstOrder().estimate(
            oracle,
            z,
            oracle.theta0(z.phi, oracle.pool, keep_graph=True),
            oracle.pool,
            lower=GradientDescent(steps, 0.1),
        )

    assert peak_bytes(lambda: estimate(4)) == peak_bytes(lambda: estimate(40)) > 0


@pytest.mark.parametrize("kind", LOWER)
@given(q=st.integers(1, 4), steps=st.integers(0, 6), seed=seeds)
def test_first_order_on_a_quadratic_in_closed_form(kind, q, steps, seed):
    kappa = 5.0 if q > 1 else 1.0
    problem = Quadratic.random(tasks=3, p=q, q=q, kappa=kappa, seed=seed, initialisation=True)
    phi, lower = {"phi": normal(seed, q)}, LOWER[kind](steps, 0.1)
    found, _ = estimated(problem, phi, FirstOrder(), lower)
    _, theta = quadratic_law(problem, phi, lower)
    Q, u, R, w = (problem.data[name].numpy() for name in ("Q", "u", "R", "w"))
    expected = (R @ (phi["phi"].numpy() - w)[..., None] + Q @ (theta - u)[..., None])[..., 0].mean(0)  # the gain is I
    assert_near(found.direction["phi"], torch.from_numpy(expected), within=1e-12)


# ---- displacement


@pytest.mark.parametrize("kind", LOWER)
@given(q=st.integers(1, 4), steps=st.integers(0, 6), seed=seeds)
def test_the_displacement_on_a_quadratic_is_what_the_steps_take_off_the_distance_to_the_solutions(kind, q, steps, seed):
    kappa = 5.0 if q > 1 else 1.0
    problem = Quadratic.random(tasks=3, p=q, q=q, kappa=kappa, seed=seed, initialisation=True)
    phi, lower = {"phi": normal(seed, q)}, LOWER[kind](steps, 0.1)
    found, _ = estimated(problem, phi, Displacement(), lower)
    x, expected = phi["phi"].numpy(), np.zeros(q)
    for i in range(3):
        A, C, b = (problem.data[name][i].numpy() for name in "ACb")
        expected += (np.eye(q) - step_polynomial(A, lower)) @ (x - np.linalg.solve(A, C @ x + b)) / 3
    assert_near(found.direction["phi"], torch.from_numpy(expected), within=1e-12)


def test_first_order_of_a_phi_that_neither_f_nor_the_start_sees_is_refused_in_a_sentence_that_says_so():
    method = Composed(lower=GradientDescent(2, 0.1), estimator=FirstOrder(), upper_step_size=0.1)
    sentence = (
        "expected phi to reach the upper objective of UserRidge, itself or through theta, got neither: f does not see "
        "phi, nor does the start of theta or a step that is differentiated"
    )
    with pytest.raises(ValueError, match=sentence):
        run(UserRidge(), method, iterations=1, probes=())


def test_displacement_needs_a_start_that_depends_on_phi():
    method = Composed(lower=GradientDescent(2, 0.1), estimator=Displacement(), upper_step_size=0.1)
    with pytest.raises(ValueError, match=r"expected a start theta_0 that depends on phi for .*, got ProxLogistic"):
        run(PROBLEMS["prox-logistic"](0), method, iterations=1)


# ---- by differences of gradients


@given(q=st.integers(1, 4), seed=seeds, alpha=st.floats(0.01, 0.3), exponent=st.integers(-4, 1))
def test_one_step_from_phi_is_hf_maml_and_on_a_quadratic_maml(q, seed, alpha, exponent):
    # d = mean_i (I - alpha H_i) grad f_i, Fallah et al. 2020; with C = 0 and R = 0 phi is the start alone
    given = Quadratic.random(tasks=3, p=q, q=q, kappa=5.0 if q > 1 else 1.0, seed=seed, initialisation=True)
    problem = Quadratic(**(dict(given.data) | {name: torch.zeros_like(given.data[name]) for name in "CR"}))
    phi, radius = {"phi": normal(seed, q)}, 10.0**exponent
    found, _ = estimated(problem, phi, HessianFree(radius), GradientDescent(1, alpha))
    expected = torch.zeros(q, dtype=torch.float64)
    for i in range(3):
        A, b, Q, u = (problem.data[name][i] for name in "AbQu")
        theta = phi["phi"] - alpha * (A @ phi["phi"] - b)
        expected += (torch.eye(q) - alpha * A) @ Q @ (theta - u) / 3
    assert_near(found.direction["phi"], expected, within=1e-13 + 1e-14 / radius)  # eps |grad g| / radius


@pytest.mark.parametrize("kind", LOWER)
def test_the_error_of_differences_is_of_the_order_of_the_square_of_the_radius(kind):
    problem = FromCentre.random(tasks=3, q=4, examples=10, seed=0)
    phi, lower = somewhere(problem, 0), LOWER[kind](5, 0.3)
    exact = flat(estimated(problem, phi, Unrolled(), lower)[0].direction)
    errors = [
        float((flat(estimated(problem, phi, HessianFree(radius), lower)[0].direction) - exact).norm())
        for radius in (4e-2, 2e-2, 1e-2)
    ]
    assert errors[2] > 1e-7
    assert errors[0] / errors[1] == pytest.approx(4, rel=1e-2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=3e-3)  # what is left falls with the square as well


def test_differences_keep_every_iterate_and_nothing_more():
    problem = ProxLogistic.random(tasks=4, q=6, examples=9)
    peaks = {
        k: peak_bytes(
            lambda k=k: estimated(problem, {"centre": normal(0, 6)}, HessianFree(0.1), HeavyBall(k, 0.1, 0.5))
        )
        for k in (3, 4, 10, 40)
    }
    assert [peaks[k] - peaks[3] for k in (4, 10, 40)] == [(k - 3) * 4 * 6 * 8 for k in (4, 10, 40)]


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), "1"])
def test_a_radius_that_is_no_positive_number_is_refused(radius):
    with pytest.raises(ValueError, match="expected radius a finite number > 0, got"):
        HessianFree(radius)
