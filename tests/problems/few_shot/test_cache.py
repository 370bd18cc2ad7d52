"""The cache is where it was asked for."""

from pathlib import Path

import pytest

from problems.few_shot.cache import cache_folder


@pytest.fixture
def unset(monkeypatch, tmp_path):
    for name in ("MEMORY_REDUCED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_the_argument_goes_before_the_variables_and_these_before_the_home_folder(unset, tmp_path):
    assert cache_folder() == tmp_path / ".cache" / "memory-reduced"
    unset.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/memory-reduced")
    unset.setenv("MEMORY_REDUCED_CACHE", "/y")
    assert cache_folder() == Path("/y")
    assert cache_folder("/z") == Path("/z")


@pytest.mark.parametrize("base", ["", "relative/folder"])
def test_an_empty_or_relative_base_counts_as_unset(unset, tmp_path, base):
    unset.setenv("XDG_CACHE_HOME", base)
    unset.setenv("MEMORY_REDUCED_CACHE", "")
    assert cache_folder() == tmp_path / ".cache" / "memory-reduced"
