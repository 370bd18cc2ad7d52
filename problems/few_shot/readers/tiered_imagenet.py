"""tieredImageNet (Ren et al., ICLR 2018): 351, 97 and 160 classes of ImageNet in 20, 6 and 8 categories, 84 x 84."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from problems.few_shot.image_set import Splits
from problems.few_shot.readers import formats, pictures, safe_pickle
from problems.few_shot.readers.conversion import Unconverted, converted
from problems.few_shot.readers.folders import BASES, class_folders, csv_files, first_of, from_folders
from problems.few_shot.readers.layouts import Layout, Parts, Reader, Request, named
from problems.few_shot.readers.splits import SPLITS, check_splits


def _read_labels(path: Path) -> tuple[list[str] | list[int], dict[Any, str] | None]:
    """The class of each image, a name or a number, and the category of each class where it is known."""
    content = safe_pickle.load_mapping(path)
    if "label_specific" not in content:
        formats.require(content, ("labels",), path)
        return formats.integers(content["labels"], path), None
    specific = _names(content, "label_specific", path)
    if "label_general" not in content:
        return specific, None
    general = _names(content, "label_general", path)
    if len(general) != len(specific):
        raise ValueError(f"expected as many general as specific labels in {path}, got {len(general)}, {len(specific)}")
    return specific, {label: str(category) for label, category in zip(specific, general, strict=True)}


def _names(content: Mapping[str, Any], key: str, path: Path) -> list[str] | list[int]:
    numbers = formats.integers(content[key], path)
    if f"{key}_str" not in content:
        return numbers
    names = [safe_pickle.text(name) for name in content[f"{key}_str"]]
    return formats.of_numbers(numbers, names, path)


def _png_list(path: Path, size: int | None) -> Iterator[Any]:
    """A pickled list of encoded pictures, each uint8 (L,) or (L, 1); they decode to red, green, blue."""
    encoded = safe_pickle.load(path)
    if not isinstance(encoded, list | tuple):
        raise ValueError(f"expected a list of encoded pictures in {path}, got {type(encoded).__name__}")
    yield from pictures.blocks(((_bytes(one, path), f"{path}[{k}]") for k, one in enumerate(encoded)), size)


def _bytes(encoded: Any, path: Path) -> bytes:
    if isinstance(encoded, bytes):
        return encoded
    if not isinstance(encoded, np.ndarray) or encoded.dtype != np.uint8:
        raise ValueError(f"expected encoded pictures of bytes in {path}, got {type(encoded).__name__}")
    return encoded.tobytes()


def _with_labels(name: str, images: str, blocks: Callable[[Path, int | None], Iterator[Any]]) -> Layout:
    """A layout of a file of images and a pickle of labels for each split."""
    files = {
        f"{split}{part}": patterns
        for part, pattern in ((" images", images), (" labels", "{}_labels.pkl"))
        for split, patterns in formats.split_files(pattern).items()
    }

    def read(parts: Parts, request: Request) -> Splits:
        splits = {}
        for split in SPLITS:
            paths = [parts[f"{split} images"][0], parts[f"{split} labels"][0]]
            read_files = partial(source, paths[0], paths[1], request.size)
            splits[split] = converted(paths, f"{name}, {split}", read_files, request, prefix=f"{split}/")
        check_splits(splits)
        return splits

    def source(images: Path, labels: Path, size: int | None) -> Unconverted:
        classes, groups = _read_labels(labels)
        return Unconverted(classes, blocks(images, size), groups)

    return Layout(name, files, read)


def _read_json_splits(parts: Parts, request: Request) -> Splits:
    splits = {}
    for split in SPLITS:
        (path,) = parts[split]
        folders = list(_class_roots(path, split))
        splits[split] = from_folders(folders, f"JSON lists, {split}", request)
    check_splits(splits)
    return splits


def _class_roots(path: Path, split: str) -> Iterator[tuple[str, Path]]:
    """The folder of each class: class_roots say where the authors had it, only its last component is of use here."""
    content = formats.read_json(path)
    formats.require(content if isinstance(content, dict) else {}, ("class_names", "class_roots"), path)
    names, roots = content["class_names"], content["class_roots"]
    if not _texts(names) or not _texts(roots) or len(names) != len(roots):
        raise ValueError(f"expected as many class_roots as class_names, text, in {path}, got something else")
    for name, root in zip(names, roots, strict=True):
        last = root.rstrip("/").rpartition("/")[2]
        bases = [path.parent / base for base in (*BASES, split)]
        yield name, first_of([named(base, last, path) for base in bases], f"the folder of class {name}", path)


def _texts(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(one, str) for one in value)


READER = Reader(
    title="tieredImageNet",
    layouts=(
        _with_labels("Ren's PNG pickles", "{}_images_png.pkl", _png_list),
        _with_labels(
            "Ren's and MetaOptNet's npz (blue, green, red)",
            "{}_images.npz",
            lambda path, size: formats.npz_blocks(path, "images", flip=True),
        ),
        formats.hdf5_files("torchmeta's hdf5"),
        Layout("easy-few-shot-learning's JSON lists and ImageNet", formats.split_files("{}.json"), _read_json_splits),
        csv_files("LibFewShot's CSV files and images/", "{}.csv"),
        class_folders("class folders", "{}/"),
    ),
    roots=("tiered-imagenet", "tieredimagenet", "tieredImageNet", "tiered_imagenet"),
    source=(
        "The images are ImageNet's, given out for research on the ImageNet home page; Ren et al. give the split and "
        "the pickles (renmengye/few-shot-ssl-public), easy-few-shot-learning the lists (sicara/easy-few-shot-learning)."
    ),
    size=84,
)
