"""Training on 1, 2 and 4 processes against one; and under torchrun, where a rank is killed and all start anew."""

from __future__ import annotations

import json
import operator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from convergence import checkpoints
from convergence.distributed import Ranks
from convergence.training import Trained
from tests.convergence.distributed import dies_once
from tests.convergence.distributed.processes import among, outcomes, under_torchrun
from tests.convergence.training.small import same_tensors, tiny, write_tiny

SIZES = (1, 2, 4)
# plain gradient steps: Adam divides by the size of the gradient, and makes steps of rounding where it is zero, as for
# the biases before a batch norm
EXACT = {"dtype": "float64", "optimizer": "sgd", "learning_rate": 0.1}


def summary(trained: Trained) -> dict[str, Any]:
    own = ("seconds", "peak_bytes")  # of rank 0 alone
    rows = [{name: value for name, value in row.items() if name not in own} for row in trained.metrics]
    return {"phi": trained.state["phi"], "best": trained.state["best"], "metrics": rows, "end": trained.end}


def trained_on(ranks: Ranks, folder: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    sizes = among(ranks, SIZES)
    for size, some in sizes.items():
        found[size, "batch"] = summary(tiny(4, batch=3, ranks=some, **EXACT))
        found[size, "chunks"] = summary(tiny(2, batch=5, chunk=2, ranks=some, **EXACT))
        heard = {"stop": partial(operator.eq, ranks.rank, size - 1)} if size > 1 else {}  # of the last rank alone
        found[size, "stopped"] = summary(tiny(4, batch=1, ranks=some, **heard, **EXACT))
    for number, (size, iterations) in enumerate(((2, 3), (4, 5), (1, 6))):
        if size in sizes:
            options: dict[str, Any] = {"batch": 3, "checkpoint_every": 1, "out": folder / "run", **EXACT}
            found["kept", iterations] = summary(tiny(iterations, resume=number > 0, ranks=sizes[size], **options))
        ranks.sum(torch.zeros(1))  # the folder is free
    if ranks.rank < 2:
        found["refused"] = refused(sizes[2], folder)
    return found


def refused(ranks: Ranks, folder: Path) -> str:
    """What every rank says of a folder that rank 0 alone has looked into."""
    with pytest.raises(ValueError, match="expected a folder without a run") as error:
        tiny(2, batch=3, out=folder / "run", ranks=ranks, **EXACT)
    return str(error.value)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return outcomes(4, trained_on, folder, folder)


def assert_same(mine: dict[str, Any], whole: Trained) -> None:
    expected = summary(whole)
    for name in ("phi", "best"):
        for part, tensor in expected[name].items():
            assert float((mine[name][part] - tensor).abs().max()) <= 1e-12
    assert mine["end"] == expected["end"]
    assert len(mine["metrics"]) == len(expected["metrics"])
    for row, other in zip(mine["metrics"], expected["metrics"], strict=True):
        assert row.keys() == other.keys()
        for key, value in other.items():
            assert row[key] == (pytest.approx(value, rel=1e-10) if isinstance(value, float) else value)


@pytest.mark.parametrize(("name", "options"), [("batch", {"batch": 3}), ("chunks", {"batch": 5, "chunk": 2})])
@pytest.mark.parametrize("size", SIZES)
def test_phi_and_metrics_are_those_of_one_process(found, size, name, options):
    whole = tiny(4 if name == "batch" else 2, **options, **EXACT)
    for rank in range(size):
        assert_same(found[rank][size, name], whole)


@pytest.mark.parametrize("size", [2, 4])
def test_phi_is_the_same_on_every_rank_bit_for_bit(found, size):
    first, *others = (found[rank][size, "batch"]["phi"] for rank in range(size))
    assert all(same_tensors(first, other) for other in others)


@pytest.mark.parametrize("size", [2, 4])
def test_a_stop_that_one_rank_hears_ends_all_of_them_after_the_same_iteration(found, size):
    for rank in range(size):
        assert len(found[rank][size, "stopped"]["metrics"]) == 1
    assert len(found[0][1, "stopped"]["metrics"]) == 4


@pytest.mark.parametrize(("iterations", "size"), [(3, 2), (5, 4), (6, 1)])
def test_a_run_goes_on_with_any_number_of_ranks(found, iterations, size):
    for rank in range(size):
        mine = found[rank]["kept", iterations]
        assert len(mine["metrics"]) == iterations
    whole = tiny(6, batch=3, **EXACT)
    last = found[0]["kept", 6]["phi"]
    assert all(float((last[part] - tensor).abs().max()) <= 1e-12 for part, tensor in whole.state["phi"].items())


def test_every_rank_hears_why_the_folder_is_refused(found):
    assert found[0]["refused"] == found[1]["refused"]


# ---- torchrun


def test_a_killed_rank_is_named_and_torchrun_goes_on_from_the_checkpoint(tmp_path):
    images, out = write_tiny(tmp_path / "files"), tmp_path / "run"
    episodes = "--way 3 --shot 1 --queries 1 --evaluation-queries 2 --validation-episodes 3 --validate-every 2"
    asked = f"train --data folder --root {images} --out {out} --channels 2 --dtype float64 --batch 3 --iterations 4"
    arguments = [*asked.split(), *episodes.split(), "--checkpoint-every", "2"]
    assert under_torchrun(2, dies_once.command, tmp_path, arguments, restarts=1)
    first, again = ((tmp_path / f"attempt-{attempt}-rank-0.txt").read_text() for attempt in (0, 1))
    assert first.splitlines()[-1] == (
        f"error: expected word from all 2 ranks, got none from rank 1. The checkpoint in {out} is from before: "
        "the same command with --resume goes on."
    )
    assert "ended after 4 iterations" in again
    assert (tmp_path / "attempt-1-rank-1.txt").read_text() == ""
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "end.json",
        "training.png",
    }
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert len(checkpoints.read(out / "checkpoint.pt")[1]["metrics"]) == 4
