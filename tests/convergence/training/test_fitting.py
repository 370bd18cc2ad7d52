"""Training within a memory budget: it stays there, it is the same training, and too little is refused with enough."""

import re

import pytest

from convergence.budget import parse
from convergence.memory import PeakBytes
from convergence.training import train
from convergence.training.plan import Plan
from tests.convergence.training.small import NETWORK, PLAN, RECIPE, assert_same_run, tiny, tiny_splits

BATCH = {"batch": 4, "validate_every": 1, "validation_episodes": 5}
IMAGES = sum(images.images.nbytes for images in tiny_splits().values())


def least(**options) -> int:
    with pytest.raises(ValueError, match="expected memory of at least") as refused:
        tiny(2, memory=1, **(BATCH | options))
    return parse(re.search(r"at least (\S+) for one task at a time, got 1B", str(refused.value))[1])


@pytest.mark.parametrize("options", [{}, {"validate_every": None}], ids=["judged", "unjudged"])
def test_training_stays_within_its_budget_and_is_that_in_such_chunks(options):
    smallest, chunks = least(**options), []
    for share in (1.0, 10.0):
        budget = int(share * smallest)
        with PeakBytes() as meter:
            trained = tiny(2, memory=budget, ahead=False, **(BATCH | options))
        assert meter.peak + IMAGES <= budget
        chunks.append(trained.plan.chunk)
        assert_same_run(trained, tiny(2, chunk=trained.plan.chunk, ahead=False, **(BATCH | options)))
    assert chunks == sorted(chunks)
    assert (chunks[0], chunks[-1]) == (1, 4)


def test_the_fastest_is_chosen_of_those_that_fit(monkeypatch):
    monkeypatch.setattr("convergence.training.train_evaluate.fastest_chunk", lambda *arguments: 3)
    assert tiny(1, memory=least(), chunk="auto", **BATCH).plan.chunk == 1
    assert tiny(1, memory="1GiB", chunk="auto", **BATCH).plan.chunk == 3


def test_a_run_that_is_resumed_keeps_its_chunk(tmp_path):
    smallest = least()
    first = tiny(2, memory=smallest, out=tmp_path, **BATCH)
    again = tiny(3, memory="1GiB", out=tmp_path, resume=True, **BATCH)
    assert first.plan.chunk == again.plan.chunk == 1


def test_a_number_of_tasks_beside_a_budget_and_nonsense_are_refused():
    with pytest.raises(ValueError, match=r"expected chunk or memory, got both \(2 tasks and 1GiB\)"):
        tiny(1, memory="1GiB", chunk=2)
    with pytest.raises(ValueError, match='expected memory in bytes or as "2GiB" or "500MB", got \'lots\''):
        tiny(1, memory="lots")


def test_a_budget_is_no_field_of_the_plan():
    trained = train(RECIPE, tiny_splits(), embedding=NETWORK, iterations=1, memory="1GiB", **PLAN)
    assert trained.plan == Plan(iterations=1, chunk=2, **PLAN)
