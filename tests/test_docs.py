"""The theory page: every claim is linked with its figure, every link leads somewhere."""

import re
from pathlib import Path

import pytest

from paper_checks import CLAIMS

ROOT = Path(__file__).parent.parent
PAGES = (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_to_a_file(page):
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_theory_links_every_claim_with_its_figure_and_a_test(claim):
    theory = (ROOT / "docs" / "theory.md").read_text()
    judged = re.findall(r"^\*Judged by .*?\*$", theory, flags=re.MULTILINE | re.DOTALL)
    own = [line for line in judged if f"(../paper_checks/{claim}.py) ([figure](../figures/{claim}.py))" in line]
    assert own
    assert all("(../tests/" in line for line in own)
