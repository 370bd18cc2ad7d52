"""The command line: exit statuses, one-line errors, files that appear whole."""

import json
import re
import sys

import numpy as np
import pytest

import paper_checks.__main__ as command
from paper_checks import CLAIMS, Claim
from paper_checks.claim import SECTIONS, at_most
from paper_checks.report.mathematics import mathematics


def call(monkeypatch, capsys, *arguments):
    """Exit status, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["paper_checks", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        command.main()
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_list_names_every_claim(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "list")
    assert code == 0
    assert all(name in out for name in CLAIMS)


def test_a_run_writes_verdicts_report_figures_and_evidence(monkeypatch, capsys, tmp_path):
    out = tmp_path / "new[/x]:smile:" / "folder"  # what Rich takes for markup in names that are not its own
    code, said, _ = call(monkeypatch, capsys, "cg_rate", "--out", out, "--seed", 3)
    assert code == 0
    assert f"{out / 'report.html'}\n" in said
    (verdict,) = json.loads((out / "verdicts.json").read_text())
    assert verdict["claim"] == "cg_rate"
    assert verdict["outcome"] == "HOLDS"
    assert verdict["control"] == "VIOLATED"
    assert (verdict["scale"], verdict["device"], verdict["seed"]) == ("smoke", "cpu", 3)
    assert verdict["measured"] == pytest.approx(verdict["predicted"], rel=1e-6)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {
        "run.json",
        "progress.json",
        "verdicts.json",
        "report.html",
        "cg_rate.png",
        "cg_rate.svg",
        "cg_rate.pdf",
        "evidence/cg_rate.json",
        "evidence/cg_rate.npz",
    }


def test_the_report_is_one_page_that_needs_no_network(monkeypatch, capsys, tmp_path):
    call(monkeypatch, capsys, "cg_rate", "--out", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert mathematics(CLAIMS["cg_rate"].title, stacked=False) in page
    assert "python -m paper_checks cg_rate --scale smoke --seed 0 --device cpu" in page
    links = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"<script src|@import|url\((?!data:|%23)", page)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["cg_rat"], "did you mean 'cg_rate'?"),
        (["cg_rate", "--scale", "huge"], "huge"),
        (["cg_rate", "--seed", "-1"], "-1"),
        (["cg_rate", "--nonsense"], "--nonsense"),
        (["cg_rate", "--device", "abacus"], "abacus"),
        (["cg_rate", "--memory", "lots"], "lots"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(monkeypatch, capsys, tmp_path, arguments, expected):
    out = tmp_path / "out"
    code, _, err = call(monkeypatch, capsys, *arguments, "--out", out)
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not out.exists()


def test_a_gpu_that_is_not_there_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = call(monkeypatch, capsys, "cg_rate", "--device", "cuda", "--out", tmp_path / "out")
    assert code == 2
    assert "cuda" in err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file_is_refused_before_anything_runs(monkeypatch, capsys, tmp_path):
    (tmp_path / "taken").write_text("mine")
    code, _, err = call(monkeypatch, capsys, "cg_rate", "--out", tmp_path / "taken")
    assert code == 2
    assert "expected an output folder that can be written" in err
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("measured", "control", "status"),
    [(0.0, 2.0, 0), (2.0, 2.0, 1), (0.0, 0.0, 3)],
    ids=["holds", "violated", "control not caught"],
)
def test_the_exit_status_says_the_worst_outcome(monkeypatch, capsys, tmp_path, measured, control, status):
    from matplotlib.figure import Figure

    claim = Claim(
        "toy",
        "A toy",
        dict.fromkeys(SECTIONS, "text"),
        run=lambda setting: {"x": measured * _ones()},
        judge=lambda evidence: [at_most("x", evidence["x"], 1.0)],
        control=lambda setting: {"x": control * _ones()},
        planted="nothing",
    )
    monkeypatch.setitem(CLAIMS, "toy", claim)
    monkeypatch.setitem(sys.modules["paper_checks.output"].FIGURES, "toy", lambda evidence: Figure())
    code, out, _ = call(monkeypatch, capsys, "toy", "--out", tmp_path)
    assert code == status
    assert "toy" in out


def test_a_claim_that_breaks_is_neither_a_verdict_nor_wrong_usage(monkeypatch, capsys, tmp_path):
    def broken(setting):
        raise ValueError("log of nothing")

    claim = Claim("toy", "A toy", dict.fromkeys(SECTIONS, "text"), broken, lambda evidence: [], broken, "nothing")
    monkeypatch.setitem(CLAIMS, "toy", claim)
    code, _, err = call(monkeypatch, capsys, "cg_rate", "toy", "--out", tmp_path)
    assert code == 70
    assert "toy could not be judged: log of nothing" in err
    assert [v["claim"] for v in json.loads((tmp_path / "verdicts.json").read_text())] == ["cg_rate"]  # kept


def _ones():
    import numpy as np

    return np.ones(1)


def test_claims_judged_side_by_side_are_those_judged_one_by_one(monkeypatch, capsys, tmp_path):
    names = ("growing_lower_steps", "cg_rate")
    for jobs in (1, 2):
        code, out, _ = call(monkeypatch, capsys, *names, "--jobs", jobs, "--out", tmp_path / str(jobs))
        assert code == 0
        assert all(name in out for name in names)
    alone, beside = (json.loads((tmp_path / str(jobs) / "verdicts.json").read_text()) for jobs in (1, 2))
    assert [verdict["claim"] for verdict in beside] == list(names)
    for one, other in zip(alone, beside, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    for name in names:
        found = [np.load(tmp_path / str(jobs) / "evidence" / f"{name}.npz") for jobs in (1, 2)]
        assert all(np.array_equal(found[0][key], found[1][key]) for key in found[0].files)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_budget_holds_for_every_run_and_too_little_is_wrong_usage(monkeypatch, capsys, tmp_path, jobs):
    names = ("deterministic_exact", "cg_rate", "--jobs", jobs, "--out", tmp_path / "out")
    code, _, err = call(monkeypatch, capsys, *names, "--memory", "3kB")
    assert code == 2
    assert re.search(r"deterministic_exact: expected memory of at least \S+ for one task of one replica", err)


@pytest.mark.parametrize("jobs", ["0", "-1", "x"])
def test_jobs_are_at_least_one(monkeypatch, capsys, tmp_path, jobs):
    assert call(monkeypatch, capsys, "cg_rate", "--jobs", jobs, "--out", tmp_path / "out")[0] == 2
