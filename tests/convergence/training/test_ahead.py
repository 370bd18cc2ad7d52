"""Tasks drawn ahead are those of their iteration, whatever is asked for, and what goes wrong is said in its turn."""

from __future__ import annotations

import gc
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence.streams import generator
from convergence.training.ahead import Ahead
from problems import Tasks
from tests.problems.few_shot.tiny import few_shot

PROBLEM = few_shot()


def draw(iteration: int) -> Tasks:
    return PROBLEM.sample(2, generator(0, "tasks", iteration))


def same(one: Tasks, other: Tasks) -> bool:
    return torch.equal(one.index, other.index) and all(
        torch.equal(one.tensors[k], other.tensors[k]) for k in one.tensors
    )


@given(order=st.lists(st.integers(0, 5), min_size=1, max_size=8), end=st.integers(0, 6))
def test_each_call_gives_the_tasks_of_its_iteration(order, end):
    ahead = Ahead(draw, end)
    for iteration in order:
        assert same(ahead(iteration), draw(iteration))


def test_the_next_tasks_are_drawn_by_another_thread_meanwhile_and_none_beyond_the_end():
    drawn: dict[int, str] = {}
    done = threading.Event()

    def noting(iteration: int) -> Tasks:
        drawn[iteration] = threading.current_thread().name
        done.set()
        return draw(iteration)

    ahead = Ahead(noting, 3)
    for iteration in range(3):
        done.clear()
        ahead(iteration)
        if iteration < 2:
            assert done.wait(10)  # without another call
    assert list(drawn) == [0, 1, 2]
    assert drawn[0] == threading.current_thread().name != drawn[1] == drawn[2]


def test_what_a_draw_raises_comes_with_its_own_iteration():
    def failing(iteration: int) -> Tasks:
        if iteration == 1:
            raise ValueError("expected images that can be read, got none of iteration 1")
        return draw(iteration)

    ahead = Ahead(failing, 9)
    ahead(0)
    with pytest.raises(ValueError, match="expected images that can be read, got none of iteration 1"):
        ahead(1)
    assert same(ahead(2), draw(2))


def test_the_thread_ends_with_the_last_reference():
    def alive() -> bool:
        return any(thread.name.startswith("tasks") for thread in threading.enumerate())

    gc.collect()
    ahead = Ahead(draw, 9)
    ahead(0)
    assert alive()
    del ahead
    gc.collect()
    deadline = time.monotonic() + 10
    while alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive()
