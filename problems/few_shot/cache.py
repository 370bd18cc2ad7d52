"""Where images that took long to make or to decode are kept."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

VARIABLE = "MEMORY_REDUCED_CACHE"
_DESCRIPTION = "metadata.json"
_STALE = 86400.0  # seconds after which what an interrupted process left is removed
_ATTEMPTS = 5  # at publishing a folder while other processes do


def cache_folder(chosen: Path | str | None = None) -> Path:
    """The folder of the cache; it need not exist yet.

    `chosen` where given, else the environment variable MEMORY_REDUCED_CACHE, else `memory-reduced` in
    XDG_CACHE_HOME, else in ~/.cache. A variable that is empty counts as unset, as does a relative XDG_CACHE_HOME
    (XDG base directory specification).
    """
    if chosen is not None:
        return Path(chosen)
    if named := os.environ.get(VARIABLE):
        return Path(named)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "memory-reduced"


def kept(folder: Path, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The description of a folder of files that are made once; made now where they are missing or damaged.

    fill   called with an empty folder: writes files into it, returns their description (of JSON's types)

    `folder/metadata.json` holds the description under "content" and the SHA-256 of every file under "files"; all are
    compared each time. The folder is filled under a name of its own and then renamed: other processes see all of it or
    nothing, an interrupted one leaves nothing that is read, and of two at once the first to end is kept.

    Raises OSError where the folder cannot be written.
    """
    if (content := _content(folder)) is not None:
        return content
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    try:
        partial.mkdir(parents=True)
        _remove_stale(folder)
        _describe(partial, fill(partial))
        _publish(partial, folder)
    except OSError as error:
        raise OSError(
            f"expected a cache that can be written (the argument cache or the variable {VARIABLE} names another), "
            f"got {folder.parent}: {error}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if (content := _content(folder)) is None:
        raise OSError(f"expected the files just written to {folder} to be read back unchanged, got others")
    return content


def _describe(folder: Path, content: dict[str, Any]) -> None:
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    body = {"content": content, "files": files}
    text = json.dumps(body | {"sha256": _checksum(body)}, indent=1, ensure_ascii=False)
    (folder / _DESCRIPTION).write_text(text, encoding="utf-8")


def _content(folder: Path) -> dict[str, Any] | None:
    """What `fill` returned; None where anything is missing or differs from what was written."""
    try:
        if not (folder / _DESCRIPTION).is_file():
            return None
        body = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        said = body.pop("sha256")
        if said != _checksum(body) or any(_sha256(folder / name) != held for name, held in body["files"].items()):
            return None
        return body["content"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"expected a file {path}, got none")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(partial: Path, folder: Path) -> None:
    """Rename the folder, unless another process has published one that is intact; a damaged one is replaced."""
    for _ in range(_ATTEMPTS):
        try:
            partial.rename(folder)
            return
        except OSError as error:
            failure = error
        if _content(folder) is not None:
            return
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
        with suppress(FileNotFoundError):  # there never was one, or another process has just moved it
            folder.rename(aside)
        _remove(aside)
    raise failure


def _remove_stale(folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        with suppress(FileNotFoundError):  # its process has just ended
            if time.time() - left.stat().st_mtime > _STALE:
                _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
