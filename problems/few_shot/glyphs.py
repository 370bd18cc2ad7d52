"""Embedded data: pictures of characters of many alphabets, drawn from the fonts in matplotlib's wheel.

Nothing is downloaded. As in Omniglot, whole alphabets are held out for validation and for test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unicodedata import unidata_version

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from problems.arguments import room
from problems.few_shot.cache import cache_folder, kept
from problems.few_shot.distortion import Colouring, Pose, distort
from problems.few_shot.glyph_masters import ALIKE, ALPHABETS, EM, FACES, SIDE, THUMBNAIL, Glyph, masters
from problems.few_shot.image_set import ImageSet, Splits

_REVISION = 1  # raised with every change of code that changes the pictures of an unchanged `Drawing`
DEFAULT_CLASSES = (600, 150, 250)  # of train, validation, test


@dataclass(frozen=True, kw_only=True)
class Look:
    """Pictures of side x side pixels, with three channels where there is a colouring, else with one."""

    side: int
    pose: Pose
    colouring: Colouring | None


_HARD = Look(
    side=32,
    pose=Pose(rotation=0.5, shear=0.3, scale=0.25, shift=0.15, elastic=0.1, stroke=0.5, margin=0.75),
    colouring=Colouring(contrast=0.25, chroma=0.5, gradient=0.2, texture=0.1, noise=0.06),
)
_EASY = Look(
    side=28,
    pose=Pose(rotation=0.25, shear=0.15, scale=0.15, shift=0.08, elastic=0.06, stroke=0.5, margin=0.8),
    colouring=None,
)
VARIANTS: Mapping[str, Look] = {"hard": _HARD, "easy": _EASY, "within": _HARD}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """All that decides about the pictures, beside the versions of the packages that draw them."""

    look: Look
    classes: tuple[int, int, int] | None
    images_per_class: int
    seed: int

    def __post_init__(self) -> None:
        if self.classes is not None and (len(self.classes) != len(ALPHABETS) or min(self.classes) < 1):
            raise ValueError(
                f"expected classes (train, validation, test) of at least 1 each or None, got {self.classes}"
            )
        if self.images_per_class < 1 or self.seed < 0:
            raise ValueError(
                f"expected images_per_class >= 1 and seed >= 0, got {self.images_per_class} and {self.seed}"
            )
        room("images_per_class", self.images_per_class, self.look.side**2)

    def described(self) -> dict[str, Any]:
        """The fields, the constants of all drawings and the versions, in JSON's types."""
        return {
            "recipe": asdict(self),  # its name in the keys of the caches that there are
            "alphabets": ALPHABETS,
            "faces": FACES,
            "masters": {"alike": ALIKE, "em": EM, "side": SIDE, "thumbnail": THUMBNAIL},
            "revision": _REVISION,
            "versions": {name: version(name) for name in ("matplotlib", "pillow", "torch")}
            | {"unicode": unidata_version},
        }

    def key(self) -> str:
        """Twelve hexadecimal digits: other drawings and other versions have others."""
        return hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode()).hexdigest()[:12]


def glyphs(
    variant: str = "hard",
    *,
    classes: tuple[int, int, int] | None = DEFAULT_CLASSES,
    images_per_class: int = 20,
    seed: int = 0,
    cache: Path | str | None = None,
    progress: bool = True,
) -> Splits:
    """Pictures of characters: {"train", "validation", "test"} -> ImageSet with disjoint alphabets.

    variant           "hard": 3 x 32 x 32, strongly distorted, in random colours of either polarity on uneven paper;
                      "easy": 1 x 28 x 28, mildly distorted, white on black;
                      "within": the pictures of "hard", for episodes whose classes are all of one alphabet
    classes           of train, validation and test; None: all that there are, 1439, 536 and 860 with matplotlib 3.11
    images_per_class  each of another distortion, the styles of the character (two to sixteen) in turn
    seed              of the distortions; which characters are taken does not depend on it
    cache             folder for the pictures, by default as `cache_folder` says
    progress          show a progress bar while drawing, where the standard error is a terminal

    `names` are Unicode's, `groups` the alphabets. Images of a class are adjacent. A class's pictures are a function of
    the variant, the seed and the character, whatever the other classes or the number of threads. Between versions of
    matplotlib, Pillow or torch they may differ; between processors, a few values in a million by one level.

    They are drawn once (13 s on one core for the default of "hard", 61 MB; 38 s and 174 MB for all) and then
    memory-mapped from `cache/glyphs-KEY/`, whose metadata.json records the drawing, the versions and the SHA-256 of
    each split.

    Raises ValueError on an unknown variant, other numbers, or more classes than there are; OSError where the cache
    cannot be written; RuntimeError where a font of matplotlib's wheel is missing.

    Source: the split by alphabets as in Lake, Salakhutdinov and Tenenbaum, Science 2015 (Omniglot).
    """
    if variant not in VARIANTS:
        raise ValueError(f"expected a variant of the glyphs among {', '.join(VARIANTS)}, got {variant!r}")
    drawing = Drawing(look=VARIANTS[variant], classes=classes, images_per_class=images_per_class, seed=seed)
    folder = cache_folder(cache) / f"glyphs-{drawing.key()}"
    content = kept(folder, partial(_draw, drawing, progress=progress))
    return {split: _image_set(folder, split, content["splits"][split], images_per_class) for split in ALPHABETS}


# The data sets by the names that the command line knows
DATA_SETS: Mapping[str, Callable[..., Splits]] = {
    "glyphs": partial(glyphs, "hard"),
    "glyphs-easy": partial(glyphs, "easy"),
    "glyphs-within": partial(glyphs, "within"),
}


def _image_set(folder: Path, split: str, content: dict[str, list[str]], images_per_class: int) -> ImageSet:
    names, groups = tuple(content["names"]), tuple(content["groups"])
    labels = np.repeat(np.arange(len(names)), images_per_class)
    return ImageSet(np.load(folder / f"{split}.npy", mmap_mode="r"), labels, names, groups)


def _draw(drawing: Drawing, folder: Path, *, progress: bool) -> dict[str, Any]:
    """Write train.npy, validation.npy and test.npy; return their description."""
    wanted = None if drawing.classes is None else dict(zip(ALPHABETS, drawing.classes, strict=True))
    with _bar(progress, "outlines", None if wanted is None else sum(wanted.values())) as advance:
        found = masters(wanted, advance)
    for split, taken in found.items():
        if wanted is not None and len(taken) < wanted[split]:
            raise ValueError(f"expected at most {len(taken)} {split} classes of glyphs, got {wanted[split]}")
    with _bar(progress, "pictures", sum(map(len, found.values()))) as advance:
        for split, taken in found.items():
            _write(folder / f"{split}.npy", drawing, taken, advance)
    splits = {
        split: {"names": [glyph.name for glyph in taken], "groups": [glyph.alphabet for glyph in taken]}
        for split, taken in found.items()
    }
    return drawing.described() | {"splits": splits}


def _write(path: Path, drawing: Drawing, taken: list[Glyph], advance: Callable[[], object]) -> None:
    """The pictures of all classes in order, as a .npy file; written as they are drawn, so that none need be held."""
    look = drawing.look
    shape = (len(taken) * drawing.images_per_class, look.side, look.side, 1 if look.colouring is None else 3)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for glyph in taken:
            file.write(_pictures(drawing, glyph).numpy().tobytes())
            advance()


def _pictures(drawing: Drawing, glyph: Glyph) -> Tensor:
    """uint8 (images_per_class, side, side, C): a function of the drawing and the character alone."""
    words = np.random.SeedSequence([drawing.seed, ord(glyph.character)]).generate_state(1, np.uint64)
    rng = torch.Generator().manual_seed(int(words[0] >> 1))
    rounds = -(-drawing.images_per_class // len(glyph.styles))
    styles = torch.cat([torch.randperm(len(glyph.styles), generator=rng) for _ in range(rounds)])
    drawn = torch.from_numpy(glyph.styles)[styles[: drawing.images_per_class]]
    return distort(drawn, drawing.look.pose, drawing.look.colouring, side=drawing.look.side, rng=rng)


@contextmanager
def _bar(shown: bool, doing: str, total: int | None) -> Iterator[Callable[[], object]]:
    """A progress bar on the standard error that vanishes at the end."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(f"glyphs: {doing}", total=total)
        yield lambda: bar.advance(task)
