"""The command: one look where there is no terminal, live until the run ends where there is one, Ctrl-C at any time."""

import io
import os
import re
import signal
import sys
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

import convergence.__main__ as main
from convergence.files import locked
from convergence.watch import command, watched
from tests.convergence.watch.runs import kept


def call(monkeypatch, capsys, *arguments):
    """Exit status, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["convergence", "watch", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main.main()
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path):
    kept(tmp_path / "run[/x]", keep_every=5, probes=("grad_norm_sq",))  # no markup of Rich
    return tmp_path / "run[/x]"


@pytest.fixture
def terminal(monkeypatch):
    """What the command believes to be one."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30, _environ={"TERM": "xterm"})
    monkeypatch.setattr(command, "Console", lambda: console)
    return console.file


@pytest.mark.parametrize("options", [(), ("--once",)])
def test_where_there_is_no_terminal_one_look_is_printed(monkeypatch, capsys, folder, options):
    with locked(folder):  # also where it runs
        code, printed, error = call(monkeypatch, capsys, folder, *options)
    assert (code, error) == (0, "")
    assert printed.count("8 of 8 iterations") == 1
    assert "MemoryReduced on Quadratic in " in printed
    assert "\x1b" not in printed


def test_a_file_that_cannot_be_read_is_one_sentence(monkeypatch, capsys, folder):
    def refused(self, *, within=0.0):
        raise PermissionError(13, "Permission denied", str(folder / "config.json"))

    monkeypatch.setattr(command.watched(folder).__class__, "look", refused)
    code, printed, error = call(monkeypatch, capsys, folder)
    assert (code, printed) == (2, "")
    where = re.escape(str(folder / "config.json"))
    assert re.fullmatch(f"error: expected files of a run that can be read, got {where}: Permission denied\n", error)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("NONE",), "error: expected the folder of a run, got .*none, which is none\n"),
        (("EMPTY",), "error: expected a folder that train, solve --keep or paper_checks writes .*without\n"),
        (("RUN", "--refresh", "0"), "error: expected --refresh a finite number > 0, got 0.0\n"),
    ],
)
def test_wrong_usage_is_one_sentence(monkeypatch, capsys, tmp_path, folder, arguments, sentence):
    (tmp_path / "empty").mkdir()
    named = {"NONE": tmp_path / "none", "EMPTY": tmp_path / "empty", "RUN": folder}
    code, printed, error = call(monkeypatch, capsys, *[named.get(word, word) for word in arguments])
    assert (code, printed) == (2, "")
    assert re.fullmatch(sentence, error)


def test_a_terminal_shows_a_run_until_it_ends(monkeypatch, capsys, folder, terminal):
    end = (folder / "end.json").read_bytes()
    lines = (folder / "progress.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "progress.jsonl").write_bytes(b"".join(lines[:3]))
    (folder / "end.json").unlink()
    slept = []
    with locked(folder) as _:

        def meanwhile(seconds):
            slept.append(seconds)
            if len(slept) == 2:
                (folder / "progress.jsonl").write_bytes(b"".join(lines))
            if len(slept) == 4:
                (folder / "end.json").write_bytes(end)
                (folder / ".lock").unlink()

        monkeypatch.setattr(command.time, "sleep", meanwhile)
        code, _, error = call(monkeypatch, capsys, folder, "--refresh", "0.25")
    assert (code, error, slept) == (0, "", [0.25] * 4)
    shown = terminal.getvalue()
    assert re.search(r"running.*1 of 8 .*running.*8 of 8 .*finished.*8 of 8 ", shown, re.DOTALL)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_terminal_as_it_was_and_the_run_alone(
    monkeypatch, capsys, folder, terminal, number, status
):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command.time, "sleep", lambda seconds: os.kill(os.getpid(), number))
    with locked(folder):
        code, _, error = call(monkeypatch, capsys, folder)
        assert (folder / ".lock").is_file()
    assert (code, error) == (status, "")
    shown = terminal.getvalue()
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0  # the cursor is back
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_picture_is_drawn(monkeypatch, capsys, folder, tmp_path):
    code, printed, _ = call(monkeypatch, capsys, folder, "--svg", tmp_path / "watch.svg")
    assert (code, printed) == (0, "")
    root = ET.parse(tmp_path / "watch.svg").getroot()
    assert root.tag.endswith("svg")
    assert "iterations" in "".join(root.itertext())
    (tmp_path / "file").touch()
    code, printed, error = call(monkeypatch, capsys, folder, "--svg", tmp_path / "file" / "watch.svg")
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: expected room and leave to write")
    assert "url(" not in re.sub(r"url\(#", "", (tmp_path / "watch.svg").read_text())  # nothing from elsewhere


def test_what_may_go_on_is_waited_for(monkeypatch, tmp_path, terminal):
    """The next seed, and a process of another machine: of those there is nothing but what they write."""

    def waited(folder):
        slept = []
        monkeypatch.setattr(command.time, "sleep", slept.append)
        command.follow(watched(folder), Console(file=terminal, force_terminal=True, width=80), refresh=5.0)
        return sum(slept)

    kept(tmp_path / "seed-0")
    assert waited(tmp_path / "seed-0") == 0
    (tmp_path / "seed-0" / "progress.jsonl").rename(tmp_path / "seed-0" / "metrics.jsonl")
    assert waited(tmp_path) == 20
    (tmp_path / "seed-0" / "end.json").unlink()
    (tmp_path / "seed-0" / ".lock").write_text("4194999")
    assert waited(tmp_path / "seed-0") == waited(tmp_path) == 30
