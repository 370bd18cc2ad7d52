"""SRBA against its recursion in numpy; its period, its ball, its cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convergence import SOBA, SRBA, Oracle, run
from problems import Minibatch
from tests.convergence.methods.in_numpy import SEED, LeastSquares, assert_replays, derivatives, numbers
from tests.independent import assert_near

STEPS = {"lower_step_size": 0.2, "linear_step_size": 0.3, "upper_step_size": 0.1}
BLOCKS = 3


def sums() -> Minibatch:
    return Minibatch(LeastSquares(), lower=2, upper=2)


@pytest.mark.parametrize("period", [1, 2, 3, 10])
@pytest.mark.parametrize("radius", [None, 0.2])
def test_a_run_replays_the_recursion_written_in_numpy(period, radius):
    problem = sums()
    M, q = problem.tasks, problem.q
    theta, v = np.zeros((2, M, q))
    before = [None] * M  # phi, theta, v
    kept = [None] * M  # the three directions
    shrunk = []

    def directions(i, point, j, k):
        at = derivatives(problem.problem, i, *point, j, k)
        return np.stack([at.slope, at.product - at.upper, at.direct - at.cross])

    def visit(t, i, phi):
        point = (phi.copy(), theta[i].copy(), v[i].copy())
        if t % period == 0:
            kept[i] = directions(i, point, None, None)
        else:
            lower, upper = numbers(t, M, BLOCKS, BLOCKS)
            blocks = lower[i], upper[i]
            kept[i] = directions(i, point, *blocks) - directions(i, before[i], *blocks) + kept[i]
        before[i] = point
        theta[i] -= 0.2 * kept[i][0]
        v[i] -= 0.3 * kept[i][1]
        if radius is not None and np.linalg.norm(v[i]) > radius:
            shrunk.append((t, i))
            v[i] *= radius / np.linalg.norm(v[i])
        return kept[i][2]

    result = assert_replays(problem, SRBA(**STEPS, period=period, radius=radius), visit, lambda t: 0.1)
    assert_near(result.state.v, torch.from_numpy(v), within=1e-12)
    assert bool(shrunk) == (radius is not None)


def test_with_one_block_the_recursion_telescopes_to_soba():
    problem = Minibatch(LeastSquares())
    ends = [run(problem, method, iterations=12).phi["phi"] for method in (SRBA(**STEPS, period=7), SOBA(**STEPS))]
    assert_near(*ends, within=1e-12)


def test_replicas_replay_their_seeds():
    method = SRBA(**STEPS, period=3)
    together = run(sums(), method, iterations=5, replicas=3, seed=SEED, probes=())
    for r in range(3):
        alone = run(sums(), method, iterations=5, seed=SEED + r, probes=())
        assert_near(together.phi["phi"][r], alone.phi["phi"], within=1e-13)


def test_calls_and_examples_are_those_of_the_passes_and_of_the_blocks():
    result = run(sums(), SRBA(**STEPS, period=3), iterations=5, probes=())
    passes, pairs, tasks = 2, 3, 3
    assert set(result.calls.values()) == {tasks * (passes + 2 * pairs)}
    assert set(result.examples.values()) == {tasks * (6 * passes + 2 * 2 * pairs)}
    declared = SRBA(**STEPS, period=3).declared_calls
    assert [declared(3, iteration=t)["hvp"] for t in range(4)] == [3, 6, 6, 3]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_is_refused_in_a_sentence_that_names_both(batch):
    sentence = rf"expected all tasks .* \(batch=None\) for SRBA, .* got a batch of {batch} of the tasks of Minibatch"
    with pytest.raises(ValueError, match=sentence):
        run(sums(), SRBA(**STEPS), iterations=1, batch=batch, probes=())


@pytest.mark.parametrize(("field", "value"), [("period", 0), ("period", 1.5), ("radius", 0.0)])
def test_impossible_hyperparameters_are_refused(field, value):
    with pytest.raises(ValueError, match=f"expected {field} .*, got {value}"):
        SRBA(**{field: value})


def test_a_ball_does_not_divide_by_a_v_of_zero():
    assert torch.equal(SRBA(radius=1.0).inside(torch.zeros(2, 3)), torch.zeros(2, 3))
    oracle = Oracle(sums())
    assert SRBA(**STEPS).start(oracle, oracle.problem.phi0(torch.Generator())).iteration == 0
