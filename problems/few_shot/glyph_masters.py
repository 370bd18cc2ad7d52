"""Characters of many alphabets, rendered from the fonts in matplotlib's wheel: 64 x 64 grey bitmaps in their styles.

The fonts are DejaVu (Bitstream Vera licence) and STIX (SIL Open Font License); both allow their outlines to be drawn
and the pictures to be passed on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

Bitmap = npt.NDArray[np.uint8]

SIDE = 64  # pixels of a master
EM = 96  # pixels: the size at which outlines are rasterised
THUMBNAIL = 16  # pixels of the pictures in which two characters are compared
ALIKE = 0.90  # two characters whose thumbnails have a larger cosine are one class

# The first face that has a character shows it when characters are compared. Left out, of the fonts in the wheel:
# LastResortHE (a block for every code point), cm* and STIXNonUni* (not encoded by Unicode), STIXSiz* and *Display
# (a few large symbols)
FACES = (
    "DejaVuSans",
    "DejaVuSerif",
    "STIXGeneral",
    "DejaVuSansMono",
    "DejaVuSans-Bold",
    "DejaVuSerif-Bold",
    "STIXGeneralBol",
    "DejaVuSansMono-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Italic",
    "STIXGeneralItalic",
    "DejaVuSansMono-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralBolIta",
    "DejaVuSansMono-BoldOblique",
)

# split -> alphabet -> first and last code points of its Unicode blocks; no alphabet is in two splits. Left out:
# alphabets with fewer than 20 characters unlike all others (Lisu, tetragrams)
Blocks = tuple[tuple[int, int], ...]
ALPHABETS: Mapping[str, Mapping[str, Blocks]] = {
    "train": {
        "latin": ((0x0041, 0x02AF), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF)),
        "canadian-syllabics": ((0x1400, 0x167F), (0x18B0, 0x18FF)),
        "arabic": ((0x0600, 0x06FF), (0x0750, 0x077F), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
        "braille": ((0x2800, 0x28FF),),
        "arrows": ((0x2190, 0x21FF), (0x27F0, 0x27FF), (0x2900, 0x297F), (0x2B00, 0x2BFF)),
        "box-drawing": ((0x2500, 0x259F),),
        "ogham": ((0x1680, 0x169F),),
    },
    "validation": {
        "cyrillic": ((0x0400, 0x052F), (0xA640, 0xA69F)),
        "lao": ((0x0E80, 0x0EFF),),
        "old-italic": ((0x10300, 0x1032F),),
        "technical": ((0x2300, 0x23FF),),
        "shapes": ((0x25A0, 0x25FF),),
        "dingbats": ((0x2700, 0x27BF),),
        "modifiers": ((0x02B0, 0x02FF), (0x1D00, 0x1DBF)),
    },
    "test": {
        "greek": ((0x0370, 0x03FF), (0x1F00, 0x1FFF)),
        "georgian": ((0x10A0, 0x10FF), (0x2D00, 0x2D2F)),
        "armenian": ((0x0530, 0x058F),),
        "hebrew": ((0x0590, 0x05FF), (0xFB1D, 0xFB4F)),
        "tifinagh": ((0x2D30, 0x2D7F),),
        "nko": ((0x07C0, 0x07FF),),
        "mathematical": ((0x2200, 0x22FF), (0x27C0, 0x27EF), (0x2980, 0x2AFF)),
        "symbols": ((0x2600, 0x26FF),),
        "letterlike": ((0x2100, 0x214F),),
    },
}


@dataclass(frozen=True, eq=False)
class Glyph:
    """A character in all its styles that differ: `styles` is uint8 (styles, 64, 64), 0 paper and 255 ink."""

    character: str
    alphabet: str
    styles: Bitmap

    @property
    def name(self) -> str:
        """As in "U+03B1 greek small letter alpha"."""
        return f"U+{ord(self.character):04X} {unicodedata.name(self.character).lower()}"


class Face:
    """One font file of matplotlib's wheel. Raises RuntimeError where it is missing."""

    def __init__(self, name: str):
        self.path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
        if not self.path.is_file():  # some distributions strip the fonts
            raise RuntimeError(
                f"expected the fonts of matplotlib's wheel, got none named {name}.ttf in {self.path.parent}"
            )

    @cached_property
    def characters(self) -> frozenset[int]:
        """The code points that the font has an outline for."""
        return frozenset(FT2Font(str(self.path)).get_charmap())

    @cached_property
    def _font(self) -> ImageFont.FreeTypeFont:
        # The basic layout is in every build of Pillow; the other one depends on a library of the system
        return ImageFont.truetype(str(self.path), EM, layout_engine=ImageFont.Layout.BASIC)

    def draw(self, character: str) -> Bitmap | None:
        """The master (64, 64): the outline's bounding box, scaled to touch two edges, centred. None without ink."""
        left, top, right, bottom = (round(edge) for edge in self._font.getbbox(character))
        if right <= left or bottom <= top:
            return None
        box = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(box).text((-left, -top), character, fill=255, font=self._font)
        if (ink := box.getbbox()) is None:
            return None
        box = box.crop(ink)
        scale = SIDE / max(box.size)
        width, height = (max(1, round(scale * side)) for side in box.size)
        master = Image.new("L", (SIDE, SIDE))
        scaled = box.resize((width, height), Image.Resampling.LANCZOS)
        master.paste(scaled, ((SIDE - width) // 2, (SIDE - height) // 2))
        return np.array(master)


class _Seen:
    """Thumbnails of the characters taken so far, as unit vectors."""

    def __init__(self) -> None:
        self._vectors = np.zeros((256, THUMBNAIL**2), np.float32)
        self._count = 0

    def add(self, master: Bitmap) -> bool:
        """Take the character in, unless it looks like one that is in; say which."""
        step = SIDE // THUMBNAIL
        vector = master.reshape(THUMBNAIL, step, THUMBNAIL, step).mean((1, 3), dtype=np.float32).ravel()
        vector /= np.linalg.norm(vector)
        if bool((self._vectors[: self._count] @ vector > ALIKE).any()):
            return False
        if self._count == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        self._vectors[self._count] = vector
        self._count += 1
        return True


def masters(
    classes: Mapping[str, int] | None = None, advance: Callable[[], object] = lambda: None
) -> dict[str, list[Glyph]]:
    """The glyphs of each split, at most `classes[split]` of them (None: all there are), alphabet by alphabet.

    Taken are letters, numbers and symbols (Unicode categories L, N, S) with two different styles at least, in turn
    from each alphabet of the split by ascending code point, unless they look like one taken before, in any split
    (A, Alpha and the Cyrillic A; c and C; accented letters). `advance` is called once for each glyph taken.

    Cost: about 3 s for 1000 glyphs, 11 s for all. Raises RuntimeError where a font is missing.
    """
    faces = [Face(name) for name in FACES]
    seen = _Seen()
    found: dict[str, list[Glyph]] = {}
    for split, alphabets in ALPHABETS.items():
        found[split] = []
        for alphabet, character in _in_turn(alphabets):
            if classes is not None and len(found[split]) >= classes[split]:
                break
            if (glyph := _glyph(alphabet, character, faces, seen)) is not None:
                found[split].append(glyph)
                advance()
        order = list(alphabets)
        found[split].sort(key=lambda glyph: (order.index(glyph.alphabet), glyph.character))
    return found


def _in_turn(alphabets: Mapping[str, Blocks]) -> Iterable[tuple[str, str]]:
    """(alphabet, character): the first of each alphabet, then the second of each, until all have run out."""
    queues = [
        [
            (alphabet, chr(code))
            for first, last in blocks
            for code in range(first, last + 1)
            if unicodedata.category(chr(code))[0] in "LNS"
        ]
        for alphabet, blocks in alphabets.items()
    ]
    return (entry for turn in zip_longest(*queues) for entry in turn if entry is not None)


def _glyph(alphabet: str, character: str, faces: Iterable[Face], seen: _Seen) -> Glyph | None:
    """All different styles of a character; None where there are fewer than two, or it looks like one seen."""
    having = [face for face in faces if ord(character) in face.characters]
    if len(having) < 2 or (first := having[0].draw(character)) is None:
        return None
    styles = [first]
    for face in having[1:]:
        master = face.draw(character)
        if master is not None and not any(np.array_equal(master, style) for style in styles):
            styles.append(master)
    if len(styles) < 2 or not seen.add(first):
        return None
    return Glyph(character, alphabet, np.stack(styles))
