"""Ranks: stretches, values left for each other, a name for each start, what is said when one does not come."""

from __future__ import annotations

import pickle
import sys
import threading

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from convergence import command_line
from convergence.distributed import RankLost, Ranks, launched, restarted
from convergence.distributed.ranks import _name_of_this_start
from tests.convergence.distributed.processes import on_ranks


def side_by_side(*functions):
    """What each returns, in threads that share a store."""
    found = [None] * len(functions)

    def call(number, function):
        found[number] = function()

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@given(total=st.integers(0, 50), size=st.integers(1, 9))
def test_stretches_are_all_places_in_order_and_of_one_length_but_for_one(total, size):
    parts = [Ranks(rank, size).part(total) for rank in range(size)]
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(total))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_a_rank_that_is_alone_needs_nobody():
    alone, tensor = Ranks(), torch.ones(2)
    assert alone.first
    assert alone.sum(tensor) is tensor
    assert alone.gather("own") == ["own"]
    assert alone.from_first(lambda: 3) == 3


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched() as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
    assert not dist.is_initialized()
    assert not restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted()


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout):
    with pytest.raises(ValueError, match="expected timeout"), launched(timeout=timeout):
        pass


# ---- values left in the store


def test_values_larger_than_a_message_of_the_store_arrive_whole(monkeypatch):
    monkeypatch.setattr("convergence.distributed.ranks._PIECE", 1000)
    store = dist.HashStore()
    left, right = (Ranks(rank, 2, store) for rank in range(2))
    values = {"tensor": torch.arange(999), "text": "x" * 5000}
    found = side_by_side(lambda: left.gather(values), lambda: right.gather(None))
    for mine, theirs in found:
        assert theirs is None
        assert mine["text"] == values["text"]
        assert torch.equal(mine["tensor"], values["tensor"])
    assert side_by_side(lambda: left.gather(1), lambda: right.gather(2)) == [[1, 2], [1, 2]]  # under another name


def test_every_ticket_goes_to_one_rank():
    store = dist.HashStore()
    left, right = (Ranks(rank, 2, store) for rank in range(2))
    drawn = side_by_side(*(lambda ranks=ranks: [ranks.ticket("claim") for _ in range(20)] for ranks in (left, right)))
    assert sorted(drawn[0] + drawn[1]) == list(range(40))


def names(store, size, timeout=20.0):
    return side_by_side(*(lambda rank=rank: _name_of_this_start(store, rank, size, timeout) for rank in range(size)))


def test_every_start_has_a_name_of_its_own_though_the_store_is_that_of_the_last():
    store = dist.HashStore()
    starts = [names(store, size) for size in (3, 3, 2, 4)]
    assert all(len(set(found)) == 1 for found in starts)
    assert len({found[0] for found in starts}) == len(starts)


def test_a_rank_that_never_comes_is_named():
    with pytest.raises(RankLost, match=r"expected word from all 3 ranks, got none from rank 1, 2\."):
        _name_of_this_start(dist.HashStore(), 0, 3, 0.1)


# ---- in processes


def together(ranks: Ranks) -> tuple[str, str]:
    assert ranks.from_first(lambda: f"made by {ranks.rank}") == "made by 0"
    said = []
    for error in (ValueError("expected a folder, got none"), OSError(28, "no room")):

        def fail(error=error):
            raise error

        with pytest.raises(type(error)) as raised:
            ranks.from_first(fail)
        said.append(str(raised.value))
    return tuple(said)


def test_what_rank_0_makes_or_cannot_make_is_known_to_all(tmp_path):
    assert on_ranks(2, together, tmp_path) == [("expected a folder, got none", "[Errno 28] no room")] * 2


# ---- what is said


def test_the_loss_of_a_rank_survives_pickling_and_names_who_speaks():
    lost = pickle.loads(pickle.dumps(RankLost((0, 2), 4)))
    assert str(lost) == "expected word from all 4 ranks, got none from rank 0, 2."
    assert lost.speaker == 1
    assert str(RankLost((), 2)) == "expected word from all 2 ranks, got a connection that broke."


@pytest.mark.parametrize(
    ("rank", "said"), [("1", "error: expected word from all 3 ranks, got none from rank 0.\n"), ("2", "")]
)
def test_the_first_rank_that_is_left_says_so_for_all(rank, said, monkeypatch, capsys):
    def lose(**options):
        raise RankLost((0,), 3)

    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as end:
        command_line.main(lose)
    assert end.value.code == command_line.LOST
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("rank", "waits"), [(None, []), ("0", []), ("1", [command_line._PATIENCE])])
def test_wrong_usage_is_left_to_rank_0_where_torchrun_ends_the_others(rank, waits, monkeypatch, capsys):
    def refuse(**options):
        raise ValueError("expected a problem, got none")

    waited: list[float] = []
    monkeypatch.setattr(command_line.time, "sleep", waited.append)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys, "argv", ["convergence"])
    with pytest.raises(SystemExit) as end:
        command_line.main(refuse)
    assert end.value.code == command_line.WRONG_USAGE
    assert waited == waits
    assert "expected a problem, got none" in capsys.readouterr().err
