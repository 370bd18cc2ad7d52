"""Every link of every page leads to a file, and to a heading of it where it names one; so do names in docstrings."""

import pkgutil
import re

import pytest

from docs.generate import DOCS, ROOT
from docs.generate.markdown import anchors, broken
from docs.generate.site import PACKAGES, markdown_pages

SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("page", markdown_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert not broken(page)


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One\n\n## Two words\n")
    page.write_text(
        "[a](other.md) [b](other.md#two-words) [c](#here) [d](https://example.org)\n\n# Here\n\n"
        "[e](another.md) [f](other.md#three) ![g](picture.png) [h](#there)\n\n| [i](in/a/table.md) |\n|---|\n"
    )
    assert broken(page) == ["another.md", "other.md#three", "picture.png", "#there", "in/a/table.md"]


def test_sections_of_the_theory_that_sources_name_exist():
    named = {
        (path.name, section)
        for path in SOURCES
        for section in re.findall(r"docs/theory\.md,? S(\d+)", path.read_text(encoding="utf-8"))
    }
    exist = {slug.partition("-")[0] for slug in anchors(DOCS / "theory.md")}
    assert len(named) > 30
    assert not {(name, section) for name, section in named if f"s{section}" not in exist}


def test_pages_that_sources_name_exist():
    named = {page for path in SOURCES for page in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8"))}
    assert named > {"docs/theory.md"}
    assert not {page for page in named if not (ROOT / page).is_file()}


def test_names_that_docstrings_spell_out_exist():
    named = {
        name
        for path in SOURCES
        for name in re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    for name in named:
        pkgutil.resolve_name(name)  # raises where there is none
