"""Files that appear whole or not at all, in folders where one process is at work."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
    """The folder, made where there is none, to this process alone, until the end of it at the latest (flock).

    Raises ValueError naming the process that holds it already, and where there is a file of this name.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder for the run, got the file {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise ValueError(
                    f"expected {folder} for one process alone, got process {file.read().strip()} at work in it"
                ) from error
            if not _is_at(file.fileno(), path):
                continue  # whoever held it has ended just now, and removed the file
            try:
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
