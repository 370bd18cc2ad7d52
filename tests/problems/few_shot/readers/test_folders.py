"""Images of one's own in folders, CSV files and arrays; nothing outside the folder is read."""

import numpy as np
import pytest
from PIL import Image

from problems.few_shot.readers import load
from tests.problems.few_shot.readers.samples import SPLITS, images, write_png


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def read(folder, **options):
    return load("folder", folder, cache=folder.parent / "cache", **options)


def write_class_folders(folder, validation="val"):
    for split, seed in (("train", 0), (validation, 1), ("test", 2)):
        for k, pixels in enumerate(images(4, seed=seed)):
            write_png(folder / split / f"{split} {'ab'[k % 2]}" / f"{k}.png", pixels)


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_class_folders(folder, validation):
    write_class_folders(folder, validation)
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / "train a" / "notes.txt").write_text("no image")
    splits = read(folder)
    assert splits.layout == "class folders"
    assert splits["train"].names == ("train a", "train b")
    np.testing.assert_array_equal(splits["validation"].images, images(4, seed=1)[[0, 2, 1, 3]])
    assert splits["validation"].labels.tolist() == [0, 0, 1, 1]


def test_every_kind_of_picture_becomes_red_green_blue(folder):
    write_class_folders(folder)
    where = folder / "train" / "train a"
    grey = images(1, channels=1)[0, ..., 0]
    Image.fromarray(grey).save(where / "grey.PNG")
    Image.fromarray(images(1)[0]).convert("P").save(where / "palette.gif")
    Image.fromarray(images(1, channels=4)[0]).save(where / "transparent.webp", lossless=True)
    Image.fromarray(images(1)[0]).save(where / "photo.JPEG")
    splits = read(folder)
    assert splits["train"].images.shape == (8, 4, 4, 3)
    np.testing.assert_array_equal(splits["train"].images[2], np.repeat(grey[..., None], 3, axis=2))


def test_mixed_sizes_need_a_size(folder):
    write_class_folders(folder)
    write_png(folder / "train" / "train a" / "large.png", images(1, 9)[0])
    with pytest.raises(ValueError, match=r"expected images of one size .* got \(4, 4, 3\) and \(9, 9, 3\)"):
        read(folder)
    assert read(folder, size=6)["train"].images.shape == (5, 6, 6, 3)
    with pytest.raises(ValueError, match="expected a side of at least 1 pixel, got size=0"):
        read(folder, size=0)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_damaged_pictures_are_named(folder, content):
    write_class_folders(folder)
    (folder / "train" / "train a" / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a .*picture .*bad\.png"):
        read(folder)


def test_pictures_of_more_than_eight_bits_are_refused(folder):
    write_class_folders(folder)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "train" / "train a" / "deep.png")
    with pytest.raises(ValueError, match=r"expected a whole picture of 8 bits a channel in .*deep\.png"):
        read(folder)


def test_classes_without_images_too_few_and_in_two_splits(folder):
    write_class_folders(folder)
    (folder / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected images .* in .*empty, got none"):
        read(folder)
    (folder / "train" / "empty").rmdir()
    write_png(folder / "train" / "test a" / "x.png", images(1)[0])
    with pytest.raises(ValueError, match="expected a class in one split, got test a in train and test"):
        read(folder)
    (folder / "train" / "test a").rename(folder / "unused")
    (folder / "train" / "train a").rename(folder / "unused too")
    with pytest.raises(ValueError, match="expected at least 2 classes in the train split, got 1"):
        read(folder)


def test_folders_with_other_names_of_splits_are_not_found(folder):
    write_class_folders(folder, "dev")
    with pytest.raises(
        FileNotFoundError, match=r"class folders: train/, val/ or validation/, test/ \(found, but for: va"
    ):
        read(folder)


def test_symbolic_links_that_lead_out_are_refused(folder, tmp_path):
    write_class_folders(folder)
    write_png(tmp_path / "outside" / "secret.png", images(1)[0])
    link = folder / "train" / "train a" / "link.png"
    link.symlink_to(tmp_path / "outside" / "secret.png")
    with pytest.raises(ValueError, match=r"expected files inside .*link\.png, which leads to .*secret\.png"):
        read(folder)
    link.unlink()
    (folder / "train" / "class").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"expected files inside .*class, which leads to .*outside"):
        read(folder)
    (folder / "train" / "class").unlink()
    (folder / "train").rename(tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"expected files inside .*train, which leads to .*elsewhere"):
        read(folder)


def test_links_inside_and_a_link_to_the_folder_itself_are_followed(folder, tmp_path):
    write_class_folders(folder)
    (folder / "train" / "train a" / "link.png").symlink_to(folder / "train" / "train b" / "1.png")
    (tmp_path / "shortcut").symlink_to(folder)
    assert len(read(tmp_path / "shortcut")["train"]) == 5


def write_csv_files(folder, row="{split}{k}.png,{split} class {label}", header="filename,label"):
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        rows = [row.format(split=split, k=k, label=k % 2) for k in range(4)]
        for k, pixels in enumerate(images(4)):
            write_png(folder / "images" / f"{split}{k}.png", pixels)
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_csv_files(folder):
    write_csv_files(folder, header="\ufeff filename, label")
    splits = read(folder)
    assert splits["validation"].names == ("validation class 0", "validation class 1")
    np.testing.assert_array_equal(splits["test"].images, images(4))


@pytest.mark.parametrize(
    ("row", "header", "said"),
    [
        ("../../secret.png,a", "filename,label", r"expected names relative to .*train\.csv, got '../../secret\.png'"),
        ("/etc/passwd,a", "filename,label", "expected names relative to .* got '/etc/passwd'"),
        ("a\\b.png,a", "filename,label", "expected names relative to"),
        ("secret.png,../..", "filename,label", r"expected the image secret\.png"),
        ("missing.png,a", "filename,label", r"expected the image missing\.png of .*train\.csv, got no "),
        ("{split}{k}.png", "filename,label", "a row without a file or a class"),
        (",a", "filename,label", "a row without a file or a class"),
        ("{split}{k}.png,a", "file,label", "expected the columns filename,label or .* got 'file,label'"),
        ("", "", "expected the columns filename,label"),
    ],
)
def test_csv_files_that_lead_elsewhere_or_are_damaged(folder, row, header, said):
    write_png(folder.parent / "secret.png", images(1)[0])
    write_csv_files(folder, row, header)
    with pytest.raises(ValueError, match=said):
        read(folder)


def test_a_csv_file_that_is_not_text(folder):
    write_csv_files(folder)
    (folder / "train.csv").write_bytes(b"filename,label\n\xff\xfe,a\n")
    with pytest.raises(ValueError, match=r"expected a CSV file .*train\.csv"):
        read(folder)


def test_an_image_of_a_csv_file_that_is_a_link_outside(folder, tmp_path):
    write_csv_files(folder)
    write_png(tmp_path / "secret.png", images(1)[0])
    (folder / "images" / "train0.png").unlink()
    (folder / "images" / "train0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=r"expected files inside .*train0\.png, which leads to .*secret\.png"):
        read(folder)


@pytest.mark.parametrize(
    ("listed", "said"), [("../..", "expected names relative to"), ("c", "expected a folder of images")]
)
def test_lists_of_classes(folder, listed, said):
    for k, split in enumerate(("train", "val", "test")):
        for name in "ab":
            write_png(folder / "data" / f"{name}{k}" / "x.png", images(1)[0])
        (folder / f"{split}.txt").write_text(f"a{k}\n\nb{k}\n")
    assert read(folder)["test"].names == ("a2", "b2")
    (folder / "train.txt").write_text(f"a0\n{listed}\n")
    with pytest.raises(ValueError, match=said):
        read(folder)


def test_npz_arrays(folder):
    for split in ("train", "val", "test"):
        np.savez(folder / f"{split}.npz", images=images(4, channels=1), labels=[0, 0, 1, 1])
    splits = read(folder)
    assert splits.layout == "arrays"
    assert splits["train"].shape == (1, 4, 4)
    assert read(folder, size=4)["train"].shape == (1, 4, 4)
    with pytest.raises(ValueError, match=r"got size=5 for the train images of 4 x 4 in .*data \(arrays\)"):
        read(folder, size=5)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"images": images(4)}, "expected an array 'labels' in .*got only images.npy"),
        ({"images": images(4), "labels": np.array([{}] * 4)}, "expected an array 'labels'"),
        ({"images": images(4).astype(np.float32), "labels": [0, 1, 0, 1]}, "expected images uint8 .* got float32"),
        ({"images": images(4), "labels": [0, 1, 0]}, "expected a label for each image .* got 3 labels"),
        ({"images": images(4), "labels": [0, 1, 0, 1, 1]}, "expected an image for each of 5 labels"),
    ],
)
def test_npz_arrays_that_contradict_themselves(folder, members, said):
    for split in ("train", "val", "test"):
        np.savez(folder / f"{split}.npz", **members)
    with pytest.raises(ValueError, match=said):
        read(folder)


def test_npz_arrays_that_are_damaged(folder):
    for split in ("train", "val", "test"):
        np.savez_compressed(folder / f"{split}.npz", images=images(40, 32), labels=np.arange(40) % 2)
    path = folder / "train.npz"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:500] + b"\0" * 99 + whole[599:], b"PK"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"expected an array '\w+' in .*train\.npz"):
            read(folder)
