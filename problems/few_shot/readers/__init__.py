"""Few-shot data sets that are on disk already: nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from problems.few_shot.cache import cache_folder
from problems.few_shot.readers import cifar, folders, mini_imagenet, tiered_imagenet
from problems.few_shot.readers.arrays import from_arrays
from problems.few_shot.readers.layouts import Advance, FoundSplits, Reader, Request

READERS: Mapping[str, Reader] = {
    "cifar-fs": cifar.CIFAR_FS_READER,
    "fc100": cifar.FC100_READER,
    "mini-imagenet": mini_imagenet.READER,
    "tiered-imagenet": tiered_imagenet.READER,
    "folder": folders.READER,
}

__all__ = ["READERS", "FoundSplits", "Reader", "from_arrays", "load"]


def load(
    name: str,
    folder: Path | str,
    *,
    cache: Path | str | None = None,
    size: int | None = None,
    advance: Advance = lambda images: None,
) -> FoundSplits:
    """The splits of a data set from its files in `folder` or a usual subfolder of it, in whatever layout they are.

    name      "cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet" or "folder"
    cache     where images are kept that were converted to arrays for memory-mapping; see `cache_folder`
    size      the side to which image files are resized, in pixels; None: 84 for mini- and tieredImageNet, else not.
              Images that are stored as arrays have the size that they have, and another one asked for is refused
    advance   called with the number of images converted since the last call

    The result is a dict of "train", "validation" and "test"; its `layout` names the layout that was read. Where several
    are there, it is the first in the order of `READERS[name].layouts` (in `folder` before its subfolders), and `others`
    names the rest. Images are uint8 (N, H, W, C), red, green, blue.

    Raises ValueError on an unknown name, a size that arrays do not have, and on files that are damaged, contradict
    each other, or lead out of the folder; FileNotFoundError, naming every layout and where to get the data, where
    nothing is found; ModuleNotFoundError where hdf5 or parquet files are there but not the extra few-shot.
    """
    if name not in READERS:
        raise ValueError(f"expected the name of a data set, one of {', '.join(READERS)}, got {name!r}")
    if size is not None and size < 1:
        raise ValueError(f"expected a side of at least 1 pixel, got size={size}")
    reader = READERS[name]
    root = Path(folder).expanduser().resolve()
    found = reader.load(Request(root, cache_folder(cache) / name, reader.size if size is None else size, advance))
    for split, images in found.items():
        height, width = images.images.shape[1:3]
        if size is not None and (height, width) != (size, size):
            raise ValueError(
                f"expected no size, or that of the images, as only image files are resized, got size={size} for the "
                f"{split} images of {height} x {width} in {found.folder} ({found.layout})"
            )
    return found
