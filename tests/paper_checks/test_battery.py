"""A run of claims goes on where it ended, is alone in its folder, and loses nothing that took hours."""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np
import pytest

import paper_checks.__main__ as command
from convergence.files import locked
from paper_checks import CLAIMS, Claim, archive, evidence
from paper_checks.claim import SECTIONS, at_most


class Counted:
    """Claims named "one", "two", ... that count how often they are run; `at` is called before the one of a name."""

    def __init__(self, monkeypatch):
        self.runs, self.at = [], {}
        for name in ("one", "two", "three"):
            monkeypatch.setitem(CLAIMS, name, self._claim(name))

    def _claim(self, name):
        def run(setting):
            setting.report(f"draws of {name}")
            self.at.get(name, lambda: None)()
            self.runs.append(name)
            return {"x": setting.kept(np.random.default_rng([setting.seed, *name.encode()]).random, 3)}

        def judge(found):
            return [at_most("x", found["x"], 1.0)]

        def control(setting):
            return {"x": np.full(1, 2.0)}

        return Claim(name, name, dict.fromkeys(SECTIONS, "text"), run, judge, control, "two")


@pytest.fixture
def counted(monkeypatch):
    return Counted(monkeypatch)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    def called(*arguments):
        """Exit status, standard output, standard error of a run into one folder."""
        monkeypatch.setattr(sys, "argv", ["paper_checks", *map(str, arguments), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as end:
            command.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return called


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def ends_with(number):
    return lambda: os.kill(os.getpid(), number)


def state(out):
    return json.loads((out / "progress.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_line_on_how_to_go_on(counted, call, out, number):
    counted.at["two"] = ends_with(number)
    before = signal.getsignal(number)
    code, _, said = call("one", "two", "three")
    assert code == 128 + number
    expected = f"{number.name}: 1 of 3 claims are judged and kept in {out}, the same command with --resume goes on"
    assert said.splitlines() == [expected]
    assert signal.getsignal(number) is before
    found = state(out)
    assert (found["state"], found["message"], found["pid"]) == ("interrupted", expected, os.getpid())
    assert [claim["state"] for claim in found["claims"].values()] == ["finished", "running", "waiting"]
    assert [record["claim"] for record in json.loads((out / "verdicts.json").read_text())] == ["one"]
    assert not (out / ".lock").exists()
    counted.at.clear()
    code, printed, _ = call("--resume")
    assert code == 0
    assert counted.runs == ["one", "two", "three"]
    assert [printed.count(f"HOLDS         {name} (") for name in ("one", "two", "three")] == [1, 1, 1]
    assert evidence.load_run(out).finished
    assert state(out)["state"] == "finished"
    assert {path.name for path in out.iterdir()} == {
        "evidence", "progress.json", "report.html", "run.json", "verdicts.json"
    }  # fmt: skip


def test_a_signal_that_breaks_off_a_file_is_a_signal_all_the_same(counted, call, out, monkeypatch):
    def packed(arrays):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:  # as zipfile does, where a file in it is still open
            raise ValueError("expected the handle to be closed")

    monkeypatch.setattr(evidence, "packed", packed)
    code, _, said = call("one", "two")
    assert code == 143
    assert said.splitlines() == [
        f"SIGTERM: 0 of 2 claims are judged and kept in {out}, the same command with --resume goes on"
    ]


def test_a_finished_run_is_reported_again_without_measuring(counted, call):
    assert call("one", "two")[0] == 0
    code, printed, _ = call("one", "two", "--resume")
    assert (code, counted.runs) == (0, ["one", "two"])
    assert "two" in printed


def test_claims_may_be_added_when_a_run_goes_on(counted, call, out):
    call("one")
    assert call("three", "--resume")[0] == 0
    assert counted.runs == ["one", "three"]
    assert evidence.load_run(out).claims == ("one", "three")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", 1], "seed = 0"),
        (["--scale", "paper"], "scale = 'smoke'"),
        (["--memory", "1GiB"], "memory = None"),
        (["--threads", 2], "threads = 1"),
        (["--method", "paper_checks.planted:OneLowerStepFewer"], "method = 'convergence.memory_reduced:MemoryReduced'"),
    ],
)
def test_a_run_of_other_options_is_not_gone_on_with(counted, call, out, options, named):
    call("one")
    before = (out / "run.json").read_bytes()
    code, _, said = call("one", *options, "--resume")
    assert code == 2
    assert f"error: expected {named}, as in {out / 'run.json'}, got " in said
    assert (out / "run.json").read_bytes() == before


def test_a_run_by_other_versions_is_not_gone_on_with(counted, call, monkeypatch):
    call("one")
    monkeypatch.setattr("paper_checks.output.versions", lambda: {"torch": "9"})
    code, _, said = call("one", "two", "--resume")
    assert code == 2
    assert "expected Python = " in said


def test_there_must_be_something_to_go_on_with(counted, call, out):
    code, _, said = call("one", "--resume")
    assert code == 2
    assert f"expected a run to resume in {out}, got none: start without --resume" in said
    assert not out.exists()


@pytest.mark.parametrize("file", ["run.json", "evidence/one.json", "evidence/one.npz"])
def test_a_changed_file_is_not_gone_on_with(counted, call, out, file):
    call("one")
    content = bytearray((out / file).read_bytes())
    content[len(content) // 2] ^= 1
    (out / file).write_bytes(content)
    code, _, said = call("one", "two", "--resume")
    assert code == 2
    assert str(out / file) in said
    assert counted.runs == ["one"]


def test_hours_of_evidence_are_lost_on_demand_alone(counted, call, out):
    assert call("one", "--scale", "paper")[0] == 0
    before = (out / "evidence" / "one.npz").read_bytes()
    for options in ([], ["--scale", "paper"], ["--seed", 1]):
        code, _, said = call("one", *options)
        assert code == 2
        assert "expected --resume, to go on with the run at paper scale in" in said
        assert "--overwrite, to lose it, or another --out, got none of them" in said
        assert (out / "evidence" / "one.npz").read_bytes() == before
    assert call("two", "--overwrite")[0] == 0
    assert sorted(path.name for path in (out / "evidence").iterdir()) == ["two.json", "two.npz"]
    assert call("one", "--resume", "--overwrite")[0] == 2


def test_what_takes_hours_is_not_lost_before_the_first_claim_is_judged(counted, call):
    counted.at["one"] = ends_with(signal.SIGTERM)
    assert call("one", "--scale", "paper")[0] == 143
    counted.at.clear()
    assert call("one")[0] == 2
    assert call("one", "--scale", "paper", "--resume")[0] == 0


def test_evidence_at_smoke_scale_is_replaced(counted, call, out):
    call("one")
    (out / "evidence" / "notes.json").write_text("{}")  # nothing of ours
    assert call("two", "--seed", 1)[0] == 0
    assert sorted(path.name for path in (out / "evidence").iterdir()) == ["notes.json", "two.json", "two.npz"]


def test_names_in_a_forged_run_json_lead_nowhere(counted, call, out):
    call("one")
    outside = out.parent / "mine.svg"
    outside.write_text("mine")
    forged = {"schema": 1, "claims": ["../mine"], "setting": {}, "versions": {}}
    for content in (json.dumps(forged).encode(), archive.sealed(forged)):
        (out / "run.json").write_bytes(content)
        code, _, said = call("two", "--overwrite")
        assert code == 2
        assert f"expected an empty folder, a new one, or one that paper_checks wrote, got {out} with run.json" in said
        assert outside.read_text() == "mine"


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["run.json", "verdicts.json", "report.html", "progress.json", "progress/thesis.tex", "evidence/one.npz"]
)
@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_files_of_others_are_not_replaced(counted, call, out, name, options):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('[{"mine": 1}]')
    code, _, said = call("one", *options)
    assert code == 2
    assert "expected an empty folder, a new one, or one that paper_checks wrote, got" in said
    assert f"{out} with {name.removesuffix('/thesis.tex')} in it" in said
    assert files(out) == {name: b'[{"mine": 1}]'}
    assert counted.runs == []


def test_files_of_others_beside_a_run_stay(counted, call, out):
    counted.at["two"] = ends_with(signal.SIGTERM)  # leaves what is kept within a claim
    call("one", "two")
    counted.at.clear()
    assert "progress/two/measuring" in files(out)
    mine = {"progress/thesis.tex", "progress/two/0000.npz.bak", ".notes.partial", "evidence/mine.json", "mine.svg"}
    for name in mine:
        (out / name).write_text('{"verdict": {"scale": "paper"}}')
    for options in ([], ["--resume"]):
        assert call("two", *options)[0] == 0
        assert {name for name in files(out) if name.startswith("progress/") or name in mine} == mine


def test_a_folder_from_before_run_json_is_taken_over(counted, call, out):
    call("one")
    (out / "run.json").unlink()
    assert call("two")[0] == 0
    assert sorted(path.name for path in (out / "evidence").iterdir()) == ["two.json", "two.npz"]
    (out / "run.json").unlink()
    records = [{"claim": "one", "scale": "paper"}]
    (out / "verdicts.json").write_text(json.dumps(records))
    assert call("two")[0] == 2
    assert json.loads((out / "verdicts.json").read_text()) == records
    assert call("two", "--overwrite")[0] == 0


def test_a_folder_that_was_cleared_and_no_more_is_still_ours(counted, call, out, monkeypatch):
    call("one")

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evidence, "begin", killed)
        call("two")
    assert not (out / "verdicts.json").exists()
    assert call("two")[0] == 0
    assert evidence.load_run(out).claims == ("two",)


@pytest.mark.parametrize(
    ("part", "name", "value", "said"), [("setting", "seed", 1, "seed = 0"), ("versions", "torch", "1.0", "torch = ")]
)
def test_evidence_of_another_run_is_not_gone_on_with(counted, call, out, part, name, value, said):
    call("one")
    path = out / "evidence" / "one.json"
    header = archive.opened(path)
    header[part][name] = value
    path.write_bytes(archive.sealed(header))
    code, _, refused = call("one", "two", "--resume")
    assert code == 2
    assert f"expected evidence of this run, {said}" in refused
    assert f"in {path}, got {value!r}" in refused
    assert counted.runs == ["one"]


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_a_second_process_is_refused_with_the_first_ones_id(counted, call, out, options):
    call("one")
    with locked(out):
        code, _, said = call("one", *options)
    assert code == 2
    assert f"expected {out} for one process alone, got process {os.getpid()} at work in it" in said
    assert counted.runs == ["one"]


def test_a_search_is_alone_in_its_folder(call, out):
    with locked(out):
        code, _, said = call("falsify", "cg_rate", "--budget", 1)
    assert code == 2
    assert f"got process {os.getpid()} at work in it" in said


def test_a_run_that_breaks_says_so_to_those_who_look_on(counted, call, out):
    def breaks():
        raise RuntimeError("no such number")

    counted.at["two"] = breaks
    assert call("one", "two")[0] == 70
    found = state(out)
    assert (found["state"], found["message"]) == ("failed", "RuntimeError: no such number")
    assert found["claims"]["one"]["outcome"] == "HOLDS"
    counted.at.clear()
    assert call("one", "two", "--resume")[0] == 0


def test_progress_is_written_while_a_claim_is_measured(counted, call, out, monkeypatch):
    for module in ("progress", "cells"):
        monkeypatch.setattr(f"paper_checks.{module}._EVERY", 0.0)
    seen = []
    counted.at["two"] = lambda: seen.append(state(out))
    assert call("one", "two")[0] == 0
    (found,) = seen
    assert found["state"] == "running"
    assert found["claims"]["one"] | {"seconds": 0} == {
        "state": "finished", "measuring": "", "outcome": "HOLDS", "seconds": 0
    }  # fmt: skip
    assert found["claims"]["two"] == {
        "state": "running", "measuring": "draws of two", "outcome": None, "seconds": None
    }  # fmt: skip
