from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convergence import (
    ConjugateGradient,
    Direct,
    Estimate,
    GradientDescent,
    Implicit,
    Neumann,
    Oracle,
    Richardson,
    Unrolled,
    peak_bytes,
    reference,
)
from convergence.memory import saved_bytes
from problems import PROBLEMS, Minibatch, Noisy, Parameters, Problem, ProxLogistic, Quadratic
from tests.convergence.hypergradients.estimates import estimated
from tests.independent import assert_near
from tests.strategies import normal, orthogonal, quadratics, seeds
from tests.twins import Scalar, Twin


def implicit(problem: Problem, phi: Parameters, theta: Tensor, *, lower_steps: int, alpha: float, cg: int) -> Estimate:
    """K lower steps from theta, N CG steps, d."""
    oracle = Oracle(problem)
    z = oracle.embed(phi, oracle.pool)
    theta = GradientDescent(lower_steps, alpha).solve(oracle, z, theta, oracle.pool)
    return Implicit(ConjugateGradient(cg)).at(oracle, z, theta, oracle.pool)


def lower_step_size(problem: Problem, phi: Parameters) -> float:
    """2 / (L + mu), at this phi where L depends on it."""
    if problem.constants is not None:
        return problem.constants.lower_step_size
    return 2 / (problem.prox + problem.lower_smoothness(float(torch.linalg.matrix_norm(phi["U"], 2))))


# ---- what it estimates


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("automatic", [False, True], ids=["closed-forms", "automatic"])
def test_many_lower_and_cg_steps_give_the_reference(name, automatic):
    problem = PROBLEMS[name](2)
    phi = {n: normal(5, *tensor.shape) for n, tensor in problem.phi0(torch.Generator()).items()}
    alpha = lower_step_size(problem, phi)
    exact = reference(problem, phi, problem.sample(None, torch.Generator()))
    start = exact.theta + normal(6, *exact.theta.shape)
    # kappa <= 20: 400 steps contract by (19/21)^400 < 1e-17
    found = implicit(
        Twin(problem) if automatic else problem, phi, start, lower_steps=400, alpha=alpha, cg=3 * problem.q
    )
    assert_near(found.theta, exact.theta, within=1e-11)
    assert_near(found.v, exact.v, within=1e-11)
    for n, tensor in exact.hypergradient.items():
        assert_near(found.direction[n], tensor, within=1e-11)
    assert not found.failure.any()


@given(problem=quadratics(), lower_steps=st.integers(0, 5), cg=st.integers(0, 5), seed=seeds)
def test_the_error_on_a_quadratic_is_the_identity_of_the_theory_and_within_its_bound(problem, lower_steps, cg, seed):
    phi, theta0 = {"phi": normal(seed, problem.p)}, normal(seed + 1, problem.tasks, problem.q)
    constants = problem.constants
    alpha = constants.lower_step_size
    found = implicit(problem, phi, theta0, lower_steps=lower_steps, alpha=alpha, cg=cg)
    star = problem.lower_solution(phi, problem.sample(None, torch.Generator())).numpy()
    identity, lambda_term, cg_term = np.zeros(problem.p), 0.0, 0.0
    for i in range(problem.tasks):
        A, C, Q, u = (problem.data[name][i].numpy() for name in "ACQu")
        power = np.linalg.matrix_power(np.eye(problem.q) - alpha * A, lower_steps)
        theta_k = star[i] + power @ (theta0[i].numpy() - star[i])
        v_star = np.linalg.solve(A, Q @ (theta_k - u))
        identity += np.linalg.solve(A, C).T @ Q @ power @ (theta0[i].numpy() - star[i])
        identity += C.T @ (found.v[i].numpy() - v_star)
        lambda_term = max(lambda_term, np.linalg.norm(theta0[i].numpy() - star[i]))
        cg_term = max(cg_term, np.linalg.norm(Q @ (theta_k - u)))
    error = found.direction["phi"] - problem.hypergradient(phi)["phi"]
    assert_near(error, torch.from_numpy(identity / problem.tasks), within=1e-12)  # docs/theory.md S1
    first = constants.Lambda * lambda_term * constants.lower_contraction(alpha) ** lower_steps
    second = constants.L_c * cg_term / constants.mu * np.sqrt(constants.kappa) * constants.cg_contraction(cg)
    assert float(error.norm()) <= (first + second) * (1 + 1e-9) + 1e-12  # Theorem 1


@given(seed=seeds, weights=st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
def test_the_hypergradient_is_linear_in_the_upper_objective(seed, weights):
    base = ProxLogistic.random(tasks=3, q=3, examples=5, seed=seed)

    def other(z, theta, tasks):
        return (theta * z["centre"]).sum(-1) + theta.square().sum(-1)

    def mixed(z, theta, tasks):
        return weights[0] * base.upper(z, theta, tasks) + weights[1] * other(z, theta, tasks)

    phi, theta = {"centre": normal(seed, 3)}, normal(seed + 1, 3, 3)
    first, second, both = (
        implicit(Twin(base, upper=f), phi, theta, lower_steps=2, alpha=0.1, cg=9).direction["centre"]
        for f in (None, other, mixed)
    )
    assert_near(both, weights[0] * first + weights[1] * second, within=1e-12)


@given(seed=seeds, scale=st.floats(0.1, 10))
def test_scaling_the_lower_objective_scales_v_and_leaves_the_hypergradient_alone(seed, scale):
    base = ProxLogistic.random(tasks=3, q=3, examples=5, seed=seed)
    scaled = Twin(base, lower=lambda z, theta, tasks: scale * base.lower(z, theta, tasks))
    phi, theta = {"centre": normal(seed, 3)}, normal(seed + 1, 3, 3)
    plain = implicit(base, phi, theta, lower_steps=3, alpha=0.1, cg=9)
    found = implicit(scaled, phi, theta, lower_steps=3, alpha=0.1 / scale, cg=9)
    assert_near(found.theta, plain.theta, within=1e-13)
    assert_near(found.v * scale, plain.v, within=1e-11)
    assert_near(found.direction["centre"], plain.direction["centre"], within=1e-11)


@given(seed=seeds, cg=st.integers(0, 4))
def test_an_orthogonal_change_of_theta_leaves_the_hypergradient_alone(seed, cg):
    base = ProxLogistic.random(tasks=3, q=3, examples=5, seed=seed)
    O = orthogonal(seed, size=3)  # noqa: E741  # theta = O x
    turned = Twin(
        base,
        lower=lambda z, x, tasks: base.lower(z, x @ O.T, tasks),
        upper=lambda z, x, tasks: base.upper(z, x @ O.T, tasks),
    )
    phi, theta = {"centre": normal(seed, 3)}, normal(seed + 1, 3, 3)
    plain = implicit(base, phi, theta, lower_steps=3, alpha=0.1, cg=cg)
    found = implicit(turned, phi, theta @ O, lower_steps=3, alpha=0.1, cg=cg)
    assert_near(found.theta @ O.T, plain.theta, within=1e-12)
    assert_near(found.v @ O.T, plain.v, within=1e-10)
    assert_near(found.direction["centre"], plain.direction["centre"], within=1e-10)


@given(problem=quadratics(), seed=seeds)
def test_a_permutation_of_the_tasks_permutes_theta_and_v_and_leaves_the_hypergradient_alone(problem, seed):
    order = torch.randperm(problem.tasks, generator=torch.Generator().manual_seed(seed))
    shuffled = Quadratic(**{name: tensor[order] for name, tensor in problem.data.items()})
    phi, theta = {"phi": normal(seed, problem.p)}, normal(seed + 1, problem.tasks, problem.q)
    plain = implicit(problem, phi, theta, lower_steps=2, alpha=0.05, cg=2)
    found = implicit(shuffled, phi, theta[order], lower_steps=2, alpha=0.05, cg=2)
    assert_near(found.theta, plain.theta[order], within=1e-13)
    assert_near(found.v, plain.v[order], within=1e-11)
    assert_near(found.direction["phi"], plain.direction["phi"], within=1e-11)


def test_an_upper_objective_without_theta_needs_no_v():
    problem = Scalar(lambda x, theta: (theta - x) ** 2, lambda x, theta: x**2)
    found = implicit(problem, {"x": torch.full((1,), 3.0)}, torch.ones(2, 1), lower_steps=1, alpha=0.1, cg=3)
    assert (found.v.tolist(), found.failure.tolist()) == ([[0.0], [0.0]], [0, 0])
    assert found.direction["x"].tolist() == [6.0]


def test_a_warm_start_of_v_is_where_cg_begins():
    problem = Quadratic.random(tasks=3, p=2, q=4, kappa=10.0)
    oracle, phi, theta, start = Oracle(problem), {"phi": normal(0, 2)}, normal(1, 3, 4), normal(2, 3, 4)
    z = oracle.embed(phi, oracle.pool)
    kept = Implicit(ConjugateGradient(0)).at(oracle, z, theta, oracle.pool, start=start)
    assert torch.equal(kept.v, start)
    R, C, w = (problem.data[name] for name in "RCw")
    direct = (R @ (phi["phi"] - w)[..., None])[..., 0] + (C.mT @ start[..., None])[..., 0]
    assert_near(kept.direction["phi"], direct.mean(0), within=1e-13)


@given(problem=quadratics(), terms=st.integers(0, 6), share=st.floats(0.05, 0.95), seed=seeds)
def test_with_a_series_the_bias_is_that_of_its_remainder(problem, terms, share, seed):
    eta, phi = share * 2 / problem.constants.L, {"phi": normal(seed, problem.p)}
    theta = normal(seed + 1, problem.tasks, problem.q)
    oracle = Oracle(problem)
    z = oracle.embed(phi, oracle.pool)
    neumann = Implicit(Neumann(terms, eta)).at(oracle, z, theta, oracle.pool)
    richardson = Implicit(Richardson(terms + 1, eta)).at(oracle, z, theta, oracle.pool)
    expected = np.zeros(problem.p)
    for i in range(problem.tasks):
        A, C, Q, u, R, w = (problem.data[name][i].numpy() for name in "ACQuRw")
        remainder = np.linalg.matrix_power(np.eye(problem.q) - eta * A, terms + 1)
        v = np.linalg.solve(A, (np.eye(problem.q) - remainder) @ Q @ (theta[i].numpy() - u))
        expected += (R @ (phi["phi"].numpy() - w) + C.T @ v) / problem.tasks
    for found in (neumann, richardson):
        assert_near(found.direction["phi"], torch.from_numpy(expected), within=1e-12)


# ---- stochastic objectives: which sample each part of an estimate sees


def minibatch() -> Problem:
    return Minibatch(ProxLogistic.random(tasks=3, q=4, examples=12), lower=2, upper=3)


def noisy() -> Problem:
    return Noisy(Quadratic.random(tasks=3, p=2, q=4, kappa=3.0), lower=0.5, upper=0.5, hessian=0.3, cross=0.2)


@pytest.mark.parametrize("replicas", [None, 2])
@pytest.mark.parametrize("make", [minibatch, noisy])
@pytest.mark.parametrize("fresh", [False, True])
def test_b_and_d_see_one_sample_and_each_product_that_one_or_its_own(make, fresh, replicas):
    problem = make()
    lead = () if replicas is None else (replicas,)
    theta = normal(1, *lead, 3, 4)
    ours, other = (Oracle(problem, replicas=replicas, seeds=range(replicas or 1)) for _ in range(2))
    phi = {name: x.expand(*lead, *x.shape) for name, x in problem.phi0(torch.Generator()).items()}
    z = ours.embed(phi, ours.pool)
    found = Implicit(Neumann(3, 0.2), fresh_products=fresh).at(ours, z, theta, ours.pool)

    whole = other.embed(phi, other.pool)
    at, sample = other.draw(whole, other.pool)  # the same stream: what is drawn first is b's and d's
    term = total = 0.2 * other.upper_gradient(at, theta, sample)
    for _ in range(3):
        here = other.draw(whole, other.pool) if fresh else (at, sample)
        term = term - 0.2 * other.lower_hessian(here[0], theta, here[1])(term)
        total = total + term
    d = other.hypergradient(at, theta, total, sample)
    torch.testing.assert_close(found.v, total, rtol=1e-12, atol=1e-13)
    for name, direction in found.direction.items():
        torch.testing.assert_close(direction, d[name], rtol=1e-12, atol=1e-13)


# ---- memory


HEADS = ProxLogistic.random(tasks=4, q=6, examples=9)  # made before, so that its tensors are in no measurement


def test_the_peak_of_the_implicit_estimate_does_not_depend_on_the_lower_steps():
    phi, start = {"centre": normal(0, 6)}, torch.zeros(4, 6, dtype=torch.float64)
    peaks = {
        peak_bytes(lambda k=k: implicit(HEADS, phi, start, lower_steps=k, alpha=0.1, cg=3)) for k in (2, 3, 10, 40)
    }
    assert len(peaks) == 1
    assert peaks.pop() < peak_bytes(lambda: estimated(HEADS, phi, Unrolled(), GradientDescent(10, 0.1)))


def test_the_implicit_estimate_backpropagates_once_whatever_the_lower_steps():
    # each lower step saves its own one-step tape and drops it; what is alive at the end is one surrogate
    oracle, phi = Oracle(HEADS), {"centre": normal(0, 6)}
    z, theta = oracle.embed(phi, oracle.pool), torch.zeros(4, 6, dtype=torch.float64)

    def estimate(theta: Tensor) -> None:
        Implicit(ConjugateGradient(3)).at(oracle, z, theta, oracle.pool)

    after = [GradientDescent(k, 0.1).solve(oracle, z, theta, oracle.pool) for k in (1, 30)]
    assert not any(theta.requires_grad for theta in after)
    assert saved_bytes(lambda: estimate(after[0])) == saved_bytes(lambda: estimate(after[1])) > 0


@pytest.mark.parametrize("solver", [ConjugateGradient(3), Direct()])
def test_samples_of_their_own_are_refused_for_products_that_must_be_of_one_matrix(solver):
    with pytest.raises(ValueError, match=f"expected a series beside fresh_products, got {type(solver).__name__}"):
        Implicit(solver, fresh_products=True)
