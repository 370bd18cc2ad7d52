"""The quadratic with phi in two tensors: the one inside by other names, and what it needs of it."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad

from convergence import MemoryReduced, Oracle, run
from problems import Quadratic, StartAndShared
from tests.independent import Dense, assert_near
from tests.strategies import normal


def problem(**changes) -> StartAndShared:
    return StartAndShared.random(**({"tasks": 4, "q": 3, "shared": 2, "kappa": 5.0} | changes))


def test_a_run_is_that_of_the_quadratic_inside():
    outer, method = problem(), MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.2)
    ends = [run(each, method, iterations=5, batch=2, replicas=2) for each in (outer, outer.problem)]
    # a row at a time against the matrix with a gain of zeros and ones
    assert_near(torch.cat([ends[0].phi["start"], ends[0].phi["shared"]], -1), ends[1].phi["phi"], within=1e-14)
    assert_near(ends[0].trace["grad_norm_sq"], ends[1].trace["grad_norm_sq"], within=1e-13)


def test_the_start_is_seen_by_theta_0_and_by_the_upper_level_alone():
    outer = problem(seed=2)
    dense, theta = Dense(outer), normal(1, 4, 3)
    x = dense.vector({"start": normal(2, 3), "shared": normal(3, 2)})
    assert list(dense.like) == ["start", "shared"]
    slopes = dense.each(grad(dense.g), x, theta)
    assert not slopes[:, :3].any()
    assert bool(slopes[:, 3:].all())
    assert bool(dense.each(grad(dense.f), x, theta)[:, :3].all())
    oracle = Oracle(outer)
    assert torch.equal(oracle.theta0(dense.named(x), oracle.pool), x[:3].expand(4, 3))


def test_a_quadratic_that_starts_elsewhere_is_refused():
    base = Quadratic.random(tasks=2, p=3, q=2, kappa=3.0)
    gain = torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3).clone()
    assert StartAndShared(Quadratic(**base.data, gain=gain)).q == 2
    for wrong in ({}, {"gain": 2 * gain}, {"gain": gain, "start": torch.ones(2, 2, dtype=torch.float64)}):
        with pytest.raises(ValueError, match="expected a quadratic that starts at the first q of the p numbers of phi"):
            StartAndShared(Quadratic(**base.data, **wrong))


def test_it_moves_to_another_dtype():
    moved = problem().to(dtype=torch.float32)
    assert moved.phi0(torch.Generator())["start"].dtype == torch.float32
    assert moved.hypergradient(moved.phi0(torch.Generator()))["shared"].dtype == torch.float32
