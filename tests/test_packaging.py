"""What the package says of itself is whole, and the same in every place."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import convergence
from docs.generate.site import PACKAGES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_has_what_the_format_asks_for():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["message"]
    assert CITATION["title"].startswith(PROJECT["name"])
    assert CITATION["authors"] == PROJECT["authors"]
    (paper,) = CITATION["references"]
    assert paper["title"] == "Memory-Reduced Meta-Learning with Guaranteed Convergence"
    assert [author["family-names"] for author in paper["authors"]] == ["Yang", "Ma", "Yu"]


def test_version_and_licence_are_the_same_everywhere():
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest[1] == PROJECT["version"]


def test_the_licence_is_the_whole_text():
    text = (ROOT / "LICENSE").read_text()
    assert all(part in text for part in ("Version 2.0, January 2004", "END OF TERMS AND CONDITIONS", "APPENDIX"))
    assert [int(number) for number in re.findall(r"^   (\d)\. ", text, flags=re.MULTILINE)] == list(range(1, 10))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_marked_as_typed(package):
    assert (ROOT / package / "py.typed").is_file()


def test_every_folder_that_is_imported_is_shipped():
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert tuple(shipped["packages"]) == PACKAGES
    assert Path(convergence.__file__).parent == ROOT / "convergence"


def test_every_extra_that_a_page_names_exists():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]
    named = {
        extra
        for page in pages
        for extras in re.findall(r"\.\[([\w, -]+)\]'?", page.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert named >= {"test", "dev", "docs"}
    assert named <= set(PROJECT["optional-dependencies"])


def test_ci_installs_the_versions_that_constraints_names():
    named = {
        re.split(r"[><=]", requirement)[0].lower()
        for requirements in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for requirement in requirements
    } - {"jax"}  # for `make bench` alone
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert named <= pinned
