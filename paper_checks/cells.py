"""What has been measured within a claim, kept as soon as it is there, so that a run that goes on measures it once."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from convergence.files import write_atomically
from paper_checks.archive import SCHEMA, Arrays, digest, packed, unpacked

P = ParamSpec("P")
T = TypeVar("T")
_NOTE = "measuring"
_EVERY = 0.5  # seconds between two notes
_KEPT = re.compile(r"\d{4,}\.npz|measuring|\.(\d{4,}\.npz|measuring)\.\d+\.partial")  # the names of files


class CellChanged(ValueError):
    """A file in the folder is not one that was kept here."""


class Cells:
    """A folder in which values are kept in the order in which they are asked for: 0000.npz, 0001.npz, ...

    What asks must ask for the same values in the same order whenever it is run, as a claim does whose evidence is a
    function of its setting. A value is a tree of dicts, lists and tuples of arrays, numbers, strings and None, and is
    handed out as it is read back: the first time and every other time the same bits.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._asked = 0
        self._measuring = False
        self._noted = 0.0

    def within(self, part: str) -> Cells:
        """The values of a part of what is measured here, counted on their own."""
        return Cells(self.folder / part)

    def kept(self, measure: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """measure(*arguments, **options), or what it was when it was kept. Raises CellChanged; OSError on writing."""
        if self._measuring:  # part of a value that is kept as a whole
            return measure(*arguments, **options)
        what, path = getattr(measure, "__qualname__", "a value"), self.folder / f"{self._asked:04d}.npz"
        self._asked += 1
        if not path.exists():
            self._measuring = True
            try:
                content = _encoded(what, measure(*arguments, **options))
            finally:
                self._measuring = False
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        return _decoded(what, path)  # type: ignore[no-any-return]

    def note(self, what: str) -> None:
        """Write down what is being measured, for those who look on: twice a second at most.

        Nothing depends on it: a disk that has no room for it fails no run.
        """
        if time.monotonic() - self._noted < _EVERY:
            return
        self._noted = time.monotonic()
        partial = self.folder / f".{_NOTE}.{os.getpid()}.partial"
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(what)
            partial.replace(self.folder / _NOTE)

    def noted(self) -> str | None:
        """What is being measured by a process that has begun; None where none has."""
        try:
            return (self.folder / _NOTE).read_text()
        except OSError:
            return None

    def remove(self) -> None:
        """Forget all of it; what others have put there stays."""
        for folder, _, names in os.walk(self.folder, topdown=False):
            for name in filter(_KEPT.fullmatch, names):
                with suppress(OSError):
                    Path(folder, name).unlink()
            with suppress(OSError):  # not empty
                os.rmdir(folder)


# ---- trees of arrays as files


def _encoded(what: str, value: object) -> bytes:
    arrays: Arrays = {}
    header = {"schema": SCHEMA, "what": what, "tree": _outline(value, arrays)}
    arrays["header"] = np.array(json.dumps(header))
    return packed({**arrays, "sha256": np.array(digest(arrays))}, compressed=False)


def _decoded(what: str, path: Path) -> Any:
    try:
        arrays = unpacked(path)
        whole = str(arrays.pop("sha256")) == digest(arrays)
        header = json.loads(str(arrays.pop("header")))
        if whole and (header["schema"], header["what"]) == (SCHEMA, what):
            return _tree(header["tree"], arrays)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _changed(what, path) from error
    raise _changed(what, path)


def _changed(what: str, path: Path) -> CellChanged:
    return CellChanged(f"expected {what} as it was kept in {path}, got another file: remove it to measure that again")


def _outline(value: Any, arrays: Arrays) -> Any:
    """The value as JSON, with the arrays in it, which are added to `arrays`, as their names there."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        name = f"array {len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"array": name, "scalar": isinstance(value, np.generic)}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_outline(each, arrays) for each in value]}
    if type(value) is dict:
        return {"dict": [[_outline(key, arrays), _outline(each, arrays)] for key, each in value.items()]}
    raise TypeError(f"expected arrays, numbers, strings, dicts, lists and tuples to keep, got {type(value).__name__}")


def _tree(outline: Any, arrays: Arrays) -> Any:
    if not isinstance(outline, dict):
        return outline
    if "array" in outline:
        array = arrays[outline["array"]]
        return array[()] if outline["scalar"] else array
    ((kind, entries),) = outline.items()
    if kind == "dict":
        return {_tree(key, arrays): _tree(each, arrays) for key, each in entries}
    found = [_tree(each, arrays) for each in entries]
    return tuple(found) if kind == "tuple" else found
