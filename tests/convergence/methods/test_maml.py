"""MAML against torch.func through the steps written out, and against the product of its source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import grad

from convergence import MAML, ITDBiO, Oracle, run
from problems import PROBLEMS, Quadratic
from tests.convergence.methods.instances import HEADS, QUADRATICS
from tests.independent import Dense, assert_near
from tests.strategies import normal

STARTS = {
    "quadratic": QUADRATICS["initialisation"],
    "quadratic, shared part": QUADRATICS["shared"],
    "logistic": HEADS["initialisation"],
    "logistic, shared part": HEADS["shared"],
}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_direction_is_the_gradient_of_the_objective_after_k_steps_from_a_start_in_phi(name, steps):
    problem = STARTS[name]()
    dense, oracle = Dense(problem), Oracle(problem)
    phi = {n: normal(1, *tensor.shape) for n, tensor in dense.like.items()}
    step = MAML(lower_steps=steps, lower_step_size=0.2, upper_step_size=0.3).step(oracle, phi, oracle.pool, None)

    def phi_k(x):
        start = problem.theta0(dense.named(x), dense.tasks)
        return dense.unrolled(x, lambda _: start, steps=steps, step_size=0.2)

    x = dense.vector(phi)
    assert_near(dense.vector(step.direction), grad(phi_k)(x), within=1e-12)
    assert_near(dense.vector(step.phi), x - 0.3 * grad(phi_k)(x), within=1e-12)
    assert torch.equal(
        step.theta, ITDBiO(lower_steps=steps, lower_step_size=0.2).step(oracle, phi, oracle.pool, None).theta
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_where_phi_is_nothing_but_the_start_it_is_the_product_of_its_source(steps):
    # g and f see phi through theta alone: C = 0 and R = 0
    base = Quadratic.random(tasks=3, p=3, q=3, kappa=6.0, seed=1, initialisation=True).data
    zero = torch.zeros_like(base["C"])
    problem = Quadratic(**{**base, "C": zero, "R": zero})
    phi, alpha = normal(0, 3), 0.1
    expected = np.zeros(3)
    for A, b, Q, u in zip(*(base[name].numpy() for name in "AbQu"), strict=True):
        theta, product = phi.numpy(), np.eye(3)
        for _ in range(steps):
            product = product @ (np.eye(3) - alpha * A)
            theta = theta - alpha * (A @ theta - b)
        expected += product @ Q @ (theta - u) / 3
    oracle = Oracle(problem)
    made = MAML(lower_steps=steps, lower_step_size=alpha)
    step = made.step(oracle, {"phi": phi}, oracle.pool, None)
    assert_near(step.direction["phi"], torch.from_numpy(expected), within=1e-13)


def test_it_takes_the_steps_of_itd_bio_and_ends_at_the_minimiser_of_the_objective_after_k_steps():
    problem, options = PROBLEMS["quadratic-initialisation"](0), {"lower_steps": 3, "lower_step_size": 0.1}
    ends = [run(problem, kind(**options, upper_step_size=0.4), iterations=400).phi["phi"] for kind in (MAML, ITDBiO)]
    assert torch.equal(*ends)
    A, C, b, Q, u, R, w = (problem.data[name].numpy() for name in "ACbQuRw")
    E = np.linalg.matrix_power(np.eye(5) - 0.1 * A, 3)
    J, offset = np.linalg.solve(A, C), np.linalg.solve(A, b[..., None])[..., 0]
    J_K = (np.eye(5) - E) @ J + E
    H = (R + np.swapaxes(J_K, 1, 2) @ Q @ J_K).mean(0)
    rest = np.einsum("mij,mj->mi", np.eye(5) - E, offset) - u
    h = (np.einsum("mij,mj->mi", R, w) - np.einsum("mji,mjk,mk->mi", J_K, Q, rest)).mean(0)
    assert_near(ends[0], torch.from_numpy(np.linalg.solve(H, h)), within=1e-10)
