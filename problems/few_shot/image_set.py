"""The images of one split of a few-shot data set, whatever format they came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from problems.arguments import instance, shown

Array = npt.NDArray[np.generic]
_LOOKED_AT = 64  # images whose bytes enter `ImageSet.sha256`


@dataclass(frozen=True)
class ImageSet:
    """Images of the classes of one split; the classes of two splits are disjoint.

    images   uint8 (N, H, W, C), C = 1 or 3 (red, green, blue): an array, or a memory map of one
    labels   int64 (N,), the class of each image, 0 .. len(names) - 1
    names    of the classes
    groups   of each class the name of what it belongs to (alphabet, superclass), or None where nothing is known

    Raises ValueError on other shapes or types, labels out of range, or a class without images.
    """

    images: Array
    labels: Array
    names: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("images", "labels"):
            instance(name, getattr(self, name), np.ndarray)
        for name in ("names", *(("groups",) if self.groups is not None else ())):
            if not isinstance(given := getattr(self, name), tuple) or not all(isinstance(x, str) for x in given):
                raise TypeError(f"expected {name} a tuple of text, got {shown(given)}")
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] not in (1, 3):
            raise ValueError(
                f"expected images uint8 (N, H, W, 1 or 3), got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise ValueError(
                f"expected labels int64 ({len(self.images)},), got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if self.groups is not None and len(self.groups) != len(self.names):
            raise ValueError(f"expected a group for each of {len(self.names)} classes, got {len(self.groups)}")
        found = np.unique(self.labels)
        if not np.array_equal(found, np.arange(len(self.names))):
            raise ValueError(
                f"expected labels 0 .. {len(self.names) - 1}, each of some image, got {found.tolist()[:9]}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def rows(self) -> tuple[Array, ...]:
        """For each class the indices of its images, ascending."""
        order = np.argsort(self.labels, kind="stable")
        return tuple(np.split(order, np.cumsum(np.bincount(self.labels))[:-1]))

    @cached_property
    def sha256(self) -> str:
        """Twelve hexadecimal digits over names, groups, labels and the bytes of 64 images: other sets have others."""
        found = hashlib.sha256(json.dumps([self.names, self.groups]).encode())
        found.update(self.labels.tobytes())
        for row in np.unique(np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int)):
            found.update(np.ascontiguousarray(self.images[row]).tobytes())
        return found.hexdigest()[:12]

    def on(self, device: torch.device | str) -> Tensor:
        """All images on this device, uint8 (N, C, H, W), copied there once and kept as long as the set."""
        device = torch.device(device)
        if device not in self._copies:
            whole = torch.from_numpy(np.array(self.images, np.uint8))  # np.array copies: a memory map is read-only
            self._copies[device] = whole.to(device).movedim(-1, 1).contiguous()
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, Tensor]:
        return {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), as networks take an image."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width


Splits = dict[str, ImageSet]  # "train", "validation", "test"
