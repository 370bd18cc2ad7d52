"""tieredImageNet comes out of every layout in red, green, blue."""

import json

import h5py
import numpy as np
import pytest

from problems.few_shot.readers import load
from tests.problems.few_shot.readers.samples import SPLITS, images, png, write_pickle, write_png, write_python2_pickle

WNIDS = {"train": ["n01", "n02"], "validation": ["n03", "n04"], "test": ["n05", "n06"]}
SHORT = {"train": "train", "validation": "val", "test": "test"}
PIXELS = images(4, 84)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def read(folder, **options):
    return load("tiered-imagenet", folder, cache=folder.parent / "cache", **options)


def labels(split, keys=str):
    content = {
        "label_specific": np.array([1, 0, 1, 0]),
        "label_general": np.array([0, 1, 0, 1]),
        "label_specific_str": [keys(name) for name in WNIDS[split]],
        "label_general_str": [keys("dog"), keys("cat")],
    }
    return {keys(key): value for key, value in content.items()}


def encoded(shape):
    return [np.frombuffer(png(image), np.uint8).reshape(shape) for image in PIXELS]


def assert_is_the_sample(splits):
    for split in SPLITS:
        np.testing.assert_array_equal(splits[split].images, PIXELS)
        assert splits[split].labels.tolist() == [1, 0, 1, 0]
        assert splits[split].names == tuple(WNIDS[split])
        assert splits[split].groups == ("cat", "dog")


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize(
    ("write", "keys"), [(write_pickle, str), (write_pickle, str.encode), (write_python2_pickle, str)]
)
def test_png_pickles(folder, shape, write, keys):
    for split in SPLITS:
        write(folder / "tiered-imagenet" / f"{SHORT[split]}_images_png.pkl", encoded(shape))
        write(folder / "tiered-imagenet" / f"{SHORT[split]}_labels.pkl", labels(split, keys))
    assert_is_the_sample(read(folder))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_turned_from_blue_green_red(folder, save):
    for split in SPLITS:
        save(folder / f"{SHORT[split]}_images.npz", images=PIXELS[..., ::-1].copy())
        write_pickle(folder / f"{SHORT[split]}_labels.pkl", labels(split))
    assert_is_the_sample(read(folder))


def test_labels_that_are_only_numbers(folder):
    for split in SPLITS:
        np.savez(folder / f"{SHORT[split]}_images.npz", images=PIXELS)
        write_pickle(folder / f"{SHORT[split]}_labels.pkl", {"labels": [7, 3, 7, 3]})
    splits = read(folder)
    assert splits["test"].names == ("test/3", "test/7")
    assert splits["test"].groups is None


def test_torchmeta_hdf5_of_encoded_pictures(folder):
    for split in SPLITS:
        with h5py.File(folder / f"{SHORT[split]}_data.hdf5", "w") as file:
            for k, wnid in enumerate(WNIDS[split]):
                dataset = file.require_group("datasets").create_dataset(wnid, (2,), h5py.vlen_dtype(np.uint8))
                for row in range(2):
                    dataset[row] = np.frombuffer(png(PIXELS[2 * k + row]), np.uint8)
        (folder / f"{SHORT[split]}_labels.json").write_text(json.dumps(WNIDS[split]))
    splits = read(folder)
    np.testing.assert_array_equal(splits["test"].images, PIXELS)
    assert splits["test"].labels.tolist() == [0, 0, 1, 1]


def write_json(folder, split, roots):
    content = {"class_names": WNIDS[split], "class_roots": roots}
    (folder / f"{SHORT[split]}.json").write_text(json.dumps(content))


def test_json_lists_and_an_imagenet_tree(folder):
    for split in SPLITS:
        for k, wnid in enumerate(WNIDS[split]):
            write_png(folder / "images" / wnid / "x.png", PIXELS[k])
        write_json(folder, split, [f"./data/tiered_imagenet/images/{wnid}" for wnid in WNIDS[split]])
    splits = read(folder)
    assert splits["train"].names == ("n01", "n02")
    np.testing.assert_array_equal(splits["train"].images, PIXELS[:2])


@pytest.mark.parametrize(
    ("roots", "said"),
    [
        (["../..", "n02"], "expected names relative to .* got '..'"),
        (["n01/..", "n02"], "expected names relative to .* got '..'"),
        (["nowhere", "n02"], "expected the folder of class n01"),
        (["n01"], "expected as many class_roots as class_names"),
        ([1, 2], "expected as many class_roots as class_names"),
    ],
)
def test_json_lists_that_lead_elsewhere(folder, roots, said):
    for split in SPLITS:
        for k, wnid in enumerate(WNIDS[split]):
            write_png(folder / "images" / wnid / "x.png", PIXELS[k])
        write_json(folder, split, roots)
    with pytest.raises(ValueError, match=said):
        read(folder)


@pytest.mark.parametrize(
    ("pictures", "change", "said"),
    [
        ([b"no picture"] * 4, {}, r"expected a picture in .*train_images_png.pkl\[0\]"),
        ([png(PIXELS[0])[:999]] * 4, {}, r"expected a whole picture .*\[0\]"),
        ([png(image) for image in PIXELS[:3]], {}, "expected an image for each of 4 labels .* got 3 images"),
        ([png(image) for image in images(5, 84)], {}, "expected a label for each image .* got 4 labels and more"),
        ([1, 2, 3, 4], {}, "expected encoded pictures of bytes"),
        ({"a": 1}, {}, "expected a list of encoded pictures"),
        ([], {"label_specific": [1, 2, 1, 2]}, r"expected labels 0 .. 1 in .*got 1 .. 2"),
        ([], {"label_general": [0, 1]}, "expected as many general as specific labels"),
        ([], {"label_specific": [[0, 1], [1, 0]]}, "expected N integers as labels"),
    ],
)
def test_files_that_are_damaged_or_contradict_each_other(folder, pictures, change, said):
    for split in SPLITS:
        write_pickle(folder / f"{SHORT[split]}_images_png.pkl", pictures)
        write_pickle(folder / f"{SHORT[split]}_labels.pkl", labels(split) | change)
    with pytest.raises(ValueError, match=said):
        read(folder)
