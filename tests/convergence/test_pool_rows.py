"""Rows kept for each task of the pool."""

import torch

from convergence import Oracle
from convergence.pool_rows import rows, with_rows
from problems import Noisy, Quadratic, Tasks

PROBLEM = Quadratic.random(tasks=5, p=2, q=3, kappa=3.0)
STORED = torch.arange(15.0).reshape(5, 3)


def test_rows_are_found_and_replaced_by_their_index():
    oracle, tasks = Oracle(PROBLEM), Tasks(torch.tensor([3, 1]))
    assert torch.equal(rows(STORED, tasks, oracle), STORED[[3, 1]])
    found = with_rows((STORED, None), (-torch.ones(2, 3), None), tasks, oracle)
    assert found[1] is None
    assert torch.equal(found[0][[0, 2, 4]], STORED[[0, 2, 4]])
    assert bool((found[0][[3, 1]] == -1).all())
    assert torch.equal(STORED, torch.arange(15.0).reshape(5, 3))


def test_of_a_task_that_is_drawn_twice_with_two_samples_the_first_row_is_kept():
    oracle = Oracle(Noisy(PROBLEM, lower=0.1), replicas=2)
    index = torch.tensor([[3, 1, 3, 3], [0, 4, 4, 0]])
    new = torch.arange(24.0).reshape(2, 4, 3)
    found = with_rows(STORED.expand(2, 5, 3), new, Tasks(index), oracle)
    assert torch.equal(found[0, 3], new[0, 0])
    assert torch.equal(found[0, 1], new[0, 1])
    assert torch.equal(found[1, 0], new[1, 0])
    assert torch.equal(found[1, 4], new[1, 1])
    assert torch.equal(found[1, 1:4], STORED[1:4])
