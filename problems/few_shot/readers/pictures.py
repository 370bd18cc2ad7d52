"""Image files (PNG, JPEG, BMP, GIF, WebP) decoded to arrays."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Picture = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
LARGEST = 2**26  # pixels: a picture of more is not decoded
BLOCK = 64  # pictures


def decode(content: bytes, name: object, size: int | None = None) -> Picture:
    """The picture, uint8 (H, W, 3), red, green, blue; grey, palette and transparent ones are converted.

    With `size` it is resized to size x size by Pillow's LANCZOS, the aspect ratio not kept (as for miniImageNet: Ravi
    and Larochelle). Raises ValueError, with `name`, where the content is no such picture, or truncated, or has more
    than 8 bits a channel, or more than 2^26 pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if picture.width * picture.height > LARGEST or picture.mode[:1] in ("I", "F"):
                raise ValueError(f"{picture.width} x {picture.height} pixels of mode {picture.mode}")
            colours = picture.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"expected a picture in {name}, one of {', '.join(FORMATS)}, got something else") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as failure:
        raise ValueError(f"expected a whole picture of 8 bits a channel in {name}: {failure}") from None
    if size is not None and colours.size != (size, size):
        colours = colours.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(colours)


def blocks(pictures: Iterable[tuple[bytes, object]], size: int | None = None) -> Iterator[npt.NDArray[Any]]:
    """Blocks uint8 (k, H, W, 3) of pictures given as (content, name); a block ends where the size changes."""
    block: list[Picture] = []
    for content, name in pictures:
        picture = decode(content, name, size)
        if block and (len(block) == BLOCK or picture.shape != block[0].shape):
            yield np.stack(block)
            block = []
        block.append(picture)
    if block:
        yield np.stack(block)


def contents(paths: Iterable[Path]) -> Iterator[tuple[bytes, object]]:
    """The content and the path of each file."""
    for path in paths:
        yield path.read_bytes(), path
