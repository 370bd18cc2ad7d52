from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convergence.streams import TaskStream, generator
from tests.strategies import seeds

# The tests of frequencies have fixed seeds: they pass or fail for good. A right stream fails one with probability 1e-4.
SIGNIFICANCE = 1e-4


def drawn(seed: int, count: int, **options) -> np.ndarray:
    stream = TaskStream(seed, **options)
    return np.stack([stream.index(t).numpy() for t in range(count)])


@st.composite
def streams(draw) -> dict:
    pool = draw(st.integers(1, 40))
    replacement = draw(st.booleans())
    return {"pool": pool, "replacement": replacement, "batch": draw(st.integers(1, 50 if replacement else pool))}


@given(options=streams(), seed=seeds, order=st.permutations([0, 1, 2, 63, 64, 65, 200]))
def test_the_tasks_of_an_iteration_depend_on_the_seed_and_the_iteration_alone(options, seed, order):
    visited = TaskStream(seed, **options)
    in_this_order = {t: visited.index(t) for t in order}
    for t, index in in_this_order.items():
        assert torch.equal(index, TaskStream(seed, **options).index(t))


@given(options=streams(), seed=seeds, replicas=st.integers(1, 4), iteration=st.integers(0, 300))
def test_each_row_of_several_seeds_is_the_stream_of_its_seed(options, seed, replicas, iteration):
    together = TaskStream([seed + r for r in range(replicas)], **options).index(iteration)
    assert together.shape == (replicas, options["batch"])
    for r in range(replicas):
        assert torch.equal(together[r], TaskStream(seed + r, **options).index(iteration))


@given(options=streams(), seed=seeds, iteration=st.integers(0, 300))
def test_indices_lie_in_the_pool_and_differ_without_replacement(options, seed, iteration):
    index = TaskStream(seed, **options).index(iteration)
    assert (index.dtype, index.device.type) == (torch.int64, "cpu")
    assert index.shape == (options["batch"],)
    assert 0 <= int(index.min()) <= int(index.max()) < options["pool"]
    if not options["replacement"]:
        assert len(set(index.tolist())) == options["batch"]


def test_a_batch_of_a_pool_of_any_size_is_uniform_and_has_no_task_twice():
    M, count = 10**9, 2000
    batches = np.stack([TaskStream(3, pool=M, batch=50, replacement=False).index(t).numpy() for t in range(count)])
    assert all(len(set(batch)) == 50 for batch in batches.tolist())
    for column in (batches[:, 0], batches[:, -1], batches.ravel()):
        assert stats.kstest(column / M, "uniform").pvalue > SIGNIFICANCE


def test_a_pool_beyond_the_block_size_is_drawn_like_any_other():
    options = {"pool": 2**15, "batch": 5, "replacement": False}
    stream = TaskStream(0, **options)
    assert not torch.equal(stream.index(0), stream.index(1))
    assert torch.equal(stream.index(1), TaskStream(0, **options).index(1))


def test_seeds_and_iterations_give_different_batches():
    options = {"pool": 50, "batch": 5, "replacement": True}
    batches = {tuple(row) for seed in range(10) for row in drawn(seed, 100, **options)}
    assert len(batches) == 1000  # 50^5 possible ones: a collision has probability 2e-3


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 6])
def test_every_task_is_drawn_equally_often(replacement, batch):
    pool, count = 7, 4000
    counts = np.bincount(drawn(1, count, pool=pool, batch=batch, replacement=replacement).ravel(), minlength=pool)
    expected = count * batch / pool
    # without replacement the counts vary less, by the factor (M - b) / (M - 1)
    shrunk = 1.0 if replacement else (pool - batch) / (pool - 1)
    statistic = float(((counts - expected) ** 2 / expected).sum()) / shrunk
    assert SIGNIFICANCE < stats.chi2.sf(statistic, pool - 1) < 1 - SIGNIFICANCE


@pytest.mark.parametrize("replacement", [False, True])
def test_every_position_of_a_batch_holds_every_task_equally_often(replacement):
    for position in drawn(2, 4000, pool=5, batch=3, replacement=replacement).T:
        assert stats.chisquare(np.bincount(position, minlength=5)).pvalue > SIGNIFICANCE


def test_every_subset_is_equally_likely_without_replacement():
    counts = Counter(tuple(sorted(row)) for row in drawn(3, 6000, pool=5, batch=2, replacement=False).tolist())
    assert set(counts) == set(combinations(range(5), 2))
    assert stats.chisquare(list(counts.values())).pvalue > SIGNIFICANCE


def test_tasks_with_replacement_are_drawn_independently_within_a_batch():
    batches = drawn(4, 6000, pool=4, batch=2, replacement=True)
    counts = np.bincount(batches @ [4, 1], minlength=16)
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("lag", [1, 64], ids=["next-iteration", "next-block"])
def test_iterations_are_independent_of_each_other(replacement, lag):
    firsts = drawn(5, 6000, pool=4, batch=1, replacement=replacement)[:, 0]
    counts = np.bincount(4 * firsts[:-lag] + firsts[lag:], minlength=16)
    assert stats.chi2_contingency(counts.reshape(4, 4)).pvalue > SIGNIFICANCE


def test_a_batch_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="expected a batch of at most 4 tasks without replacement, got 5"):
        TaskStream(0, pool=4, batch=5, replacement=False)
    with pytest.raises(ValueError, match="expected batch an integer >= 1, got 0"):
        TaskStream(0, pool=4, batch=0, replacement=True)
    assert len(TaskStream(0, pool=4, batch=5, replacement=True).index(0)) == 5


def test_generators_differ_by_seed_purpose_and_iteration_and_repeat_otherwise():
    keys = [(seed, purpose, t) for seed in (0, 1) for purpose in ("start", "tasks", "noise") for t in (0, 1)]
    draws = {key: float(torch.rand((), generator=generator(*key), dtype=torch.float64)) for key in keys}
    assert len(set(draws.values())) == len(keys)
    for key, value in draws.items():
        assert float(torch.rand((), generator=generator(*key), dtype=torch.float64)) == value
    assert generator(0, "start").device.type == "cpu"


def test_seeds_below_two_to_the_32_draw_what_they_always_drew():
    """Golden numbers: evidence that is stored names its seed."""
    assert torch.rand(1, generator=generator(3, "noise", 5)).item() == 0.6787089109420776
    assert TaskStream(2**32 - 1, pool=10, batch=3, replacement=False).index(7).tolist() == [7, 3, 6]


def test_longer_seeds_have_streams_of_their_own():
    """As words of 32 bits, 5 + 2^32 and the purpose "noise" would read as 5, the purpose "tasks" and iteration 2."""

    def first(seed: int, purpose: str, iteration: int) -> float:
        return torch.rand(1, generator=generator(seed, purpose, iteration), dtype=torch.float64).item()

    seeds = [5 + k * 2**32 for k in range(3)] + [2**63 - 1]
    drawn = {first(seed, purpose, t) for seed in seeds for purpose in ("start", "tasks", "noise") for t in range(3)}
    assert len(drawn) == 9 * len(seeds)
    batches = {tuple(TaskStream(seed, pool=10**4, batch=9, replacement=True).index(0).tolist()) for seed in seeds}
    assert len(batches) == len(seeds)


@pytest.mark.parametrize("seed", [-1, 1.5, True, None, 2**63])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="expected seed an integer >= 0, got"):
        generator(seed, "start")


def test_batches_that_no_machine_holds_are_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match=r"expected numbers of the tasks in batches that fit the [0-9]+ bytes"):
        TaskStream(0, pool=10, batch=10**15, replacement=True)
