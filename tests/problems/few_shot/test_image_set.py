"""A set of images says what it holds and refuses what it cannot be."""

import numpy as np
import pytest
import torch

from problems.few_shot import ImageSet


def images(n, channels=3):
    return np.zeros((n, 4, 5, channels), np.uint8)


def test_rows_are_the_images_of_each_class():
    found = ImageSet(images(5), np.array([1, 0, 1, 2, 0]), ("a", "b", "c"))
    assert [rows.tolist() for rows in found.rows] == [[1, 4], [0, 2], [3]]
    assert found.shape == (3, 4, 5)
    assert len(found) == 5


def test_a_copy_on_a_device_is_made_once_and_as_networks_take_images():
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    found = ImageSet(pixels, np.array([0, 1]), ("a", "b"))
    assert torch.equal(found.on("cpu"), torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    assert found.on("cpu") is found.on(torch.device("cpu"))
    found.on("cpu").zero_()
    assert pixels.any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            (images(2).astype(float), np.array([0, 1]), ("a", "b")),
            r"expected images uint8 .* got float64 \(2, 4, 5, 3\)",
        ),
        ((images(2, channels=2), np.array([0, 1]), ("a", "b")), r"expected images uint8 \(N, H, W, 1 or 3\)"),
        ((images(2), np.array([0, 1, 1]), ("a", "b")), r"expected labels int64 \(2,\), got int64 \(3,\)"),
        ((images(2), np.array([0.0, 1.0]), ("a", "b")), "expected labels int64"),
        ((images(2), np.array([0, 2]), ("a", "b", "c")), r"expected labels 0 .. 2, each of some image, got \[0, 2\]"),
        ((images(2), np.array([0, 1]), ("a", "b"), ("x",)), "expected a group for each of 2 classes, got 1"),
    ],
)
def test_what_cannot_be_a_set_of_images_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        ImageSet(*arguments)
