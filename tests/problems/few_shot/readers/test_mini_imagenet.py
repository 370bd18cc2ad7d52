"""miniImageNet comes out of every layout, under both names of the validation split."""

import json

import h5py
import numpy as np
import pytest

from problems.few_shot.readers import load
from problems.few_shot.readers.splits import MINI_IMAGENET
from tests.problems.few_shot.readers.samples import SPLITS, images, write_pickle, write_png, write_python2_pickle

WNIDS = {"train": ("n01532829", "n01558993"), **{split: names[:2] for split, names in MINI_IMAGENET.items()}}
NAMED = [{"train": "train", "validation": name, "test": "test"} for name in ("val", "validation")]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def read(folder, **options):
    return load("mini-imagenet", folder, cache=folder.parent / "cache", **options)


def cache_content(split, keys=str):
    """Four images; the classes are not in the order of the rows."""
    first, second = WNIDS[split]
    content = {"image_data": images(4, 84), "class_dict": {keys(second): [0, 3], keys(first): [2, 1]}}
    return {keys(key): value for key, value in content.items()}


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize(
    ("write", "keys"), [(write_pickle, str), (write_pickle, str.encode), (write_python2_pickle, str)]
)
def test_cache_pickles(folder, named, write, keys):
    for split in SPLITS:
        write(folder / f"mini-imagenet-cache-{named[split]}.pkl", cache_content(split, keys))
    splits = read(folder)
    for split in SPLITS:
        assert splits[split].names == WNIDS[split]
        assert splits[split].labels.tolist() == [1, 0, 0, 1]
        np.testing.assert_array_equal(splits[split].images, images(4, 84))  # 0 .. 255, as they are
        assert splits[split].shape == (3, 84, 84)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_dict": {"a": [0, 1, 2], "b": [3, 4]}}, "got row 4"),
        ({"class_dict": {"a": [0, 1], "b": [1, 2, 3]}}, "got row 1 again"),
        ({"class_dict": {"a": [0, 1], "b": [2]}}, "expected a class for each image .* got none for row 3"),
        ({"class_dict": {"a": [0, 1, 2, 3]}}, "expected at least 2 classes in the train split, got 1"),
        ({"class_dict": [1, 2]}, "expected class_dict {class: rows}"),
        (
            {"class_dict": {"n01855672": [0, 1], "b": [2, 3]}},
            "expected n01855672 in the validation split, as published",
        ),
        ({"image_data": np.zeros((4, 84, 84, 3))}, "expected images uint8 .* got float64"),
        ({"image_data": np.zeros((4, 84, 84, 4), np.uint8)}, r"expected images uint8 \(N, H, W, 1 or 3\)"),
    ],
)
def test_cache_pickles_that_contradict_themselves(folder, change, said):
    for split in SPLITS:
        content = cache_content(split) | (change if split == "train" else {})
        write_pickle(folder / f"mini-imagenet-cache-{split}.pkl", content)
    with pytest.raises(ValueError, match=said):
        read(folder)


def test_a_missing_key_and_a_truncated_file(folder):
    for split in SPLITS:
        write_pickle(folder / f"mini-imagenet-cache-{split}.pkl", {"image_data": images(4)})
    with pytest.raises(ValueError, match=r"expected image_data, class_dict in .*, got image_data"):
        read(folder)
    path = folder / "mini-imagenet-cache-train.pkl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"expected a pickle of numpy arrays .*mini-imagenet-cache-train\.pkl"):
        read(folder)


@pytest.mark.parametrize("write", [write_pickle, write_python2_pickle])
def test_category_split_pickles(folder, write):
    for name in ("train_phase_train", "train_phase_val", "train_phase_test", "val", "test"):
        content = {"data": images(4, seed=len(name)), "labels": [0, 1, 1, 0]}
        write(folder / f"miniImageNet_category_split_{name}.pickle", content)
    splits = read(folder)
    np.testing.assert_array_equal(splits["train"].images, images(4, seed=len("train_phase_train")))
    assert splits["test"].labels.tolist() == [0, 1, 1, 0]


def test_torchmeta_hdf5(folder):
    for split in SPLITS:
        name = NAMED[0][split]
        with h5py.File(folder / f"{name}_data.hdf5", "w") as file:
            for k, wnid in enumerate(WNIDS[split]):
                file.require_group("datasets").create_dataset(wnid, data=images(3, seed=k))
        (folder / f"{name}_labels.json").write_text(json.dumps(list(WNIDS[split])))
    splits = read(folder)
    assert splits["validation"].names == WNIDS["validation"]
    np.testing.assert_array_equal(splits["validation"].images, np.concatenate([images(3, seed=0), images(3, seed=1)]))
    (folder / "val_labels.json").write_text('["n0", "../datasets"]')
    with pytest.raises(ValueError, match=r"expected datasets/n0 in .*got no n0"):
        read(folder)


def test_tadam_npz(folder):
    for split in SPLITS:
        np.savez(folder / f"few-shot-{NAMED[0][split]}.npz", features=images(4), targets=[1, 0, 1, 0])
    assert read(folder)["train"].labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("header", ["filename,label", "class_name,image_name"])
def test_csv_files_and_images(folder, header):
    pixels = images(4, 84)
    for split in SPLITS:
        rows = []
        for k, wnid in enumerate(WNIDS[split] * 2):
            file = f"{wnid}{k:08}.png"
            where = folder / "images" / (wnid if "class" in header else "") / file
            write_png(where, pixels[k])
            rows.append(f"{wnid},{file}" if "class" in header else f"{file},{wnid}")
        (folder / f"{NAMED[0][split]}.csv").write_text("\n".join([header, *rows]) + "\n")
    splits = read(folder)
    assert splits["test"].names == WNIDS["test"]
    np.testing.assert_array_equal(splits["test"].images, pixels)
    assert splits["test"].labels.tolist() == [0, 1, 0, 1]


def test_tree_with_lists_and_images_of_any_size(folder):
    root = folder / "mini-imagenet"
    (root / "splits" / "ravi-larochelle").mkdir(parents=True)
    for split in SPLITS:
        for k, wnid in enumerate(WNIDS[split]):
            write_png(root / "data" / wnid / "a.png", images(1, 20 + 100 * k)[0])
        (root / "splits" / "ravi-larochelle" / f"{NAMED[0][split]}.txt").write_text("\n".join(WNIDS[split]))
    splits = read(folder)
    assert splits["train"].images.shape == (2, 84, 84, 3)
    assert read(folder, size=12)["train"].images.shape == (2, 12, 12, 3)
