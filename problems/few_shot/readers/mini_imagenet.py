"""miniImageNet with the split of Ravi and Larochelle (ICLR 2017): 64, 16 and 20 classes of 600 images, 84 x 84."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from problems.few_shot.image_set import Splits
from problems.few_shot.readers import formats, safe_pickle
from problems.few_shot.readers.conversion import Unconverted, converted
from problems.few_shot.readers.folders import class_folders, csv_files, listed_classes
from problems.few_shot.readers.layouts import Layout, Parts, Reader, Request
from problems.few_shot.readers.splits import MINI_IMAGENET, SPLITS, check_splits, checked


def _read_cache(path: Path) -> Unconverted:
    """Ren et al.: {"image_data": uint8 (N, 84, 84, 3), "class_dict": {wnid: rows}}, the keys text or bytes."""
    content = safe_pickle.load_mapping(path)
    formats.require(content, ("image_data", "class_dict"), path)
    images = formats.as_images(content["image_data"], path)
    classes = [""] * len(images)
    if not isinstance(content["class_dict"], Mapping):
        raise ValueError(f"expected class_dict {{class: rows}} in {path}, got {type(content['class_dict']).__name__}")
    for name, rows in content["class_dict"].items():
        for row in formats.integers(rows, path):
            if not 0 <= row < len(images) or classes[row]:
                raise ValueError(f"expected each of {len(images)} images in one class in {path}, got row {row} again")
            classes[row] = safe_pickle.text(name)
    if not all(classes):
        raise ValueError(f"expected a class for each image in {path}, got none for row {classes.index('')}")
    return Unconverted(classes, [images])


def _cache_splits(parts: Parts, request: Request) -> Splits:
    splits = {
        split: converted(parts[split], f"class_dict, {split}", partial(_read_cache, parts[split][0]), request)
        for split in SPLITS
    }
    check_splits(splits, MINI_IMAGENET)
    return splits


CACHE = Layout("Ren's and learn2learn's pickles", formats.split_files("mini-imagenet-cache-{}.pkl"), _cache_splits)

_CATEGORY = "miniImageNet_category_split_{}.pickle"

READER = Reader(
    title="miniImageNet",
    layouts=(
        CACHE,
        formats.pickles("MetaOptNet's and Gidaris' pickles", _CATEGORY, train=_CATEGORY.format("train_phase_train")),
        checked(formats.hdf5_files("torchmeta's hdf5"), MINI_IMAGENET),
        formats.npz("TADAM's npz", "features", "targets", "few-shot-{}.npz"),
        checked(csv_files("Ravi's CSV files and images/", "{}.csv"), MINI_IMAGENET),
        checked(listed_classes("R2-D2's tree", "data/", "splits/ravi-larochelle/{}.txt"), MINI_IMAGENET),
        checked(class_folders("class folders", "{}/"), MINI_IMAGENET),
    ),
    roots=("mini-imagenet", "miniimagenet", "miniImageNet", "mini_imagenet"),
    source=(
        "The images are ImageNet's, given out for research on the ImageNet home page; the split and tools are in the "
        "repositories of Ravi and Larochelle (twitter/meta-learning-lstm) and Ren et al. "
        "(renmengye/few-shot-ssl-public), the arrays with MetaOptNet (kjunelee/MetaOptNet) and learn2learn."
    ),
    size=84,
)
