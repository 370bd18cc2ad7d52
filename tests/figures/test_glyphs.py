"""The contact sheet shows the pictures that it was given."""

import numpy as np

from figures.glyphs import draw, evidence
from problems.few_shot import ImageSet


def split(channels, side, classes=5, each=3):
    labels = np.repeat(np.arange(classes), each)
    images = np.broadcast_to(labels[:, None, None, None].astype(np.uint8), (len(labels), side, side, channels)).copy()
    return ImageSet(images, labels, tuple("abcde"[:classes]))


def test_a_row_is_a_class_spread_over_the_split():
    found = evidence(split(1, 4), split(3, 6), classes=3, pictures=2)
    assert found["easy"].shape == (3, 2, 4, 4, 1)
    assert found["hard"].shape == (3, 2, 6, 6, 3)
    assert found["hard"][:, :, 0, 0, 0].tolist() == [[0, 0], [2, 2], [4, 4]]


def test_both_sheets_are_drawn_pixel_for_pixel():
    easy, hard = draw(evidence(split(1, 4), split(3, 6), classes=3, pictures=2)).axes
    assert easy.images[0].get_array().shape == (12, 8)
    assert hard.images[0].get_array().shape == (18, 12, 3)
    assert [axes.get_title() for axes in (easy, hard)] == ["glyphs-easy", "glyphs"]
    assert np.unique(easy.images[0].get_array()[:4]).tolist() == [0]
    assert np.unique(easy.images[0].get_array()[8:]).tolist() == [4]
