"""Classes of one's own, by name."""

import sys

import pytest

from convergence.imported import imported, is_spec


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name in ("brought", "brought_package", "brought_package.inner"):
        sys.modules.pop(name, None)


def test_a_module_in_the_working_directory_is_found(folder):
    (folder / "brought.py").write_text("class Mine:\n    pass\n")
    assert imported("brought:Mine", "a method").__name__ == "Mine"
    package = folder / "brought_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text("value = 3\n")
    assert imported("brought_package.inner:value", "a number") == 3


def test_what_a_module_raises_is_said_with_its_line(folder):
    (folder / "brought.py").write_text("import math\nmath.sqrt(-1)\n")
    with pytest.raises(ValueError, match=r"got 'brought', which raised ValueError: .* at brought.py, line 2"):
        imported("brought:Mine", "a method")


def test_a_module_that_lacks_another_is_not_said_to_be_missing(folder):
    (folder / "brought.py").write_text("import no_such_module\n")
    with pytest.raises(ValueError, match="which raised ModuleNotFoundError: No module named 'no_such_module'"):
        imported("brought:Mine", "a method")


@pytest.mark.parametrize("spec", ["", ":", "a:", ":b", "a b:c", "a:b.c", "a..b:c", "../a:b", "a:b:c", "1:2"])
def test_what_is_no_name_is_refused(spec):
    with pytest.raises(ValueError, match="expected a method as MODULE:NAME"):
        imported(spec, "a method")


def test_a_path_is_met_with_the_name_it_should_have_been():
    with pytest.raises(ValueError, match="write mine.method:Mine"):
        imported("mine/method.py:Mine", "a method")


def test_catalogue_names_are_no_specs():
    assert is_spec("a:b")
    assert not is_spec("memory_reduced")
