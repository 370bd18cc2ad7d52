"""The chunk is the smallest of the fastest, of what fits; a run keeps what it measured."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence.recipes import RECIPES
from convergence.training import fastest as measuring
from convergence.training import train
from convergence.training.fastest import fastest, fastest_chunk, fastest_threads
from convergence.training.plan import Plan
from tests.convergence.training.small import EPISODES, NETWORK, PLAN, RECIPE, tiny, tiny_splits


@pytest.mark.parametrize(
    ("seconds", "most", "chosen"),
    [
        ([1.0, 0.5, 0.4, 0.3], 8, 8),
        ([1.0, 0.5, 0.4, 0.3], 7, 4),
        ([1.0, 0.99, 0.985], 4, 1),  # within 2 %
        ([1.0, 0.8, 1.1, 0.1], 8, 2),  # 4 is far slower, so that 8 is not tried
        ([1.0], 0, 1),
    ],
)
def test_the_smallest_of_the_fastest_is_chosen(seconds, most, chosen):
    asked = []

    def took(count):
        asked.append(count)
        return seconds[count.bit_length() - 1]

    assert fastest(took, most) == chosen
    assert max(asked) <= max(1, most)


@given(noise=st.lists(st.floats(0.0, 5.0), min_size=16, max_size=16), slow=st.sampled_from([1, 2]))
def test_rounds_that_were_disturbed_do_not_count(noise, slow):
    """Two candidates, one half as fast, four rounds each; the second round is quiet."""
    calls = iter(range(16))

    def took(count):
        number = next(calls)
        quiet = number in (2, 3)
        return (2.0 if count == slow else 1.0) + (0.0 if quiet or number < 2 else noise[number])

    # where 2 is the slow one it is dropped in the first round
    assert fastest(took, 2) == 3 - slow


def test_it_measures_the_iterations_of_the_plan(monkeypatch):
    chunks = []
    original = measuring.direction_in_chunks

    def noting(method, oracle, phi, tasks, state, *, chunk):
        chunks.append((len(tasks), chunk))
        return original(method, oracle, phi, tasks, state, chunk=chunk)

    monkeypatch.setattr(measuring, "direction_in_chunks", noting)
    plan = Plan(iterations=1, **(PLAN | {"batch": 5}))
    assert fastest_chunk(RECIPE, tiny_splits(), NETWORK, plan) in (1, 2, 4)
    assert {count for count, _ in chunks} <= {1, 2, 4}
    assert all(count == chunk for count, chunk in chunks)
    monkeypatch.setattr(measuring, "_free_bytes", lambda device: 0)
    assert fastest_chunk(RECIPE, tiny_splits(), NETWORK, plan) == 1


@pytest.mark.parametrize(("slow", "chosen"), [(1, 3), (3, 1)])
def test_all_threads_or_one_whichever_is_faster_and_torch_is_left_as_it_was(slow, chosen, monkeypatch):
    clock = [0.0]

    def iteration(count):
        clock[0] += 2.0 if torch.get_num_threads() == slow else 1.0

    monkeypatch.setattr(measuring, "_iteration", lambda *arguments: iteration)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        plan = Plan(iterations=1, **PLAN)
        assert fastest_threads(RECIPE, tiny_splits(), NETWORK, plan) == chosen
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_run_holds_what_was_measured_and_keeps_it(monkeypatch, tmp_path):
    module = "convergence.training.train_evaluate.fastest_chunk"
    monkeypatch.setattr(module, lambda *arguments: 2)
    first = tiny(2, out=tmp_path, chunk="auto")
    assert first.plan.chunk == 2

    def again(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(module, again)
    longer = tiny(4, out=tmp_path, chunk="auto", resume=True)
    assert longer.plan.chunk == 2
    whole = tiny(4, chunk=2)
    assert all(torch.equal(longer.state["phi"][name], tensor) for name, tensor in whole.state["phi"].items())
    with pytest.raises(ValueError, match="expected a checkpoint to resume from"):
        tiny(4, out=tmp_path / "none", chunk="auto", resume=True)


def test_a_method_that_cannot_be_trained_is_refused_as_without_measuring():
    with pytest.raises(ValueError, match='expected bn="task" where the network itself adapts'):
        train(RECIPES["maml"], tiny_splits(), embedding=NETWORK, iterations=1, chunk="auto", bn="support", **EPISODES)
