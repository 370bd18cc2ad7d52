"""Arrays and JSON on disk with a digest of all of it, read back as they were written or refused in a sentence."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
SCHEMA = 2  # raised with every change of what the files hold; 1: no sha256 of NAME.npz


def packed(arrays: Mapping[str, npt.NDArray[Any]], *, compressed: bool = True) -> bytes:
    """An .npz file of the arrays; the same arrays give the same bytes."""
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, **arrays)
    return content.getvalue()


def unpacked(path: Path) -> Arrays:
    """Every array of an .npz file. Raises ValueError where it cannot be read whole; nothing in it is executed."""
    if not path.is_file():
        raise ValueError(f"expected an .npz file of arrays in {path}, got no such file")
    try:
        # Opened here: numpy leaves a file that it cannot unpack open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: _array(arrays[name]) for name in arrays.files}
    except Exception as error:  # a damaged archive raises anything: BadZipFile, NotImplementedError, MemoryError, ...
        raise ValueError(f"expected an .npz file of arrays in {path}, got one that cannot be read: {error}") from error


def _array(value: Any) -> Any:
    if not isinstance(value, np.ndarray):  # np.load gives the bytes of what is no array
        raise ValueError("a file in it is no array")
    return value


def is_timed(array: str) -> bool:
    """Whether an array of this name holds measured seconds, which no two runs share."""
    return array.endswith("seconds")


def digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and bytes, without the arrays of seconds: runs that agree in it are the same."""
    kept = {name: described(array) for name, array in arrays.items() if not is_timed(name)}
    return _digest(kept)


def described(array: Any) -> dict[str, Any]:
    """Shape, dtype and SHA-256 of an array, the same on machines of either byte order."""
    array = np.asarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {
        "shape": list(array.shape),
        "dtype": little.dtype.str,
        "sha256": hashlib.sha256(little.tobytes()).hexdigest(),
    }


def sealed(content: Mapping[str, Any]) -> bytes:
    """The content as JSON, with a SHA-256 of all of it."""
    whole = {**content, "sha256": _digest(content)}
    return (json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def opened(path: Path) -> dict[str, Any]:
    """What `sealed` made. Raises ValueError where there is no file, or it is not as it was written."""
    if not path.is_file():
        raise ValueError(f"expected a file that paper_checks wrote in {path}, got no such file")
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        said, found = content.pop("sha256"), _digest(content)
        schema = int(content["schema"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a file that paper_checks wrote in {path}, got another or a part of one") from error
    if schema > SCHEMA:
        raise ValueError(f"expected schema {SCHEMA} or older in {path}, got {schema}: a newer release wrote it")
    if said != found:
        raise ValueError(f"expected {path} as paper_checks wrote it, got one that was changed since")
    return content


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
