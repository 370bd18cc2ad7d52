"""ANIL: what the start and what the shared part of phi are worth, in closed form on quadratics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import grad

from convergence import ANIL, Oracle
from problems import LearnedStart, Quadratic
from tests.convergence.methods.instances import HEADS
from tests.independent import Dense, assert_near
from tests.problems.few_shot.tiny import drawn, few_shot, start
from tests.strategies import normal


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_on_quadratics_the_start_counts_by_what_is_left_of_it_and_the_shared_part_by_the_rest(steps):
    inside = Quadratic.random(tasks=4, p=2, q=3, kappa=5.0, seed=3)
    problem, phi, alpha = LearnedStart(inside), {"phi": normal(1, 2), "start": normal(0, 3)}, 0.2
    oracle = Oracle(problem)
    step = ANIL(lower_steps=steps, lower_step_size=alpha).step(oracle, phi, oracle.pool, None)
    x, start = phi["phi"].numpy(), phi["start"].numpy()
    of_shared, of_start = np.zeros(2), np.zeros(3)
    for A, C, b, Q, u, R, w in zip(*(inside.data[name].numpy() for name in "ACbQuRw"), strict=True):
        E = np.linalg.matrix_power(np.eye(3) - alpha * A, steps)
        rest = np.eye(3) - E
        slope = Q @ (E @ start + rest @ np.linalg.solve(A, C @ x + b) - u)
        of_shared += (R @ (x - w) + (rest @ np.linalg.solve(A, C)).T @ slope) / 4
        of_start += E.T @ slope / 4
    assert_near(step.direction["phi"], torch.from_numpy(of_shared), within=1e-13)
    assert_near(step.direction["start"], torch.from_numpy(of_start), within=1e-13)


def test_on_logistic_heads_it_is_the_gradient_through_the_steps():
    problem = HEADS["shared"]()
    dense, oracle = Dense(problem), Oracle(problem)
    phi = {n: normal(k, *tensor.shape) for k, (n, tensor) in enumerate(dense.like.items())}
    step = ANIL(lower_steps=3, lower_step_size=0.2).step(oracle, phi, oracle.pool, None)

    def phi_k(x):
        return dense.unrolled(x, lambda x: dense.named(x)["start"].expand(3, 5), steps=3, step_size=0.2)

    assert_near(dense.vector(step.direction), grad(phi_k)(dense.vector(phi)), within=1e-12)
    assert min(float(tensor.norm()) for tensor in step.direction.values()) > 1e-2


def test_the_head_of_a_network_is_the_start_and_the_body_is_shared():
    from problems.few_shot import SoftmaxHead

    problem = few_shot(SoftmaxHead(way=3, ridge=0.0, learned_start=True))
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    step = ANIL(lower_steps=2, lower_step_size=0.1).step(oracle, phi, tasks, None)
    assert step.theta.shape == (3, phi["head.start"].numel())
    moved = {name for name, tensor in step.direction.items() if bool(tensor.abs().max() > 1e-6)}
    assert {"head.start", "block1.conv.weight", "block4.norm.weight"} <= moved
