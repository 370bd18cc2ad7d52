"""What the claim predicts with: the law of the trap against quadrature and replay, the cold end against iteration."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from paper_checks.representation import Trap, cold_end
from problems import Representation

traps = st.builds(lambda m, prox, beta: Trap(np.array([m]), prox, beta), *[st.floats(0.2, 2.0)] * 3)


@given(traps, st.floats(0.5, 3.0), st.floats(1.01, 4.0))
def test_time_is_the_integral_of_one_over_the_step(trap, start, factor):
    integral, _ = quad(lambda s: 1 / trap.step(np.array([s]))[0], start, factor * start)
    ends = np.array([start]), np.array([factor * start])
    assert (trap.time(ends[1]) - trap.time(ends[0]))[0] == pytest.approx(integral, rel=1e-8)


@given(traps)
def test_the_step_is_beta_times_the_gradient_of_the_problem(trap):
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64) * float(trap.m[0]) ** 0.5
    problem = Representation(torch.eye(2, dtype=torch.float64).repeat(2, 1, 1), a, a, rank=1, prox=trap.prox)
    gradient = problem.hypergradient({"U": torch.tensor([[1.7], [0.0]], dtype=torch.float64)})["U"]
    assert trap.beta * float(gradient[0]) == pytest.approx(-float(trap.step(np.array([1.7]))[0]), rel=1e-12)
    assert float(gradient[1]) == 0


def test_many_lower_steps_make_the_replay_the_law_to_one_iteration_and_the_exponent_five_thirds():
    trap, start, T = Trap(np.array([1.0]), 1.0, 15.0), np.array([3.0]), 20_000
    s = trap.replay(start, T, K=10_000, alpha=0.005)
    shift = trap.time(s) - trap.time(start) + 0.5 * np.log(trap.step(s) / trap.step(start)) - T
    assert abs(shift[0]) < 1
    early, late = trap.squares(np.array([T / 4, T]), start)
    assert np.log(late / early) / np.log(4) == pytest.approx(-5 / 3, abs=0.01)
    assert late == pytest.approx((trap.step(s)[0] / trap.beta) ** 2, rel=1e-3)


@pytest.mark.parametrize("K", [2, 4])
def test_the_cold_end_is_where_a_long_iteration_of_one_task_after_the_other_stays(K):
    problem = Representation.random(tasks=4, d=3, rank=2, examples=6, seed=1)
    alpha, beta = 1 / problem.lower_smoothness(1.5), 1.0
    S, a, c = (problem.data[name].numpy() for name in ("S", "a", "c"))
    U, ridge = problem.optimum.numpy() * 0.9, np.eye(2)
    for _ in range(1500):
        d = np.zeros_like(U)
        for S_i, a_i, c_i in zip(S, a, c, strict=True):
            H, theta = U.T @ S_i @ U + ridge, np.zeros(2)
            for _ in range(K):
                theta = theta - alpha * (H @ theta - U.T @ S_i @ a_i)
            e = U @ theta - c_i
            v = np.linalg.solve(H, U.T @ e)
            d += np.outer(e, theta) - np.outer(S_i @ (U @ theta - a_i), v) - np.outer(S_i @ U @ v, theta)
        U = U - beta * d / 4
    end = float(problem.value({"U": torch.as_tensor(U)}))
    assert cold_end(problem, K, alpha, beta) == pytest.approx(end, rel=1e-8)
    assert end > 1e-4
