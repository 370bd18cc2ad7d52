"""The algorithm written out for any problem equals closed forms where there are some."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convergence import reference
from paper_checks.algorithm_replay import FAMILIES, TwoTensors, instance
from paper_checks.quadratic_theory import QuadraticTheory
from paper_checks.written_out import flattened, written_out
from problems import Quadratic
from tests.strategies import normal

STEPS = {"K": 2, "N": 2, "lower_step_size": 0.15, "upper_step_size": 0.2}
BATCHES = np.array([[0, 1, 2], [2, 2, 0], [1, 1, 1], [3, 0, 3], [0, 1, 2]])


@pytest.mark.parametrize("initialisation", [False, True])
def test_warm_it_is_the_replay_in_closed_form_of_every_run(initialisation):
    problem = Quadratic.random(tasks=4, p=4, q=4, kappa=8.0, initialisation=initialisation, seed=1)
    starts, batches = [normal(seed, 4) for seed in (0, 1)], np.stack([BATCHES, 3 - BATCHES])
    theory = QuadraticTheory.of(problem)
    closed = [theory.replay(phi.numpy(), batch, **STEPS) for phi, batch in zip(starts, batches, strict=True)]
    found = written_out(problem, [{"phi": phi} for phi in starts], batches, **STEPS, warm=True)
    np.testing.assert_allclose(found, closed, rtol=1e-12)


def test_of_several_tensors_it_is_the_replay_of_them_as_one_vector():
    whole = Quadratic.random(tasks=4, p=5, q=4, kappa=8.0, seed=1)
    phi = TwoTensors(whole).phi0(torch.Generator().manual_seed(0))
    assert [tuple(tensor.shape) for tensor in phi.values()] == [(1,), (2, 2)]
    closed = QuadraticTheory.of(whole).replay(flattened(phi).numpy(), BATCHES, **STEPS)
    (found,) = written_out(TwoTensors(whole), [phi], BATCHES[None], **STEPS, warm=True)
    np.testing.assert_allclose(found, closed, rtol=1e-12)


def test_numbers_and_tensors_of_many_axes_are_one_row_a_replica():
    phi = {"number": torch.tensor([1.0, 2.0]), "cube": torch.arange(16.0).view(2, 2, 1, 4)}
    row = flattened({name: tensor[1] for name, tensor in phi.items()})
    assert row.tolist() == [2.0, *range(8, 16)]
    assert torch.equal(flattened(phi, lead=1)[1], row)


@pytest.mark.parametrize("warm", [False, "theta"])
def test_with_exact_v_and_all_tasks_it_is_the_affine_iteration_of_a_cold_start(warm):
    """phi' = phi - beta (H phi - h) of S3a, the K lower steps from 0; from the second iteration on warm differs."""
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=8.0, seed=2)
    phi, steps = normal(3, 3), STEPS | {"N": 4}
    H, h = (mean.mean(0) for mean in QuadraticTheory.of(problem).direction(2, 0.15))
    (found,) = written_out(problem, [{"phi": phi}], np.tile(np.arange(4), (1, 4, 1)), **steps, warm=warm)
    law = [phi.numpy()]
    for _ in range(4):
        law.append(law[-1] - 0.2 * (H @ law[-1] - h))
    same = np.isclose(found, np.stack(law), rtol=1e-11, atol=0).all(1)
    assert same.tolist() == ([True] * 5 if warm is False else [True] * 2 + [False] * 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_solved_to_rounding_goes_along_the_true_gradient(family):
    problem, alpha = instance(family, 0, 5)
    phi = problem.phi0(torch.Generator().manual_seed(3))
    pool = problem.sample(None, torch.Generator())
    gradient = reference(problem, phi, pool)
    steps = {"K": 1000, "N": gradient.theta.shape[-1], "lower_step_size": alpha, "upper_step_size": 1.0}
    ((first, second),) = written_out(problem, [phi], np.arange(len(pool))[None, None], **steps, warm=False)
    np.testing.assert_allclose(first - second, flattened(gradient.hypergradient).numpy(), rtol=0, atol=1e-11)
