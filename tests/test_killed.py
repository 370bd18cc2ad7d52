"""Long commands killed at random moments end with what they end with otherwise: real processes, real signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace

import pytest

import paper_checks.__main__
from paper_checks import CLAIMS
from tests.convergence.training.small import write_tiny
from tests.killed import commands, ended, survive

KILLS = {"paper_checks": 14, "solve": 10, "train": 10}


@pytest.mark.parametrize("name", KILLS)
def test_a_command_survives_signals_at_random_moments(name, tmp_path):
    command = commands(write_tiny(tmp_path / "images"))[name]
    assert survive(command, tmp_path / "runs", kills=KILLS[name], seed=0) >= 1


def with_a_deadly_claim():
    """`python -m paper_checks` where the claim "second" kills its process."""
    CLAIMS["second"] = replace(CLAIMS["second"], run=lambda setting: os.kill(os.getpid(), signal.SIGKILL))
    paper_checks.__main__.main()


def test_a_process_that_is_killed_among_several_is_said_and_the_others_are_kept(tmp_path):
    command = commands(tmp_path, jobs=2)["paper_checks"]
    line = refused(replace(command, main=with_a_deadly_claim), tmp_path / "run")
    assert line.startswith("error: expected processes that judge ")
    assert "second" in line
    assert line.endswith("the same command with --resume goes on")
    assert ended(command, tmp_path / "run") == 0
    assert ended(command, tmp_path / "whole") == 0
    assert command.found(tmp_path / "run") == command.found(tmp_path / "whole")


# ---- a disk without room


def refused(command, folder, **options):
    """The last line that the command says when it fails for want of room."""
    folder.with_suffix(".log").unlink(missing_ok=True)
    assert ended(command, folder, **options) == 2
    return folder.with_suffix(".log").read_text().splitlines()[-1]


def whole(name, folder):
    command = commands(folder, claims=("first", "cg_rate"))[name]
    assert ended(command, folder / "whole") == 0
    return command, command.found(folder / "whole")


def test_a_report_goes_on_when_there_is_room_for_longer_files(tmp_path):
    command, expected = whole("paper_checks", tmp_path)
    lines = [refused(command, tmp_path / "run", room=room) for room in (2500, 20_000)]
    for line in lines:
        assert line.startswith("error: expected room and leave to write ")
        assert "File too large" in line
        assert "of 2 claims are judged and kept in" in line
        assert line.endswith("when that is mended, the same command with --resume goes on")
    assert "; 0 of 2 claims" in lines[0]
    assert ended(command, tmp_path / "run") == 0
    assert command.found(tmp_path / "run") == expected


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 140 kB, and what makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=140k", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
    with suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", ["paper_checks", "solve"])
def test_a_run_goes_on_when_there_is_room_on_the_disk(name, tmp_path, small_disk):
    folder, enlarge = small_disk
    command, expected = whole(name, tmp_path)
    (folder / "ballast").write_bytes(bytes(0 if name == "paper_checks" else 100_000))
    line = refused(command, folder / "run")
    assert "No space left on device" in line
    assert not list(folder.rglob("*.partial"))
    (folder / "ballast").unlink()
    enlarge()
    assert ended(command, folder / "run") == 0
    assert command.found(folder / "run") == expected
