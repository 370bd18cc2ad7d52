"""A certificate bounds the error of a hypergradient on every problem with constants, and is attained on one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import Certificate, MemoryReduced, Oracle, certified_error, reference, run
from problems import PROBLEMS, Constants, Quadratic
from tests.independent import Dense
from tests.strategies import normal, quadratics, seeds
from tests.twins import Twin, UserRidge

CERTIFIED = [name for name, make in PROBLEMS.items() if make(0).constants is not None]


def error_and_bound(problem, phi, theta, v):
    """|d - grad Phi| with grad Phi by damped Newton, and its certificate."""
    oracle = Oracle(problem)
    d = oracle.hypergradient(oracle.embed(phi, oracle.pool), theta, v, oracle.pool)
    exact = reference(problem, phi, oracle.pool).hypergradient
    dense = Dense(problem)
    return float((dense.vector(d) - dense.vector(exact)).norm()), float(
        certified_error(oracle, phi, oracle.pool, theta, v)
    )


@pytest.mark.parametrize("name", CERTIFIED)
@pytest.mark.parametrize("scale", [1e-4, 0.1, 3.0])
def test_the_certificate_bounds_the_error_far_from_and_near_the_solution(name, scale):
    for seed in range(3):
        problem = PROBLEMS[name](seed)
        phi = {n: normal(seed, *like.shape) for n, like in problem.phi0(torch.Generator()).items()}
        exact = reference(problem, phi, problem.sample(None, torch.Generator()))
        theta = exact.theta + scale * normal(seed + 1, *exact.theta.shape)
        v = exact.v + scale * normal(seed + 2, *exact.v.shape)
        error, bound = error_and_bound(problem, phi, theta, v)
        assert error <= bound * (1 + 1e-12)
        assert error > 0


@given(problem=quadratics(max_kappa=10), seed=seeds, scale=st.floats(1e-3, 10))
def test_the_certificate_bounds_the_error_of_any_theta_and_v_of_a_quadratic(problem, seed, scale):
    phi = {"phi": normal(seed, problem.p)}
    theta, v = scale * normal(seed + 1, 2, problem.tasks, problem.q)
    error, bound = error_and_bound(problem, phi, theta, v)
    assert error <= bound * (1 + 1e-10) + 1e-12


def test_it_is_attained_along_the_slowest_eigenvector_with_exact_v():
    A, eye = torch.diag(torch.tensor([1.0, 7.0], dtype=torch.float64)), torch.eye(2, dtype=torch.float64)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    problem = Quadratic(A[None], eye[None], zero, eye[None], zero, eye[None], zero)
    phi = {"phi": torch.tensor([0.3, -0.8], dtype=torch.float64)}
    theta = torch.linalg.solve(A, phi["phi"])[None] + torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    error, bound = error_and_bound(problem, phi, theta, torch.linalg.solve(A, theta.mT).mT)
    assert error == pytest.approx(0.5, rel=1e-12)  # Lambda = 1 / mu = 1, |theta - theta*| = 1/2
    assert bound == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize(
    "known",
    [
        {"L_c": 1.0, "Lambda": 2.0},
        {"tau": 1.0, "ell": 1.0, "ell_1": 0.5, "rho_1": 0.1, "rho_2": 0.2},
    ],
    ids=["first split", "second split"],
)
def test_either_split_is_enough(known):
    one = torch.ones(3, dtype=torch.float64)
    bound = Certificate(Constants(mu=0.5, L=2.0, **known)).direction_error(one, 2 * one, 4 * one)
    # Lambda e + L_c / mu |r| = 2 + 4;  (ell_1 + rho_1 |v| + tau (ell + rho_2 |v|)) e + tau |r| = 2.7 + 2
    assert bound.tolist() == pytest.approx([6.0 if "Lambda" in known else 4.7] * 3)


def test_constants_that_certify_nothing_are_refused():
    with pytest.raises(ValueError, match="expected Lambda and L_c, or tau, ell, ell_1, rho_1 and rho_2"):
        Certificate(Constants(mu=1.0, L=2.0, L_c=1.0))
    with pytest.raises(ValueError, match="expected a problem with constants to certify with, got UserRidge"):
        Certificate.of(UserRidge())


@pytest.mark.parametrize("batch", [None, 3])
def test_the_probe_bounds_the_error_over_the_tasks_of_the_batch(batch):
    problem = Quadratic.random(tasks=6, p=3, q=4, kappa=20.0, seed=3)
    H, h = [], []
    for task in problem.sample(None, torch.Generator()):
        alone = Quadratic(**task.tensors)
        h.append(-alone.hypergradient({"phi": torch.zeros(3, dtype=torch.float64)})["phi"])
        H.append(torch.stack([alone.hypergradient({"phi": e})["phi"] + h[-1] for e in torch.eye(3).double()], -1))

    def error(snapshot):
        own = snapshot.tasks.index
        exact = torch.stack([H[i] @ snapshot.phi["phi"] - h[i] for i in own]).mean(0)
        return (snapshot.step.direction["phi"] - exact).norm()

    method = MemoryReduced(lower_steps=2, cg_steps=1, upper_step_size=0.1)
    trace = run(problem, method, iterations=40, batch=batch, probes=("certified_direction_error", error)).trace
    ratio = (trace["error"] / trace["certified_direction_error"]).numpy()
    assert ratio.max() <= 1
    assert np.median(ratio) > 1e-3
    assert math.isfinite(trace["certified_direction_error"].max())


def test_a_certificate_needs_no_closed_forms():
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=5.0, seed=1)
    twin = Twin(problem)
    twin.constants = problem.constants
    phi, theta, v = {"phi": normal(0, 3)}, normal(1, 4, 4), normal(2, 4, 4)
    closed, automatic = (
        certified_error(oracle, phi, oracle.pool, theta, v) for oracle in (Oracle(problem), Oracle(twin))
    )
    assert float(closed) == pytest.approx(float(automatic), rel=1e-12)
