"""Images by the name of their data set."""

import pytest
from PIL import Image

from convergence.training.data import NAMES, images
from problems.few_shot.cache import VARIABLE
from tests.convergence.training.small import tiny_splits, write_tiny


def test_files_are_read_from_the_folder_given(tmp_path):
    splits = images("folder", root=write_tiny(tmp_path / "files"), progress=False)
    for split, expected in tiny_splits().items():
        assert (splits[split].images == expected.images).all()


def test_the_layout_that_was_read_is_said_and_what_else_was_there(tmp_path, capsys):
    root = write_tiny(tmp_path / "files")
    images("folder", root=root)
    assert capsys.readouterr() == ("", f"folder: arrays in {root}\n")
    for split, own in tiny_splits().items():
        for name in own.names[:2]:
            (root / split / name).mkdir(parents=True)
            Image.fromarray(own.images[0, ..., 0]).save(root / split / name / "0.png")
    images("folder", root=root)
    assert capsys.readouterr().err == f"folder: class folders in {root}; not read, though there: arrays\n"


def test_glyphs_are_drawn_as_many_as_asked(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    splits = images("glyphs-easy", classes=(6, 5, 4), images_per_class=3, progress=False)
    assert [len(each.names) for each in splits.values()] == [6, 5, 4]
    assert len(splits["train"]) == 18


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("omniglot", {}, "expected a data set out of .*cifar-fs.*; got 'omniglot'"),
        ("cifar-fs", {}, "expected --root, the folder where the files of the data set cifar-fs are, got none"),
        ("cifar-fs", {"root": ".", "classes": (1, 1, 1)}, "expected no --classes with the data set cifar-fs"),
        ("glyphs", {"root": "x"}, "expected no --root with the data set glyphs, got x"),
        ("glyphs", {"size": 3}, "expected no --size with the data set glyphs, got 3"),
    ],
)
def test_what_does_not_go_with_a_data_set_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        images(name, **options)


def test_missing_files_are_told_with_their_layouts(tmp_path):
    with pytest.raises(FileNotFoundError, match="Nothing is downloaded"):
        images("mini-imagenet", root=tmp_path)
    assert {"glyphs", "glyphs-easy", "glyphs-within", "fc100", "tiered-imagenet", "folder"} < set(NAMES)
