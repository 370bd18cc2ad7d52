"""Files appear whole or not at all, and a failure names the file."""

import os

import pytest

from convergence.files import NotWritten, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_names_the_file_and_leaves_the_one_before(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    write_atomically(path, b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten) as failed:
        write_atomically(path, b"after")
    assert str(failed.value) == f"expected room and leave to write {path}, got No space left on device"
    assert (failed.value.errno, failed.value.strerror) == (28, "No space left on device")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(NotWritten, match=r"expected room and leave to write .*missing.file, got No such file"):
        write_atomically(tmp_path / "missing" / "file", b"")
