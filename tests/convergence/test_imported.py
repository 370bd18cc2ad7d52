"""Classes of one's own, by name."""

import sys

import pytest

from convergence.imported import imported, is_spec, method_of, said, source_digest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    for name in ("brought", "brought_inner", "brought_package", "brought_package.inner"):
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
    with pytest.raises(ValueError, match=r"write mine\.method:Mine"):
        imported("mine/method.py:Mine", "a method")


def test_catalogue_names_are_no_specs():
    assert is_spec("a:b")
    assert not is_spec("memory_reduced")


def test_what_makes_no_method_is_refused_functions_too():
    for spec in ("json:dumps", "json:JSONDecoder"):
        with pytest.raises(ValueError, match="expected a method with start, step, declared_calls, got"):
            method_of(spec)


def test_functions_and_partials_that_make_methods_are_taken(folder):
    (folder / "brought.py").write_text(
        "from functools import partial\n"
        "from convergence import MemoryReduced\n"
        "from convergence.methods import SOBA\n"
        "def doubled(*, lower_steps, **rest):\n"
        "    return MemoryReduced(lower_steps=2 * lower_steps, **rest)\n"
        "slow = partial(SOBA, lower_step_size=0.01)\n"
    )
    assert method_of("brought:doubled")(lower_steps=2, cg_steps=1).lower_steps == 4
    assert method_of("brought:slow")(linear_step_size=0.1, upper_step_size=0.1).lower_step_size == 0.01


def test_a_module_that_exits_has_said_nothing(folder):
    (folder / "brought.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ValueError, match=r"which raised SystemExit: 0 at brought\.py, line 2"):
        imported("brought:Mine", "a method")


def test_what_has_no_name_of_its_own_is_no_method(folder):
    (folder / "brought.py").write_text(
        "class Factory:\n    def __call__(self, **fields):\n        pass\n"
        "instance = Factory()\nlam = lambda **fields: None\n"
    )
    for spec in ("brought:instance", "brought:lam", "builtins:max", "math:sqrt"):
        with pytest.raises(ValueError, match="expected a class, a function by its name, or a partial of one"):
            method_of(spec)


def test_messages_of_bytes_that_are_no_text_can_be_written_down():
    assert said(ValueError("a\udcff")).encode() == b"ValueError: a\\udcff"


@pytest.mark.parametrize("line", ["from brought_inner import scale", "import brought_inner"])
def test_the_digest_of_a_source_follows_what_it_imports(folder, line):
    (folder / "brought_inner.py").write_text("scale = 1.0\n")
    (folder / "brought.py").write_text(f"import json\n{line}\nclass Mine:\n    pass\n")
    make = imported("brought:Mine", "a method")
    found = source_digest(make)
    assert found == source_digest(make)
    (folder / "brought_inner.py").write_text("scale = 1.5\n")
    changed = source_digest(make)
    (folder / "brought.py").write_text(f"import json\n{line}\nclass Mine:\n    size = 2\n")
    assert len({found, changed, source_digest(make)}) == 3
