"""The command line that solves one problem: methods with and without CG, exit statuses, the file it writes."""

import json
import re
import sys

import pytest

import convergence.__main__ as command
from convergence.catalogue import METHODS
from problems import REAL_DATA


def call(monkeypatch, capsys, *arguments):
    """Exit status, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["convergence", "solve", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        command.main()
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


@pytest.mark.parametrize("method", METHODS)
def test_every_registered_method_solves_a_problem(monkeypatch, capsys, tmp_path, method):
    out = tmp_path / "result.json"
    options = ("quadratic", "--method", method, "--iterations", 3, "--lower-steps", 2, "--out", out)
    code, printed, _ = call(monkeypatch, capsys, *options)
    assert code == 0
    assert f"{method} on quadratic" in printed
    record = json.loads(out.read_text())
    assert record["iterations"] == len(record["trace"]["grad_norm_sq"]) == 3
    assert record["calls"]["lower_gradient"] == 3 * 2 * 8


@pytest.mark.parametrize(("options", "hvp"), [((), 6), (("--cg-steps", 2), 3), (("--cold", "--cg-steps", 2), 2)])
def test_cg_steps_and_cold_reach_the_method_that_has_them(monkeypatch, capsys, tmp_path, options, hvp):
    out = tmp_path / "result.json"
    code, _, _ = call(monkeypatch, capsys, "quadratic", "--iterations", 1, "--out", out, *options)
    assert code == 0
    assert json.loads(out.read_text())["calls"]["hvp"] == 8 * hvp


@pytest.mark.parametrize("option", [("--cg-steps", 3), ("--cold",)])
def test_an_option_that_a_method_does_not_have_is_refused(monkeypatch, capsys, option):
    code, _, error = call(monkeypatch, capsys, "quadratic", "--method", "itd_bio", *option)
    assert code == 2
    assert re.match(rf"error: expected no {option[0]}: itd_bio has .*lower_steps.*, and no \w+\n", error)


def test_a_method_that_is_not_there_is_refused_with_the_names_of_those_that_are(monkeypatch, capsys):
    code, _, error = call(monkeypatch, capsys, "quadratic", "--method", "itd-bio")
    assert code == 2
    assert "expected a method out of memory_reduced, itd_bio; got 'itd-bio': did you mean 'itd_bio'?" in error


def test_a_diverging_run_ends_with_1(monkeypatch, capsys):
    code, printed, _ = call(monkeypatch, capsys, "quadratic", "--upper-step-size", 1e6, "--iterations", 100)
    assert code == 1
    assert "NON_FINITE" in printed


def test_an_accuracy_decides_the_steps_of_each_iteration(monkeypatch, capsys, tmp_path):
    calls = []
    for accuracy in (0.9, 0.01):
        out = tmp_path / f"{accuracy}.json"
        options = ("--lower-steps", 1000, "--cg-steps", 100, "--iterations", 3, "--accuracy", accuracy, "--out", out)
        code, _, _ = call(monkeypatch, capsys, "quadratic", *options)
        assert code == 0
        calls.append(json.loads(out.read_text())["calls"]["lower_gradient"])
    assert 0 < calls[0] < calls[1] < 3 * 8 * 1000


def test_problems_on_real_data_are_solved_by_name_and_without_scikit_learn_the_extra_is_named(monkeypatch, capsys):
    options = ("--iterations", 3, "--upper-step-size", 1.0)
    for name in REAL_DATA:
        code, printed, _ = call(monkeypatch, capsys, name, *options)
        assert code == 0
        assert f"memory_reduced on {name}" in printed
    code, _, error = call(monkeypatch, capsys, "regularisation")
    assert (code, error) == (
        2,
        "error: expected --upper-step-size, since regularisation gives no L_Phi to choose it by\n",
    )
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in REAL_DATA:
        code, _, error = call(monkeypatch, capsys, name, *options)
        assert code == 2
        assert error.startswith("error: the data set")
        assert error.endswith("needs scikit-learn: install the extra data\n")
