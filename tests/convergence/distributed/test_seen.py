"""What a kept run leaves for those who look on: the same lines however often it was interrupted."""

from __future__ import annotations

import json

import pytest

from convergence import MemoryReduced, RunFailed
from convergence.distributed import Ranks, run, seen
from convergence.distributed.kept import Kept
from convergence.memory import peak_bytes
from convergence.progress import row_of
from problems import Quadratic

PROBLEM = Quadratic.random(tasks=7, p=3, q=4, kappa=5.0, seed=0)
WARM = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.2)
BARE = {"batch": 4, "probes": ()}
PROBES = ("grad_norm_sq", "direction_norm_sq", "value", "certified_direction_error")


def kept(folder, iterations=8, method=WARM, **options):
    options = {"batch": 4, "keep_every": 3, "probes": PROBES} | options
    return run(PROBLEM, method, ranks=Ranks(), iterations=iterations, keep=folder, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


def without_seconds(folder):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(folder)]


def end(folder):
    return json.loads((folder / "end.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, kept(folder)


def test_a_line_for_each_measurement_and_each_time_it_is_kept(whole):
    folder, result = whole
    first, *others = rows(folder)
    assert first.keys() == {"iteration", "peak_bytes"}
    measured = [row for row in others if "calls" not in row]
    assert [row["iteration"] for row in measured] == list(range(8))
    for name in PROBES:
        assert [row[name] for row in measured] == result.trace[name].tolist()
    assert [row["iteration"] for row in others if "calls" in row] == [3, 6, 8]
    assert others[-1]["calls"] == result.calls
    seconds = [row["seconds"] for row in others]
    assert seconds == sorted(seconds)
    assert end(folder) == {"end": "finished", "iteration": 8, "message": f"{result.status}: {result.status.advice}"}
    config = json.loads((folder / "config.json").read_text())
    assert (config["iterations"], config["method"]["type"]) == (8, "MemoryReduced")


def test_peak_bytes_are_those_of_an_iteration_and_no_less_than_what_it_needs(whole):
    found = rows(whole[0])[0]["peak_bytes"]
    of_a_batch = 4 * 8 * (2 * 4 + 4 * 4)  # theta, v and the Hessians of its four tasks
    alone = peak_bytes(lambda: run(PROBLEM, WARM, ranks=Ranks(), iterations=1, **BARE))
    assert of_a_batch < alone < found < 2 * alone  # which also holds a second copy of the rows of theta and v


@pytest.mark.parametrize("when", ["before it is kept", "in an iteration", "by a wish", "half a line"])
def test_an_interrupted_run_leaves_the_lines_of_one_that_was_not(when, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        if when == "by a wish":
            assert kept(tmp_path, stop=lambda: True).iterations == 3
            assert end(tmp_path)["end"] == "stopped"
        else:
            dies_at(patched, when)
            with pytest.raises(KeyboardInterrupt):
                kept(tmp_path)
            assert not (tmp_path / "end.json").exists()
    if when == "half a line":
        with (tmp_path / "progress.jsonl").open("a") as file:
            file.write('{"iteration": 6, "ca')
    kept(tmp_path, resume=True)
    assert without_seconds(tmp_path) == without_seconds(whole[0])
    assert end(tmp_path) == end(whole[0])


def dies_at(patched, when):
    """The second time that the run is kept, or in an iteration after the first time."""
    write, number, left = Kept.write, seen._number, iter(range(4 * len(PROBES) + 1))

    def before_the_second(self, state, *arguments):
        if state["iteration"] == 6:
            raise KeyboardInterrupt
        write(self, state, *arguments)

    def in_the_fifth(value):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return number(value)

    if when == "in an iteration":
        patched.setattr(seen, "_number", in_the_fifth)
    else:
        patched.setattr(Kept, "write", before_the_second)


def test_a_failure_is_noted(tmp_path):
    steep = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=1e30)
    with pytest.raises(RunFailed, match="NON_FINITE"):
        kept(tmp_path, 100, steep, probes=("direction_norm_sq",))
    assert end(tmp_path)["end"] == "failed"
    assert end(tmp_path)["message"].startswith("NON_FINITE: ")


def test_a_line_that_is_none_is_passed_over():
    assert row_of(b'{"iteration": 1, "loss": null}\n') == {"iteration": 1, "loss": None}
    assert [row_of(line) for line in (b'{"iteration": 1', b"garbage}\n", b'{"seconds": 1}\n')] == [None] * 3
