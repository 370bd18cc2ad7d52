"""Arrays in memory are split by the given classes and refused where anything would have to be guessed."""

import numpy as np
import pytest
import torch

from problems.few_shot.readers import from_arrays
from tests.problems.few_shot.readers.samples import images

CLASSES = {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]}
LABELS = list("abcdef" * 2)


def test_images_go_to_the_split_of_their_class():
    pixels = images(12)
    splits = from_arrays(pixels, [*LABELS[:-1], "left out"], CLASSES)
    assert {split: found.names for split, found in splits.items()} == {
        "train": ("a", "b"),
        "validation": ("c", "d"),
        "test": ("e", "f"),
    }
    np.testing.assert_array_equal(splits["train"].images, pixels[[0, 1, 6, 7]])
    np.testing.assert_array_equal(splits["test"].images, pixels[[4, 5, 10]])
    assert splits["test"].labels.tolist() == [0, 1, 0]


def test_tensors_and_integers_in_the_order_of_numbers():
    classes = {"train": [9, 10], "validation": torch.tensor([2, 3]).tolist(), "test": [4, 5]}
    splits = from_arrays(torch.from_numpy(images(6)), torch.tensor([10, 9, 2, 3, 4, 5]), classes)
    assert splits["train"].names == ("9", "10")
    assert splits["train"].labels.tolist() == [1, 0]


@pytest.mark.parametrize("maximum", [1.0, 255.0])
def test_floats_are_scaled_by_the_maximum_that_was_said(maximum):
    pixels = images(12)
    splits = from_arrays(pixels.astype(np.float32) * (maximum / 255), LABELS, CLASSES, maximum=maximum)
    np.testing.assert_array_equal(splits["train"].images, pixels[[0, 1, 6, 7]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite_are_named(value):
    pixels = images(12) / 255.0
    pixels[7, 1, 2, 0] = value
    with pytest.raises(ValueError, match="expected finite images, got NaN or infinity in image 7"):
        from_arrays(pixels, LABELS, CLASSES, maximum=1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"images": images(12) / 255.0},
            r"expected images uint8, or floats and maximum=1.0 .* got float64, maximum=None",
        ),
        ({"images": images(12).astype(int)}, "expected images uint8, or floats"),
        ({"images": images(12) / 255.0, "maximum": 2.0}, "maximum=2.0"),
        ({"images": images(12) * 1.0, "maximum": 1.0}, r"expected images in 0 .. 1.0, got"),
        ({"images": images(12).transpose(0, 3, 1, 2)}, "channels first: transpose it"),
        ({"images": images(12)[0, 0]}, r"expected images \(N, H, W, 1 or 3\) or \(N, H, W\)"),
        ({"images": images(0)}, r"expected at least one image of at least one pixel, got \(0, 4, 4, 3\)"),
        ({"images": np.zeros((0, 4, 4)), "labels": [], "maximum": 1.0}, "expected at least one image"),
        ({"images": np.zeros((12, 0, 4))}, "expected at least one image of at least one pixel"),
        ({"labels": LABELS[:-1]}, r"expected 12 integers or names as labels, got <U1 \(11,\)"),
        ({"labels": np.ones(12)}, "expected 12 integers or names as labels, got float64"),
        ({"classes": CLASSES | {"dev": ["c"]}}, "expected a split named train, val, validation or test, got 'dev'"),
        ({"classes": {"train": ["a", "b"]}}, "expected the splits train, validation, test, got train"),
        ({"classes": CLASSES | {"test": ["e", "g"]}}, "expected images of the class g of the test split, got none"),
        ({"classes": CLASSES | {"test": ["e"]}}, "expected at least 2 classes in the test split, got 1"),
        ({"classes": CLASSES | {"test": []}}, "expected at least 2 classes in the test split, got 0"),
        ({"classes": CLASSES | {"test": ["a", "e"]}}, "expected a class in one split, got a in train and test"),
        ({"classes": CLASSES | {"test": [0, 1]}}, "expected images of the class 0 of the test split, got none"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    arguments = {"images": images(12), "labels": LABELS, "classes": CLASSES} | change
    with pytest.raises(ValueError, match=said):
        from_arrays(**arguments)
