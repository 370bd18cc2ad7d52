"""`python -m figures DIR` redraws what it finds, and says in one line what it misses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from figures import FIGURES
from figures.__main__ import main
from figures.style import save
from paper_checks import Setting, Verdict, evidence
from tests.figures.evidence import make


@pytest.fixture
def report(tmp_path):
    (tmp_path / "evidence").mkdir()
    return tmp_path


def store(report: Path, claim: str, **arrays) -> Path:
    found = arrays or make(claim, 2)
    evidence.write_arrays(report, claim, found)
    evidence.write_json(report, Verdict(claim, (), (), 0.0, Setting()), found, asked={})
    return evidence.arrays_file(report, claim)


def status(monkeypatch, *arguments) -> int | str | None:
    """How the command ends."""
    monkeypatch.setattr(sys, "argv", ["figures", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0


def refusal(monkeypatch, capsys, *arguments) -> str:
    """The one line on standard error of a command that ends with exit status 2."""
    assert status(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_redraws_what_is_stored(report, monkeypatch, capsys, tmp_path_factory):
    fresh = tmp_path_factory.mktemp("fresh")
    for claim in ("memory", "cold_start_floor"):
        store(report, claim)
        save(FIGURES[claim](make(claim, 2)), fresh, claim)
    assert status(monkeypatch, report) == 0
    written = sorted(path for path in report.iterdir() if path.is_file())
    assert [path.name for path in written] == sorted(path.name for path in fresh.iterdir())
    assert all(path.read_bytes() == (fresh / path.name).read_bytes() for path in written)
    assert sorted(capsys.readouterr().out.split()) == [str(path) for path in written]


def test_a_missing_folder_ends_the_command_with_one_line(tmp_path):
    missing = tmp_path / "no such report"
    done = subprocess.run([sys.executable, "-m", "figures", missing], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "evidence" in line
    assert str(missing) in line


@pytest.mark.parametrize(("made", "found"), [("file", "a file"), ("folder", "without"), ("evidence", "got none")])
def test_a_folder_without_evidence_is_refused(made, found, tmp_path, monkeypatch, capsys):
    place = tmp_path / "report"
    if made == "file":
        place.write_text("")
    else:
        (place / "evidence" if made == "evidence" else place).mkdir(parents=True)
    line = refusal(monkeypatch, capsys, place)
    assert str(place) in line
    assert found in line


@pytest.mark.parametrize("harm", ["file", "folder in the way"])
def test_a_folder_that_cannot_be_written_is_refused(harm, report, monkeypatch, capsys, tmp_path_factory):
    store(report, "memory")
    out = tmp_path_factory.mktemp("elsewhere") / "out[/x]"
    if harm == "folder in the way":
        (out / "memory.png").mkdir(parents=True)
    else:
        out.parent.mkdir()
        out.touch()
    line = refusal(monkeypatch, capsys, report, "--out", out)
    assert line.startswith(f"error: expected a folder that can be written, got {out}: ")
    assert "Errno" not in line


def test_a_missing_argument_is_refused(monkeypatch, capsys):
    assert "DIR" in refusal(monkeypatch, capsys)


@pytest.mark.parametrize("harm", ["empty", "text", "cut", "bent", "pickled", "one array", "other"])
def test_a_file_that_cannot_be_read_is_named(harm, report, monkeypatch, capsys):
    path = store(report, "memory")
    content = path.read_bytes()
    middle = len(content) // 3
    if harm == "pickled":
        np.savez(path, over_K=np.array([{}], dtype=object))
    elif harm == "other":
        np.savez(path, **(make("memory", 2) | {"over_K": np.zeros(3)}))
    elif harm == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        bent = content[:middle] + bytes(255 - byte for byte in content[middle : middle + 40]) + content[middle + 40 :]
        path.write_bytes({"empty": b"", "text": b"over_K: 3\n", "cut": content[:middle], "bent": bent}[harm])
    assert str(path) in refusal(monkeypatch, capsys, report)
    assert list(report.glob("*.svg")) == []


def test_arrays_that_nobody_vouches_for_are_refused(report, monkeypatch, capsys):
    path = store(report, "memory")
    path.with_suffix(".json").unlink()
    assert "memory.json, got no such file" in refusal(monkeypatch, capsys, report)


def test_a_missing_array_is_named_and_the_old_figure_kept(report, monkeypatch, capsys):
    arrays = make("memory", 2)
    del arrays["over_N"]
    path = store(report, "memory", **arrays)
    (report / "memory.svg").write_text("old")
    line = refusal(monkeypatch, capsys, report)
    assert "over_N" in line
    assert str(path) in line
    assert (report / "memory.svg").read_text() == "old"


def test_evidence_of_no_claim_is_refused_before_anything_is_drawn(report, monkeypatch, capsys):
    store(report, "cold_start_floor")
    store(report, "memroy", x=np.zeros(1))
    assert "did you mean 'memory'" in refusal(monkeypatch, capsys, report)
    assert list(report.glob("*.png")) == []


def test_a_run_on_a_problem_of_ones_own_has_no_figures(report, monkeypatch, capsys):
    store(report, "cg_rate")
    evidence.begin(report, ["cg_rate"], {"scale": "smoke", "problem": "mine:Mine, sha256 0"})
    assert "got one on the problem mine:Mine" in refusal(monkeypatch, capsys, report)
    assert list(report.glob("*.svg")) == []
