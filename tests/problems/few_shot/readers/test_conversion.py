"""What was converted is mapped and found again, until its source changes; it is there whole or not at all."""

import os
import time

import numpy as np
import pytest

from problems.few_shot import ImageSet
from problems.few_shot.readers import conversion, load
from problems.few_shot.readers.conversion import Unconverted, converted
from problems.few_shot.readers.layouts import Request
from tests.problems.few_shot.readers.samples import images


@pytest.fixture
def source(tmp_path):
    """The request, the path of a source, and a function that reads it and counts how often it was."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "source"
    path.write_bytes(b"content")
    reads = []

    def read():
        reads.append(path.read_bytes())
        return Unconverted(["b", "a", "b"], [images(2), images(1, seed=1)])

    return Request(folder, tmp_path / "cache"), path, read, reads


def test_images_are_mapped_and_read_once(source):
    request, path, read, reads = source
    first = converted([path], "recipe", read, request)
    again = converted([path], "recipe", read, request)
    assert len(reads) == 1
    assert isinstance(first.images, np.memmap)
    assert not first.images.flags.writeable
    for found in (first, again):
        np.testing.assert_array_equal(found.images, np.concatenate([images(2), images(1, seed=1)]))
        assert found.labels.tolist() == [1, 0, 1]
        assert found.names == ("a", "b")


def test_a_changed_source_time_or_recipe_is_read_again(source):
    request, path, read, reads = source
    converted([path], "recipe", read, request)
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(1, 1))
    converted([path], "recipe", read, request)
    assert len(reads) == 2
    os.utime(path, ns=(2, 2))
    converted([path], "recipe", read, request)
    assert len(reads) == 3
    converted([path], "another recipe", read, request)
    assert len(reads) == 4


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "description.json"])
@pytest.mark.parametrize("damage", ["truncate", "remove", "empty"])
def test_a_damaged_cache_is_made_anew(source, name, damage):
    request, path, read, reads = source
    converted([path], "recipe", read, request)
    (kept,) = request.cache.iterdir()
    if damage == "remove":
        (kept / name).unlink()
    else:
        (kept / name).write_bytes(b"" if damage == "empty" else (kept / name).read_bytes()[:-5])
    found = converted([path], "recipe", read, request)
    assert len(reads) == 2
    assert len(found) == 3
    assert [entry.name for entry in request.cache.iterdir()] == [kept.name]


def test_nothing_is_left_after_a_failure(source):
    request, path, _, _ = source

    def interrupted():
        yield images(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted([path], "recipe", lambda: Unconverted(["a", "b", "b"], interrupted()), request)
    assert list(request.cache.iterdir()) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(source, monkeypatch):
    request, path, read, _ = source

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        converted([path], "recipe", read, request)
    assert list(request.cache.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_an_hour(source):
    request, path, read, _ = source
    converted([path], "recipe", read, request)
    (kept,) = request.cache.iterdir()
    for name, age in (("old", 4000), ("new", 10)):
        partial = kept.with_name(f".{kept.name}.{name}.partial")
        partial.mkdir()
        (partial / "images.npy").touch()
        for written in (partial / "images.npy", partial):
            os.utime(written, (time.time() - age,) * 2)
    (kept / "labels.npy").unlink()
    converted([path], "recipe", read, request)
    left = [entry.name for entry in request.cache.iterdir() if entry != kept]
    assert left == [f".{kept.name}.new.partial"]


def test_of_two_processes_the_first_one_stays(source):
    request, path, read, _ = source

    def slower():
        converted([path], "recipe", read, request)
        return read()

    found = converted([path], "recipe", slower, request)
    assert isinstance(found, ImageSet)
    assert len(list(request.cache.iterdir())) == 1


def test_progress_counts_images(source):
    request, path, read, _ = source
    counts = []
    converted([path], "recipe", read, Request(request.folder, request.cache, None, counts.append))
    assert sum(counts) == 3


def test_the_cache_is_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMORY_REDUCED_CACHE", str(tmp_path / "elsewhere"))
    for split in ("train", "val", "test"):
        np.savez(tmp_path / f"{split}.npz", images=images(2), labels=[0, 1])
    load("folder", tmp_path)
    assert len(list((tmp_path / "elsewhere" / "folder").iterdir())) == 3


def test_unknown_data_sets_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected the name of a data set, one of cifar-fs, .* got 'imagenet'"):
        load("imagenet", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected images in .*nowhere, in one of these layouts"):
        load("folder", tmp_path / "nowhere")
