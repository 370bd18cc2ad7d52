from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import GradientDescent, HeavyBall, Oracle, peak_bytes
from problems import PROBLEMS, ProxLogistic, Quadratic
from tests.independent import Dense, assert_near
from tests.strategies import normal, quadratics, seeds
from tests.twins import Twin


@given(problem=quadratics(), steps=st.integers(0, 6), alpha=st.floats(0.001, 0.06), seed=seeds)
def test_k_steps_on_a_quadratic_equal_powers_of_the_step_matrix(problem, steps, alpha, seed):
    oracle, phi = Oracle(problem), {"phi": normal(seed, problem.p)}
    theta0 = normal(seed + 1, problem.tasks, problem.q)
    theta = GradientDescent(steps, alpha).solve(oracle, oracle.embed(phi, oracle.pool), theta0, oracle.pool)
    for i in range(problem.tasks):
        A, C, b = (problem.data[name][i].numpy() for name in "ACb")
        star = np.linalg.solve(A, C @ phi["phi"].numpy() + b)
        power = np.linalg.matrix_power(np.eye(problem.q) - alpha * A, steps)
        # alpha L <= 2: no growth, a rounding or two a step
        assert_near(theta[i], torch.from_numpy(star + power @ (theta0[i].numpy() - star)), within=1e-12)
    assert oracle.calls["lower_gradient"] == steps * problem.tasks


@pytest.mark.parametrize("end", ["slow", "fast"])
@pytest.mark.parametrize("alpha", [0.05, 0.15, 2 / 11, 0.19])
def test_the_error_along_an_end_of_the_spectrum_shrinks_by_its_exact_factor(end, alpha):
    problem = Quadratic.random(tasks=1, p=2, q=4, kappa=10.0, seed=0)
    oracle, phi = Oracle(problem), {"phi": normal(0, 2)}
    star = problem.lower_solution(phi, oracle.pool)
    eigenvalues, vectors = torch.linalg.eigh(problem.data["A"])
    which = 0 if end == "slow" else -1
    start = star + vectors[..., which]
    z = oracle.embed(phi, oracle.pool)
    for steps in (1, 5, 20):
        error = float((GradientDescent(steps, alpha).solve(oracle, z, start, oracle.pool) - star).norm())
        # theorem 1 attained in its first term: |1 - alpha lambda|^K, at least 1e-6 here
        factor = abs(1 - alpha * float(eigenvalues[0, which]))
        assert error == pytest.approx(factor**steps, rel=1e-7, abs=1e-13)
        assert error <= problem.constants.lower_contraction(alpha) ** steps * (1 + 1e-7) + 1e-13


@pytest.mark.parametrize("name", PROBLEMS)
def test_steps_equal_the_loop_written_with_torch_func(name):
    problem = PROBLEMS[name](1)
    oracle, dense = Oracle(problem), Dense(problem)
    phi, theta0 = problem.phi0(torch.Generator().manual_seed(1)), normal(2, problem.tasks, problem.q)
    theta = theta0
    for _ in range(4):
        theta = theta - 0.1 * dense.each(dense.lower_slope, dense.vector(phi), theta)
    found = GradientDescent(4, 0.1).solve(oracle, oracle.embed(phi, oracle.pool), theta0, oracle.pool)
    assert_near(found, theta, within=1e-12)


def test_no_steps_return_the_start_and_a_solution_stays():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=5.0)
    oracle, phi = Oracle(problem), {"phi": normal(0, 2)}
    z, star = oracle.embed(phi, oracle.pool), problem.lower_solution(phi, oracle.pool)
    assert torch.equal(GradientDescent(0, 0.1).solve(oracle, z, star, oracle.pool), star)
    assert_near(GradientDescent(50, 0.1).solve(oracle, z, star, oracle.pool), star, within=1e-14)


@pytest.mark.parametrize("closed_forms", [True, False])
def test_the_iterate_carries_no_graph_and_the_peak_of_memory_does_not_grow_with_k(closed_forms):
    base = Quadratic.random(tasks=4, p=3, q=5, kappa=5.0) if closed_forms else None
    problem = base or Twin(ProxLogistic.random(tasks=4, q=5, examples=10))
    phi = problem.phi0(torch.Generator())

    def solve(steps: int) -> torch.Tensor:
        oracle = Oracle(problem)
        z = oracle.embed(phi, oracle.pool)
        theta = GradientDescent(steps, 0.05).solve(oracle, z, torch.zeros(4, 5, dtype=torch.float64), oracle.pool)
        assert not theta.requires_grad
        return theta

    assert peak_bytes(lambda: solve(3)) == peak_bytes(lambda: solve(40)) > 0


@pytest.mark.parametrize("arguments", [(-1, 0.1), (2.5, 0.1), (3, -0.1), (3, float("nan"))])
def test_steps_and_step_sizes_below_zero_are_refused(arguments):
    with pytest.raises(ValueError, match=r"expected .*step"):
        GradientDescent(*arguments)


# ---- a step size for each task


class Curved(Quadratic):
    """A quadratic that gives the ends of the spectrum of each task, and no constants."""

    def __init__(self, **data):
        super().__init__(**data)
        self.constants = None

    def curvature(self, features, tasks):
        eigenvalues = torch.linalg.eigvalsh(tasks.A)
        return eigenvalues[..., 0], eigenvalues[..., -1]


def curved(seed: int = 0) -> Curved:
    """Tasks of different smoothness: the third is ten times as curved as the first."""
    data = dict(Quadratic.random(tasks=3, p=2, q=4, kappa=5.0, seed=seed).data)
    return Curved(**(data | {"A": data["A"] * torch.tensor([1.0, 3.0, 10.0]).double()[:, None, None]}))


@pytest.mark.parametrize("replicas", [None, 2])
def test_without_a_step_size_each_task_takes_its_own(replicas):
    problem, lead = curved(), () if replicas is None else (replicas,)
    oracle, phi = Oracle(problem, replicas=replicas), {"phi": normal(0, *lead, 2)}
    solver = GradientDescent.of(problem, 30, None)
    assert solver.step_size is None
    z, start = oracle.embed(phi, oracle.pool), normal(1, *lead, 3, 4)
    found = solver.solve(oracle, z, start, oracle.pool)
    eigenvalues = torch.linalg.eigvalsh(problem.data["A"])
    alpha = 2 / (eigenvalues[:, :1] + eigenvalues[:, -1:])
    theta, linear = start, z.value["linear"]
    for _ in range(30):
        theta = theta - alpha * ((problem.data["A"] @ theta[..., None])[..., 0] - linear)
    assert_near(found, theta, within=1e-12)
    star = torch.linalg.solve(problem.data["A"], linear[..., None])[..., 0]
    assert float((found - star).norm()) <= (4 / 6) ** 30 * float((start - star).norm()) * (1 + 1e-9)
    one = GradientDescent(30, float(alpha[0])).solve(oracle, z, start, oracle.pool)
    assert float((one - star).norm()) > 1e3  # the step of the first task diverges on the third


def test_a_step_size_that_is_given_or_known_is_one_for_all():
    assert GradientDescent.of(curved(), 2, 0.3).one_step_size == 0.3
    quadratic = Quadratic.random(tasks=2, p=2, q=2, kappa=3.0)
    assert GradientDescent.of(quadratic, 2, None).one_step_size == quadratic.constants.lower_step_size
    with pytest.raises(ValueError, match="expected lower_step_size a number, got None, which lets each task have its"):
        _ = GradientDescent.of(curved(), 2, None).one_step_size


# ---- momentum


@given(
    problem=quadratics(), steps=st.integers(0, 8), share=st.floats(0.05, 0.95), gamma=st.floats(0.01, 0.95), seed=seeds
)
def test_steps_with_momentum_on_a_quadratic_equal_powers_of_their_matrix(problem, steps, share, gamma, seed):
    alpha = share * 2 * (1 + gamma) / problem.constants.L
    oracle, phi = Oracle(problem), {"phi": normal(seed, problem.p)}
    theta0 = normal(seed + 1, problem.tasks, problem.q)
    solver = HeavyBall(steps, alpha, gamma)
    theta = solver.solve(oracle, oracle.embed(phi, oracle.pool), theta0, oracle.pool)
    eye, none = np.eye(problem.q), np.zeros(problem.q)
    for i in range(problem.tasks):
        A, C, b = (problem.data[name][i].numpy() for name in "ACb")
        star = np.linalg.solve(A, C @ phi["phi"].numpy() + b)
        once = np.block([[eye - alpha * A, -alpha * gamma * eye], [A, gamma * eye]])  # of theta - theta* and m
        error = np.linalg.matrix_power(once, steps) @ np.concatenate([theta0[i].numpy() - star, none])
        assert_near(theta[i], torch.from_numpy(star + error[: problem.q]), within=1e-11)
    assert oracle.calls["lower_gradient"] == steps * problem.tasks == solver.gradients * problem.tasks


def test_momentum_without_a_step_size_takes_that_of_the_problem_where_it_is_one_number():
    problem = Quadratic.random(tasks=2, p=2, q=2, kappa=3.0)
    assert HeavyBall(2, None, 0.5).known(problem) == HeavyBall(2, problem.constants.lower_step_size, 0.5)
    assert HeavyBall(2, 0.3, 0.5).known(problem) == HeavyBall(2, 0.3, 0.5)
    with pytest.raises(ValueError, match="expected lower_step_size a number, got None, which lets each task have its"):
        _ = HeavyBall(2, None, 0.5).known(curved()).recursion


def test_the_memory_of_momentum_does_not_grow_with_k_and_no_graph_is_left():
    problem = ProxLogistic.random(tasks=4, q=5, examples=10)
    phi, start = problem.phi0(torch.Generator()), torch.zeros(4, 5, dtype=torch.float64)

    def solve(steps: int) -> None:
        oracle = Oracle(problem)
        assert (
            not HeavyBall(steps, 0.1, 0.9)
            .solve(oracle, oracle.embed(phi, oracle.pool), start, oracle.pool)
            .requires_grad
        )

    assert peak_bytes(lambda: solve(3)) == peak_bytes(lambda: solve(40)) > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((-1, 0.1, 0.5), "expected steps an integer >= 0, got -1"),
        ((3, -0.1, 0.5), "expected step_size a finite number > 0, got -0.1"),
        ((3, 0.1, 0.0), "expected a momentum between 0 and 1, got 0.0"),
        ((3, 0.1, 1.0), "expected a momentum between 0 and 1, got 1.0"),
        ((3, 0.1, float("nan")), "expected a momentum between 0 and 1, got nan"),
    ],
)
def test_arguments_of_momentum_out_of_range_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        HeavyBall(*arguments)


def test_only_all_steps_with_momentum_can_be_followed():
    solver = HeavyBall(4, 0.1, 0.5)
    assert solver.split(4) == solver.split(9) == (None, solver)
    with pytest.raises(ValueError, match="expected all 4 steps of HeavyBall to be followed"):
        solver.split(3)
