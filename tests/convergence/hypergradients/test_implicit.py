"""Implicit differentiation of stochastic objectives: which sample each part of an estimate sees."""

from __future__ import annotations

import pytest
import torch

from convergence import Implicit, Oracle
from convergence.linear_solvers import Neumann
from problems import Minibatch, Noisy, Problem, ProxLogistic, Quadratic
from tests.strategies import normal

ETA = 0.2


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
    found = Implicit(Neumann(3, ETA), fresh_products=fresh).estimate(ours, z, theta, ours.pool)

    whole = other.embed(phi, other.pool)
    at, sample = other.draw(whole, other.pool)  # the same stream: what is drawn first is b's and d's
    term = total = ETA * other.upper_gradient(at, theta, sample)
    for _ in range(3):
        here = other.draw(whole, other.pool) if fresh else (at, sample)
        term = term - ETA * other.lower_hessian(here[0], theta, here[1])(term)
        total = total + term
    d = other.hypergradient(at, theta, total, sample)
    torch.testing.assert_close(found.v, total, rtol=1e-12, atol=1e-13)
    for name, direction in found.direction.items():
        torch.testing.assert_close(direction, d[name], rtol=1e-12, atol=1e-13)
