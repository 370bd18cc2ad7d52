"""Each amount of a distortion does what it says, and nothing else does."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d

from problems.few_shot.distortion import Colouring, Pose, distort

STILL = Pose(rotation=0, shear=0, scale=0, shift=0, elastic=0, stroke=0, margin=1)
PLAIN = Colouring(contrast=0.25, chroma=0, gradient=0, texture=0, noise=0)
SIDE = 32


def bars(n):
    """Upright bars of 12 x 40 in the middle of 64 x 64."""
    masters = torch.zeros(n, 64, 64, dtype=torch.uint8)
    masters[:, 12:52, 26:38] = 255
    return masters


def pictures(n=64, seed=0, colouring=None, **amounts):
    rng = torch.Generator().manual_seed(seed)
    return distort(bars(n), replace(STILL, **amounts), colouring, side=SIDE, rng=rng)


def moments(drawn):
    """Ink, centre (x, y) in half widths and the angle of the bar's axis to the vertical."""
    ink = drawn.squeeze(-1).double() / 255
    at = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    total = ink.sum((1, 2))
    x, y = (ink.sum(1) @ at.double()) / total, (ink.sum(2) @ at.double()) / total
    dx, dy = at - x.unsqueeze(-1), at - y.unsqueeze(-1)
    xx = (ink * dx.unsqueeze(1) ** 2).sum((1, 2))
    yy = (ink * dy.unsqueeze(2) ** 2).sum((1, 2))
    xy = (ink * dx.unsqueeze(1) * dy.unsqueeze(2)).sum((1, 2))
    return total, torch.stack([x, y], -1), torch.atan2(2 * xy, yy - xx) / 2


def test_a_still_pose_is_the_master_averaged_down():
    expected = avg_pool2d(bars(3).double().unsqueeze(1), 2).round()
    assert torch.equal(pictures(3), expected.to(torch.uint8).permute(0, 2, 3, 1))


def test_a_shift_moves_the_centre_as_far_as_it_says_and_keeps_the_ink():
    total, centre, angle = moments(pictures(shift=0.15))
    assert 0.12 < centre.abs().amax() <= 0.15 + 0.01  # of 128 draws; half a level of rounding
    assert torch.allclose(total, total.mean().expand_as(total), rtol=0.01)
    assert angle.abs().amax() < 0.01


def test_a_rotation_turns_the_axis_as_far_as_it_says():
    total, centre, angle = moments(pictures(rotation=0.5))
    assert 0.4 < angle.abs().amax() <= 0.5 + 0.01
    assert angle.amin() < 0 < angle.amax()
    assert centre.abs().amax() < 0.01
    assert torch.allclose(total, total.mean().expand_as(total), rtol=0.02)


def test_a_shear_slants_and_keeps_the_area():
    total, _, angle = moments(pictures(shear=0.3))
    assert 0.2 < angle.abs().amax() < math.atan(0.3) * 1.2  # the moments' axis of a wide bar leans a little more
    assert torch.allclose(total, total.mean().expand_as(total), rtol=0.02)


def test_a_scale_changes_the_area_within_its_square():
    still, (total, _, _) = moments(pictures(1))[0], moments(pictures(scale=0.25))
    ratio = total / still
    assert 0.75**2 - 0.01 < ratio.amin() < 0.8 < 1.2 < ratio.amax() < 1.25**2 + 0.01


def test_a_stroke_grows_and_shrinks_by_at_most_a_fine_pixel_on_each_side():
    still, (total, centre, _) = moments(pictures(1))[0], moments(pictures(stroke=1.0))
    wide, thin = 14 * 42 / (12 * 40), 10 * 38 / (12 * 40)
    assert thin - 0.01 < (total / still).amin() < 1 < (total / still).amax() < wide + 0.01
    assert centre.abs().amax() < 0.01


def test_an_elastic_displacement_bends():
    drawn = pictures(elastic=0.1)
    assert moments(drawn)[1].abs().amax() < 0.1
    assert (drawn != pictures(1)).flatten(1).any(1).all()


def test_a_margin_shrinks_about_the_middle():
    total, centre, _ = moments(pictures(1, margin=0.5))
    assert total.item() == pytest.approx(moments(pictures(1))[0].item() / 4, rel=0.01)
    assert centre.abs().amax() < 0.01


def test_colours_keep_their_contrast_in_either_polarity():
    drawn = pictures(400, colouring=PLAIN).double() / 255
    ink, paper = drawn[:, SIDE // 2, SIDE // 2], drawn[:, 0, 0]
    difference = (ink - paper).mean(-1)
    assert difference.abs().amin() > 0.25 - 1 / 255
    assert 0.4 < (difference > 0).double().mean() < 0.6  # 400 fair coins: four standard deviations
    assert torch.equal(ink, ink[:, :1].expand_as(ink))  # grey without chroma


@pytest.mark.parametrize("amount", ["chroma", "gradient", "texture", "noise"])
def test_every_amount_of_a_colouring_changes_the_pictures(amount):
    plain = pictures(colouring=PLAIN)
    changed = pictures(colouring=replace(PLAIN, **{amount: 0.3}))
    assert (changed != plain).flatten(1).any(1).all()
    paper = changed[:, 0].double()
    varies = paper.std(1).amax().item() > 1
    assert varies == (amount != "chroma")  # a tint is even


def test_what_exceeds_black_or_white_is_clipped_and_does_not_wrap_round():
    drawn = pictures(4, colouring=replace(PLAIN, noise=10.0))
    assert ((drawn == 0) | (drawn == 255)).double().mean() > 0.9


@pytest.mark.parametrize("colouring", [None, PLAIN])
def test_the_pictures_are_a_function_of_the_generator(colouring):
    amounts = {"rotation": 0.5, "elastic": 0.1, "colouring": colouring}
    first, again, other = pictures(4, 1, **amounts), pictures(4, 1, **amounts), pictures(4, 2, **amounts)
    assert first.shape == (4, SIDE, SIDE, 1 if colouring is None else 3)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_masters_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"expected masters of shape \(n, height, width\), got \(64, 64\)"):
        distort(torch.zeros(64, 64), STILL, None, side=SIDE, rng=torch.Generator())
