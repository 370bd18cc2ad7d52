"""Pictures of training episodes changed at random: classes turned, windows shifted, pictures mirrored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from problems.arguments import integer, truth

Numbers = npt.NDArray[np.int64]
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is changed in the pictures of training episodes; every choice is a function of the episode alone.

    rotate_classes   each class turned by 0, 90, 180 or 270 degrees is a class of its own: 4 C of them. Two turns of one
                     class are never in one episode, as a symmetric picture would have two labels and an image would be
                     used twice; so the way is still at most C. Square images only
    crop             pixels: each picture is padded by as many on all sides by reflection (without repeating the edge),
                     and a window of the old size is cut from it at random. Reflection adds no bar of one colour
    flip             each picture is mirrored left to right with probability 1/2

    In this order: a class is turned before its pictures are changed one at a time. Raises ValueError on a crop below 0.

    Source: rotated classes as in Santoro et al., ICML 2016, one turn a class of an episode as in Finn, Abbeel and
    Levine, ICML 2017; crop and flip as in Lee et al., CVPR 2019. Differs: the last pads with black.
    """

    rotate_classes: bool = False
    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        integer("crop", self.crop, least=0)
        for name in ("rotate_classes", "flip"):
            truth(name, getattr(self, name))

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError where pictures of this shape (C, H, W) cannot be turned, or padded so far by reflection."""
        _, height, width = shape
        if self.rotate_classes and height != width:
            raise ValueError(f"expected square images for rotated classes, got {height} x {width} pixels")
        if self.crop >= min(height, width):
            raise ValueError(
                f"expected a crop below {min(height, width)} pixels, the smaller side of the images, got {self.crop}"
            )

    def choices(self, turns: npt.NDArray[np.float64], pictures: npt.NDArray[np.float64]) -> dict[str, Numbers]:
        """The choices of episodes from uniform numbers in [0, 1), under the names that `augmented` takes.

        turns      (..., way)
        pictures   (..., way, pictures, 3): of shift down, shift right, mirroring

        Only those that this augmentation makes; one does not depend on whether another is made.
        """
        made: dict[str, Numbers] = {}
        if self.rotate_classes:
            made["turns"] = (4 * turns).astype(np.int64)
        if self.crop:
            made["shifts"] = ((2 * self.crop + 1) * pictures[..., :2]).astype(np.int64) - self.crop
        if self.flip:
            made["flips"] = (2 * pictures[..., 2]).astype(np.int64)
        return made


def augmented(pictures: Pictures, choices: Mapping[str, Numbers]) -> Pictures:
    """The pictures with the changes that are among `choices`, of the same shape and type; they may be changed in place.

    pictures           uint8 (B, way, pictures, C, H, W)
    choices["turns"]   (B, way), quarter turns counterclockwise, 0 .. 3
    choices["shifts"]  (B, way, pictures, 2), pixels down and to the right by which the window lies off, below H and W
    choices["flips"]   (B, way, pictures), 1 where mirrored, else 0

    What else is among the choices is left alone. The changes are those of `Augmentation`, in its order.
    """
    if "turns" in choices:
        for episode, turns in zip(pictures, choices["turns"].tolist(), strict=True):
            for j, quarters in enumerate(turns):
                if quarters:
                    episode[j] = np.rot90(episode[j], quarters, (2, 3)).copy()
    if "shifts" in choices:
        pictures = _windows(pictures, choices["shifts"])
    if "flips" in choices:
        mirrored = choices["flips"] == 1
        pictures[mirrored] = pictures[mirrored][..., ::-1]
    return pictures


def _windows(pictures: Pictures, shifts: Numbers) -> Pictures:
    flat = pictures.reshape(-1, *pictures.shape[3:])
    crop = int(np.abs(shifts).max(initial=0))
    padded = np.pad(flat, ((0, 0), (0, 0), (crop, crop), (crop, crop)), mode="reflect")
    windows = sliding_window_view(padded, flat.shape[2:], axis=(2, 3))
    down, right = crop + shifts.reshape(-1, 2).T
    return windows[np.arange(len(flat)), :, down, right].reshape(pictures.shape)


def augmented_on(pictures: Tensor, choices: Mapping[str, Tensor]) -> Tensor:
    """As `augmented`, on the device of the pictures and of the choices: the same pictures, byte for byte.

    Turned by one gather for each quarter; shifted and mirrored by one more, from the places where the pixels lie.
    """
    if "turns" in choices:
        turns = choices["turns"]
        for quarters in (1, 2, 3):  # no decision is taken on the host
            chosen = (turns == quarters).view(*turns.shape, 1, 1, 1, 1)
            pictures = torch.where(chosen, torch.rot90(pictures, quarters, (-2, -1)), pictures)
    if "shifts" not in choices and "flips" not in choices:
        return pictures
    height, width = pictures.shape[-2:]
    places = [torch.arange(side, device=pictures.device).expand(*pictures.shape[:3], side) for side in (height, width)]
    if "flips" in choices:  # of the window that is cut
        places[1] = torch.where(choices["flips"].unsqueeze(-1) == 1, width - 1 - places[1], places[1])
    if "shifts" in choices:
        shifts = choices["shifts"].unbind(-1)
        places = [_reflected(at + by.unsqueeze(-1), at.shape[-1]) for at, by in zip(places, shifts, strict=True)]
    down, right = places
    rows = pictures.gather(-2, down[..., None, :, None].expand_as(pictures))
    return rows.gather(-1, right[..., None, None, :].expand_as(pictures))


def _reflected(places: Tensor, side: int) -> Tensor:
    """Where on 0 .. side - 1 places up to side - 1 beyond the edge lie by reflection without repeating the edge."""
    return (side - 1 - ((side - 1) - places.abs()).abs()).to(torch.int64)
