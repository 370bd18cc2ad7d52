from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad

from convergence import Estimate, GradientDescent, HeavyBall, Oracle, Unrolled, peak_bytes, reference
from convergence.memory import saved_bytes
from problems import PROBLEMS, Parameters, Problem, ProxLogistic, Quadratic
from tests.convergence.hypergradients.estimates import estimated
from tests.independent import Dense, assert_near
from tests.strategies import normal, quadratics, seeds
from tests.twins import UserRidge


def unrolled(problem: Problem, phi: Parameters, *, steps: int, step_size: float) -> tuple[Estimate, Oracle]:
    """d through K gradient steps from theta0(phi)."""
    return estimated(problem, phi, Unrolled(), GradientDescent(steps, step_size))


# ---- what it estimates


@pytest.mark.parametrize("name", [*PROBLEMS, "user-ridge"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_unrolling_equals_torch_func_through_the_explicit_map_of_k_steps(name, steps):
    problem = UserRidge().to(dtype=torch.float64) if name == "user-ridge" else PROBLEMS[name](1)
    dense = Dense(problem)
    phi = {n: normal(1, *tensor.shape) for n, tensor in dense.like.items()}

    def start(x):
        return problem.theta0(dense.named(x), dense.tasks)

    expected = grad(partial(dense.unrolled, start=start, steps=steps, step_size=0.1))(dense.vector(phi))
    if steps == 0 and name == "user-ridge":  # neither f nor the start sees phi
        with pytest.raises(ValueError, match="expected phi to reach the upper objective of UserRidge, itself or"):
            unrolled(problem, phi, steps=0, step_size=0.1)
        return
    found, oracle = unrolled(problem, phi, steps=steps, step_size=0.1)
    assert_near(dense.vector(found.direction), expected, within=1e-12)
    M = problem.tasks
    assert oracle.calls == {
        "lower_gradient": steps * M,
        "hvp": steps * M,
        "cross_product": steps * M,
        "upper_gradient": M,
    }
    assert not found.theta.requires_grad


def test_unrolling_sees_the_start_that_depends_on_phi():
    problem = Quadratic.random(tasks=3, p=4, q=4, kappa=5.0, initialisation=True)
    phi = {"phi": normal(0, 4)}
    found, _ = unrolled(problem, phi, steps=2, step_size=0.1)
    oracle = Oracle(problem)
    z = oracle.embed(phi, oracle.pool, keep_graph=True)
    fixed = Unrolled().estimate(oracle, z, oracle.theta0(phi, oracle.pool), oracle.pool, lower=GradientDescent(2, 0.1))
    assert torch.equal(found.theta, fixed.theta)
    assert float((found.direction["phi"] - fixed.direction["phi"]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["quadratic", "prox-logistic"])  # which broadcasts over replicas, and is mapped
def test_unrolling_replicas_together_equals_unrolling_them_alone(name):
    problem = PROBLEMS[name](0)
    (like,) = problem.phi0(torch.Generator()).items()
    phi = {like[0]: normal(0, 3, *like[1].shape)}
    oracle = Oracle(problem, replicas=3)
    z = oracle.embed(phi, oracle.pool, keep_graph=True)
    together = Unrolled().estimate(
        oracle, z, oracle.theta0(phi, oracle.pool), oracle.pool, lower=GradientDescent(3, 0.1)
    )
    for r in range(3):
        alone, single = unrolled(problem, {like[0]: phi[like[0]][r]}, steps=3, step_size=0.1)
        assert_near(together.direction[like[0]][r], alone.direction[like[0]], within=1e-13)
        assert_near(together.theta[r], alone.theta, within=1e-13)
        assert oracle.calls == single.calls


@pytest.mark.parametrize("name", ["quadratic", "prox-logistic"])
def test_unrolling_many_steps_gives_the_reference(name):
    problem = PROBLEMS[name](0)
    phi = problem.phi0(torch.Generator())
    found, _ = unrolled(problem, phi, steps=200, step_size=problem.constants.lower_step_size)
    exact = reference(problem, phi, problem.sample(None, torch.Generator())).hypergradient
    for n, tensor in exact.items():
        assert_near(found.direction[n], tensor, within=1e-11)  # (9/11)^200 * 200 < 1e-15


@given(problem=quadratics(), steps=st.integers(0, 6), last=st.integers(0, 8), seed=seeds)
def test_through_the_last_steps_alone_it_is_off_by_what_those_before_would_have_brought(problem, steps, last, seed):
    phi, alpha = {"phi": normal(seed, problem.p)}, 1 / problem.constants.L
    found, oracle = estimated(problem, phi, Unrolled(last), GradientDescent(steps, alpha))
    x, expected = phi["phi"].numpy(), np.zeros(problem.p)
    for i in range(problem.tasks):
        A, C, b, Q, u, R, w = (problem.data[name][i].numpy() for name in "ACbQuRw")

        def power(k, A=A):
            return np.linalg.matrix_power(np.eye(len(A)) - alpha * A, k)

        star = np.linalg.solve(A, C @ x + b)
        J = (np.eye(len(A)) - power(min(last, steps))) @ np.linalg.solve(A, C)
        expected += R @ (x - w) + J.T @ Q @ (star - power(steps) @ star - u)
    assert_near(found.direction["phi"], torch.from_numpy(expected / problem.tasks), within=1e-12)
    assert oracle.calls["hvp"] == oracle.calls["cross_product"] == min(last, steps) * problem.tasks


def test_the_last_steps_of_a_heavy_ball_are_refused_as_they_lack_their_momentum():
    problem = PROBLEMS["quadratic"](0)
    sentence = "expected all 4 steps of HeavyBall to be followed, .* got the last 3"
    with pytest.raises(ValueError, match=sentence):
        estimated(problem, problem.phi0(torch.Generator()), Unrolled(3), HeavyBall(4, 0.1, 0.5))


# ---- memory


HEADS = ProxLogistic.random(tasks=4, q=6, examples=9)  # made before, so that its tensors are in no measurement


@pytest.mark.parametrize("measure", [peak_bytes, saved_bytes])
def test_the_memory_of_unrolling_grows_by_the_same_amount_with_each_step(measure):
    phi = {"centre": normal(0, 6)}
    used = [measure(lambda k=k: unrolled(HEADS, phi, steps=k, step_size=0.1)) for k in (2, 3, 4, 10)]
    each = used[1] - used[0]
    assert each >= 4 * 6 * 8  # at least theta_k, q numbers for each of the 4 tasks
    assert used[2] - used[1] == each
    assert used[3] - used[2] == 6 * each


def test_through_the_last_step_alone_it_is_t1_t2():
    problem = ProxLogistic.random(tasks=3, q=3, examples=8)
    dense, phi, alpha = Dense(problem), {"centre": normal(0, 3)}, 0.3
    x = dense.vector(phi)
    before, _ = estimated(problem, phi, Unrolled(last=0), GradientDescent(3, alpha))
    found, _ = estimated(problem, phi, Unrolled(last=1), GradientDescent(4, alpha))
    cross = dense.each(dense.cross, x, before.theta)  # at theta_{K-1}
    slope = dense.each(dense.upper_slope, x, found.theta)  # at theta_K
    direct = dense.each(grad(dense.f), x, found.theta)
    expected = (direct - alpha * (cross.mT @ slope.unsqueeze(-1)).squeeze(-1)).mean(0)
    assert_near(found.direction["centre"], expected, within=1e-13)
