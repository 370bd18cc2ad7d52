"""Every tutorial and the README are run as they stand; what they say is printed is printed, what they draw is drawn."""

from __future__ import annotations

import re

import pytest

from tests.snippets import ROOT, apart, blocks, pictures, run_page, run_shell, shell_lines

README = ROOT / "README.md"
TUTORIALS = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.name != "index.md")

# Lines of the README that take minutes, or what a test machine does not have: their options are parsed, no more.
# What is long in them is run by the tests named.
LONG = {
    "python -m paper_checks cg_rate memory --scale paper --jobs 2": "minutes (test_main.py, two claims side by side)",
    "python -m paper_checks cg_rate memory --scale paper --resume": "goes on with the line before (test_battery.py)",
    "python -m paper_checks compare verdicts verdicts-cuda": "what the GPU leaves (test_compare.py)",
    "python -m paper_checks falsify lyapunov_decrease --budget 60": "a minute (test_falsify.py)",
    "python -m paper_checks --device cuda --out verdicts-cuda": "a GPU",
    "python -m paper_checks method_bias method_rates method_comparison": "minutes (`make verify`)",
    "python -m convergence train --data glyphs --method memory_reduced --iterations 250 --out runs/first": "minutes "
    "(test_commands.py, fewer iterations)",
    "python -m convergence evaluate runs/first --episodes 600": "what the training leaves",
    "python -m convergence watch runs/first": "what the training leaves",
    "python -m convergence train --data glyphs --batch 8 --memory 200MiB --out runs/small": "minutes (test_fitting.py)",
    "python -m paper_checks --memory 64MiB": "minutes (test_main.py, one claim)",
    "python -m convergence solve quadratic --batch 4 --iterations 20000 --probe-every 1000 --compile": "20 s of a "
    "compiler (test_compiled.py)",
}


def command(line: str) -> str:
    """A shell line without its comment."""
    return line.partition("  #")[0].rstrip()


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    run_page(page, tmp_path, monkeypatch)
    drawn = [picture for picture in pictures(page) if not (tmp_path / picture).is_file()]
    assert not drawn, f"the page shows {drawn}, which its code does not draw"


def test_the_readme_runs_and_its_examples_do_what_it_says(tmp_path, monkeypatch):
    lines = shell_lines(README)
    assert {command(line) for line in lines} >= LONG.keys()
    own, parts = run_page(
        README, tmp_path, monkeypatch, only_parsed=frozenset(line for line in lines if command(line) in LONG)
    )
    converged = own["result"].trace["grad_norm_sq"][-1]
    assert converged.shape == (2,)
    assert bool((converged < 1e-24).all())
    settled = parts["result"].trace["grad_norm_sq"][-1]
    assert settled.shape == (10,)
    assert 1e-3 < float(settled.median()) < 1


def test_the_index_names_every_tutorial():
    index = (ROOT / "docs" / "tutorials" / "index.md").read_text()
    assert sorted(re.findall(r"\]\((\w+)\.md\)", index)) == [page.stem for page in TUTORIALS]
    assert len(TUTORIALS) >= 4


def test_a_page_that_says_otherwise_fails(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nprint(1.25)\n```\n\n```text\n1.25\n```\n")
    run_page(page, tmp_path, monkeypatch)
    page.write_text(page.read_text().replace("\n1.25", "\n1.27"))
    with pytest.raises(AssertionError, match=r"page.md, line 8: expected 1.27, got 1.25"):
        run_page(page, tmp_path, monkeypatch)


def test_an_error_shows_the_line_of_the_page(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nfine = 1\nraise KeyError(fine)\n```\n")
    with pytest.raises(KeyError) as raised:
        run_page(page, tmp_path, monkeypatch)
    assert raised.traceback[-1].lineno == 4  # from 0
    assert [block.line for block in blocks(page)] == [4]


@pytest.mark.parametrize(
    "line",
    [
        "python -m convergence solve no-such-problem",
        "python -m paper_checks list  # exit status 1",
        "make nonsense",
        "torchrun --nproc-per-node=2 -m convergence solve quadratic --no-such-option 1",
        "rm -rf everything",
    ],
)
def test_a_shell_line_that_does_not_do_what_it_says_fails(monkeypatch, line):
    with pytest.raises(AssertionError, match="here"):
        run_shell(line, "here", monkeypatch)


@pytest.mark.parametrize("only_parsed", [False, True])
def test_a_line_that_is_only_parsed_runs_nothing(monkeypatch, capsys, tmp_path, only_parsed):
    monkeypatch.chdir(tmp_path)
    line = "python -m convergence solve quadratic --iterations 3 --out here.json  # three"
    run_shell(line, "here", monkeypatch, only_parsed=only_parsed)
    assert (tmp_path / "here.json").exists() != only_parsed


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a  b\nc", "a b c\n", True),
        ("a b", "a b c", False),
        ("a ... c", "a anything at all c", True),
        ("error 1.25e-03", "error 1.26e-03", True),
        ("error 1.25e-03", "error 1.27e-03", False),
        ("error 3.0e-16", "error 0.0e+00", True),
        ("error 3.0e-16", "error 1.0e-05", False),
        ("accuracy 0.6...", "accuracy 0.6613", True),
        ("accuracy 0.6...", "accuracy 0.5913", False),
        ("... step 40: 1.5", "step 30: 1.7 step 40: 1.5", True),
        ("12 steps of float64", "13 steps of float64", False),
        ("[ 1.9 -1.1]", "[ 1.9 -1.2]", True),
        ("[ 1.9 -1.1]", "[ 1.9 1.1]", False),
    ],
)
def test_what_is_printed_is_compared(expected, printed, same):
    assert (apart(expected, printed) == "") == same
