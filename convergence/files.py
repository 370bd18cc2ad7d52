"""Files that appear whole or not at all, in folders where one process is at work."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PATIENCE = 1.0  # seconds: whoever has just taken a lock says so, whoever has just ended lets go of it


class NotWritten(OSError):
    """A file that could not be written: says which, and why."""

    def __str__(self) -> str:
        return f"expected room and leave to write {self.filename}, got {self.strerror}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write the file under a name of its own in the same folder, then rename it over `path`.

    A reader, a crash or a full disk meets the old file or the new one, never a part. Raises NotWritten, an OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise NotWritten(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made where there is none, to this process alone, until the end of it at the latest.

    The lock is the operating system's (flock, on Windows msvcrt), on the file `.held`; `.lock` names the process for
    those who look on (`at_work`). What a process that was killed has left is no obstacle. Raises ValueError naming the
    process that holds the folder, and where there is a file of this name; OSError where the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder for the run, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    held, named = folder / ".held", folder / ".lock"
    lock = FileLock(held)
    _take(lock, folder)
    try:
        write_atomically(named, f"{os.getpid()} {_birth(os.getpid())}".strip().encode() + b"\n")
        yield
    finally:
        named.unlink(missing_ok=True)
        # Whoever has opened this file and locks it from now on sees that it has no name any more, and tries again:
        # filelock looks. Windows removes no file that is open; there the lock itself removes it.
        with suppress(OSError):
            held.unlink(missing_ok=True)
        lock.release()


def _take(lock: FileLock, folder: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            process = at_work(folder)
            if process is None and time.monotonic() < until:
                time.sleep(0.02)
                continue
            who = "another process" if process is None else f"process {process}"
            raise ValueError(f"expected {folder} for one process alone, got {who} at work in it") from error
        return


def at_work(folder: Path) -> int | None:
    """The id of the process that says it is at work in the folder; None where none does, or it is no longer running.

    A process of the same id that started at another time, or on another machine, is another one. Reads, and disturbs
    nobody.
    """
    try:
        process, _, born = (folder / ".lock").read_text().strip().partition(" ")
        found = int(process)
    except (OSError, ValueError):
        return None
    return found if is_running(found) and born in ("", _birth(found)) else None


def _birth(process: int) -> str:
    """What tells a process from all others of its id: the boot of the machine, and ticks from there to its start.

    Empty where the machine does not say, as without /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()  # the name may hold anything
        return f"{boot} {int(fields[19])}"  # starttime, the 22nd of all: proc_pid_stat(5)
    except (OSError, ValueError, IndexError):
        return ""


def is_running(process: int) -> bool:
    """Whether there is a process of this id on this machine; on Windows it is taken to be there."""
    if os.name != "posix":
        return True  # os.kill has another meaning there
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # somebody else's
    except (ProcessLookupError, OverflowError):
        return False
    return process > 0
