"""Images as files: class folders, lists of classes beside class folders, CSV files beside images, npz arrays."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from problems.arguments import shown
from problems.few_shot.image_set import ImageSet, Splits
from problems.few_shot.readers import formats, pictures
from problems.few_shot.readers.conversion import Unconverted, converted
from problems.few_shot.readers.layouts import Layout, Parts, Reader, Request, inside, named
from problems.few_shot.readers.splits import SPLITS, check_splits

HEADERS = (("filename", "label"), ("image_name", "class_name"))  # Ravi and Larochelle; easy-few-shot-learning
BASES = ("images", "", "train", "data")  # where the files that a CSV or a JSON list names are looked for


def class_folders(name: str, *patterns: str) -> Layout:
    """A layout <split>/<class>/<image>."""
    return Layout(name, formats.split_files(*patterns), _read_class_folders)


def listed_classes(name: str, data: str, *patterns: str) -> Layout:
    """A layout of one folder <data>/<class>/<image> for all classes, and for each split a file with its classes."""
    return Layout(name, {"classes": (data,), **formats.split_files(*patterns)}, _read_listed_classes)


def csv_files(name: str, *patterns: str) -> Layout:
    """A layout of CSV files, one a split, with the columns filename and label, or image_name and class_name."""
    return Layout(name, formats.split_files(*patterns), _read_csv_files)


def from_folders(folders: Sequence[tuple[str, Path]], recipe: str, request: Request) -> ImageSet:
    """The images of one split from (class, folder) pairs.

    Raises ValueError on a class without images and on symbolic links that lead out of the request's folder.
    """
    found = [(name, path) for name, folder in folders for path in image_files(folder, request.folder)]
    return from_files([name for name, _ in found], [path for _, path in found], recipe, request)


def from_files(classes: Sequence[str], paths: Sequence[Path], recipe: str, request: Request) -> ImageSet:
    """The images of one split from its files and their classes."""
    read = Unconverted(classes, pictures.blocks(pictures.contents(paths), request.size))
    return converted(paths, recipe, lambda: read, request, listed=classes)


def image_files(folder: Path, root: Path) -> list[Path]:
    """The image files in the folder, by name; files of other kinds are passed over. Raises as `from_folders`."""
    inside(root, folder)
    if not folder.is_dir():
        raise ValueError(f"expected a folder of images {folder}, got none")
    with os.scandir(folder) as entries:
        found = sorted(
            entry.path
            for entry in entries
            if entry.name.lower().endswith(pictures.SUFFIXES) and os.path.isfile(entry.path)
        )
    paths = [Path(path) for path in found]
    if not paths:
        raise ValueError(f"expected images ({', '.join(pictures.SUFFIXES)}) in {folder}, got none")
    for path in paths:
        if path.is_symlink():
            inside(root, path)
    return paths


def first_of(candidates: Iterable[Path], what: str, where: Path) -> Path:
    """The first that exists. Raises ValueError naming `what` and the list it is in."""
    tried = list(candidates)
    for candidate in tried:
        if candidate.exists():
            return candidate
    raise ValueError(f"expected {what} of {where}, got no {' or '.join(str(path) for path in tried)}")


def _read_class_folders(parts: Parts, request: Request) -> Splits:
    splits = {}
    for split in SPLITS:
        (root,) = parts[split]
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        splits[split] = from_folders([(path.name, path) for path in folders], f"class folders, {split}", request)
    check_splits(splits)
    return splits


def _read_listed_classes(parts: Parts, request: Request) -> Splits:
    (data,) = parts["classes"]
    splits = {}
    for split in SPLITS:
        (path,) = parts[split]
        folders = [(name, named(data, name, path)) for name in formats.names(path)]
        splits[split] = from_folders(folders, f"listed classes, {split}", request)
    check_splits(splits)
    return splits


def _read_csv_files(parts: Parts, request: Request) -> Splits:
    splits = {}
    for split in SPLITS:
        (path,) = parts[split]
        rows = _rows(path)
        files = [_image_of_row(path, file, label, request) for file, label in rows]
        splits[split] = from_files([label for _, label in rows], files, f"CSV, {split}", request)
    check_splits(splits)
    return splits


def _rows(path: Path) -> list[tuple[str, str]]:
    """(file, class) of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            for image, label in HEADERS:
                if image in header and label in header:
                    return [(_cell(row[image]), _cell(row[label])) for row in reader]
    except (csv.Error, UnicodeDecodeError, ValueError) as failure:
        raise ValueError(f"expected a CSV file of images and classes in {path}: {failure}") from None
    expected = " or ".join(f"{image},{label}" for image, label in HEADERS)
    raise ValueError(f"expected the columns {expected} in {path}, got {shown(','.join(header))}")


def _cell(value: str | None) -> str:
    if not value or not value.strip():
        raise ValueError("a row without a file or a class")
    return value.strip()


def _image_of_row(path: Path, file: str, label: str, request: Request) -> Path:
    root = path.parent
    named(root, file, path)
    tried = [root / base / file for base in BASES]
    if Path(label).name == label and label not in ("", ".", ".."):
        tried += [root / base / label / file for base in BASES]
    found = first_of(tried, f"the image {file}", path)
    inside(request.folder, found)
    if not found.is_file():
        raise ValueError(f"expected the image {file} of {path} to be a file, got none in {found}")
    return found


READER = Reader(
    title="images",
    layouts=(
        class_folders("class folders", "{}/"),
        csv_files("CSV files and images/", "{}.csv"),
        listed_classes("lists of classes and class folders", "data/", "splits/{}.txt", "{}.txt"),
        formats.npz("arrays", "images", "labels", "{}.npz"),
    ),
    source="Put images of your own there: the classes of the three splits must differ.",
)
