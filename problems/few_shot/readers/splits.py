"""Which class belongs to which split, as the authors of the benchmarks drew them.

CIFAR-FS: Bertinetto, Henriques, Torr, Vedaldi (ICLR 2019). FC100: Oreshkin, Rodriguez Lopez, Lacoste (NeurIPS 2018).
miniImageNet: Ravi and Larochelle (ICLR 2017). CIFAR-100 and its superclasses: Krizhevsky (2009).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from problems.few_shot.image_set import Splits
from problems.few_shot.readers.layouts import Layout, Parts, Request


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SPLITS = ("train", "validation", "test")
SPELLINGS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}

CIFAR_FS: Mapping[str, tuple[str, ...]] = {
    "train": _words(
        "apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud cockroach "
        "couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard "
        "lobster mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum "
        "rabbit raccoon ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower tank tiger "
        "train trout tulip turtle willow_tree wolf"
    ),
    "validation": _words(
        "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark "
        "television tractor"
    ),
    "test": _words(
        "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table "
        "telephone wardrobe whale woman worm"
    ),
}

# In the order of the numbers in CIFAR-100's files
SUPERCLASSES = _words(
    "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices "
    "household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes "
    "large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees "
    "vehicles_1 vehicles_2"
)
CLASSES = tuple(sorted(name for names in CIFAR_FS.values() for name in names))

_FC100_HELD_OUT = {"validation": (8, 11, 13, 16), "test": (0, 7, 12, 14)}
FC100: Mapping[str, tuple[str, ...]] = {  # superclasses
    "train": tuple(
        name for k, name in enumerate(SUPERCLASSES) if not any(k in held_out for held_out in _FC100_HELD_OUT.values())
    ),
    **{split: tuple(SUPERCLASSES[k] for k in held_out) for split, held_out in _FC100_HELD_OUT.items()},
}

MINI_IMAGENET: Mapping[str, tuple[str, ...]] = {  # the held-out classes, WordNet ids; the other 64 are in no list here
    "validation": _words(
        "n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042 n03535780 "
        "n03584254 n03770439 n03773504 n03980874 n09256479"
    ),
    "test": _words(
        "n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525 n03127925 "
        "n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480"
    ),
}


def split_named(name: str) -> str:
    """ "val" is "validation". Raises ValueError on a name that is no split's."""
    for split, spellings in SPELLINGS.items():
        if name in spellings:
            return split
    raise ValueError(f"expected a split named train, val, validation or test, got {name!r}")


def check_splits(splits: Splits, drawn: Mapping[str, Iterable[str]] | None = None, *, groups: bool = False) -> None:
    """Every split has two classes or more and no class is in two splits, nor in another split than it was drawn into.

    `drawn` gives for a split the names of its classes, or with `groups` of its superclasses; names in no list may be
    anywhere. Raises ValueError with the first class that is out of place.
    """
    expected = {name: split for split, names in (drawn or {}).items() for name in names}
    seen: dict[str, str] = {}
    for split, images in splits.items():
        if len(images.names) < 2:
            raise ValueError(f"expected at least 2 classes in the {split} split, got {len(images.names)}")
        for name, group in zip(images.names, images.groups or (None,) * len(images.names), strict=True):
            if name in seen:
                raise ValueError(f"expected a class in one split, got {name} in {seen[name]} and {split}")
            seen[name] = split
            key = group if groups else name
            if expected.get(str(key), split) != split:
                raise ValueError(f"expected {name} in the {expected[str(key)]} split, as published, got it in {split}")


def checked(layout: Layout, drawn: Mapping[str, Iterable[str]]) -> Layout:
    """The layout, the classes of its splits compared with the published ones."""

    def read(parts: Parts, request: Request) -> Splits:
        splits = layout.read(parts, request)
        check_splits(splits, drawn)
        return splits

    return replace(layout, read=read)
