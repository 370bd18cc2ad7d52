"""iMAML: the meta-gradient of its source on logistic heads, its systems by scipy, its floor in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from convergence import IMAML, Oracle, run
from problems import Proximal, Quadratic
from tests.convergence.methods.instances import Initialised
from tests.independent import Dense, assert_near
from tests.strategies import normal

PROX, REGULARISER = 0.7, 0.1


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def slope(X: np.ndarray, y: np.ndarray, theta: np.ndarray) -> np.ndarray:
    return -(X.T @ (y * sigmoid(-y * (X @ theta)))) / len(y)


def hessian(X: np.ndarray, theta: np.ndarray) -> np.ndarray:
    s = sigmoid(X @ theta)
    return (X.T * (s * (1 - s))) @ X / len(X)


@pytest.mark.parametrize("N", [0, 1, 2, 5])
@pytest.mark.parametrize("K", [0, 3, 40])
def test_the_direction_is_the_meta_gradient_of_the_source(K, N):
    problem = Initialised.random(tasks=3, q=5, examples=8, prox=PROX, regulariser=REGULARISER, seed=4)
    phi, oracle = normal(2, 5), Oracle(problem)
    step = IMAML(lower_steps=K, lower_step_size=0.4, cg_steps=N).step(oracle, {"centre": phi}, oracle.pool, None)
    expected, center = np.zeros(5), phi.numpy()
    for X, y, X_val, y_val in zip(*(problem.data[n].numpy() for n in ("X", "y", "X_val", "y_val")), strict=True):
        theta = center
        for _ in range(K):
            theta = theta - 0.4 * (slope(X, y, theta) + PROX * (theta - center))
        # (I + Hhat / lambda) x = grad f, the system of the source, not multiplied by lambda
        system, b = np.eye(5) + hessian(X, theta) / PROX, slope(X_val, y_val, theta)
        x, _ = scipy.sparse.linalg.cg(system, b, x0=np.zeros(5), rtol=0, atol=1e-15, maxiter=N) if N else (0 * b, 0)
        expected += (REGULARISER * center + x) / 3
    assert_near(step.direction["centre"], torch.from_numpy(expected), within=1e-11)


def test_with_many_steps_it_is_the_exact_gradient():
    problem = Proximal.random(tasks=4, q=5, spectrum=(0.5, 3.0), prox=1.0, seed=1)
    phi, oracle = {"phi": normal(0, 5)}, Oracle(problem)
    step = IMAML(lower_steps=80, cg_steps=5).step(oracle, phi, oracle.pool, None)
    assert_near(step.direction["phi"], problem.hypergradient(phi)["phi"], within=1e-12)


@pytest.mark.parametrize("K", [1, 4])
def test_it_ends_where_the_closed_form_of_the_cold_start_says(K):
    problem = Quadratic.random(tasks=3, p=3, q=3, kappa=4.0, seed=5, initialisation=True)
    A, C, b, Q, u, R, w = (problem.data[name].numpy() for name in "ACbQuRw")
    alpha = 2 / 5
    E = np.linalg.matrix_power(np.eye(3) - alpha * A, K)
    J, offset = np.linalg.solve(A, C), np.linalg.solve(A, b[..., None])[..., 0]
    JQ = np.swapaxes(J, 1, 2) @ Q
    H = (R + JQ @ ((np.eye(3) - E) @ J + E)).mean(0)  # docs/theory.md S3a with G = I, theta_0,i = 0
    inner = np.einsum("mij,mj->mi", np.eye(3) - E, offset) - u
    h = (np.einsum("mij,mj->mi", R, w) - np.einsum("mij,mj->mi", JQ, inner)).mean(0)
    result = run(problem, IMAML(lower_steps=K, cg_steps=3, upper_step_size=0.3), iterations=500)
    limit = np.linalg.solve(H, h)
    assert_near(result.phi["phi"], torch.from_numpy(limit), within=1e-11)
    floor = float(np.sum(problem.hypergradient({"phi": torch.from_numpy(limit)})["phi"].numpy() ** 2))
    assert float(result.trace["grad_norm_sq"][-1]) == pytest.approx(floor, rel=1e-8)
    assert floor > 1e-8


def test_phi_has_to_reach_an_objective():
    class Unpulled(Initialised):  # phi is the start and no more, as in MAML
        def lower(self, features, theta, tasks):
            return self.mean_loss(tasks.X, tasks.y, theta)

        def upper(self, features, theta, tasks):
            return self.mean_loss(tasks.X_val, tasks.y_val, theta)

    problem = Unpulled.random(tasks=2, q=3, examples=6)
    with pytest.raises(ValueError, match="the implicit gradient is zero; add a proximal term"):
        run(
            problem, IMAML(lower_steps=1, lower_step_size=0.1, cg_steps=1, upper_step_size=0.1), iterations=1, probes=()
        )


def test_a_negative_number_of_cg_steps_is_refused():
    with pytest.raises(ValueError, match="expected cg_steps an integer >= 0, got -1"):
        IMAML(lower_steps=1, cg_steps=-1)


def test_its_hessian_holds_the_proximal_term():
    problem = Initialised.random(tasks=2, q=3, examples=6, prox=PROX)
    dense, x, theta = Dense(problem), normal(0, 3), normal(1, 2, 3)
    bare = [hessian(X, t) for X, t in zip(problem.data["X"].numpy(), theta.numpy(), strict=True)]
    assert_near(dense.each(dense.hessian, x, theta), torch.from_numpy(np.stack(bare) + PROX * np.eye(3)), within=1e-13)
