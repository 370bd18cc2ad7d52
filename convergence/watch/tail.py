"""A log of JSON lines that another process writes, read from where it was left."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from convergence.progress import Row, row_of

_AT_A_TIME = 2**20  # bytes: some thousand lines, between two looks at the clock


class Tail:
    """The lines that have come since the last look.

    A last line without its end is waited for. A file that was replaced, as when a run goes on, or has become shorter is
    read anew. Nothing is locked: the writer does not notice.

    behind   bytes that are there and not yet read
    """

    def __init__(self, path: Path):
        self.path, self.behind = path, 0
        self._at, self._inode = 0, -1

    def read(self, *, within: float = math.inf) -> tuple[bool, list[Row]]:
        """Whether the file is read anew, and the rows that have come; no longer than about so many seconds.

        Lines that no run has written are passed over. Raises OSError where the file cannot be read; one that is not
        there has no rows, nor has a folder or a pipe of its name.
        """
        until, rows = time.monotonic() + within, list[Row]()
        try:
            file = self.path.open("rb") if self.path.is_file() else None
        except FileNotFoundError:
            file = None
        if file is None:
            anew, self._at, self._inode, self.behind = self._at > 0, 0, -1, 0
            return anew, rows
        with file:
            found = os.fstat(file.fileno())
            anew = found.st_ino != self._inode or found.st_size < self._at
            if anew:
                self._at, self._inode = 0, found.st_ino
            file.seek(self._at)
            while lines := file.readlines(_AT_A_TIME):
                whole = lines if lines[-1].endswith(b"\n") else lines[:-1]
                rows += [row for line in whole if (row := row_of(line)) is not None]
                self._at += sum(map(len, whole))
                if len(whole) < len(lines) or time.monotonic() > until:
                    break
            self.behind = max(0, found.st_size - self._at)
        return anew, rows
