"""First-order MAML: grad f at the adapted theta, in numpy on quadratics and by torch.func on logistic heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import FOMAML, MAML, Oracle, run
from problems import Quadratic
from tests.convergence.methods.instances import HEADS, QUADRATICS
from tests.independent import Dense, assert_near
from tests.strategies import normal

KINDS = {"quadratic": QUADRATICS["initialisation"], "logistic": HEADS["initialisation"]}


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_on_quadratics_the_start_counts_as_if_the_steps_did_not_depend_on_it(steps):
    problem, alpha = QUADRATICS["initialisation"](), 0.2
    phi, oracle = normal(0, 3), Oracle(problem)
    step = FOMAML(lower_steps=steps, lower_step_size=alpha).step(oracle, {"phi": phi}, oracle.pool, None)
    expected = np.zeros(3)
    for A, C, b, Q, u, R, w in zip(*(problem.data[name].numpy() for name in "ACbQuRw"), strict=True):
        theta = phi.numpy()
        for _ in range(steps):
            theta = theta - alpha * (A @ theta - C @ phi.numpy() - b)
        expected += (R @ (phi.numpy() - w) + Q @ (theta - u)) / 4
    assert_near(step.direction["phi"], torch.from_numpy(expected), within=1e-13)


def test_on_logistic_heads_it_is_the_slope_at_the_adapted_theta():
    problem = HEADS["initialisation"]()
    dense, oracle, phi = Dense(problem), Oracle(problem), normal(0, 5)
    step = FOMAML(lower_steps=3, lower_step_size=0.2).step(oracle, {"centre": phi}, oracle.pool, None)
    theta = phi.expand(3, 5)
    for _ in range(3):
        theta = theta - 0.2 * dense.each(dense.lower_slope, phi, theta)
    slopes = dense.each(dense.upper_slope, phi, theta) + problem.regulariser * phi
    assert_near(step.direction["centre"], slopes.mean(0), within=1e-13)
    second_order = MAML(lower_steps=3, lower_step_size=0.2).step(oracle, {"centre": phi}, oracle.pool, None)
    assert float((second_order.direction["centre"] - step.direction["centre"]).norm()) > 1e-2


@given(steps=st.integers(0, 4), batch=st.sampled_from([None, 1, 3]))
def test_the_declared_calls_are_those_counted(steps, batch):
    problem = Quadratic.random(tasks=5, p=3, q=3, kappa=5.0, initialisation=True)
    method = FOMAML(lower_steps=steps, upper_step_size=0.1)
    result = run(problem, method, iterations=2, batch=batch, probes=())
    assert result.calls == {name: 2 * count for name, count in method.declared_calls(batch or 5).items()}
    assert result.calls["hvp"] == result.calls["cross_product"] == 0


@pytest.mark.parametrize("name", KINDS)
def test_replicas_together_equal_separate_runs(name):
    method = FOMAML(lower_steps=3, lower_step_size=0.1, upper_step_size=0.2)
    options = {"iterations": 3, "batch": 2, "probes": ()}
    together = run(KINDS[name](), method, replicas=2, seed=4, **options)
    for r in range(2):
        for n, tensor in run(KINDS[name](), method, seed=4 + r, **options).phi.items():
            assert_near(together.phi[n][r], tensor, within=1e-12)


def test_new_tasks_are_adapted_by_the_same_steps_without_a_graph():
    problem = HEADS["initialisation"]()
    oracle, phi = Oracle(problem), {"centre": normal(1, 5)}
    method = FOMAML(lower_steps=3, lower_step_size=0.1)
    step = method.step(oracle, phi, oracle.pool, None)
    assert step.phi is phi
    theta = method.adapt(oracle, oracle.features(phi, oracle.pool), phi, oracle.pool)
    assert not theta.requires_grad
    assert_near(theta, step.theta, within=1e-14)
