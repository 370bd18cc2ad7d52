"""Files appear whole or not at all, and a failure names the file."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
from filelock import SoftFileLock

from convergence import files
from convergence.files import NotWritten, at_work, is_running, locked, write_atomically
from tests.forked import context


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_names_the_file_and_leaves_the_one_before(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    write_atomically(path, b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten) as failed:
        write_atomically(path, b"after")
    assert str(failed.value) == f"expected room and leave to write {path}, got No space left on device"
    assert (failed.value.errno, failed.value.strerror) == (28, "No space left on device")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(NotWritten, match=r"expected room and leave to write .*missing.file, got No such file"):
        write_atomically(tmp_path / "missing" / "file", b"")


# ---- one process at a time


def hold(folder, ready):
    with locked(folder):
        ready.set()
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """Another process at work in the folder `tmp_path`."""
    forked = context()
    ready = forked.Event()
    process = forked.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(120)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_told_the_first_ones_id(tmp_path, other):
    with pytest.raises(ValueError, match=f"one process alone, got process {other.pid} at work in it"), locked(tmp_path):
        pass
    assert at_work(tmp_path) == other.pid


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_process_left_is_no_obstacle(tmp_path, other, end):
    os.kill(other.pid, end)
    other.join()
    assert (tmp_path / ".lock").read_text().split()[0] == str(other.pid)
    assert at_work(tmp_path) is None
    with locked(tmp_path):
        assert at_work(tmp_path) == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_id_of_a_dead_process_that_another_one_has_now_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").write_text("1\n")
    (tmp_path / ".held").touch()
    with locked(tmp_path):
        assert at_work(tmp_path) == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="without /proc a process is known by its id alone")
def test_another_process_of_the_same_id_is_not_the_one_at_work(tmp_path):
    with locked(tmp_path):
        process, boot, start = (tmp_path / ".lock").read_text().split()
        for other in (f"{process} {boot} {int(start) + 1}", f"{process} {UUID(int=0)} {start}"):
            (tmp_path / ".lock").write_text(other)
            assert at_work(tmp_path) is None
        for same in (f"{process} {boot} {start}", process):  # as where the machine does not say when it started
            (tmp_path / ".lock").write_text(same)
            assert at_work(tmp_path) == os.getpid()


def test_without_proc_a_process_is_known_by_its_id(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_birth", lambda process: "")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
        assert at_work(tmp_path) == os.getpid()


def test_a_lock_that_is_taken_while_it_is_given_back_is_held_once(tmp_path, monkeypatch):
    """The second holder has opened the file of the lock when the first one ends and removes it."""
    fcntl = pytest.importorskip("fcntl")
    first, flock = ExitStack(), fcntl.flock
    first.enter_context(locked(tmp_path))

    def taken(descriptor, how):
        if how & fcntl.LOCK_NB:
            first.close()  # once: it is empty from then on
        return flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", taken)
    with locked(tmp_path):
        monkeypatch.setattr(fcntl, "flock", flock)
        assert (tmp_path / ".held").exists()
        with pytest.raises(ValueError, match=f"got process {os.getpid()} at work in it"), locked(tmp_path):
            pass


def test_a_holder_that_has_not_said_who_it_is_yet_is_waited_for(tmp_path, other, monkeypatch):
    (tmp_path / ".lock").unlink()
    monkeypatch.setattr(files, "_PATIENCE", 0.05)
    with pytest.raises(ValueError, match="got another process at work in it"), locked(tmp_path):
        pass


def test_the_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "new"):
        raise RuntimeError
    assert list((tmp_path / "new").iterdir()) == []


def test_without_the_locks_of_unix_a_file_stands_for_the_lock(tmp_path, monkeypatch):
    """Neither fcntl nor msvcrt: filelock's own fallback, which knows a dead holder by its id."""
    monkeypatch.setattr(files, "FileLock", SoftFileLock)
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match=f"got process {os.getpid()} at work in it"),
        locked(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("said", ["", "x", "-1", "0", "99999999999999999999", "4194304999"])
def test_a_lock_that_names_no_process_names_none(tmp_path, said):
    (tmp_path / ".lock").write_text(said)
    assert at_work(tmp_path) is None


def test_processes_of_others_are_running():
    assert is_running(1)
    assert is_running(os.getpid())
