"""Episodes: small classification tasks drawn from a set of images, each a function of (seed, split, index) alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from problems.arguments import instance, integer, shown, truth
from problems.base import Tasks
from problems.few_shot.augmentation import Augmentation, Numbers, augmented, augmented_on
from problems.few_shot.image_set import ImageSet

SPLITS = {"train": 0, "validation": 1, "test": 2}  # a split's number enters the randomness
INDICES = 2**62  # the indices lie below

_Index = Tensor | Sequence[int] | Numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """An endless sequence of n-way k-shot episodes; episode i is a function of (seed, split, i) and of nothing else.

    images          of one split
    split           "train", "validation" or "test": equal indices of two splits are independent
    way             classes of an episode, at least 2
    shot, queries   images of each class that the lower level and the upper level see, at least 1 each
    within_groups   all classes of an episode are of one group (alphabet, superclass). A group is drawn in proportion to
                    its number of classes, so that every class is drawn equally often; groups of fewer than `way`
                    classes are left out
    augmentation    in training only
    resident        a device that holds a copy of all images, which episodes are gathered on: the same episodes, their
                    tensors there. None: gathered from the array, on the CPU

    Classes are drawn uniformly without replacement, as are images within a class; no image is in an episode twice.
    One stream of numbers is read in a fixed order (group, classes, turns, then for each image of a class its choice,
    shift and mirroring, the first images of all classes before the second ones), so that

    - other numbers of shots or queries, or another augmentation, leave the group and the classes as they are;
    - other numbers of queries leave the support as it is, and the support of fewer shots is part of that of more;
    - an augmentation leaves the choice of images as it is;
    - images drawn of one class do not depend on the sizes of the other ones.

    The stream is NumPy's PCG64 seeded by SeedSequence(seed, spawn_key=(number of the split, i)), both of which NumPy
    keeps unchanged between versions. (SeedSequence([seed, split, i]) is ambiguous for seeds of more than 32 bits.)

    A 5-way episode of 5 shots and 15 queries at 3 x 32 x 32 costs 0.35 ms of one core, with every augmentation 1.3 ms,
    from a memory map whose pages are in memory.

    Raises ValueError where way, shot, queries or seed are too small, the split is unknown, the classes or the images of
    a class are too few, within_groups finds no groups, images to be turned are not square, or an augmentation is given
    outside of training.

    Source: Vinyals et al., NeurIPS 2016.
    """

    images: ImageSet = field(repr=False)
    split: str
    way: int = 5
    shot: int = 5
    queries: int = 15
    seed: int = 0
    within_groups: bool = False
    augmentation: Augmentation | None = None
    resident: torch.device | str | None = None

    def __post_init__(self) -> None:
        instance("images", self.images, ImageSet)
        if not isinstance(self.split, str) or self.split not in SPLITS:
            raise ValueError(f"expected a split among {', '.join(SPLITS)}, got {shown(self.split)}")
        for name, least in {"way": 2, "shot": 1, "queries": 1, "seed": 0}.items():
            integer(name, getattr(self, name), least=least)
        truth("within_groups", self.within_groups)
        if self.resident is not None:
            try:
                torch.device(str(self.resident))  # a number alone would be that of a GPU
            except RuntimeError as error:
                raise ValueError(f"expected resident None or a device, got {shown(self.resident)}") from error
        if self.augmentation is not None:
            instance("augmentation", self.augmentation, Augmentation)
            if self.split != "train":
                raise ValueError(f"expected an augmentation of the split train only, got one of {self.split}")
            self.augmentation.check(self.images.shape)
        needed, sizes = self.shot + self.queries, self._sizes
        smallest = min(chain(*self._pools), key=sizes.__getitem__)
        if sizes[smallest] < needed:
            raise ValueError(
                f"expected at least {needed} images of each class, for {self.shot} shots and {self.queries} queries, "
                f"got {sizes[smallest]} of class {self.images.names[smallest]!r}"
            )

    def rows(self, index: _Index) -> Numbers:
        """Row numbers into the images, int64 (B, way, shot + queries): of each class the support, then the queries."""
        return self._choices(_numbers(index))["rows"]

    def draw(self, index: _Index) -> Tasks:
        """The episodes at `index`, of shape (B,), on the CPU or where the images are resident, gathered at once.

        index                           integers 0 .. 2^62 - 1, which become the index of the tasks
        support, query                  uint8 (B, way * shot, C, H, W) and (B, way * queries, C, H, W)
        support_labels, query_labels    int64 (B, way * shot) and (B, way * queries): 0 .. way - 1, in this order

        Raises ValueError on other indices.
        """
        numbers = _numbers(index)
        return _tasks(self.images, numbers, self._choices(numbers), self.shot, self.resident)

    def listing(self, count: int) -> dict[str, npt.NDArray[Any]]:
        """The episodes 0 .. count - 1 as arrays that `numpy.savez` keeps and `EpisodeList` draws again.

        split, way, shot, queries, seed   scalars
        images, sha256                    how many the set has, and `ImageSet.sha256`
        classes                           int64 (count, way)
        rows                              int64 (count, way, shot + queries), as from `rows`
        turns, shifts, flips              as `augmented` takes them, where the augmentation makes them

        Raises ValueError on a count below 1.
        """
        if count < 1:
            raise ValueError(f"expected a list of at least one episode, got {count}")
        numbers = {"way": self.way, "shot": self.shot, "queries": self.queries, "seed": self.seed}
        return {
            "split": np.array(self.split),
            **{name: np.array(value, np.int64) for name, value in numbers.items()},
            "images": np.array(len(self.images), np.int64),
            "sha256": np.array(self.images.sha256),
            **self._choices(np.arange(count)),
        }

    @cached_property
    def _sizes(self) -> list[int]:
        """How many images each class has."""
        return [len(rows) for rows in self.images.rows]

    @cached_property
    def _pools(self) -> tuple[tuple[int, ...], ...]:
        """The classes that can meet in an episode: those of each large enough group, or all."""
        classes, groups = len(self.images.names), self.images.groups
        if not self.within_groups:
            if self.way > classes:
                raise ValueError(f"expected way of at most {classes}, the classes of the images, got {self.way}")
            return (tuple(range(classes)),)
        if groups is None:
            raise ValueError("expected images with groups for episodes within groups, got images without")
        members: dict[str, list[int]] = defaultdict(list)
        for c, group in enumerate(groups):
            members[group].append(c)
        if self.way > (most := max(map(len, members.values()))):
            raise ValueError(f"expected way of at most {most}, the classes of the largest group, got {self.way}")
        return tuple(tuple(pool) for pool in members.values() if len(pool) >= self.way)

    @cached_property
    def _pool_of(self) -> tuple[tuple[int, ...], ...]:
        """For each class that can be drawn its pool: a uniform entry is a pool in proportion to its classes."""
        return tuple(pool for pool in self._pools for _ in pool)

    def _choices(self, index: Numbers) -> dict[str, Numbers]:
        """Classes (B, way), rows (B, way, shot + queries), and what the augmentation chose."""
        shape = (len(index), self.way, self.shot + self.queries)
        uniforms = np.empty((len(index), 1 + 2 * self.way + 4 * shape[1] * shape[2]))
        classes, rows = np.empty(shape[:2], np.int64), np.empty(shape, np.int64)
        for b, i in enumerate(index.tolist()):
            uniforms[b] = self._uniforms(i, uniforms.shape[1])
        head, turns, rest = np.split(uniforms, [1 + self.way, 1 + 2 * self.way], axis=1)
        pictures = rest.reshape(len(index), shape[2], self.way, 4).swapaxes(1, 2)
        for b, (group, *members) in enumerate(head.tolist()):
            pool = self._pool_of[int(group * len(self._pool_of))]
            classes[b] = [pool[place] for place in _without_replacement(len(pool), members)]
            for j, c in enumerate(classes[b].tolist()):
                rows[b, j] = self.images.rows[c][_without_replacement(self._sizes[c], pictures[b, j, :, 0].tolist())]
        made = {} if self.augmentation is None else self.augmentation.choices(turns, pictures[..., 1:])
        return {"classes": classes, "rows": rows, **made}

    def _uniforms(self, index: int, count: int) -> npt.NDArray[np.float64]:
        """Uniform on [0, 1), of 53 bits."""
        words = np.random.SeedSequence(self.seed, spawn_key=(SPLITS[self.split], index))
        return (np.random.PCG64(words).random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class EpisodeList:
    """The episodes of a saved list, drawn again from the same images, whatever `Episodes` would draw.

    images    the set that the list was made for
    listing   from `Episodes.listing`, or `numpy.load` of the file where it was saved

    Raises ValueError where the list lacks an array, or does not fit the images or itself.
    """

    def __init__(self, images: ImageSet, listing: Mapping[str, npt.NDArray[Any]]):
        required = ("split", "way", "shot", "queries", "seed", "images", "sha256", "classes", "rows")
        if missing := [name for name in required if name not in listing]:
            raise ValueError(f"expected a list of episodes with {', '.join(required)}, got none of {missing}")
        self.images = images
        self.split = str(listing["split"])
        if self.split not in SPLITS:
            raise ValueError(f"expected a list of episodes of a split among {', '.join(SPLITS)}, got {self.split!r}")
        self.way, self.shot, self.queries, self.seed, count = (
            integer(f"listed {name}", _scalar(listing[name]), least=least)
            for name, least in {"way": 2, "shot": 1, "queries": 1, "seed": 0, "images": 1}.items()
        )
        optional = [name for name in ("turns", "shifts", "flips") if name in listing]
        self._listed: dict[str, Numbers] = {name: listing[name] for name in ("classes", "rows", *optional)}
        self._check(count)
        if (digits := str(listing["sha256"])) != images.sha256:
            raise ValueError(f"expected a list of episodes of the images {images.sha256}, got one of {digits}")

    def __len__(self) -> int:
        return len(np.atleast_1d(self._listed["classes"]))

    def rows(self, index: _Index) -> Numbers:
        """As `Episodes.rows`; the index is a place in the list."""
        return self._listed["rows"][self._places(index)]

    def draw(self, index: _Index) -> Tasks:
        """As `Episodes.draw`; the index is a place in the list. Raises ValueError beyond its end."""
        places = self._places(index)
        chosen = {name: listed[places] for name, listed in self._listed.items()}
        return _tasks(self.images, places, chosen, self.shot, None)

    def _places(self, index: _Index) -> Numbers:
        places = _numbers(index)
        if places.size and places.max() >= len(self):
            raise ValueError(f"expected indices below {len(self)}, the length of the list, got {places.max()}")
        return places

    def _check(self, images: int) -> None:
        if images != len(self.images):
            raise ValueError(f"expected a list of episodes of {len(self.images)} images, got one of {images}")
        each = (len(self), self.way, self.shot + self.queries)
        shapes = {"classes": each[:2], "rows": each, "turns": each[:2], "shifts": (*each, 2), "flips": each}
        for name, listed in self._listed.items():
            if listed.shape != shapes[name] or listed.dtype != np.int64:
                raise ValueError(
                    f"expected listed {name} int64 {shapes[name]}, got {listed.dtype} {tuple(listed.shape)}"
                )
        rows, classes = self._listed["rows"], self._listed["classes"]
        if rows.size and not 0 <= rows.min() <= rows.max() < images:
            raise ValueError(f"expected listed rows 0 .. {images - 1}, got {rows.min()} .. {rows.max()}")
        if wrong := int((self.images.labels[rows] != classes[..., None]).sum()):
            raise ValueError(f"expected listed rows of images of the listed classes, got {wrong} that are of others")
        for name, each_once in {"classes": classes, "rows": rows.reshape(len(self), -1)}.items():
            if (np.diff(np.sort(each_once)) == 0).any():
                raise ValueError(f"expected listed {name} that differ within an episode, got some twice")
        shifts = self._listed.get("shifts", np.zeros(0, np.int64))
        largest = int(np.abs(shifts).max(initial=0))
        Augmentation(rotate_classes="turns" in self._listed, crop=largest).check(self.images.shape)


Source = Episodes | EpisodeList  # of the tasks of a problem; only the first is without end


def _numbers(index: _Index) -> Numbers:
    """The index as an array (B,). Raises ValueError where it is not one of integers 0 .. 2^62 - 1."""
    numbers = index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"expected an index of integers (B,), got {numbers.dtype} {tuple(numbers.shape)}")
    if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < INDICES:
        raise ValueError(f"expected indices 0 .. 2^62 - 1, got {numbers.min()} .. {numbers.max()}")
    return numbers.astype(np.int64)


def _scalar(value: npt.NDArray[Any]) -> Any:
    """The number in an array of one; what is none as it is."""
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array


def _without_replacement(size: int, uniforms: list[float]) -> list[int]:
    """As many different numbers of 0 .. size - 1 as there are uniforms: the first steps of a Fisher-Yates shuffle.

    Only what was moved is kept, so that the cost does not depend on the size. The first k numbers are a function of
    the first k uniforms.

    >>> _without_replacement(1000, [0.5, 0.999, 0.0])
    [500, 999, 2]
    """
    moved: dict[int, int] = {}
    drawn = []
    for k, uniform in enumerate(uniforms):
        place = k + int(uniform * (size - k))
        drawn.append(moved.get(place, place))
        moved[place] = moved.get(k, k)
    return drawn


def _tasks(
    images: ImageSet, index: Numbers, choices: Mapping[str, Numbers], shot: int, resident: torch.device | str | None
) -> Tasks:
    gathered = _gathered(images, choices) if resident is None else _gathered_on(resident, images, choices)
    support, query = gathered.tensor_split([shot], dim=2)
    return Tasks(
        torch.from_numpy(index).to(gathered.device),
        support=support.flatten(1, 2).contiguous(),
        query=query.flatten(1, 2).contiguous(),
        support_labels=_labels(support),
        query_labels=_labels(query),
    )


def _gathered(images: ImageSet, choices: Mapping[str, Numbers]) -> Tensor:
    """The pictures chosen, uint8 (B, way, pictures of each, C, H, W), on the CPU."""
    rows = choices["rows"]
    gathered = np.asarray(images.images, np.uint8)[rows.ravel()]
    pictures = np.ascontiguousarray(gathered.transpose(0, 3, 1, 2)).reshape(*rows.shape, *images.shape)
    return torch.from_numpy(augmented(pictures, choices))


def _gathered_on(device: torch.device | str, images: ImageSet, choices: Mapping[str, Numbers]) -> Tensor:
    """The same from the copy on the device: row numbers go there, a few hundred bytes an episode."""
    there = {name: torch.from_numpy(chosen).to(device, non_blocking=True) for name, chosen in choices.items()}
    rows = there["rows"]
    return augmented_on(images.on(device).index_select(0, rows.flatten()).unflatten(0, rows.shape), there)


def _labels(pictures: Tensor) -> Tensor:
    """0 .. way - 1 for pictures (B, way, pictures of each, ...), int64 (B, way * pictures of each)."""
    tasks, way, each = pictures.shape[:3]
    return torch.arange(way, device=pictures.device).repeat_interleave(each).repeat(tasks, 1)
