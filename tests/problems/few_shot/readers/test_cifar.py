"""CIFAR-FS and FC100 come out of every layout with the published classes."""

import json
import shutil

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from problems.few_shot.readers import load
from problems.few_shot.readers.splits import CIFAR_FS, CLASSES, FC100, SUPERCLASSES
from tests.problems.few_shot.readers.samples import (
    SPLITS,
    images,
    png,
    write_pickle,
    write_png,
    write_python2_pickle,
)

SHORT = {"train": "train", "validation": "val", "test": "test"}
COARSE = {name: SUPERCLASSES[k % 20] for k, name in enumerate(CLASSES)}  # every superclass has five, not the real ones


def read(name, folder):
    return load(name, folder, cache=folder.parent / "cache")


def of_class(splits, name):
    """(the split, the images) of a class."""
    for split, found in splits.items():
        if name in found.names:
            return split, found.images[found.rows[found.names.index(name)]]
    raise AssertionError(name)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_raw(folder, *, keys=str, write=write_pickle):
    """CIFAR-100 for Python, one image of each class in `train` and one in `test`; the images."""
    found = {}
    for name, seed in (("train", 0), ("test", 1)):
        pixels = images(100, 32, seed=seed)
        content = {
            "data": pixels.transpose(0, 3, 1, 2).reshape(100, 3072),
            "fine_labels": list(range(100)),
            "coarse_labels": [k % 20 for k in range(100)],
            "filenames": [f"{k}.png" for k in range(100)],
            "batch_label": "training batch 1 of 1",
        }
        write(folder / name, {keys(key): value for key, value in content.items()})
        found[name] = pixels
    meta = {"fine_label_names": list(CLASSES), "coarse_label_names": list(SUPERCLASSES)}
    write(folder / "meta", {keys(key): value for key, value in meta.items()})
    return found


@pytest.mark.parametrize(
    ("keys", "write"), [(str, write_pickle), (str.encode, write_pickle), (str, write_python2_pickle)]
)
def test_raw_cifar_100_is_divided_and_transposed(folder, keys, write):
    pixels = write_raw(folder / "cifar-100-python", keys=keys, write=write)
    splits = read("cifar-fs", folder)
    assert splits.layout == "CIFAR-100 for Python"
    assert {split: found.names for split, found in splits.items()} == CIFAR_FS
    for k in (0, 50, 99):
        expected = np.stack([pixels["train"][k], pixels["test"][k]])
        np.testing.assert_array_equal(of_class(splits, CLASSES[k])[1], expected)
    assert dict(zip(splits["test"].names, splits["test"].groups, strict=True))["baby"] == COARSE["baby"]


def test_fc100_is_divided_by_superclasses_and_not_taken_for_cifar_fs(folder):
    write_raw(folder)
    read("cifar-fs", folder)  # the same files, in the same cache
    splits = read("fc100", folder)
    assert {split: set(found.groups) for split, found in splits.items()} == {k: set(v) for k, v in FC100.items()}
    assert [len(splits[split].names) for split in SPLITS] == [60, 20, 20]


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("column", ["img", "image"])
def test_parquet_with_pictures_in_structs(folder, metadata, column):
    pixels = images(100, 32)
    order = list(reversed(CLASSES)) if metadata else list(CLASSES)
    for name, rows in (("train-00000-of-00002", range(60)), ("train-00001-of-00002", range(60, 100)), ("test-0", [])):
        table = pyarrow.table(
            {
                column: pyarrow.array(
                    [{"bytes": png(pixels[k]), "path": None} for k in rows],
                    pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
                ),
                "fine_label": pyarrow.array(list(rows), pyarrow.int64()),
                "coarse_label": pyarrow.array([k % 20 for k in rows], pyarrow.int64()),
            }
        )
        if metadata:
            features = {"fine_label": {"names": order}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        (folder / "cifar100").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, folder / "cifar100" / f"{name}.parquet")
    splits = read("cifar-fs", folder)
    assert splits.layout == "CIFAR-100 in parquet"
    assert {split: found.names for split, found in splits.items()} == CIFAR_FS
    for k in (0, 99):
        np.testing.assert_array_equal(of_class(splits, order[k])[1], pixels[k : k + 1])


def write_parquet(folder, **columns):
    for name in ("train-0", "test-0"):
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")


def test_parquet_without_superclasses_and_with_another_label_column(folder):
    contents = [png(pixels) for pixels in images(100, 32)]
    write_parquet(folder, image=contents, number=list(range(100)))
    assert read("cifar-fs", folder)["test"].groups is None
    with pytest.raises(ValueError, match=r"expected a column coarse_label in .*, got image, number"):
        read("fc100", folder)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"img": [b"no picture"] * 100, "fine_label": list(range(100))}, "expected a picture in"),
        ({"img": ["text"] * 100, "fine_label": list(range(100))}, "expected pictures as bytes in .* got str"),
        ({"img": [{"bytes": None, "path": "../x.png"}] * 100, "fine_label": list(range(100))}, "got NoneType"),
        ({"picture": [b""] * 100, "fine_label": list(range(100))}, "expected a column img or image in"),
        ({"img": [b""] * 100, "fine_label": [0.5] * 100}, "expected N integers as labels"),
        ({"img": [b""], "a": [1], "b": [2]}, "expected a column fine_label, or one of integers, in .* got img, a, b"),
    ],
)
def test_parquet_files_with_something_else(folder, columns, said):
    write_parquet(folder, **columns)
    with pytest.raises(ValueError, match=said):
        read("cifar-fs", folder)


@pytest.mark.parametrize(("name", "drawn"), [("cifar-fs", CIFAR_FS), ("fc100", FC100)])
def test_torchmeta_hdf5(folder, name, drawn):
    pixels = images(200, 32)
    root = folder / "cifar100"
    (root / name).mkdir(parents=True)
    with h5py.File(root / "data.hdf5", "w") as file:
        for k, fine in enumerate(CLASSES):
            file.require_group(COARSE[fine]).create_dataset(fine, data=pixels[2 * k : 2 * k + 2])
    for split, names in drawn.items():
        pairs = [[COARSE[fine], fine] for fine in CLASSES if (fine in names or COARSE[fine] in names)]
        (root / name / f"{SHORT[split]}_labels.json").write_text(json.dumps(pairs))
    splits = read(name, folder)
    assert splits.layout == "torchmeta's hdf5"
    assert splits.folder == root
    split, found = of_class(splits, "whale")
    np.testing.assert_array_equal(found, pixels[2 * CLASSES.index("whale") :][:2])
    assert split == (
        "test" if name == "cifar-fs" else next(s for s, names in FC100.items() if COARSE["whale"] in names)
    )
    assert splits["train"].groups is not None


@pytest.mark.parametrize("write", [write_pickle, write_python2_pickle])
@pytest.mark.parametrize(("name", "pattern"), [("cifar-fs", "CIFAR_FS_{}.pickle"), ("fc100", "FC100_{}.pickle")])
def test_pickles_of_data_and_labels(folder, write, name, pattern):
    pixels = images(6, 32)
    for split in SPLITS:
        write(folder / pattern.format(SHORT[split]), {"data": pixels, "labels": [5, 7, 5, 7, 9, 9]})
    splits = read(name, folder)
    np.testing.assert_array_equal(splits["validation"].images, pixels)
    assert splits["validation"].labels.tolist() == [0, 1, 0, 1, 2, 2]
    assert splits["validation"].names == ("validation/5", "validation/7", "validation/9")


def test_tadam_npz(folder):
    pixels = images(4, 32)
    for k, split in enumerate(SPLITS):
        save = (np.savez, np.savez_compressed)[k % 2]
        save(folder / f"few-shot-{SHORT[split]}.npz", features=pixels, targets=np.array([3, 1, 3, 1]))
    splits = read("fc100", folder)
    for split in SPLITS:
        np.testing.assert_array_equal(splits[split].images, pixels)
        assert splits[split].labels.tolist() == [1, 0, 1, 0]


def write_tree(folder, listed=CIFAR_FS):
    pixels = dict(zip(CLASSES, images(100, 32), strict=True))
    for name, pixel in pixels.items():
        write_png(folder / "data" / name / f"{name}_s_000001.png", pixel)
    (folder / "splits" / "bertinetto").mkdir(parents=True)
    for split, names in listed.items():
        (folder / "splits" / "bertinetto" / f"{SHORT[split]}.txt").write_text("\n".join(names) + "\n")
    return pixels


def test_tree_with_lists_of_classes(folder):
    pixels = write_tree(folder / "cifarfs" / "cifar100")
    splits = read("cifar-fs", folder)
    assert splits.layout == "R2-D2's tree"
    assert {split: found.names for split, found in splits.items()} == CIFAR_FS
    np.testing.assert_array_equal(of_class(splits, "worm")[1][0], pixels["worm"])


def test_processed_class_folders(folder):
    for split, names in CIFAR_FS.items():
        for name in names[:3]:
            write_png(folder / "cifarfs" / "processed" / SHORT[split] / name / "a.png", images(1, 32)[0])
    splits = read("cifar-fs", folder)
    assert splits.layout == "learn2learn's class folders"
    assert splits["validation"].names == CIFAR_FS["validation"][:3]


def test_classes_in_another_split_than_the_published_one_are_refused(folder):
    wrong = {**CIFAR_FS, "train": (*CIFAR_FS["train"], "worm"), "test": CIFAR_FS["test"][:-1]}
    write_tree(folder, wrong)
    with pytest.raises(ValueError, match="expected worm in the test split, as published, got it in train"):
        read("cifar-fs", folder)


def test_of_several_layouts_the_first_is_read_and_the_others_are_named(folder):
    write_raw(folder)
    for split in SPLITS:
        write_pickle(folder / f"CIFAR_FS_{SHORT[split]}.pickle", {"data": images(2, 32), "labels": [0, 1]})
    splits = read("cifar-fs", folder)
    assert splits.layout == "MetaOptNet's pickles"
    assert splits.others == ("CIFAR-100 for Python",)


def test_what_is_missing_is_told_with_every_layout(folder):
    write_pickle(folder / "CIFAR_FS_train.pickle", {})
    with pytest.raises(FileNotFoundError) as told:
        read("cifar-fs", folder)
    said = str(told.value)
    for file in ("CIFAR_FS_val.pickle", "data.hdf5", "cifar-fs/train_labels.json", "splits/bertinetto/train.txt"):
        assert file in said
    for file in (
        "train-*.parquet",
        "meta",
        "cifar-100-python",
        "Krizhevsky",
        "bertinetto/r2d2",
        "Nothing is downloaded",
    ):
        assert file in said
    assert "(found, but for: validation, test)" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": images(100, 32)}, r"expected data uint8 \(N, 3072\)"),
        ({"data": np.zeros((100, 3072))}, r"expected data uint8 \(N, 3072\)"),
        ({"fine_labels": [0] * 99}, "expected a label for each of 100 images"),
        ({"fine_labels": [100] * 100}, r"expected labels 0 .. 99 in .*train, got 100 .. 100"),
        ({"fine_labels": [0.5] * 100}, "expected N integers as labels"),
        ({"fine_labels": [0] * 100}, "expected images of .* in .*, got none"),
    ],
)
def test_raw_files_that_contradict_themselves(folder, change, said):
    pixels = write_raw(folder)
    for name in ("train", "test"):
        content = {
            "data": pixels[name].transpose(0, 3, 1, 2).reshape(100, 3072),
            "fine_labels": list(range(100)),
            "coarse_labels": [k % 20 for k in range(100)],
        }
        write_pickle(folder / name, content | change)
    with pytest.raises(ValueError, match=said):
        read("cifar-fs", folder)


def test_hdf5_and_parquet_that_are_damaged_or_point_elsewhere(folder, tmp_path):
    (folder / "cifar-fs").mkdir()
    for split, names in CIFAR_FS.items():
        (folder / "cifar-fs" / f"{SHORT[split]}_labels.json").write_text(json.dumps([["a", name] for name in names]))
    with h5py.File(tmp_path / "elsewhere.hdf5", "w") as file:
        file["x"] = images(2, 32)
    with h5py.File(folder / "data.hdf5", "w") as file:
        for name in CLASSES:
            file.require_group("a")[name] = h5py.ExternalLink(str(tmp_path / "elsewhere.hdf5"), "x")
    with pytest.raises(ValueError, match=r"expected a/apple inside .*data.hdf5, got a link"):
        read("cifar-fs", folder)
    (folder / "data.hdf5").write_bytes((folder / "data.hdf5").read_bytes()[:100])
    with pytest.raises(ValueError, match="expected a whole hdf5 file in"):
        read("cifar-fs", folder)
    shutil.rmtree(folder)
    folder.mkdir()
    for name in ("train-0.parquet", "test-0.parquet"):
        (folder / name).write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="expected a whole parquet file in"):
        read("cifar-fs", folder)


@pytest.mark.parametrize(("module", "file"), [("h5py", "data.hdf5"), ("pyarrow.parquet", "train-0.parquet")])
def test_what_needs_the_extra_names_it(folder, monkeypatch, module, file):
    (folder / "cifar-fs").mkdir()
    for split, names in CIFAR_FS.items():
        (folder / "cifar-fs" / f"{SHORT[split]}_labels.json").write_text(json.dumps([["a", name] for name in names]))
    for name in (file, "test-0.parquet"):
        (folder / name).write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=f"needs {module.split('.')[0]}: install the extra few-shot"):
        read("cifar-fs", folder)
