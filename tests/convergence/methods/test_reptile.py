"""Reptile: its average, its law on quadratics, and that f plays no part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convergence import Oracle, Reptile, run
from problems import Quadratic
from tests.convergence.methods.instances import HEADS
from tests.independent import Dense, assert_near
from tests.strategies import normal


def tasks_alone(seed: int = 0, **changes) -> Quadratic:
    """Quadratics g_i(theta) that do not see phi but as the start: C = 0."""
    data = Quadratic.random(tasks=4, p=3, q=3, kappa=5.0, seed=seed, initialisation=True).data
    return Quadratic(**{**data, "C": torch.zeros_like(data["C"]), **changes})


def test_with_a_step_of_one_phi_becomes_the_mean_of_the_adapted_theta():
    problem = HEADS["initialisation"]()
    oracle, dense, phi = Oracle(problem), Dense(problem), {"centre": normal(0, 5)}
    step = Reptile(lower_steps=4, lower_step_size=0.3, upper_step_size=1.0).step(oracle, phi, oracle.pool, None)
    theta = phi["centre"].expand(3, 5)
    for _ in range(4):
        theta = theta - 0.3 * dense.each(dense.lower_slope, phi["centre"], theta)
    assert_near(step.theta, theta, within=1e-13)
    assert_near(step.phi["centre"], theta.mean(0), within=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_on_quadratics_it_descends_on_weighted_distances_from_their_minimisers(steps):
    problem, alpha = tasks_alone(), 0.3
    A, b = problem.data["A"].numpy(), problem.data["b"].numpy()
    weights = np.eye(3) - np.linalg.matrix_power(np.eye(3) - alpha * A, steps)
    centres = np.linalg.solve(A, b[..., None])[..., 0]
    phi, oracle = normal(0, 3), Oracle(problem)
    made = Reptile(lower_steps=steps, lower_step_size=alpha, upper_step_size=0.5)
    step = made.step(oracle, {"phi": phi}, oracle.pool, None)
    expected = np.einsum("mij,mj->i", weights, phi.numpy() - centres) / 4
    assert_near(step.direction["phi"], torch.from_numpy(expected), within=1e-13)
    end = run(problem, made, iterations=300, probes=()).phi["phi"]
    limit = np.linalg.solve(weights.sum(0), np.einsum("mij,mj->i", weights, centres))
    assert_near(end, torch.from_numpy(limit), within=1e-12)


def test_the_upper_objective_plays_no_part():
    other = torch.eye(3, dtype=torch.float64).expand(4, 3, 3).clone()
    ends = [
        run(problem, Reptile(lower_steps=2, upper_step_size=0.5), iterations=5, batch=2, probes=())
        for problem in (tasks_alone(), tasks_alone(Q=other, u=normal(9, 4, 3)))
    ]
    assert torch.equal(ends[0].phi["phi"], ends[1].phi["phi"])
    assert ends[0].calls["upper_gradient"] == 0
