"""File formats that several data sets share: pickles, npz, hdf5 and lists of classes, one file a split."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.few_shot.image_set import ImageSet, Splits
from problems.few_shot.readers import pictures, safe_pickle
from problems.few_shot.readers.conversion import Unconverted, converted
from problems.few_shot.readers.layouts import Layout, Parts, Request
from problems.few_shot.readers.splits import SPELLINGS, SPLITS, check_splits

Array = npt.NDArray[Any]

BYTES = 2**25  # of images held at once where a file is read in pieces


def split_files(*patterns: str) -> dict[str, tuple[str, ...]]:
    """split -> the names of its file, where {} in a pattern is the split's name in one of its spellings."""
    return {split: tuple(p.format(name) for p in patterns for name in SPELLINGS[split]) for split in SPLITS}


def each_split(parts: Parts, request: Request, read: Callable[[Path], Unconverted], what: str) -> Splits:
    """The splits from one file each, classes that are only numbered named "train/0" and so on."""
    splits = {}
    for split in SPLITS:
        (path,) = parts[split]
        splits[split] = _one(path, read, f"{what}, {split}", request, f"{split}/")
    check_splits(splits)
    return splits


def _one(path: Path, read: Callable[[Path], Unconverted], recipe: str, request: Request, prefix: str) -> ImageSet:
    return converted([path], recipe, lambda: read(path), request, prefix=prefix)


def pickles(name: str, *patterns: str, train: str | None = None) -> Layout:
    """A layout of pickled dicts, one a split: "data" uint8 (N, H, W, 3), "labels" N integers.

    `train` is the name of the training split's file where it does not follow the pattern.
    """

    def read(path: Path) -> Unconverted:
        content = safe_pickle.load_mapping(path)
        require(content, ("data", "labels"), path)
        return Unconverted(integers(content["labels"], path), [as_images(content["data"], path)])

    files = split_files(*patterns) | ({} if train is None else {"train": (train,)})
    return Layout(name, files, lambda parts, request: each_split(parts, request, read, name))


def npz(name: str, images: str, labels: str, *patterns: str) -> Layout:
    """A layout of npz files, one a split, with the named members: images uint8 (N, H, W, C) and N integers."""

    def read(path: Path) -> Unconverted:
        return Unconverted(integers(npz_member(path, labels), path), npz_blocks(path, images))

    return Layout(name, split_files(*patterns), lambda parts, request: each_split(parts, request, read, name))


def npz_member(path: Path, key: str) -> Array:
    """One array of the file. Raises ValueError where it is missing, damaged or made of objects."""
    with _member(path, key) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def npz_blocks(path: Path, key: str, *, flip: bool = False) -> Iterator[Array]:
    """The images of the file in blocks, compressed or not; `flip` exchanges blue and red. Raises as `npz_member`."""
    with _member(path, key) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if fortran or dtype != np.uint8 or len(shape) != 4 or 0 in shape:
            raise ValueError(f"expected images uint8 (N, H, W, C) in C order, got {dtype} {shape}")
        size = math.prod(shape[1:])
        step = max(1, BYTES // size)
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            content = file.read(count * size)
            if len(content) < count * size:
                raise ValueError(f"expected {shape[0]} images, got fewer")
            block = np.frombuffer(content, np.uint8).reshape(count, *shape[1:])
            yield block[..., ::-1] if flip else block


@contextmanager
def _member(path: Path, key: str) -> Iterator[Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                raise ValueError(f"got only {', '.join(archive.namelist())}")
            with archive.open(f"{key}.npy") as file:
                yield file
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        MemoryError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as failure:
        raise ValueError(f"expected an array {key!r} in {path}: {str(failure)[:200]}") from None


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """The file, open. Raises ModuleNotFoundError naming the extra, ValueError on a damaged file."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"reading {path} needs h5py: install the extra few-shot") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError) as failure:
        raise ValueError(f"expected a whole hdf5 file in {path}: {failure}") from None


def hdf5_dataset(file: Any, *names: str) -> Any:
    """The data set at these names, one below the other. Raises ValueError if missing or held in another file."""
    where = "/".join(names)
    here = file
    for name in names:
        if not hasattr(here, "keys") or name not in set(here.keys()):
            raise ValueError(f"expected {where} in {file.filename}, got no {name}")
        if type(here.get(name, getlink=True)).__name__ != "HardLink":
            raise ValueError(f"expected {where} inside {file.filename}, got a link")
        here = here[name]
    if getattr(here, "is_virtual", True) or here.external:
        raise ValueError(f"expected images at {where} inside {file.filename}, got none, or a part of another file")
    return here


def hdf5_blocks(path: Path, names: Sequence[Sequence[str]], size: int | None = None) -> Iterator[Array]:
    """The images of the data sets in turn: uint8 (k, H, W, C), or (k,) encoded pictures of variable length."""
    with hdf5(path) as file:
        for name in names:
            dataset = hdf5_dataset(file, *name)
            if dataset.ndim == 1:
                encoded = (
                    (np.asarray(content, np.uint8).tobytes(), f"{'/'.join(name)} in {path}") for content in dataset
                )
                yield from pictures.blocks(encoded, size)
            else:
                yield as_images(dataset[:], f"{path}, {'/'.join(name)}")


def hdf5_files(name: str) -> Layout:
    """torchmeta's layout of one file a split, data sets below `datasets`, and the lists of their names in JSON."""
    files = split_files("{}_data.hdf5") | {
        f"{split} classes": patterns for split, patterns in split_files("{}_labels.json").items()
    }

    def read(parts: Parts, request: Request) -> Splits:
        splits = {}
        for split in SPLITS:
            paths = [parts[split][0], parts[f"{split} classes"][0]]
            read = partial(_hdf5_classes, paths[0], paths[1], request.size)
            splits[split] = converted(paths, f"{name}, {split}", read, request)
        check_splits(splits)
        return splits

    return Layout(name, files, read)


def _hdf5_classes(data: Path, listed: Path, size: int | None) -> Unconverted:
    places = [("datasets", name) for name in names(listed)]
    with hdf5(data) as file:
        counts = [len(hdf5_dataset(file, *place)) for place in places]
    classes = [name for (_, name), count in zip(places, counts, strict=True) for _ in range(count)]
    return Unconverted(classes, hdf5_blocks(data, places, size))


def read_json(path: Path) -> Any:
    """The content. Raises ValueError, with the path, where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as failure:
        raise ValueError(f"expected JSON in {path}: {failure}") from None


def names(path: Path) -> list[str]:
    """Names of classes, one a line or (in a .json file) a list of text. Raises ValueError on anything else."""
    if path.suffix == ".json":
        listed = read_json(path)
    else:
        try:
            listed = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as failure:
            raise ValueError(f"expected names of classes in {path}: {failure}") from None
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"expected a list of names of classes in {path}, got something else")
    return listed


def integers(values: Any, where: object) -> list[int]:
    """N class numbers, of a list or an array (N,) or (N, 1). Raises ValueError on anything else."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(0)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"expected N integers as labels in {where}, got {array.dtype} {array.shape}")
    return [int(value) for value in array]


def of_numbers(numbers: Sequence[int], names: Sequence[str], where: object) -> list[str]:
    """The name of each number. Raises ValueError on numbers that have none."""
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(names):
        raise ValueError(f"expected labels 0 .. {len(names) - 1} in {where}, got {min(numbers)} .. {max(numbers)}")
    return [names[number] for number in numbers]


def as_images(value: Any, where: object) -> Array:
    """Images uint8 (N, H, W, C). Raises ValueError on anything else."""
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 4:
        raise ValueError(f"expected images uint8 (N, H, W, C) in {where}, got {array.dtype} {array.shape}")
    return array


def require(content: Mapping[str, Any], keys: Sequence[str], where: object) -> None:
    """Raises ValueError where one of the keys is missing."""
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"expected {', '.join(keys)} in {where}, got {', '.join(sorted(content)) or 'nothing'}")
