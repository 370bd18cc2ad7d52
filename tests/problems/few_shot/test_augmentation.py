"""Known pictures turned, shifted and mirrored: compared with what numpy and a search over all windows say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems.few_shot import Augmentation
from problems.few_shot.augmentation import augmented, augmented_on
from tests.strategies import seeds


def pictures(*lead, side=5):
    """uint8 (*lead, 3, side, side), all pixels of one picture different."""
    rng = np.random.default_rng(0)
    values = [rng.permutation(256)[: 3 * side**2] for _ in range(int(np.prod(lead)))]
    return np.array(values, np.uint8).reshape(*lead, 3, side, side)


def test_a_class_is_turned_counterclockwise_and_the_others_are_left_alone():
    before = np.zeros((1, 4, 2, 1, 3, 3), np.uint8)
    before[..., 0, 0] = 1  # marked at the top left
    after = augmented(before.copy(), {"turns": np.array([[0, 1, 2, 3]])})
    for turned, corner in zip(after[0], [(0, 0), (2, 0), (2, 2), (0, 2)], strict=True):
        assert (turned.sum((-2, -1)) == 1).all()
        assert (turned[..., corner[0], corner[1]] == 1).all()


def test_four_quarter_turns_are_none():
    before = pictures(2, 3, 2)
    after = before.copy()
    for _ in range(4):
        after = augmented(after, {"turns": np.ones((2, 3), np.int64)})
    assert np.array_equal(after, before)
    once = augmented(before.copy(), {"turns": np.ones((2, 3), np.int64)})
    assert not np.array_equal(once, before)


def test_a_flip_mirrors_left_and_right_only_where_it_is_chosen():
    before = pictures(1, 2, 2)
    after = augmented(before.copy(), {"flips": np.array([[[1, 0], [0, 1]]])})
    assert np.array_equal(after[0, 0, 0], before[0, 0, 0, :, :, ::-1])
    assert np.array_equal(after[0, 0, 1], before[0, 0, 1])
    assert np.array_equal(after[0, 1, 0], before[0, 1, 0])
    assert np.array_equal(after[0, 1, 1], before[0, 1, 1, :, :, ::-1])


def test_a_window_lies_down_and_right_by_its_shift_in_the_reflected_picture():
    before = np.arange(9, dtype=np.uint8).reshape(1, 1, 1, 1, 3, 3)
    down_and_left = augmented(before.copy(), {"shifts": np.array([[[[1, -2]]]])})
    # rows 1, 2 and 1 again; columns 2, 1 (reflected) and 0
    assert down_and_left[0, 0, 0, 0].tolist() == [[5, 4, 3], [8, 7, 6], [5, 4, 3]]
    assert np.array_equal(augmented(before.copy(), {"shifts": np.zeros((1, 1, 1, 2), np.int64)}), before)


def test_classes_are_turned_first_then_pictures_shifted_then_mirrored():
    before = pictures(1, 1, 1)
    every = {"turns": np.array([[1]]), "shifts": np.array([[[[2, 0]]]]), "flips": np.array([[[1]]])}
    turned = np.rot90(before[0, 0, 0], 1, (1, 2))
    shifted = np.concatenate([turned[:, 2:], turned[:, [3, 2]]], axis=1)
    assert np.array_equal(augmented(before.copy(), every)[0, 0, 0], shifted[:, :, ::-1])


def test_choices_cover_their_ranges_and_are_those_asked_for():
    turns, rest = np.array([[0.0, 0.25, 0.5, 1 - 2**-53]]), np.array([[[[0.0, 1 - 2**-53, 0.5]]]])
    made = Augmentation(rotate_classes=True, crop=3, flip=True).choices(turns, rest)
    assert {name: choice.tolist() for name, choice in made.items()} == {
        "turns": [[0, 1, 2, 3]],
        "shifts": [[[[-3, 3]]]],
        "flips": [[[1]]],
    }
    assert Augmentation().choices(turns, rest) == {}
    assert set(Augmentation(flip=True).choices(turns, rest)) == {"flips"}


def test_an_augmentation_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="expected crop an integer >= 0, got -1"):
        Augmentation(crop=-1)
    with pytest.raises(ValueError, match="expected square images for rotated classes, got 4 x 5 pixels"):
        Augmentation(rotate_classes=True).check((3, 4, 5))
    with pytest.raises(ValueError, match="expected a crop below 4 pixels, the smaller side of the images, got 4"):
        Augmentation(crop=4).check((3, 4, 5))
    assert Augmentation(crop=3, flip=True).check((3, 4, 5)) is None


@given(
    made=st.sets(st.sampled_from(["turns", "shifts", "flips"])),
    side=st.integers(2, 6),
    crop=st.integers(0, 5),
    seed=seeds,
)
def test_on_a_device_the_same_pictures_are_made(made, side, crop, seed):
    rng, lead, crop = np.random.default_rng(seed), (2, 3, 2), min(crop, side - 1)
    before = rng.integers(0, 256, (*lead, 3, side, side), dtype=np.uint8)
    choices = {
        "turns": rng.integers(0, 4, lead[:2]),
        "shifts": rng.integers(-crop, crop + 1, (*lead, 2)),
        "flips": rng.integers(0, 2, lead),
    }
    choices = {name: chosen for name, chosen in choices.items() if name in made}
    there = augmented_on(torch.from_numpy(before.copy()), {k: torch.from_numpy(x) for k, x in choices.items()})
    assert np.array_equal(there.numpy(), augmented(before.copy(), choices))
