"""Pickles of numpy arrays and builtin containers, read without executing anything that the file brings.

A pickle names the functions that rebuild its objects. Here each allowed name stands for an object of this file that
checks what it is given; every other name is refused. numpy's own functions are not called with what the file says:
a forged dtype (one with fields, or an item size that its kind does not have) would make numpy take bytes for pointers.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_PLAIN = re.compile(r"b1|b|\?|[iufc](1|2|4|8|16)|[SU]\d{1,9}")  # what numpy writes for dtypes without fields or objects
_ORDERS: Mapping[str, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}
_FAILURES = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def load(path: Path, *, encoding: str = "bytes") -> Any:
    """The object in the file: numpy arrays and scalars, numbers, text, bytes, lists, tuples, dicts and sets.

    `encoding` says what becomes of the 8-bit strings of Python 2: "bytes" keeps them, "latin1" makes text of them.
    Files of numpy 1 (`numpy.core`) and numpy 2 (`numpy._core`), Python 2 and 3, protocols 0 to 5 are read.

    Raises ValueError, with the path, where the file is truncated or corrupt or names anything else; nothing of what
    it names is imported or called. Raises OSError where the file cannot be read.
    """
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"expected a pickle of numpy arrays and builtin types in {path}, got no such file")
    with path.open("rb") as file:
        try:
            return _Unpickler(file, encoding=encoding).load()
        except _FAILURES as failure:
            said = " ".join(str(failure).split()) or type(failure).__name__
            raise ValueError(f"expected a pickle of numpy arrays and builtin types in {path}: {said}") from None


def load_mapping(path: Path) -> dict[str, Any]:
    """The dict in the file, its keys (text or bytes) as text. Raises as `load`, or where it is no dict."""
    loaded = load(path)
    if not isinstance(loaded, dict) or not all(isinstance(key, str | bytes) for key in loaded):
        raise ValueError(f"expected a dict with names as keys in {path}, got {type(loaded).__name__}")
    return {text(key): value for key, value in loaded.items()}


def text(value: Any) -> str:
    """Names that Python 2 wrote are bytes, those of Python 3 text, class numbers are integers: all as text."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], *, encoding: str):
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not one of them, and was not called") from None


class _Stand:
    """Stands for a function that a pickle may name; has no attribute that the pickle could set."""

    __slots__ = ("function",)
    function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("a state for a function")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a function")


class _Dtype:
    """Stands for numpy.dtype: `found` is one without fields and without objects."""

    __slots__ = ("found",)

    def __init__(self, kind: Any, *_flags: Any):
        if not isinstance(kind, str | bytes) or not _PLAIN.fullmatch(text(kind)):
            raise pickle.UnpicklingError(f"an array of the type {kind!r}")
        self.found = np.dtype(text(kind))

    def __setstate__(self, state: Any) -> None:
        order, fields = text(state[1]), state[2:5]
        if order not in _ORDERS or any(part is not None for part in fields):
            raise pickle.UnpicklingError(f"an array of the type {state!r}")
        self.found = self.found.newbyteorder(_ORDERS[order])


class _PickledArray(np.ndarray[Any, Any]):
    """Stands for numpy.ndarray; its state is taken only with a type that `_Dtype` has seen."""

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, content = state[-4:]
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of objects")
        if not isinstance(shape, tuple) or not all(isinstance(length, int) and length >= 0 for length in shape):
            raise pickle.UnpicklingError(f"an array of the shape {shape!r}")
        checked: Any = (1, shape, _plain(dtype), bool(fortran), content)
        super().__setstate__(checked)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"an array with the attribute {name}")


def _plain(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError(f"an array of the type {dtype!r}")
    return dtype.found


def _reconstruct(*_arguments: Any) -> Array:
    return np.ndarray.__new__(_PickledArray, (0,), np.uint8)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> Array:
    return np.frombuffer(buffer, _plain(dtype)).reshape(shape, order="F" if text(order) == "F" else "C")


def _scalar(dtype: Any, content: Any) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, _plain(dtype), count=1)[0]


def _encode(characters: str, encoding: str) -> bytes:
    if text(encoding) not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return characters.encode("latin1")


def _empty_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise pickle.UnpicklingError("bytes made from something else")
    return b""


def _allowed() -> Mapping[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _Stand(_reconstruct),
        ("numpy", "dtype"): _Stand(_Dtype),
        ("_codecs", "encode"): _Stand(_encode),
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _Stand(_reconstruct)
        names[f"{core}.multiarray", "scalar"] = _Stand(_scalar)
        names[f"{core}.numeric", "_frombuffer"] = _Stand(_from_buffer)
    for module in ("builtins", "__builtin__"):
        names[module, "bytes"] = _Stand(_empty_bytes)
        for container in (list, dict, tuple, set, frozenset, complex):
            names[module, container.__name__] = _Stand(container)
    return names


_ALLOWED = _allowed()
