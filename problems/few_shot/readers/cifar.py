"""CIFAR-FS (Bertinetto et al., ICLR 2019) and FC100 (Oreshkin et al., NeurIPS 2018): two ways to split CIFAR-100."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.few_shot.image_set import Splits
from problems.few_shot.readers import formats, pictures, safe_pickle
from problems.few_shot.readers.conversion import Unconverted, converted
from problems.few_shot.readers.folders import class_folders, csv_files, listed_classes
from problems.few_shot.readers.layouts import Layout, Parts, Reader, Request
from problems.few_shot.readers.splits import CIFAR_FS, CLASSES, FC100, SPLITS, SUPERCLASSES, check_splits, checked

Array = npt.NDArray[Any]
RAW = {name: (name,) for name in ("train", "test", "meta")}


@dataclass(frozen=True)
class Division:
    """Which classes of CIFAR-100 a split has: those named in `drawn`, or with `superclasses` all of the named ones."""

    drawn: Mapping[str, tuple[str, ...]]
    superclasses: bool = False

    def chosen(self, split: str, fine: Sequence[str], coarse: Sequence[str], where: object) -> npt.NDArray[np.bool_]:
        """(N,) which of N images are in the split, from the names of their classes and superclasses."""
        names = np.asarray(coarse if self.superclasses else fine)
        missing = set(self.drawn[split]) - set(names.tolist())
        if missing:
            raise ValueError(f"expected images of {', '.join(sorted(missing)[:5])} in {where}, got none")
        return np.isin(names, self.drawn[split])


def raw(division: Division) -> Layout:
    """CIFAR-100 as its author gives it, for Python: pickles of rows of 3072 bytes, channel by channel."""

    def read(parts: Parts, request: Request) -> Splits:
        paths = [parts[name][0] for name in ("train", "test", "meta")]
        return _divided(paths, lambda split: _raw_split(paths, division, split), "CIFAR-100 for Python", request)

    return Layout("CIFAR-100 for Python", RAW, read)


def _raw_split(paths: Sequence[Path], division: Division, split: str) -> Unconverted:
    meta = safe_pickle.load_mapping(paths[-1])
    formats.require(meta, ("fine_label_names", "coarse_label_names"), paths[-1])
    names = {level: [safe_pickle.text(name) for name in meta[f"{level}_label_names"]] for level in ("fine", "coarse")}
    images, labels = [], {"fine": [], "coarse": []}  # type: tuple[list[Array], dict[str, list[str]]]
    for path in paths[:-1]:
        content = safe_pickle.load_mapping(path)
        formats.require(content, ("data", "fine_labels", "coarse_labels"), path)
        rows = np.asarray(content["data"])
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
            raise ValueError(f"expected data uint8 (N, 3072) in {path}, got {rows.dtype} {rows.shape}")
        images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        for level, found in labels.items():
            numbers = formats.integers(content[f"{level}_labels"], path)
            if len(numbers) != len(rows):
                raise ValueError(f"expected a label for each of {len(rows)} images in {path}, got {len(numbers)}")
            found += formats.of_numbers(numbers, names[level], path)
    chosen = division.chosen(split, labels["fine"], labels["coarse"], paths[0])
    return _unconverted(labels["fine"], labels["coarse"], chosen, [np.concatenate(images)[chosen]])


def parquet(division: Division) -> Layout:
    """CIFAR-100 in parquet files: a picture column `img` or `image`, columns `fine_label` and `coarse_label`."""

    def read(parts: Parts, request: Request) -> Splits:
        paths = [path for name in ("train", "test") for path in parts[name]]
        return _divided(paths, lambda split: _parquet_split(paths, division, split), "CIFAR-100 in parquet", request)

    files = {name: (f"{name}-*.parquet",) for name in ("train", "test")}
    return Layout("CIFAR-100 in parquet", files, read)


def _parquet_split(paths: Sequence[Path], division: Division, split: str) -> Unconverted:
    fine: list[str] = []
    coarse: list[str] = []
    for path in paths:
        with _parquet_file(path) as file:
            fine += _parquet_labels(file, path, _label_column(file, path), CLASSES)
            if "coarse_label" in file.schema_arrow.names or division.superclasses:
                coarse += _parquet_labels(file, path, "coarse_label", SUPERCLASSES)
    chosen = division.chosen(split, fine, coarse, paths[0])
    encoded = compress(_parquet_pictures(paths), chain(chosen, repeat(True)))  # more pictures than labels are refused
    return _unconverted(fine, coarse, chosen, pictures.blocks(encoded))


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"reading {path} needs pyarrow: install the extra few-shot") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as failure:
        raise ValueError(f"expected a whole parquet file in {path}: {failure}") from None


def _label_column(file: Any, path: Path) -> str:
    """`fine_label` or `label`, else the only column of integers but for the superclasses."""
    import pyarrow

    columns = {field.name: field.type for field in file.schema_arrow}
    whole = [name for name, kind in columns.items() if pyarrow.types.is_integer(kind) and name != "coarse_label"]
    for name in ("fine_label", "label"):
        if name in columns:
            return name
    if len(whole) != 1:
        raise ValueError(f"expected a column fine_label, or one of integers, in {path}, got {', '.join(columns)}")
    return whole[0]


def _parquet_labels(file: Any, path: Path, column: str, names: Sequence[str]) -> list[str]:
    """The classes of one column, named as the `datasets` library has written into the file, else by `names`."""
    if column not in file.schema_arrow.names:
        raise ValueError(f"expected a column {column} in {path}, got {', '.join(file.schema_arrow.names)}")
    with suppress(ValueError, KeyError, TypeError):  # no such names there
        names = list(
            json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
        )
    numbers = formats.integers(file.read([column])[column].to_numpy(), path)
    return formats.of_numbers(numbers, [str(name) for name in names], path)


def _parquet_pictures(paths: Sequence[Path]) -> Iterator[tuple[bytes, object]]:
    for path in paths:
        with _parquet_file(path) as file:
            column = next((name for name in ("img", "image") if name in file.schema_arrow.names), None)
            if column is None:
                raise ValueError(f"expected a column img or image in {path}, got {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(1024, columns=[column]):
                for row in batch.column(0).to_pylist():
                    content = row.get("bytes") if isinstance(row, dict) else row
                    if not isinstance(content, bytes):
                        raise ValueError(f"expected pictures as bytes in {path}, got {type(content).__name__}")
                    yield content, path


def torchmeta(division: Division, name: str, folder: str) -> Layout:
    """One hdf5 file, a group for each superclass and in it a data set for each class; JSON lists of both per split."""

    def read(parts: Parts, request: Request) -> Splits:
        splits = {}
        for split in SPLITS:
            files = [parts["data"][0], parts[split][0]]
            splits[split] = converted(files, f"{name}, {split}", partial(_hdf5_split, *files), request)
        check_splits(splits, division.drawn, groups=division.superclasses)
        return splits

    lists = formats.split_files(f"{folder}/{{}}_labels.json")
    return Layout(name, {"data": ("data.hdf5",), **lists}, read)


def _hdf5_split(data: Path, listed: Path) -> Unconverted:
    pairs = formats.read_json(listed)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in pairs
    ):
        raise ValueError(f"expected a list of [superclass, class] in {listed}, got something else")
    with formats.hdf5(data) as file:
        counts = [len(formats.hdf5_dataset(file, *pair)) for pair in pairs]
    classes = [fine for (_, fine), count in zip(pairs, counts, strict=True) for _ in range(count)]
    return Unconverted(classes, formats.hdf5_blocks(data, pairs), {fine: coarse for coarse, fine in pairs})


def _divided(paths: Sequence[Path], read: Callable[[str], Unconverted], what: str, request: Request) -> Splits:
    division = {}
    for split in SPLITS:
        division[split] = converted(paths, f"{what}, {split}", partial(read, split), request)
    check_splits(division)
    return division


def _unconverted(fine: Sequence[str], coarse: Sequence[str], chosen: Array, blocks: Any) -> Unconverted:
    groups = dict(zip(fine, coarse, strict=True)) if coarse else None
    return Unconverted([name for name, taken in zip(fine, chosen, strict=True) if taken], blocks, groups)


_FS, _FC = Division(CIFAR_FS), Division(FC100, superclasses=True)
_SOURCE = (
    "CIFAR-100 is on the home page of Alex Krizhevsky (the archive for Python) and as the data set uoft-cs/cifar100; "
)

CIFAR_FS_READER = Reader(
    title="CIFAR-FS",
    layouts=(
        formats.pickles("MetaOptNet's pickles", "CIFAR_FS_{}.pickle"),
        torchmeta(_FS, "torchmeta's hdf5", "cifar-fs"),
        checked(listed_classes("R2-D2's tree", "data/", "splits/bertinetto/{}.txt"), CIFAR_FS),
        checked(class_folders("learn2learn's class folders", "{}/"), CIFAR_FS),
        checked(csv_files("LibFewShot's CSV files and images/", "{}.csv"), CIFAR_FS),
        raw(_FS),
        parquet(_FS),
    ),
    roots=("cifar100", "cifarfs/cifar100", "cifarfs/processed", "processed", "CIFAR-FS", "cifar-100-python", "data"),
    source=_SOURCE
    + "CIFAR-FS comes with the repositories of R2-D2 (bertinetto/r2d2) and MetaOptNet (kjunelee/MetaOptNet).",
)

FC100_READER = Reader(
    title="FC100",
    layouts=(
        formats.pickles("MetaOptNet's and learn2learn's pickles", "FC100_{}.pickle"),
        formats.npz("TADAM's npz", "features", "targets", "few-shot-{}.npz"),
        torchmeta(_FC, "torchmeta's hdf5", "fc100"),
        raw(_FC),
        parquet(_FC),
    ),
    roots=("cifar100", "fc100", "FC100", "cifar-100-python", "data"),
    source=_SOURCE
    + "FC100 comes with the repositories of TADAM (ElementAI/TADAM) and MetaOptNet (kjunelee/MetaOptNet).",
)
