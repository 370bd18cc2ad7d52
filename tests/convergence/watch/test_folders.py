"""What is said of a folder, against the run that wrote it."""

import io
import json
import os
import signal
import time

import pytest
from rich.console import Console

from convergence import MemoryReduced
from convergence.files import locked
from convergence.training.run_folder import RunFolder
from convergence.watch import folders, watched
from convergence.watch.folders import Battery, RunWatched, Seeds
from convergence.watch.tail import Tail
from convergence.watch.view import view
from paper_checks.progress import Progress
from tests.convergence.training.small import started, tiny
from tests.convergence.watch.runs import PROBES, kept, trained_by_leave


def seen(folder):
    found = watched(folder)
    found.look()
    return found


def everything_in(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*"))}


# ---- what was measured


def test_a_kept_run_is_seen_as_it_was(tmp_path):
    result = kept(tmp_path)
    before = everything_in(tmp_path)
    found = seen(tmp_path)
    assert everything_in(tmp_path) == before
    assert isinstance(found, RunWatched)
    assert (found.iteration, found.iterations, found.title) == (8, 8, "MemoryReduced on Quadratic")
    for name in PROBES:
        trace = result.trace[name].sqrt() if name.endswith("_sq") else result.trace[name]
        assert found.series[name].means(8) == pytest.approx(trace.tolist(), rel=1e-15)
    assert found.last["calls"] == result.calls
    assert found.last["peak_bytes"] > 0
    assert found.stands == folders.Ended("finished", f"{result.status}: {result.status.advice}")
    assert list(found.messages) == ["iteration 8: kept, from here it can go on"]


def test_a_training_run_is_seen_as_it_was(tmp_path):
    trained = tiny(7, out=tmp_path)
    found = seen(tmp_path)
    assert (found.iteration, found.iterations, found.title) == (7, 7, "MemoryReduced")
    assert found.series["loss"].means(7) == [row["loss"] for row in trained.metrics]
    assert found.series["direction_norm"].last == trained.metrics[-1]["direction_norm"]
    assert found.series["validation_accuracy"].most == trained.validated["validation_accuracy"]
    assert found.last["calls"] == trained.metrics[-1]["calls"]
    assert found.last["peak_bytes"] == trained.metrics[0]["peak_bytes"]
    assert found.seconds == trained.metrics[-1]["seconds"]
    span = trained.metrics[-1]["seconds"] - trained.metrics[0]["seconds"]
    assert found.rate == pytest.approx(6 / span)
    assert [message.split(":")[0] for message in found.messages] == ["iteration 3", "iteration 6", "iteration 7"]
    assert found.left is None  # it runs no longer


def test_the_pace_is_that_of_the_last_rows_and_the_time_left_follows(tmp_path):
    rows = [{"iteration": t, "loss": 1.0, "seconds": 10.0 * t if t < 50 else 500 + (t - 50) / 4} for t in range(1, 401)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text(json.dumps({"plan": {"iterations": 500}}))
    with locked(tmp_path):
        found = seen(tmp_path)
        assert found.rate == pytest.approx(4.0)
        assert found.left == pytest.approx(25.0)


def test_what_is_no_number_is_left_out(tmp_path):
    values = ["null", "1e400", '"x"', "2.0", "[1]"]
    lines = [f'{{"iteration": {t}, "loss": {value}, "seconds": null}}\n' for t, value in enumerate(values)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    (tmp_path / "config.json").write_text('["no object"]')
    found = seen(tmp_path)
    assert (found.series["loss"].first, found.series["loss"].last, found.iteration) == (2.0, 2.0, 4)
    assert (found.rate, found.seconds, found.iterations) == (None, None, None)
    for broken in ('{"plan": 3, "recipe": [], "labels": "x"}', '{"plan": {"iterations": "many"}}', "{"):
        (tmp_path / "config.json").write_text(broken)
        assert (seen(tmp_path).iterations, seen(tmp_path).title) == (None, "")


# ---- who is at work, and how it ended


def test_a_process_is_watched_while_it_trains_until_it_is_killed_and_after_it_went_on(tmp_path):
    """The lock, the log and the process are real; it is looked at between two iterations, and never notices."""
    out, leave = tmp_path / "run", tmp_path / "leave"
    leave.write_text("2")
    process = started(trained_by_leave, out, leave)
    until = time.monotonic() + 60
    while not (out / "metrics.jsonl").is_file() and time.monotonic() < until:
        time.sleep(0.02)
    found = watched(out)
    try:
        for done in (2, 4):
            leave.write_text(str(done))
            while found.iteration < done and time.monotonic() < until:
                time.sleep(0.02)
                found.look()
            assert found.iteration == done
            assert found.stands == folders.Ended("running", f"process {process.pid}")
        assert found.left > 0
        assert found.series["loss"].means(4) == [row["loss"] for row in tiny(4).metrics]
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    found.look()
    assert found.stands == folders.Ended("killed", f"process {process.pid} is no longer running")
    tiny(7, out=out, resume=True)
    found.look()
    assert (found.iteration, found.stands.state) == (7, "finished")
    assert found.series["loss"].means(7) == [row["loss"] for row in tiny(7).metrics]  # none of them twice


def test_a_process_of_another_machine_is_at_work_where_the_log_grows(tmp_path):
    kept(tmp_path)
    (tmp_path / "end.json").unlink()
    (tmp_path / ".lock").write_text("4194999")  # above the largest process id of Linux by default
    found = seen(tmp_path)
    assert found.stands.state == "killed"
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"iteration": 9, "value": 1.0, "seconds": 1e9}\n')
    found.look()
    assert found.stands == folders.Ended("running", "process 4194999, not of this machine")


def test_how_a_run_ended_is_told(tmp_path):
    kept(tmp_path / "stopped", stop=lambda: True)
    assert seen(tmp_path / "stopped").stands.state == "interrupted"
    steep = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=1e30)
    kept(tmp_path / "failed", 100, steep, probes=("direction_norm_sq",))
    stands = seen(tmp_path / "failed").stands
    assert stands.state == "failed"
    assert stands.why.startswith("NON_FINITE: ")
    (tmp_path / "stopped" / "end.json").unlink()  # as after a second signal
    assert seen(tmp_path / "stopped").stands.state == "interrupted"
    kept(tmp_path / "finished")
    (tmp_path / "finished" / "end.json").unlink()
    assert seen(tmp_path / "finished").stands.state == "finished"


# ---- other folders


def test_seeds_are_watched_together_and_those_to_come_as_they_come(tmp_path):
    tiny(3, out=tmp_path / "seed-10", seed=10)
    found = seen(tmp_path)
    assert isinstance(found, Seeds)
    assert (list(found.runs), found.running) == (["seed-10"], False)
    tiny(2, out=tmp_path / "seed-2", seed=2)
    with RunFolder(tmp_path / "seed-2").locked():
        found.look()
        assert {name: run.iteration for name, run in found.runs.items()} == {"seed-10": 3, "seed-2": 2}
        assert found.running


def test_a_battery_is_watched_by_what_it_writes(tmp_path):
    progress = Progress(tmp_path, ["cg_rate", "memory"])
    progress.cells.within("cg_rate").note("instances, 3 of 10")
    with locked(tmp_path):
        progress.write()
        found = seen(tmp_path)
        assert isinstance(found, Battery)
        assert found.stands == folders.Ended("running", f"process {os.getpid()}")
        assert found.claims["cg_rate"].measuring == "instances, 3 of 10"
        assert [claim.state for claim in found.claims.values()] == ["running", "waiting"]
    found.look()
    assert found.stands == folders.Ended("killed", f"process {os.getpid()} is no longer running")
    content = json.loads((tmp_path / "progress.json").read_text())
    (tmp_path / "progress.json").write_text(json.dumps(content | {"updated": "later", "pid": 4194999}))
    found.look()
    assert found.stands == folders.Ended("running", "process 4194999, not of this machine")
    for state in ("finished", "interrupted", "failed"):
        progress.write(state, "so it was")
        found.look()
        assert found.stands == folders.Ended(state, "so it was")


def test_a_folder_without_a_run_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "seed-0").mkdir()
    for folder, sentence in {
        tmp_path: "expected a folder that train, solve --keep or paper_checks writes .*, got .* without",
        tmp_path / "none": "expected the folder of a run, got .*none, which is none",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            watched(folder)


# ---- what nobody of ours has written

ROW = {"iteration": 3, "loss": 0.5, "seconds": 1.5, "calls": {"hvp": 7}}
DEEP = "[" * 100_000
KINDS = ["1", "1e999", "NaN", "true", "null", "-1", '"[/x]"', "[1, 2]", "{}", '"\\ud800\\u001b[2J"', "9" * 400]
FIELDS = ("loss", "seconds", "calls", "peak_bytes", "breakdowns", "compile_seconds", "validation_accuracy", "iteration")


def looked_at(folder):
    """It is looked at and shown, in time and without a word of Python's."""
    found = seen(folder)
    found.look()
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(view(found))
    shown = console.file.getvalue()
    assert "\x1b" not in shown
    shown.encode()
    return found


@pytest.mark.parametrize("log", ["metrics.jsonl", "progress.jsonl"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_another_shape_is_passed_over_field_by_field(tmp_path, log, kind):
    other = "".join(f'{{"iteration": 1, "{field}": {kind}, "validation_ci95": {kind}}}\n' for field in FIELDS)
    deep = f'{{"iteration": 1, "loss": {DEEP}}}\n{{"iteration": 2, "lo'
    (tmp_path / log).write_text(json.dumps(ROW) + "\n" + other + json.dumps(ROW | {"iteration": 4}) + "\n" + deep)
    plan = f'{{"plan": {{"iterations": {kind}}}, "labels": {{"method": 3, "data": {kind}}}}}'
    (tmp_path / "config.json").write_text(plan)
    with locked(tmp_path):
        found = looked_at(tmp_path)
    assert found.iteration == 4
    assert found.series["loss"].first == found.series["loss"].last == 0.5
    assert found.seconds == 1.5


@pytest.mark.parametrize("kind", [*KINDS, DEEP, "{", '{"end": ["failed"]}', '{"end": "failed", "message": [1]}'])
@pytest.mark.parametrize("name", ["config.json", "end.json"])
def test_what_stands_beside_the_log_may_be_anything(tmp_path, name, kind):
    (tmp_path / "progress.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / name).write_text(kind)
    assert looked_at(tmp_path).iteration == 3
    (tmp_path / "config.json").write_text(f'{{"method": {kind}, "problem": {{"type": {kind}}}, "iterations": {kind}}}')
    assert looked_at(tmp_path).iteration == 3


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_read(tmp_path, make):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "progress.jsonl").write_text(json.dumps(ROW) + "\n")
    for name in ("config.json", "end.json", ".lock"):
        make(tmp_path / "run" / name)
    assert looked_at(tmp_path / "run").stands.state == "interrupted"
    (tmp_path / "run" / "progress.jsonl").unlink()
    make(tmp_path / "run" / "progress.jsonl")
    with pytest.raises(ValueError, match=r"got .*run without"):
        watched(tmp_path / "run")
    log = Tail(tmp_path / "run" / "progress.jsonl")
    assert log.read() == (False, [])


@pytest.mark.parametrize("kind", [*KINDS, DEEP, "{"])
def test_a_progress_of_another_shape_is_shown_as_far_as_it_goes(tmp_path, kind):
    path = tmp_path / "progress.json"
    claim = {"state": "finished", "measuring": "", "outcome": "HOLDS", "seconds": 1.0}
    for field in ("claims", "state", "pid", "updated", "message"):
        whole = {"claims": {"memory": claim}, "state": "running", "pid": 4194999, "updated": "x", "message": ""}
        path.write_text(json.dumps(whole | {field: "HERE"}).replace('"HERE"', kind))
        found = looked_at(tmp_path)
        assert field == "claims" or not found.claims or found.claims["memory"].outcome == "HOLDS"
    for field in claim:
        path.write_text(json.dumps({"claims": {"[/x]": claim | {field: "HERE"}}}).replace('"HERE"', kind))
        looked_at(tmp_path)
    path.write_text(kind)
    assert looked_at(tmp_path).claims == {}


def test_numbers_at_the_end_of_what_a_double_holds_are_drawn(tmp_path):
    values = [1e299, -1e299, 1e300, -1e300, 1.7e308, -1.7e308] * 1024
    rows = (json.dumps({"iteration": t, "loss": value, "seconds": value}) + "\n" for t, value in enumerate(values))
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    (tmp_path / "config.json").write_text('{"plan": {"iterations": 4611686018427387904}}')
    with locked(tmp_path):
        assert looked_at(tmp_path).series["loss"].most == 1e300
