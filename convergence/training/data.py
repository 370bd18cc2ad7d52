"""Few-shot images by the name of their data set: drawn from fonts, or read from files that are there already."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from convergence.command_line import named
from problems.few_shot import Splits, readers
from problems.few_shot.glyphs import DATA_SETS

NAMES = (*DATA_SETS, *readers.READERS)
WITHIN_GROUPS = frozenset({"glyphs-within"})  # whose episodes are each of one alphabet


def images(
    name: str,
    *,
    root: Path | str | None = None,
    size: int | None = None,
    classes: tuple[int, int, int] | None = None,
    images_per_class: int | None = None,
    progress: bool = True,
) -> Splits:
    """The splits of a data set.

    name     "glyphs", "glyphs-easy", "glyphs-within": embedded, drawn once; or one of `readers.READERS`
    root     of the others: the folder that holds the files
    size     of the others: the side to which image files are resized, in pixels
    classes, images_per_class   of glyphs: as many of train, validation and test, instead of the default
    progress   on the standard error a bar while images are drawn or converted, and of files the layout that was read

    Raises ValueError on an unknown name or what does not go with it, and as `glyphs` and `readers.load` do.
    """
    named(dict.fromkeys(NAMES), name, "data set")
    drawn: dict[str, object] = {"--classes": classes, "--images-per-class": images_per_class}
    read: dict[str, object] = {"--root": root, "--size": size}
    _require_none(read if name in DATA_SETS else drawn, name)
    if name in DATA_SETS:
        asked = {"classes": classes, "images_per_class": images_per_class}
        return DATA_SETS[name](progress=progress, **{key: value for key, value in asked.items() if value is not None})
    if root is None:
        raise ValueError(f"expected --root, the folder where the files of the data set {name} are, got none")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task(f"{name}: images", total=None)
        found = readers.load(name, root, size=size, advance=lambda count: bar.advance(task, count))
    if progress:
        passed_over = f"; not read, though there: {', '.join(found.others)}" if found.others else ""
        print(f"{name}: {found.layout} in {found.folder}{passed_over}", file=sys.stderr)
    return found


def _require_none(options: dict[str, object], name: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(f"expected no {option} with the data set {name}, got {value}")
