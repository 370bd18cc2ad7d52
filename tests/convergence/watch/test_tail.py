"""A log that another writes: every whole line once, in order, whatever moment it is looked at."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence import progress
from convergence.watch import tail as module
from convergence.watch.tail import Tail

ROWS = [{"iteration": t, "loss": t / 7, "note": "é" * (t % 3)} for t in range(9)]
CONTENT = b"".join(map(progress.line, ROWS))


@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=12).map(sorted))
def test_a_log_that_grows_by_pieces_is_read_once_and_in_order(cuts, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    log, found = Tail(path), []
    path.touch()
    for first, last in zip([0, *cuts], [*cuts, len(CONTENT)], strict=True):
        with path.open("ab") as file:
            file.write(CONTENT[first:last])
        found += log.read()[1]
        assert log.behind == len(CONTENT[:last].rpartition(b"\n")[2])  # the half line that is waited for
    assert found == ROWS
    assert log.read() == (False, [])


def test_a_log_that_is_not_there_yet_or_no_longer_has_no_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Tail(path)
    assert log.read() == (False, [])
    path.write_bytes(CONTENT)
    assert log.read() == (True, ROWS)
    path.unlink()
    assert log.read() == (True, [])
    assert log.read() == (False, [])


@pytest.mark.parametrize("replace", [True, False])
def test_a_log_that_was_replaced_or_cut_is_read_anew(replace, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(CONTENT)
    log = Tail(path)
    log.read()
    if replace:
        other = tmp_path / "other"
        other.write_bytes(CONTENT)
        other.replace(path)
    else:
        path.write_bytes(progress.line(ROWS[0]))
    assert log.read() == (True, ROWS if replace else ROWS[:1])


def test_lines_of_somebody_else_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    foreign = [b"no JSON}\n", b"[1]\n", b'{"loss": 1}\n', b"\xff\xfe}\n", b"{}\n", b"\n", b'{"iteration": "4"}\n']
    path.write_bytes(b"".join(foreign) + CONTENT)
    assert Tail(path).read()[1] == ROWS


def test_a_look_takes_no_more_than_its_time_and_the_next_one_only_what_has_come(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    line = progress.line({"iteration": 1, "loss": 0.123456789, "calls": {"hvp": 123456}})
    path.write_bytes(line * (5 * module._AT_A_TIME // len(line)))
    log, looks, rows = Tail(path), 0, 0
    while looks == 0 or log.behind:
        rows, looks = rows + len(log.read(within=0.0)[1]), looks + 1
    assert 5 <= looks <= 6  # one part each
    assert rows == path.stat().st_size // len(line)
    parsed = []
    monkeypatch.setattr(module, "row_of", lambda content: parsed.append(content) or json.loads(content))
    with path.open("ab") as file:
        file.write(line)
    log.read()
    assert parsed == [line]
