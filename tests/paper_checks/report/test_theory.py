"""The sections of the theory that a claim names, as they stand in docs/theory.md, and links to them."""

from markupsafe import Markup

from paper_checks import CLAIMS
from paper_checks.report.theory import cited, linked

TEXT = """# Theory

## S1 The first

**Lemma.** ‖θ − θ*‖ ≤ χ_N·2r^{2N} by [a test](../tests/test_x.py). *Proof.* v* is J*ᵀ(a) of θ*. ∎

*Judged by [cg_rate](../paper_checks/cg_rate.py); tested in
[test_x.py](../tests/test_x.py).*

## S2 The second

Not named.
"""


def test_only_what_is_named_is_shown_without_links_out_of_the_page(tmp_path):
    (tmp_path / "theory.md").write_text(TEXT)
    found = cited(["docs/theory.md S1, Lemma 1", "a paper, S2"], tmp_path / "theory.md")
    assert list(found) == ["S1"]
    assert found["S1"].title == "The first"
    assert found["S1"].html.strip() == (
        "<p><strong>Lemma.</strong> ‖θ − θ*‖ ≤ χ<sub>N</sub>·2r<sup>2N</sup> by a test. "
        "<em>Proof.</em> v* is J*ᵀ(a) of θ*. ∎</p>"
    )


def test_every_section_that_a_claim_names_is_there():
    sources = [claim.sections["Source"] for claim in CLAIMS.values()]
    found = cited(sources)
    assert len(found) > 5
    for claim, source in zip(CLAIMS.values(), sources, strict=True):
        if "theory.md" in source:
            assert 'href="#theory-S' in linked(Markup(source), found), claim.name


def test_an_installed_package_without_the_file_has_no_links(tmp_path):
    assert cited(["docs/theory.md S1"], tmp_path / "theory.md") == {}
    assert linked(Markup("docs/theory.md S1"), {}) == "docs/theory.md S1"
