"""Figures as parts of a page: each in the smaller of two forms, vectors where they are not too many."""

from __future__ import annotations

import base64
import io
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from PIL import Image

_VECTORS = 120_000  # bytes; a page with every claim then stays below 5 MB


def data_uri(path: Path) -> str:
    """The picture in an SVG file as an address that holds it; where that is long, and a PNG lies beside it, as WebP.

    Raises OSError where the file cannot be read.
    """
    return _data_uri(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)  # a page is written anew after every claim
def _data_uri(path: Path, written: int) -> str:
    vectors = svg_uri(path.read_text())
    pixels = path.with_suffix(".png")
    if len(vectors) <= _VECTORS or not pixels.exists():
        return vectors
    content = io.BytesIO()
    with Image.open(pixels) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).convert("RGB").save(
            content, "webp", lossless=True, quality=80, method=4
        )
    bitmap = uri("image/webp", content.getvalue())
    return min(vectors, bitmap, key=len)


_DIGITS = re.compile(r"(?<=\d)(\.\d\d)\d+")  # of coordinates, not of the factors that letters are scaled by


def uri(kind: str, content: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg_uri(text: str) -> str:
    """An SVG as an address, without what no one sees: comments, metadata, digits beyond a hundredth of a point."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= )(?:d|x|y|points)="[^"]*"', lambda found: _DIGITS.sub(r"\1", found[0]), text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><").replace('"', "'")
    return "data:image/svg+xml," + quote(text, safe=" !$&'()*+,-./:;=?@_~")
