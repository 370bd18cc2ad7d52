"""The cache is where it was asked for, and holds what was written to it or is written anew."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from problems.few_shot import cache
from problems.few_shot.cache import cache_folder, kept


@pytest.fixture
def unset(monkeypatch, tmp_path):
    for name in ("MEMORY_REDUCED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_the_argument_goes_before_the_variables_and_these_before_the_home_folder(unset, tmp_path):
    assert cache_folder() == tmp_path / ".cache" / "memory-reduced"
    unset.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/memory-reduced")
    unset.setenv("MEMORY_REDUCED_CACHE", "/y")
    assert cache_folder() == Path("/y")
    assert cache_folder("/z") == Path("/z")


@pytest.mark.parametrize("base", ["", "relative/folder"])
def test_an_empty_or_relative_base_counts_as_unset(unset, tmp_path, base):
    unset.setenv("XDG_CACHE_HOME", base)
    unset.setenv("MEMORY_REDUCED_CACHE", "")
    assert cache_folder() == tmp_path / ".cache" / "memory-reduced"


def write(folder, text="pictures"):
    (folder / "a.txt").write_text(text)
    return {"holds": text}


def never(folder):
    raise AssertionError(f"filled {folder} again")


def test_a_folder_is_filled_once(tmp_path):
    folder = tmp_path / "new" / "set"
    assert kept(folder, write) == {"holds": "pictures"}
    assert kept(folder, never) == {"holds": "pictures"}
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "metadata.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["set"]
    held = json.loads((folder / "metadata.json").read_text())["files"]
    assert held == {"a.txt": hashlib.sha256(b"pictures").hexdigest()}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: flip(folder / "a.txt"), id="a bit of a file"),
        pytest.param(lambda folder: (folder / "a.txt").write_text("pic"), id="a file cut short"),
        pytest.param(lambda folder: (folder / "a.txt").unlink(), id="a file missing"),
        pytest.param(lambda folder: flip(folder / "metadata.json"), id="a bit of the description"),
        pytest.param(lambda folder: (folder / "metadata.json").write_text("[]"), id="another description"),
        pytest.param(lambda folder: (folder / "metadata.json").unlink(), id="no description"),
        pytest.param(lambda folder: (folder / "metadata.json").write_bytes(b"\xff\xfe"), id="not text"),
        pytest.param(lambda folder: (shutil.rmtree(folder), folder.write_text("")), id="a file for the folder"),
    ],
)
def test_a_damaged_folder_is_filled_again(tmp_path, damage):
    folder = tmp_path / "set"
    kept(folder, write)
    damage(folder)
    assert kept(folder, write) == {"holds": "pictures"}
    assert kept(folder, never) == {"holds": "pictures"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_nothing_behind(tmp_path, interruption):
    def interrupted(folder):
        write(folder, "half")
        raise interruption

    with pytest.raises(interruption):
        kept(tmp_path / "set", interrupted)
    assert list(tmp_path.iterdir()) == []


def run(tmp_path, fill):
    """A process of its own that keeps tmp_path/set, filled by these lines; without the package, which takes seconds."""
    code = f"""
import os, runpy, signal, sys, time
from pathlib import Path
kept = runpy.run_path({cache.__file__!r})["kept"]
here = Path(sys.argv[1])
def fill(folder):
{textwrap.indent(textwrap.dedent(fill), "    ")}
print(kept(here / "cache" / "set", fill)["holds"])
"""
    return subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_nothing_that_is_read_and_its_rest_is_removed_after_a_day(tmp_path):
    killed = run(tmp_path, '(folder / "a.txt").write_text("half"); os.kill(os.getpid(), signal.SIGKILL)')
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "cache"
    (rest,) = folder.iterdir()
    assert rest.name.endswith(".partial")
    kept(folder / "set", write)
    assert rest.exists()  # for all that is known, its process still writes
    os.utime(rest, (0, 0))
    (folder / "set" / "a.txt").unlink()
    assert kept(folder / "set", write) == {"holds": "pictures"}
    assert [path.name for path in folder.iterdir()] == ["set"]


def test_of_two_processes_at_once_both_read_what_the_first_to_end_wrote(tmp_path):
    both = """
        (here / str(os.getpid())).touch()
        while len([path for path in here.iterdir() if path.name.isdigit()]) < 2:
            time.sleep(0.01)  # until both fill the folder
        (folder / "a.txt").write_text(str(os.getpid()))
        return {"holds": str(os.getpid())}
    """
    processes = [run(tmp_path, both) for _ in range(2)]
    said = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(said) == 1
    assert (tmp_path / "cache" / "set" / "a.txt").read_text() in said
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["set"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"expected a cache that can be written \(.*MEMORY_REDUCED_CACHE.* got .*file: "):
        kept(tmp_path / "file" / "set", write)


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path):
    def full(folder):
        write(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        kept(tmp_path / "set", full)
    assert list(tmp_path.iterdir()) == []
