"""Characters are taken once, from alphabets that no two splits share."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest

from problems.few_shot import glyph_masters
from problems.few_shot.glyph_masters import ALIKE, ALPHABETS, FACES, Face, masters

WANTED = {"train": 21, "validation": 14, "test": 27}  # three of each alphabet


@pytest.fixture(scope="module")
def found():
    return masters(WANTED)


def thumbnails(glyphs):
    vectors = np.stack([glyph.styles[0].reshape(16, 4, 16, 4).mean((1, 3)).ravel() for glyph in glyphs])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_no_code_point_is_in_two_alphabets():
    blocks = sorted(chain.from_iterable(blocks for split in ALPHABETS.values() for blocks in split.values()))
    assert all(first <= last for first, last in blocks)
    assert all(before[1] < after[0] for before, after in pairwise(blocks))


def test_every_split_has_its_own_alphabets_in_turn(found):
    assert {split: len(taken) for split, taken in found.items()} == WANTED
    for split, taken in found.items():
        counts = Counter(glyph.alphabet for glyph in taken)
        assert counts.keys() == ALPHABETS[split].keys()
        assert (
            max(counts.values()) - min(counts.values()) <= 2
        )  # a turn is shared by all; those alike others miss theirs


def test_no_two_glyphs_of_any_splits_look_alike(found):
    every = list(chain.from_iterable(found.values()))
    cosines = thumbnails(every) @ thumbnails(every).T
    assert np.triu(cosines, 1).max() <= ALIKE + 1e-6
    characters = {glyph.character for glyph in every}
    assert "A" in characters
    assert not {"Α", "А"} & characters  # Greek and Cyrillic


def test_a_glyph_has_two_styles_or_more_which_differ_and_fill_their_square(found):
    for glyph in chain.from_iterable(found.values()):
        assert glyph.styles.dtype == np.uint8
        assert glyph.styles.shape[1:] == (64, 64)
        assert len({style.tobytes() for style in glyph.styles}) == len(glyph.styles) >= 2
        ink = glyph.styles > 0
        rows, columns = ink.any(2), ink.any(1)
        assert (rows[:, [0, -1]].any(1) | columns[:, [0, -1]].any(1)).all()
        assert ink.any((1, 2)).all()


def test_the_fonts_are_those_that_show_characters():
    left_out = ("LastResort", "cm", "STIXNonUni", "STIXSiz")
    assert not any(face.startswith(left_out) or face.endswith("Display") for face in FACES)
    assert not any(0x10FFFF in Face(name).characters for name in FACES)  # no character: LastResort has a block for it


def test_a_name_is_unicodes(found):
    assert found["train"][0].name == "U+0041 latin capital letter a"


def test_masters_are_the_same_every_time_and_counted(found):
    calls = []
    again = masters(WANTED, lambda: calls.append(None))
    assert len(calls) == sum(WANTED.values())
    for split, taken in found.items():
        assert [glyph.name for glyph in again[split]] == [glyph.name for glyph in taken]
        assert all(np.array_equal(one.styles, two.styles) for one, two in zip(again[split], taken, strict=True))


def test_a_missing_font_is_named(monkeypatch):
    monkeypatch.setattr(glyph_masters, "FACES", ("NoSuchFont",))
    with pytest.raises(RuntimeError, match=r"expected the fonts of matplotlib's wheel, got none named NoSuchFont.ttf"):
        masters(WANTED)
