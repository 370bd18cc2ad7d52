from __future__ import annotations

import itertools
import math

import pytest
import torch

from convergence import Checkpointed, Composed, GradientDescent, HeavyBall, Reversed, Status, Unrolled, peak_bytes, run
from problems import Noisy, ProxLogistic, Quadratic
from tests.convergence.hypergradients.estimates import LOWER, estimated, flat, somewhere
from tests.independent import assert_near
from tests.strategies import normal

HEADS = ProxLogistic.random(tasks=4, q=6, examples=9)  # made before, so that its tensors are in no measurement
ITERATE = 4 * 6 * 8  # bytes of one theta of all tasks


def peak(estimator, lower) -> int:
    return peak_bytes(lambda: estimated(HEADS, {"centre": normal(0, 6)}, estimator, lower))


# ---- checkpoints


@pytest.mark.parametrize("kind", LOWER)
def test_the_memory_of_checkpoints_grows_with_the_square_root_of_k(kind):
    # K = n^2: n starts (theta, and m where there is momentum) and n iterates of one segment
    peaks = {n: peak(Checkpointed(), LOWER[kind](n * n, 0.1)) for n in (3, 4, 7, 10)}
    each = (3 if kind == "momentum" else 2) * ITERATE
    assert [peaks[n] - peaks[3] for n in (4, 7, 10)] == [(n - 3) * each for n in (4, 7, 10)]
    assert peaks[10] < peak(Unrolled(), LOWER[kind](100, 0.1)) / 5


@pytest.mark.parametrize(("segments", "growth"), [(1, 1.0), (2, 1 / 2), (4, 1 / 4)])
def test_a_number_of_segments_keeps_the_iterates_of_one_of_them(segments, growth):
    peaks = [peak(Checkpointed(segments), GradientDescent(k, 0.1)) for k in (16, 24, 40)]
    assert [b - a for a, b in itertools.pairwise(peaks)] == [8 * growth * ITERATE, 16 * growth * ITERATE]


@pytest.mark.parametrize("segments", [None, 1, 2, 3, 5, 50])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 12, 17])
def test_every_cut_gives_the_same_direction_at_its_cost(segments, steps):
    lower, phi = HeavyBall(steps, 0.1, 0.7), somewhere(HEADS, 0)
    expected, _ = estimated(HEADS, phi, Unrolled(), lower)
    found, oracle = estimated(HEADS, phi, Checkpointed(segments), lower)
    assert_near(flat(found.direction), flat(expected.direction), within=1e-13)
    assert torch.equal(found.theta, expected.theta)
    # all steps but the first of each segment but the last are taken twice
    count = max(1, min(steps, math.ceil(math.sqrt(steps)) if segments is None else segments))
    sizes = [steps * (k + 1) // count - steps * k // count for k in range(count)]
    assert oracle.calls["lower_gradient"] == 4 * (steps + sum(size - 1 for size in sizes[:-1]))
    assert max(sizes) - min(sizes) <= 1


# ---- steps undone


def curved(alpha_lambda: float, dtype: torch.dtype) -> Quadratic:
    """Two equal tasks with the curvature lambda = alpha_lambda / alpha, alpha = 0.1, in every direction."""
    A = torch.eye(2, dtype=dtype).expand(2, 2, 2) * alpha_lambda / 0.1
    C, b, u = torch.eye(2, dtype=dtype).expand(2, 2, 2), normal(0, 2, 2).to(dtype), normal(1, 2, 2).to(dtype)
    return Quadratic(A, C, b, C, u, 0 * C, 0 * u)


@pytest.mark.parametrize("gamma", [0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("alpha_lambda", "lost"), [(1e-4, True), (1.0, False)], ids=["flat", "oscillating"])
def test_the_way_back_loses_gamma_a_step_where_theta_hardly_moves_and_says_so(gamma, dtype, alpha_lambda, lost):
    limit = math.log(torch.finfo(dtype).eps) / (2 * math.log(gamma))  # steps: eps gamma^-limit = sqrt(eps)
    problem, phi = curved(alpha_lambda, dtype), {"phi": normal(2, 2).to(dtype)}
    failures = {
        share: estimated(problem, phi, Reversed(), HeavyBall(round(share * limit), 0.1, gamma))[0].failure.tolist()
        for share in (0.9, 2)
    }
    assert failures == {0.9: [0, 0], 2: [Status.BREAKDOWN if lost else 0] * 2}


def test_where_the_way_back_is_lost_so_is_the_direction():
    problem = ProxLogistic.random(tasks=3, q=3, examples=8, seed=0)
    phi, errors = somewhere(problem, 0), {}
    for steps in (20, 80):
        lower = HeavyBall(steps, 0.01, 0.5)
        found, _ = estimated(problem, phi, Reversed(), lower)
        expected, _ = estimated(problem, phi, Unrolled(), lower)
        errors[steps] = float((flat(found.direction) - flat(expected.direction)).norm())
        assert found.failure.tolist() == [0 if steps == 20 else Status.BREAKDOWN] * 3
    assert errors[20] < 1e-14
    assert errors[80] > 1e-4


def test_a_run_whose_way_back_is_lost_ends_in_a_breakdown():
    method = Composed(lower=HeavyBall(80, 0.01, 0.5), estimator=Reversed(), upper_step_size=0.1)
    assert run(HEADS, method, iterations=2, raise_on_failure=False).status == Status.BREAKDOWN


def test_gradient_steps_without_momentum_cannot_be_undone():
    sentence = r"expected a lower solver with momentum for Reversed \(HeavyBall\), .* got GradientDescent"
    with pytest.raises(ValueError, match=sentence):
        estimated(HEADS, somewhere(HEADS, 0), Reversed(), GradientDescent(3, 0.1))


# ---- arguments and samples


@pytest.mark.parametrize("segments", [0, -1, 2.5])
def test_segments_that_are_no_number_of_them_are_refused(segments):
    with pytest.raises(ValueError, match="expected segments None or an integer >= 1, got"):
        Checkpointed(segments)


@pytest.mark.parametrize("estimator", [Checkpointed(), Reversed()])
def test_the_way_back_sees_the_samples_of_the_way_there(estimator):
    problem = Noisy(Quadratic.random(tasks=3, p=2, q=3, kappa=5.0), lower=1.0, hessian=0.3, cross=1.0)
    phi, lower = somewhere(problem, 0), HeavyBall(4, 0.1, 0.5)
    by_seed = [
        [flat(estimated(problem, phi, kind, lower, seeds=[seed])[0].direction) for kind in (estimator, Unrolled())]
        for seed in (0, 1)
    ]
    for found, expected in by_seed:
        assert_near(found, expected, within=1e-12)
    assert float((by_seed[0][0] - by_seed[1][0]).abs().max()) > 1e-2  # other samples do show
