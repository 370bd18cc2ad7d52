"""Checkpoints: one file, written whole or not at all, read without executing anything in it."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convergence.files import write_atomically

FORMAT = 1  # raised with every change of what a checkpoint holds
_PARTS = ("config", "state", "sha256")


def write(path: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write config (of JSON's types) and state (tensors, numbers, strings, lists, dicts) to the file.

    A full disk or an end of the process leaves the file as it was. Raises OSError.
    """
    content = {"config": dict(config), "state": dict(state)}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content, "sha256": digest(content)}, buffer)
    write_atomically(path, buffer.getvalue())


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config and state of the file, tensors on the CPU.

    Only tensors and plain values are unpickled (`torch.load(weights_only=True)`), and all of them are compared with the
    SHA-256 in the file. Raises ValueError where there is no file, it is truncated or corrupt, holds anything else (code
    is not executed), or is of another format version.
    """
    if not path.is_file():
        raise ValueError(f"expected a checkpoint {path}, got no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a file is a bare pickle; it is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower():  # unknown to torch, or on its list of blocked modules
            raise ValueError(
                f"expected tensors and numbers in {path}, got a pickle that names code: none of it was executed"
            ) from error
        raise _corrupt(path) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything: RuntimeError, EOFError, KeyError, UnicodeError, ...
        raise _corrupt(path) from error
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(f"expected a checkpoint of a training run in {path}, got another file of torch.save")
    if content["format"] != FORMAT:
        raise ValueError(f"expected a checkpoint of format {FORMAT} in {path}, got format {content['format']!r}")
    config, state, said = (content.get(name) for name in _PARTS)
    if not (isinstance(config, dict) and isinstance(state, dict)) or said != digest({"config": config, "state": state}):
        raise _corrupt(path)
    return config, state


def _corrupt(path: Path) -> ValueError:
    return ValueError(f"expected a whole checkpoint in {path}, got a file that is truncated or corrupt")


def digest(tree: Any) -> str:
    """SHA-256 over the names, types and bytes of all that is in the tree."""
    found = hashlib.sha256()
    _update(found, tree)
    return found.hexdigest()


def _update(found: Any, tree: Any) -> None:
    if isinstance(tree, Tensor):
        found.update(f"{tree.dtype}{tuple(tree.shape)}".encode())
        found.update(tree.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(tree, Mapping):
        found.update(f"dict{len(tree)}".encode())
        for name, branch in tree.items():
            found.update(repr(name).encode())
            _update(found, branch)
    elif isinstance(tree, (list, tuple)):
        found.update(f"{type(tree).__name__}{len(tree)}".encode())
        for branch in tree:
            _update(found, branch)
    else:
        found.update(f"{type(tree).__name__} {tree!r};".encode())
