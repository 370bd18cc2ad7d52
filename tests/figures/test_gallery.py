"""The gallery shows what its evidence says, its pages are those that are written, and no algorithm is run for it."""

import io
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convergence import Oracle
from figures import FIGURES, gallery
from figures.__main__ import main as redraw
from figures.gallery import GALLERY, MARKS, PAGE, ROOT, SHOWN, picture, readme, take_over
from figures.style import FULL_WIDTH, save
from paper_checks import CLAIMS
from paper_checks.claim import Outcome, worst
from paper_checks.evidence import load_run
from tests.figures.test_figures import drawn

MIB = 2**20
FAST = ("cg_rate", "cold_start_floor")  # to draw


@cache
def run():
    return load_run(ROOT / GALLERY)


@pytest.fixture
def no_algorithm(monkeypatch):
    """Whoever asks for a derivative is stopped."""

    def stopped(*arguments, **named):
        raise AssertionError("an algorithm was run")

    monkeypatch.setattr(Oracle, "__init__", stopped)
    for module, name in ((torch.autograd, "grad"), (torch.Tensor, "backward"), (torch.func, "grad")):
        monkeypatch.setattr(module, name, stopped)


def test_the_guard_stops_an_algorithm(no_algorithm):
    with pytest.raises(AssertionError, match="was run"):
        CLAIMS["cg_rate"].run(run().entries["cg_rate"].verdict.setting)


def test_every_claim_is_there_and_holds():
    assert run().finished
    assert list(run().entries) == list(CLAIMS) == list(FIGURES)
    assert {stored.verdict.outcome for stored in run().entries.values()} == {Outcome.HOLDS}


@pytest.mark.parametrize("claim", CLAIMS)
def test_stored_evidence_is_still_what_the_claim_accepts(claim):
    assert worst(each.outcome for each in CLAIMS[claim].judge(run().entries[claim].evidence)) is Outcome.HOLDS


def test_pictures_are_those_of_the_evidence():
    for name in FAST:
        _assert_drawn(name)


@pytest.mark.battery
@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_is_that_of_the_evidence(name):
    _assert_drawn(name)


def _assert_drawn(name):
    """Up to the rendering of another release of matplotlib, which moves a few pixels."""
    path = ROOT / GALLERY / f"{name}.png"
    drawn = picture(name, run().entries[name].evidence)
    with Image.open(path) as stored:
        kept = np.asarray(stored.convert("L"), float)
    fresh = _grey(drawn)
    assert kept.shape == fresh.shape
    assert (np.abs(kept - fresh) > 64).mean() < 0.002, f"{path} is not of this evidence: make gallery"


def _grey(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L"), float)


def test_a_picture_of_other_evidence_is_noticed():
    evidence = run().entries["cg_rate"].evidence
    moved = _grey(picture("cg_rate", evidence | {"ratio": evidence["ratio"] ** 1.2}))
    with Image.open(ROOT / GALLERY / "cg_rate.png") as stored:
        assert (np.abs(moved - np.asarray(stored.convert("L"), float)) > 64).mean() > 0.002


def test_pages_are_those_that_are_written():
    assert (ROOT / PAGE).read_text() == gallery.main_page(), "make gallery"
    text = (ROOT / "README.md").read_text()
    assert readme(text) == text, "make gallery"


def test_every_picture_is_shown_and_leads_to_its_claim():
    page, front = (ROOT / PAGE).read_text(), (ROOT / "README.md").read_text()
    for name in FIGURES:
        assert (ROOT / GALLERY / f"{name}.png").is_file()
        assert f"(gallery/{name}.png)" in page
        assert f"(claims/{name}.md)" in page
    begin, end = (front.index(mark) for mark in MARKS)
    assert re.findall(r"\(docs/gallery/(\w+)\.png\)\]\(docs/claims/(\w+)\.md\)", front[begin:end]) == [
        (name, name) for name in SHOWN
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_every_panel_is_described(name):
    letters = "".join(re.findall(r"^- \*\*(.*)\*\*: .", gallery.panels(name), re.MULTILINE))
    for first, last in re.findall(r"([a-j])-([a-j])", letters):
        letters += "abcdefghij"["abcdefghij".index(first) : "abcdefghij".index(last)]
    assert set(letters) - set(", -") == set("abcdefghij"[: len(drawn(name, 6).axes)])


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="expected the marks"):
        readme("# A page\n")


def test_the_gallery_is_small():
    files = list((ROOT / GALLERY).rglob("*"))
    pictures = sum(path.stat().st_size for path in files if path.suffix == ".png")
    arrays = sum(path.stat().st_size for path in files if path.suffix == ".npz")
    assert pictures < 2 * MIB
    assert arrays < 3 * MIB
    for path in (ROOT / GALLERY).glob("*.png"):
        with Image.open(path) as image:
            assert image.width == FULL_WIDTH * gallery.DPI


def test_a_fresh_clone_is_redrawn_elsewhere_without_an_algorithm_and_to_the_same_bytes(
    no_algorithm, monkeypatch, tmp_path
):
    source, out, again = tmp_path / "gallery", tmp_path / "new" / "folder", tmp_path / "again"
    for folder in (source / "evidence", again):
        folder.mkdir(parents=True)
    for suffix in ("npz", "json"):
        path = Path("evidence", f"cg_rate.{suffix}")
        (source / path).write_bytes((ROOT / GALLERY / path).read_bytes())
    monkeypatch.setattr(sys, "argv", ["figures", str(source), "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        redraw()
    assert not stop.value.code
    assert [path.name for path in source.iterdir()] == ["evidence"]
    written = save(FIGURES["cg_rate"](run().entries["cg_rate"].evidence), again, "cg_rate")
    assert [path.suffix for path in written] == [".png", ".svg", ".pdf"]
    assert {path.name: path.read_bytes() for path in written} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }


@pytest.mark.parametrize("lack", ["a claim", "an outcome", "a run"])
def test_a_run_that_is_not_whole_or_does_not_hold_is_not_taken_over(lack, tmp_path):
    source, gallery_ = tmp_path / "run", tmp_path / "gallery"
    (source / "evidence").mkdir(parents=True)
    for path in (ROOT / GALLERY).rglob("*"):
        if path.suffix in (".json", ".npz"):
            (source / path.relative_to(ROOT / GALLERY)).write_bytes(path.read_bytes())
    if lack == "a claim":
        (source / "evidence" / "memory.json").unlink()
    elif lack == "a run":
        (source / "run.json").unlink()
    else:
        path = source / "evidence" / "memory.json"
        path.write_text(path.read_text().replace('"HOLDS"', '"VIOLATED"', 1))
    with pytest.raises(ValueError, match=r"memory|run\.json"):
        take_over(source, gallery_)
    assert not gallery_.exists()
