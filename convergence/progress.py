"""What a run leaves for those who look on: a line of JSON for each iteration that is recorded, and how it ended."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from convergence.files import write_atomically

END = "end.json"
Row = dict[str, Any]  # of JSON's types; "iteration" is how many were completed when the rest was found
End = Literal["finished", "stopped", "failed"]


def line(row: Mapping[str, Any]) -> bytes:
    """The row as one line of JSON.

    >>> line({"iteration": 1, "loss": None})
    b'{"iteration": 1, "loss": null}\\n'
    """
    return (json.dumps(row, allow_nan=False) + "\n").encode()


def row_of(content: bytes) -> Row | None:
    """What a line holds; None where it is no whole line, or none that a run has written."""
    if not content.endswith(b"}\n"):
        return None
    try:
        row = json.loads(content)
    except (ValueError, RecursionError):
        return None
    at = row.get("iteration")
    return row if type(at) is int and 0 <= at < 2**63 else None


def append(path: Path, row: Mapping[str, Any], *, durable: bool = False) -> None:
    """One more line of the file; `durable`: on the disk before this returns.

    Raises OSError, the file as it was, where that fails: a reader never meets a part of a line with more after it.
    """
    content = line(row)
    with path.open("ab", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(length)
            raise


def note_end(folder: Path, end: End, *, iteration: int, message: str) -> None:
    """Write end.json: how the run in the folder ended, after how many iterations, and why in a sentence.

    For people and for `watch` alone: nothing goes on from it, and a disk that has no room for it fails no run.
    """
    content = json.dumps({"end": end, "iteration": iteration, "message": message}, indent=2) + "\n"
    with suppress(OSError):
        write_atomically(folder / END, content.encode())


def forget_end(folder: Path) -> None:
    """Remove end.json, since the run goes on."""
    (folder / END).unlink(missing_ok=True)
