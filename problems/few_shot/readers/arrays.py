"""Images and labels that are in memory already, split by given lists of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from problems.few_shot.image_set import ImageSet, Splits
from problems.few_shot.readers.conversion import numbered
from problems.few_shot.readers.splits import SPLITS, check_splits, split_named

Array = npt.NDArray[Any]


def from_arrays(
    images: npt.ArrayLike,
    labels: Sequence[Any] | npt.ArrayLike,
    classes: Mapping[str, Iterable[Any]],
    *,
    maximum: float | None = None,
) -> Splits:
    """The splits of N images by their labels.

    images    (N, H, W, C) or (N, H, W), C = 1 or 3 (red, green, blue): uint8, or floats with `maximum`
    labels    (N,) integers or names
    classes   {"train": labels, "val" or "validation": labels, "test": labels}; images of other labels are left out
    maximum   the value of full brightness of images of floats: 1.0 or 255.0, so that nothing is guessed

    Raises ValueError on other shapes or types, no images, floats that are not finite or not in 0 .. maximum, labels
    of another length, other names of splits, a label in two splits or without images.

    >>> splits = from_arrays(np.zeros((6, 8, 8), np.uint8), [0, 1, 2, 3, 4, 5],
    ...                      {"train": [0, 1], "val": [2, 3], "test": [4, 5]})
    >>> splits["validation"].names
    ('2', '3')
    """
    pixels = _pixels(np.asarray(images), maximum)
    found = np.asarray(labels)
    if found.shape != (len(pixels),) or found.dtype.kind not in "iuSU":
        raise ValueError(f"expected {len(pixels)} integers or names as labels, got {found.dtype} {found.shape}")
    wanted = {split_named(name): list(chosen) for name, chosen in classes.items()}
    if set(wanted) != set(SPLITS):
        raise ValueError(f"expected the splits {', '.join(SPLITS)}, got {', '.join(classes) or 'none'}")
    splits = {split: _split(pixels, found, wanted[split], split) for split in SPLITS}
    check_splits(splits)
    return splits


def _split(pixels: Array, labels: Array, wanted: Sequence[Any], split: str) -> ImageSet:
    missing = [label for label in wanted if not np.any(labels == label)]
    if missing:
        raise ValueError(f"expected images of the class {missing[0]} of the {split} split, got none")
    chosen = np.isin(labels, wanted) if wanted else np.zeros(len(labels), bool)
    order, names = numbered(labels[chosen].tolist())
    return ImageSet(pixels[chosen], order, tuple(str(name) for name in names))


def _pixels(images: Array, maximum: float | None) -> Array:
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        hint = ", which has its channels first: transpose it" if images.ndim == 4 and images.shape[1] in (1, 3) else ""
        raise ValueError(f"expected images (N, H, W, 1 or 3) or (N, H, W), got {images.shape}{hint}")
    if images.size == 0:
        raise ValueError(f"expected at least one image of at least one pixel, got {images.shape}")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f" or maximum not in (1.0, 255.0):
        raise ValueError(
            f"expected images uint8, or floats and maximum=1.0 or maximum=255.0, got {images.dtype}, maximum={maximum}"
        )
    if not np.isfinite(images).all():
        first = int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
        raise ValueError(f"expected finite images, got NaN or infinity in image {first}")
    if images.min() < 0 or images.max() > maximum:
        raise ValueError(f"expected images in 0 .. {maximum}, got {images.min()} .. {images.max()}")
    return np.rint(images * (255.0 / maximum)).astype(np.uint8)
