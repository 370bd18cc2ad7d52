"""The schedule of growing steps against its definition, and the recursion against the iteration written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_checks.growing_lower_steps import Schedule, _recursion
from problems import Quadratic

factors = st.floats(0.05, 0.95)


@given(factors, factors, st.integers(0, 10**6))
def test_the_steps_are_the_fewest_that_bring_each_factor_to_one_over_t_plus_2(varrho, r, t):
    for steps, factor in zip(Schedule(varrho, r, q=3).at(t), (varrho, r), strict=True):
        assert factor**steps <= (1 + 1e-9) / (t + 2)
        assert factor ** (steps - 1) >= (1 - 1e-9) / (t + 2)
        assert steps >= 1


@given(factors, st.integers(0, 10**6), st.integers(1, 9))
def test_exact_v_takes_q_steps_at_any_t_and_k_grows_one_by_one(varrho, t, q):
    schedule = Schedule(varrho, None, q)
    (now, exact), (later, _) = schedule.at(t), schedule.at(t + 1)
    assert exact == q
    assert later >= now
    # log((t + 3) / (t + 2)) / log(1 / varrho) more at most, rounded up
    assert later - now <= np.ceil(np.log((t + 3) / (t + 2)) / -np.log(varrho))


def test_the_squared_errors_of_the_schedule_have_a_finite_sum():
    schedule = Schedule(0.9, 0.5, q=3)
    errors = np.array([max(0.9**K, 0.5**N) for K, N in map(schedule.at, range(5000))])
    assert np.square(errors).sum() <= np.pi**2 / 6 - 1  # sum of 1 / (t + 2)^2
    assert errors[-1] > 0.5 / 5000  # and no more steps than that needs


@pytest.mark.parametrize("exact_v", [True, False])
def test_the_recursion_is_the_iteration_step_by_step(exact_v):
    problem = Quadratic.random(tasks=3, p=2, q=4, kappa=6.0, seed=4)
    c, theory = problem.constants, {name: array.numpy() for name, array in problem.data.items()}
    alpha, beta, r = 1 / c.L, 1 / c.L_Phi, (c.kappa**0.5 - 1) / (c.kappa**0.5 + 1)
    schedule = Schedule(1 - 1 / c.kappa, None if exact_v else r, problem.q)
    phi = np.array([1.0, -2.0])
    squares, deltas = _recursion(problem, phi, schedule, 12, exact_v=exact_v)
    for t in range(12):
        K, N = schedule.at(t)
        gradient, direction = np.zeros(2), np.zeros(2)
        for A, C, b, Q, u, R, w in zip(*(theory[name] for name in "ACbQuRw"), strict=True):
            star = np.linalg.solve(A, C @ phi + b)
            gradient += R @ (phi - w) + C.T @ np.linalg.solve(A, Q @ (star - u))
            theta = np.zeros(4)
            for _ in range(K):
                theta = theta - alpha * (A @ theta - C @ phi - b)
            direction += R @ (phi - w) + C.T @ _best(A, Q @ (theta - u), N)
        assert squares[t] == pytest.approx(np.square(gradient / 3).sum(), rel=1e-9)
        assert np.linalg.norm(direction - gradient) / 3 <= deltas[t]
        phi = phi - beta * direction / 3


def _best(A, b, N):
    """What N CG steps from 0 give: the minimiser of 1/2 v'Av - b'v over the Krylov space, by a dense basis."""
    basis, _ = np.linalg.qr(np.stack([np.linalg.matrix_power(A, k) @ b for k in range(min(N, len(b)))], axis=1))
    return basis @ np.linalg.solve(basis.T @ A @ basis, basis.T @ b)
