"""Two runs side by side: what is noise, what is rounding, what is neither, and what cannot be compared."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

import paper_checks.__main__ as command
from paper_checks import Outcome, Setting, Verdict, evidence
from paper_checks.claim import Comparison
from paper_checks.compare import OTHER, array_changes, change, compare, page

HOLDS, VIOLATED = Outcome.HOLDS, Outcome.VIOLATED
MEAN = Comparison("mean", 1.0, "= within 4 standard errors", 1.0, HOLDS, "attained", (0.9, 1.1))
IDENTITY = Comparison("d", 2.0, "= within 1e-10 relative", 2.0, HOLDS, "attained", cell="kappa 10")
BOUND = Comparison("ratio", 0.5, "<=", 1.0, HOLDS, "consistent", cell="kappa 10")
COUNT = Comparison("bytes", 4096.0, "=", 4096.0, HOLDS, "attained")


def moved(comparison, by, **changes):
    interval = comparison.interval and tuple(end + by for end in comparison.interval)
    return replace(comparison, measured=comparison.measured + by, interval=interval, **changes)


@pytest.mark.parametrize(
    ("first", "second", "beyond"),
    [
        (MEAN, moved(MEAN, 0.14), False),  # sqrt(2) half-widths of 0.1
        (MEAN, moved(MEAN, 0.15), True),
        (MEAN, replace(MEAN, measured=1.12, interval=(1.1199, 1.1201)), True),
        (IDENTITY, moved(IDENTITY, 3e-10), False),
        (IDENTITY, moved(IDENTITY, 5e-10), True),
        (IDENTITY, moved(IDENTITY, 1.0, predicted=3.0, cell="kappa 100"), False),
        (moved(IDENTITY, -1.0, outcome=VIOLATED), moved(IDENTITY, 4999.0, outcome=VIOLATED, cell="kappa 9"), True),
        (moved(IDENTITY, 1.0, outcome=VIOLATED), replace(IDENTITY, measured=9.0, predicted=8.0, cell="kappa 9"), True),
        (moved(IDENTITY, 1.0, outcome=VIOLATED), moved(IDENTITY, -1.0, outcome=VIOLATED, cell="kappa 9"), False),
        (BOUND, moved(BOUND, 0.5, predicted=1.5, cell="kappa 9"), False),  # as far below its bound
        (BOUND, moved(BOUND, 0.4, cell="kappa 9"), True),
        (replace(MEAN, interval=(-math.inf, math.inf)), replace(MEAN, interval=(-math.inf, math.inf)), False),
        (replace(MEAN, interval=(-math.inf, math.inf)), moved(MEAN, 0.1), False),
        (BOUND, moved(BOUND, 9e-7), False),
        (BOUND, moved(BOUND, 2e-6), True),
        (COUNT, COUNT, False),
        (COUNT, moved(COUNT, 1.0, predicted=4097.0), True),
        (BOUND, moved(BOUND, float("nan")), True),
        (BOUND, None, True),
        (None, BOUND, True),
        (MEAN, replace(MEAN, outcome=Outcome.INCONCLUSIVE), True),
    ],
)
def test_what_is_more_than_noise_between_runs_of_the_same_instances(first, second, beyond):
    assert change(first, second, same=True).beyond is beyond


def test_another_seed_has_other_instances_where_only_intervals_and_outcomes_tell():
    assert change(IDENTITY, moved(IDENTITY, 1.0), same=False) == change(IDENTITY, moved(IDENTITY, 1.0), same=False)
    assert change(IDENTITY, moved(IDENTITY, 1.0), same=False).said == OTHER
    assert not change(IDENTITY, moved(IDENTITY, 1.0), same=False).beyond
    assert not change(BOUND, moved(BOUND, 0.3), same=False).beyond
    assert change(BOUND, moved(BOUND, 0.6, outcome=VIOLATED), same=False).beyond
    # Means are held against what their own instances predict
    assert not change(MEAN, moved(MEAN, 5.0, predicted=6.0), same=False).beyond
    assert change(MEAN, moved(MEAN, 5.0, predicted=5.0), same=False).beyond


def test_the_words_say_by_how_much():
    assert "1.06 of both half-widths together" in change(MEAN, moved(MEAN, 0.15), same=True).said
    assert "the intervals overlap" in change(MEAN, moved(MEAN, 0.15), same=True).said
    assert "do not overlap" in change(MEAN, moved(MEAN, 0.5), same=True).said
    assert change(BOUND, BOUND, same=True).said == "the same"
    assert "HOLDS, then VIOLATED" in change(BOUND, moved(BOUND, 0.6, outcome=VIOLATED), same=True).said


def test_arrays_differ_by_their_largest_difference_over_the_largest_number():
    first = {"x": np.array([1.0, 4.0, np.nan]), "names": np.array(["a"]), "run_seconds": np.ones(2)}
    assert list(array_changes(first, {**first, "run_seconds": np.zeros(2)}, same=True)) == []
    (found,) = array_changes(first, first | {"x": np.array([1.0, 4.0 + 2e-6, np.nan])}, same=True)
    assert found.largest == pytest.approx(5e-7, rel=1e-5)
    assert not found.beyond
    (found,) = array_changes(first, first | {"x": np.array([1.0, 4.1, np.nan])}, same=True)
    assert found.beyond
    assert not next(array_changes(first, first | {"x": np.array([1.0, 9.0, np.nan])}, same=False)).beyond
    for other in (np.array([1.0, 4.0, 0.0]), np.array([1.0]), np.array([1.0, 4.0, np.inf])):
        assert next(array_changes(first, first | {"x": other}, same=True)).beyond
    assert next(array_changes(first, first | {"names": np.array(["b"])}, same=True)).beyond
    assert {each.name for each in array_changes(first, {"x": first["x"], "more": np.ones(1)}, same=True)} == {
        "names",
        "more",
    }


def stored(folder, *comparisons, setting=None, control=(BOUND,), name="cg_rate", x=1.0):
    """A run of one claim, as paper_checks writes it."""
    setting = setting or Setting()
    (folder / "evidence").mkdir(parents=True)
    asked = evidence.asked_for(setting)
    evidence.begin(folder, [name], asked)
    verdict = Verdict(name, comparisons, control, 1.0, setting)
    arrays = {"x": np.array([x, 2.0])}
    evidence.write_arrays(folder, name, arrays)
    evidence.write_json(folder, verdict, arrays, asked=asked)
    return folder


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["paper_checks", "compare", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as end:
        command.main()
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


CAUGHT = (replace(BOUND, outcome=VIOLATED),)


def test_the_same_run_twice_is_the_same(monkeypatch, capsys, tmp_path):
    first, second = (stored(tmp_path / name, IDENTITY, MEAN, control=CAUGHT) for name in "ab")
    code, out, _ = call(monkeypatch, capsys, first, second)
    assert code == 0
    assert "1 the same bit for bit, 0 within noise, 0 beyond noise\n" in out


def test_rounding_is_said_and_is_no_difference(monkeypatch, capsys, tmp_path):
    first = stored(tmp_path / "a", IDENTITY, control=CAUGHT)
    second = stored(tmp_path / "b", moved(IDENTITY, 1e-12), control=CAUGHT, x=1 + 1e-12)
    code, out, _ = call(monkeypatch, capsys, first, second)
    assert code == 0
    assert "rounding" in out
    assert "array x" in out
    assert "0 the same bit for bit, 1 within noise" in out


@pytest.mark.parametrize(
    ("comparison", "options"),
    [
        (moved(IDENTITY, 1e-3), {}),
        (replace(IDENTITY, outcome=VIOLATED), {}),
        (IDENTITY, {"control": (BOUND,)}),  # not caught any more
        (IDENTITY, {"x": 1.1}),
        (IDENTITY, {"name": "memory"}),
    ],
    ids=["number", "outcome", "control", "evidence", "claim"],
)
def test_what_is_beyond_noise_makes_exit_status_1(monkeypatch, capsys, tmp_path, comparison, options):
    first = stored(tmp_path / "a", IDENTITY, control=CAUGHT)
    second = stored(tmp_path / "b", comparison, **{"control": CAUGHT} | options)
    assert call(monkeypatch, capsys, first, second)[0] == 1


def test_settings_that_differ_are_named_and_a_page_is_written(monkeypatch, capsys, tmp_path):
    first = stored(tmp_path / "a", IDENTITY, MEAN, control=CAUGHT)
    second = stored(tmp_path / "b", moved(IDENTITY, 1.0), MEAN, control=CAUGHT, setting=Setting(seed=1), x=3.0)
    code, out, _ = call(monkeypatch, capsys, first, second, "--out", tmp_path / "compare.html")
    assert code == 0
    assert "seed: 0, then 1" in out
    assert "1 numbers, 1 arrays" in out
    said = "0 the same bit for bit, 0 within noise, 0 beyond noise, 1 of other instances"
    assert f"{said}: outcomes alone compared (all the same)" in out
    page = (tmp_path / "compare.html").read_text()
    assert "<td>seed</td>" in page
    assert OTHER in page
    found = compare(evidence.load_run(first), evidence.load_run(second))
    assert found.settings == {"seed": ("0", "1")}
    assert not found.claims[0].compared
    assert 'class="INCONCLUSIVE"><b>1</b>' in page
    assert 'data-outcome="INCONCLUSIVE"' in page


@pytest.mark.parametrize(("by", "code", "said"), [(0.05, 0, "1 within noise"), (0.5, 1, "1 beyond noise (cg_rate)")])
def test_numbers_with_intervals_are_compared_across_seeds(monkeypatch, capsys, tmp_path, by, code, said):
    first = stored(tmp_path / "a", IDENTITY, MEAN, control=CAUGHT)
    moved_both = (moved(IDENTITY, 1.0), moved(MEAN, by))
    second = stored(tmp_path / "b", *moved_both, control=CAUGHT, setting=Setting(seed=1), x=3.0)
    found, out, _ = call(monkeypatch, capsys, first, second)
    assert found == code
    assert said in out
    assert "all the same" not in out
    assert "1 numbers, 1 arrays" in out


def test_names_of_somebody_else_are_printed_as_they_are(monkeypatch, capsys, tmp_path):
    """[/x] is no markup of Rich, <script> none of the page."""
    name = "<script>x[/x]:smile:"
    first, second = tmp_path / "a[/x]", tmp_path / "b[/x]"
    strange = replace(IDENTITY, quantity=name, cell=name, reason=name)
    for folder, by, method in ((first, 0.0, "a"), (second, 1.0, name)):
        stored(folder, moved(strange, by), control=CAUGHT)
        asked = evidence.asked_for(Setting()) | {"method": method, name: method}
        arrays = {name: np.full(1, by)}
        verdict = Verdict("cg_rate", (moved(strange, by),), CAUGHT, 1.0, Setting(), failure=method)
        evidence.begin(folder, ["cg_rate"], asked)
        evidence.write_arrays(folder, "cg_rate", arrays)
        evidence.write_json(folder, verdict, arrays, asked=asked)
    file = first / "x[red].html"
    found = compare(evidence.load_run(first), evidence.load_run(second))
    file.write_text(page(found))
    code, out, err = call(monkeypatch, capsys, first, second, "--out", file)
    assert (code, err) == (0, "")
    assert f"{name}: a, then {name}" in out
    assert str(file) in out
    assert "<script>x" not in file.read_text()
    assert "&lt;script&gt;x" in file.read_text()


def test_a_folder_without_a_run_is_wrong_usage(monkeypatch, capsys, tmp_path):
    first = stored(tmp_path / "a", IDENTITY)
    code, _, err = call(monkeypatch, capsys, first, tmp_path / "none")
    assert code == 2
    assert "expected" in err
    assert err.count("\n") == 1
    (tmp_path / "file").write_text("")
    code, _, err = call(monkeypatch, capsys, first, first, "--out", tmp_path / "file" / "compare.html")
    assert code == 2
    assert "--out" in err
