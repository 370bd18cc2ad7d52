"""Image files (PNG, JPEG, BMP, GIF, WebP) decoded to arrays."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Picture = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
LARGEST = 2**26  # pixels: a picture of more is not decoded
BLOCK = 256  # pictures held at once
THREADS = 8


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
    """Blocks uint8 (k, H, W, 3) of pictures given as (content, name), in order; a block has pictures of one size.

    Decoded on several threads. Raises as `decode`.
    """
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        remaining = iter(pictures)
        while some := list(islice(remaining, BLOCK)):
            decoded = threads.map(lambda picture: decode(picture[0], picture[1], size), some)
            for _, alike in groupby(decoded, key=lambda picture: picture.shape):
                yield np.stack(list(alike))


def contents(paths: Iterable[Path]) -> Iterator[tuple[bytes, object]]:
    """The content and the path of each file."""
    for path in paths:
        yield path.read_bytes(), path
