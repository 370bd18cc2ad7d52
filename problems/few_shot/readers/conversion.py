"""Images converted once into an array file to be memory-mapped, found again while their source is unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from problems.few_shot.image_set import ImageSet
from problems.few_shot.readers.layouts import Advance, Request

Array = npt.NDArray[Any]

VERSION = 1  # of what is kept
HEADER = 2**16  # bytes of a source that its fingerprint reads
ABANDONED = 3600  # seconds without a write
MANY = 16  # sources; where there are more, of each only name, size and time are in the fingerprint

_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Unconverted:
    """One split as its source has it.

    classes   (N,) the class of each image: its name, or a number
    blocks    arrays uint8 (k, H, W, C), together N images in the order of `classes`; read once
    groups    class -> what it belongs to, or None where nothing is known
    """

    classes: Sequence[str] | Sequence[int]
    blocks: Iterable[Array]
    groups: Mapping[Any, str] | None = None


def converted(
    sources: Sequence[Path],
    recipe: str,
    read: Callable[[], Unconverted],
    request: Request,
    *,
    prefix: str = "",
    listed: Sequence[str] = (),
) -> ImageSet:
    """The images as a memory map, read and converted only where the cache has them not.

    They are kept under a hash of `recipe` (layout and split), of what is `listed` about the sources elsewhere, and of
    the sources: name, size and modification time of each, and of a few the first 64 KiB. A folder of the cache appears
    whole or not at all; a damaged one is made anew. Classes are in the order of their names; `prefix` goes before the
    numbers of classes that have no names.

    Raises ValueError on images of several sizes, or more or fewer than there are labels, OSError on a full disk.
    """
    key = json.dumps([recipe, prefix, request.size, *listed])
    kept = request.cache / fingerprint(sources, key, request.folder)
    with suppress(*_DAMAGED):
        return _kept(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    _discard_abandoned(kept)
    partial = Path(tempfile.mkdtemp(prefix=f".{kept.name}.", suffix=".partial", dir=kept.parent))
    try:
        _convert(read(), partial, prefix, f"{recipe} in {request.folder}", request.advance)
        _put(partial, kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _kept(kept)


def fingerprint(sources: Sequence[Path], recipe: str, folder: Path) -> str:
    """A hash that changes with the sources or with the recipe. Raises OSError where a source cannot be read."""
    digest = hashlib.sha256(f"{VERSION}\n{recipe}\n{len(sources)}\n".encode())
    for source in sources:
        status = source.stat()
        digest.update(f"{source.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        if len(sources) <= MANY and source.is_file():
            with source.open("rb") as file:
                digest.update(file.read(HEADER))
    return digest.hexdigest()[:32]


def numbered(classes: Sequence[Any]) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Labels 0 .. n - 1 in the order of the classes, and the classes."""
    names = sorted(set(classes))
    number = {name: k for k, name in enumerate(names)}
    return np.fromiter((number[name] for name in classes), np.int64, len(classes)), names


def _kept(folder: Path) -> ImageSet:
    description = json.loads((folder / "description.json").read_text(encoding="utf-8"))
    groups = description["groups"]
    return ImageSet(
        np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        np.load(folder / "labels.npy", allow_pickle=False),
        tuple(description["names"]),
        None if groups is None else tuple(groups),
    )


def _convert(source: Unconverted, folder: Path, prefix: str, what: str, advance: Advance) -> None:
    labels, classes = numbered(source.classes)
    with (folder / "images.npy").open("wb") as file:  # not through a map: on a full disk that ends the process
        _write(source.blocks, len(labels), file, what, advance)
    np.save(folder / "labels.npy", labels)
    groups = None if source.groups is None else [str(source.groups[name]) for name in classes]
    described = {
        "what": what,
        "names": [name if isinstance(name, str) else f"{prefix}{name}" for name in classes],
        "groups": groups,
    }
    (folder / "description.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


def _write(blocks: Iterable[Array], count: int, file: IO[bytes], what: str, advance: Advance) -> None:
    shape: tuple[int, ...] = ()
    written = 0
    for block in blocks:
        if block.dtype != np.uint8 or block.ndim != 4 or block.shape[3] not in (1, 3):
            raise ValueError(f"expected images uint8 (N, H, W, 1 or 3) of {what}, got {block.dtype} {block.shape}")
        if not shape:
            shape = block.shape[1:]
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(file, header)
        if block.shape[1:] != shape:
            raise ValueError(
                f"expected images of one size of {what}, got {shape} and {block.shape[1:]} (height, width, channels): "
                "resize them, or load image files with a size of your choice"
            )
        written += len(block)
        if written > count:
            raise ValueError(f"expected a label for each image of {what}, got {count} labels and more images")
        file.write(np.ascontiguousarray(block).data)
        advance(len(block))
    if written < count or not count:
        raise ValueError(f"expected an image for each of {count} labels of {what}, got {written} images")


def _put(partial: Path, kept: Path) -> None:
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    try:
        partial.rename(kept)
    except OSError:  # another process was first, or what is there is damaged
        try:
            _kept(kept)
        except _DAMAGED:
            shutil.rmtree(kept)
            partial.rename(kept)


def _discard_abandoned(kept: Path) -> None:
    """Removes what processes left that were killed: a conversion that goes on writes more often than that."""
    for partial in kept.parent.glob(f".{kept.name}.*.partial"):
        written = [path.stat().st_mtime for path in (partial, *partial.iterdir())]
        if time.time() - max(written) > ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)
