"""What is kept within a claim comes back bit for bit, in the order asked for, or is refused."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch

from paper_checks import Setting
from paper_checks.cells import CellChanged, Cells
from paper_checks.claim import SECTIONS, Claim, at_most

TREE = {
    "rows": [(1, 0.1, "höher"), (2, math.inf, None)],
    "array": np.array([[1.0, -0.0], [math.nan, 5e-324]]),
    "turned": np.arange(6.0).reshape(2, 3).T,
    "single": np.float32(0.1),
    "words": np.array(["a", "bc"]),
    3: True,
    (1, 2): [],
}


def never(*arguments):
    raise AssertionError("measured again")


never.__qualname__ = "tree"


def tree():
    return TREE


@pytest.fixture
def cells(tmp_path):
    return Cells(tmp_path / "cells")


def again(cells):
    return Cells(cells.folder)


def same(left, right):
    if isinstance(left, np.ndarray | np.generic):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def test_a_tree_of_arrays_comes_back_bit_for_bit_the_first_time_and_later(cells):
    assert same(TREE, cells.kept(tree))
    assert same(TREE, again(cells).kept(never))


def test_values_are_kept_in_order_and_measured_once(cells):
    measured = []

    def number(k):
        measured.append(k)
        return k

    for count in (2, 4):
        later = again(cells)
        assert [later.kept(number, 10 * k) for k in range(count)] == [10 * k for k in range(count)]
    assert measured == [0, 10, 20, 30]


def test_parts_are_counted_on_their_own(cells):
    assert [cells.within(part).kept(str, part) for part in ("run", "control")] == ["run", "control"]
    assert [again(cells).within(part).kept(str) for part in ("control", "run")] == ["control", "run"]


def test_what_is_kept_within_what_is_kept_is_part_of_it(cells):
    def outer(cells):
        return [cells.kept(float, k) for k in range(3)]

    for each in (cells, again(cells)):
        assert each.kept(outer, each) == [0.0, 1.0, 2.0]
        assert each.kept(int, 7) == 7
    assert len(list(cells.folder.glob("*.npz"))) == 2


def test_what_cannot_be_kept_is_named(cells):
    with pytest.raises(TypeError, match="strings, dicts, lists and tuples to keep, got Tensor"):
        cells.kept(torch.zeros, 3)


@pytest.mark.parametrize("harm", ["cut", "empty", "bent", "other", "pickled", "number"])
def test_a_file_that_was_not_kept_here_is_refused(cells, harm):
    cells.kept(tree)
    cells.kept(str, "other")
    path = cells.folder / "0000.npz"
    content = path.read_bytes()
    if harm == "other":
        os.replace(cells.folder / "0001.npz", path)
    elif harm == "pickled":
        np.savez(path, header=np.array([{}], dtype=object))
    elif harm == "number":
        np.savez(path, header=np.array("3"), sha256=np.array("3"))
    else:
        place = content.index(np.float64(5e-324).tobytes())
        bent = content[:place] + b"\x02" + content[place + 1 :]
        path.write_bytes({"cut": content[:-30], "empty": b"", "bent": bent}[harm])
    with pytest.raises(CellChanged, match=r"expected tree as it was kept in .*0000.npz, got another file: remove it"):
        again(cells).kept(never)


def test_a_claim_keeps_its_run_apart_from_its_control(cells):
    asked = []

    def evidence(setting):
        return {"x": np.array([setting.kept(asked.append, k) or k for k in setting.track(range(3), "numbers")])}

    claim = Claim(
        "toy",
        "A toy",
        dict.fromkeys(SECTIONS, "text"),
        evidence,
        lambda e: [at_most("x", e["x"], 3)],
        evidence,
        "nothing",
    )
    for _ in range(2):
        verdict, found = claim.verdict(Setting(cells=again(cells)))
        assert found["x"].tolist() == [0, 1, 2]
        assert [c.measured for c in verdict.control] == [2.0]
    assert asked == [0, 1, 2] * 2


def test_notes_say_what_is_measured_and_fail_nothing(cells):
    assert cells.noted() is None
    cells.note("lower steps, 1 of 3")
    cells.note("too soon")
    assert again(cells).noted() == "lower steps, 1 of 3"
    cells.remove()
    cells.folder.write_text("in the way")
    Cells(cells.folder).note("nowhere")
    assert cells.noted() is None
