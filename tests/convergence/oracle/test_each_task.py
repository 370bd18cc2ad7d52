"""Derivatives of single tasks against dense ones by torch.func, task by task and replica by replica."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad

from convergence import Oracle
from problems import PROBLEMS, Noisy, ProxLogistic, Representation
from tests.independent import Dense, assert_near
from tests.strategies import normal
from tests.twins import UserRidge

CASES = {
    "quadratic": lambda: PROBLEMS["quadratic"](0),
    "noisy": lambda: Noisy(PROBLEMS["quadratic"](0), lower=1.0, upper=1.0, upper_phi=1.0, hessian=0.5, cross=0.5),
    "prox-logistic": lambda: ProxLogistic.random(tasks=4, q=3, examples=5),
    "matrix": lambda: Representation.random(tasks=4, d=3, rank=2, examples=5),
    "two-tensors": lambda: UserRidge().to(dtype=torch.float64),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("replicas", [None, 2])
def test_they_are_the_dense_derivatives_each_at_a_phi_of_its_own(name, replicas):
    problem = CASES[name]()
    lead = () if replicas is None else (replicas,)
    oracle = Oracle(problem, replicas=replicas)
    features = oracle.features({n: normal(9, *lead, *x.shape) for n, x in Dense(problem).like.items()}, oracle.pool)
    _, tasks = oracle.draw(features, oracle.pool)
    M, q = len(tasks), oracle.theta0(features.phi, oracle.pool).shape[-1]
    theta, v = normal(1, *lead, M, q), normal(2, *lead, M, q)
    phi = {n: normal(k, *lead, M, *x.shape) for k, (n, x) in enumerate(Dense(problem).like.items(), 3)}
    direct, cross = oracle.each_direction(phi, theta, v, tasks)
    H, X = oracle.each_second_derivatives(phi, theta, tasks)
    assert oracle.calls == {"lower_gradient": 0, "hvp": q * M, "cross_product": (q + 1) * M, "upper_gradient": 0}

    dense = Dense(problem, oracle.pool)
    for r in range(replicas or 1):
        for i in range(M):
            at = (r, i) if replicas else (i,)
            own = at if tasks.index.dim() == 2 else (i,)
            task = (tasks.index[own], {n: x[own] for n, x in tasks.tensors.items()})
            x = dense.vector({n: tensor[at] for n, tensor in phi.items()})
            hessian, block = dense.hessian(x, theta[at], task), dense.cross(x, theta[at], task)
            assert_near(H[at], hessian, within=1e-12)
            assert_near(torch.cat([X[n][at].reshape(q, -1) for n in phi], -1), block, within=1e-12)
            assert_near(
                dense.vector({n: t[at] for n, t in direct.items()}), grad(dense.f)(x, theta[at], task), within=1e-12
            )
            assert_near(dense.vector({n: t[at] for n, t in cross.items()}), block.T @ v[at], within=1e-12)


def test_one_phi_is_shown_to_each_task_without_a_copy():
    problem = ProxLogistic.random(tasks=4, q=3, examples=5)
    phi = {"centre": normal(0, 2, 3)}
    rows = Oracle(problem, replicas=2).at_each(phi, Oracle(problem).pool)["centre"]
    assert rows.shape == (2, 4, 3)
    assert rows.untyped_storage().data_ptr() == phi["centre"].untyped_storage().data_ptr()
    assert torch.equal(rows[:, 3], phi["centre"])


def test_nothing_of_it_carries_a_graph_and_nothing_needs_one():
    problem = ProxLogistic.random(tasks=4, q=3, examples=5)
    oracle = Oracle(problem)
    phi = oracle.at_each({"centre": normal(0, 3).requires_grad_()}, oracle.pool)
    theta = normal(1, 4, 3).requires_grad_()
    with torch.no_grad():
        direct, cross = oracle.each_direction(phi, theta, theta, oracle.pool)
        H, X = oracle.each_second_derivatives(phi, theta, oracle.pool)
    assert not any(tensor.requires_grad for tensor in (direct["centre"], cross["centre"], H, X["centre"]))
    assert float(H.diagonal(dim1=-2, dim2=-1).min()) >= problem.prox
