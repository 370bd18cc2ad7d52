"""Heads written down in numpy: their derivatives by automatic differentiation, CG by the minimum it attains."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from paper_checks.few_shot_theory import exact_cg, lower_hessian, residual_bound, upper_gradient

WAY, N, D = 3, 7, 4


def instance(seed=0):
    rng = np.random.default_rng(seed)
    Z = np.concatenate([rng.standard_normal((N, D)), np.ones((N, 1))], axis=1)
    return Z, rng.integers(WAY, size=N), rng.standard_normal(WAY * (D + 1)), rng


def loss(Z, y, ridge):
    def value(theta):
        logits = torch.from_numpy(Z) @ theta.reshape(WAY, -1).T
        return cross_entropy(logits, torch.from_numpy(y)) + ridge / 2 * theta.square().sum()

    return value


def test_the_hessian_and_the_gradient_are_those_of_automatic_differentiation():
    Z, y, theta, _ = instance()
    point = torch.from_numpy(theta)
    H = torch.autograd.functional.hessian(loss(Z, y, 0.3), point).numpy()
    b = torch.autograd.functional.jacobian(loss(Z, y, 0.0), point).numpy()
    np.testing.assert_allclose(lower_hessian(Z, theta, way=WAY, ridge=0.3), H, atol=1e-14)
    np.testing.assert_allclose(upper_gradient(Z, y, theta, way=WAY), b, atol=1e-14)


def test_every_iterate_is_the_best_of_its_krylov_space():
    rng = np.random.default_rng(1)
    eigenvalues, b = np.linspace(0.5, 4, 9), rng.standard_normal(9)
    for k, v in enumerate(exact_cg(eigenvalues, b, 5), 1):
        space = np.stack([eigenvalues**j * b for j in range(k)], axis=1)
        root = np.sqrt(eigenvalues)
        best = space @ np.linalg.lstsq(root[:, None] * space, b / root, rcond=None)[0]
        np.testing.assert_allclose(v, best, rtol=1e-9)


def test_without_a_solution_the_iterate_off_the_range_is_the_sum_of_inverse_ritz_values():
    eigenvalues = np.array([0.0, 0.0, 1.0, 2.0, 5.0])
    b = np.array([0.3, -0.1, 1.0, 1.0, 1.0])
    one, two = exact_cg(eigenvalues, b, 2)
    ritz = b @ (eigenvalues * b) / (b @ b)
    np.testing.assert_allclose(one, b / ritz, rtol=1e-13)
    Q = np.linalg.qr(np.stack([b, eigenvalues * b], axis=1))[0]
    inverse = (1 / np.linalg.eigvalsh(Q.T @ np.diag(eigenvalues) @ Q)).sum()
    np.testing.assert_allclose(two[:2], inverse * b[:2], rtol=1e-12)


def test_the_bound_on_the_residual_holds_and_starts_at_the_root_of_kappa():
    rng = np.random.default_rng(2)
    eigenvalues, b = np.geomspace(0.1, 3, 40), rng.standard_normal(40)
    residuals = np.linalg.norm(b - eigenvalues * exact_cg(eigenvalues, b, 12), axis=1) / np.linalg.norm(b)
    assert (residuals <= residual_bound(30.0, np.arange(1, 13))).all()
    assert residual_bound(30.0, 0) == np.sqrt(30.0)
    assert not (residuals <= residual_bound(3.0, np.arange(1, 13))).all()
