"""Contact sheet of the embedded glyphs: a row a class, the first pictures of it beside one another.

The sheet in docs/glyphs.png (no claim, and so none of `python -m figures`):

    from pathlib import Path
    from figures.glyphs import draw, evidence
    from figures.style import save
    from problems.few_shot.glyphs import glyphs

    save(draw(evidence(glyphs("easy")["test"], glyphs("hard")["test"])), Path("docs"), "glyphs")
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import FULL_WIDTH, SMALL_SIZE, Array, Evidence, paper_style
from problems.few_shot import ImageSet

CLASSES, PICTURES = 7, 8  # rows and columns of a sheet


def evidence(easy: ImageSet, hard: ImageSet, *, classes: int = CLASSES, pictures: int = PICTURES) -> Evidence:
    """The first `pictures` of `classes` classes spread over each split: uint8 (classes, pictures, H, W, C) each."""
    return {"easy": _first(easy, classes, pictures), "hard": _first(hard, classes, pictures)}


def _first(images: ImageSet, classes: int, pictures: int) -> Array:
    spread = np.linspace(0, len(images.names) - 1, classes).round().astype(int)
    return np.stack([images.images[images.rows[label][:pictures]] for label in spread])


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """Easy on the left, hard on the right."""
    rows, columns = evidence["easy"].shape[:2]
    figure = Figure(figsize=(FULL_WIDTH, FULL_WIDTH * rows / (2 * columns) + 0.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("easy", "hard"), strict=True):
        _sheet(axes, evidence[name])
        axes.set_title(f"glyphs-{name}" if name == "easy" else "glyphs", fontsize=SMALL_SIZE)
    return figure


def _sheet(axes: Axes, pictures: Array) -> None:
    rows, columns, height, width, channels = pictures.shape
    sheet = pictures.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    axes.imshow(sheet.squeeze(-1) if channels == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
