"""Every series of a panel is told apart from the others: by its colour with any colour vision, and without colours."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from figures import FIGURES
from figures.style import BLACK, CYCLE, METHODS, Series, method
from tests.figures.colour import apart, apart_in_grey, lab
from tests.figures.test_figures import drawn

LEAST = 15.0  # of 100 in L*a*b*: six times what is just noticeable, for thin lines
GREY = 12.0  # of L*, where the marker is the same


def test_colours_as_others_published_them():
    assert lab("#FFFFFF") == pytest.approx([100, 0, 0], abs=0.02)
    assert lab("#FF0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)  # of sRGB's red under D65
    assert lab("#0000FF") == pytest.approx([32.30, 79.19, -107.86], abs=0.02)
    # The matrices leave greys as they are, and bring red and green together for those who lack a cone for them
    for vision in ("protanopia", "deuteranopia", "tritanopia"):
        assert lab("#808080", vision) == pytest.approx(lab("#808080"), abs=0.1)
    assert apart("#C04040", "#4F8A00") < 0.3 * np.linalg.norm(lab("#C04040") - lab("#4F8A00"))


def looks(axes) -> set[tuple[str, bool, str]]:
    """(marker, filled, colour) of the measured series; lines of a colour that has a marker too go with it."""
    lines = [line for line in axes.lines if not line.is_dashed()]
    marked = [line for line in lines if line.get_marker() not in ("", "None", None)]
    colours = {to_hex(line.get_color()) for line in marked}
    found = {
        (line.get_marker(), line.get_markerfacecolor() == line.get_color(), to_hex(line.get_color()))
        for line in marked
        if not any(inside(line, other) for other in marked)
    }
    return found | {("", False, colour) for line in lines if (colour := to_hex(line.get_color())) not in colours}


def inside(line, other) -> bool:
    """Whether its markers are drawn into outlines of the same colour, which tell it apart."""
    if line.get_marker() not in (".", "x") or other.get_marker() == line.get_marker():
        return False
    points, places = line.get_xydata(), other.get_xydata()
    near = np.isclose(points[:, None], places, rtol=1e-2, atol=0).all(-1).any(-1)
    return bool(line.get_color() == other.get_color() and near.all())


def confused(found: set[tuple[str, bool, str]]) -> list[tuple]:
    """Pairs that are not told apart."""
    pairs = []
    for one, other in combinations(sorted(found), 2):
        if one[2] == other[2]:
            continue  # two of one family: their markers differ
        if apart(one[2], other[2]) < LEAST or (one[:2] == other[:2] and apart_in_grey(one[2], other[2]) < GREY):
            pairs.append((one, other))
    return pairs


@pytest.mark.parametrize("claim", FIGURES)
def test_series_are_told_apart_with_any_colour_vision_and_without_colours(claim):
    assert [pair for axes in drawn(claim, 6).axes for pair in confused(looks(axes))] == []


def test_the_test_sees_colours_that_are_confused():
    assert confused({("o", False, "#009e73"), ("s", False, "#707070")})  # green and grey, to a deuteranope
    assert confused({("o", False, "#d55e00"), ("o", False, "#0072b2")})  # equally dark, and one marker
    assert not confused({("o", False, "#d55e00"), ("s", False, "#0072b2")})


def test_methods_and_sweeps_are_told_apart():
    catalogue = [series for name, series in METHODS.items() if name != "unrolled"]
    for palette in (catalogue, [Series(*look, "") for look in CYCLE]):
        assert confused({(series.marker, False, series.colour.lower()) for series in [*palette, method("mine")]}) == []
        assert len({series[:2] for series in palette}) == len(palette)


def test_a_method_of_ones_own_looks_like_no_other():
    own = method("Mine", "My method")
    assert own == Series(BLACK, "*", "My method")
    assert own[:2] not in {series[:2] for series in METHODS.values()}
    assert method("Mine").label == "Mine"
    assert method("soba") == METHODS["soba"]
