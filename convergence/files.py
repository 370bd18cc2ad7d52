"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
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
