"""The command line that solves one problem: methods with and without CG, exit statuses, the file it writes."""

import json
import re
import signal
import sys
from dataclasses import dataclass

import pytest

import convergence.__main__ as command
from convergence import ITDBiO
from convergence.budget import parse
from convergence.catalogue import METHODS
from problems import PROBLEMS, REAL_DATA, STOCHASTIC
from tests.convergence.methods.instances import declared_calls, has_lower_steps, meets
from tests.convergence.methods.instances import method as instance


def call(monkeypatch, capsys, *arguments):
    """Exit status, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["convergence", "solve", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        command.main()
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


@pytest.mark.parametrize("method", METHODS)
def test_every_registered_method_solves_a_problem(monkeypatch, capsys, tmp_path, method):
    made, out = instance(method, lower_steps=2), tmp_path / "result.json"
    makers = (PROBLEMS | STOCHASTIC).items()
    name, problem = next((n, make(0)) for n, make in makers if meets(made, make(0)) and make(0).constants.L_Phi)
    steps = ("--lower-steps", 2) if has_lower_steps(method) else ()
    code, printed, _ = call(monkeypatch, capsys, name, "--method", method, "--iterations", 3, *steps, "--out", out)
    assert code == 0
    assert f"{method} on {name}" in printed
    record = json.loads(out.read_text())
    assert record["iterations"] == len(record["trace"]["grad_norm_sq"]) == 3
    # both leave the step sizes out of it; lower gradients depend on K alone
    assert record["calls"]["lower_gradient"] == declared_calls(made, problem.tasks, 3)["lower_gradient"]


def test_a_problem_that_a_method_cannot_run_on_is_refused_in_a_sentence_that_names_both(monkeypatch, capsys):
    code, _, error = call(monkeypatch, capsys, "quadratic", "--method", "maml")
    assert code == 2
    assert re.fullmatch(r"error: expected a start theta_0 that depends on phi for MAML, got Quadratic, [^\n]*\n", error)


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


@pytest.mark.parametrize(
    ("options", "hvp"),
    [(("aid_bio", "--set", "cg_steps=1", "--set", "warm_start=false"), 1), (("imaml", "--set", "cg_steps=4"), 4)],
)
def test_any_field_of_a_method_may_be_set(monkeypatch, capsys, tmp_path, options, hvp):
    out = tmp_path / "result.json"
    arguments = ("quadratic-initialisation", "--iterations", 1, "--out", out, "--method", *options)
    code, _, _ = call(monkeypatch, capsys, *arguments)
    assert code == 0
    assert json.loads(out.read_text())["calls"]["hvp"] == 6 * hvp


def test_a_word_is_a_word(monkeypatch, capsys, tmp_path):
    out = tmp_path / "result.json"
    options = ("--iterations", 1, "--cg-steps", 2, "--set", "warm_start=theta", "--out", out)
    code, _, _ = call(monkeypatch, capsys, "quadratic", *options)
    assert code == 0
    assert json.loads(out.read_text())["calls"]["hvp"] == 8 * 2  # v is cold: no residual of a start


def test_probes_now_and_then(monkeypatch, capsys, tmp_path):
    out = tmp_path / "result.json"
    options = ("--iterations", 25, "--probe-every", 10, "--out", out)
    code, _, _ = call(monkeypatch, capsys, "quadratic", *options)
    written = json.loads(out.read_text())
    assert code == 0
    assert written["probed_at"] == [0, 10, 20]
    assert len(written["trace"]["grad_norm_sq"]) == 3


def test_a_result_that_cannot_be_written_is_printed(monkeypatch, capsys, tmp_path):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(command, "write_atomically", full)
    code, printed, said = call(monkeypatch, capsys, "quadratic", "--iterations", 2, "--out", tmp_path / "result.json")
    assert code == 2
    assert "No space left on device" in said
    assert json.loads(printed[printed.index("{") :])["iterations"] == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("radius=0.1", "error: expected no --set radius: itd_bio has .*lower_steps.*, and no radius\n"),
        ("lower_steps", "error: expected --set FIELD=VALUE, got 'lower_steps'\n"),
        ("lower_steps=many", "error: expected lower_steps an integer >= 0, got 'many'\n"),
    ],
)
def test_a_field_that_cannot_be_set_is_refused(monkeypatch, capsys, text, sentence):
    code, _, error = call(monkeypatch, capsys, "quadratic", "--method", "itd_bio", "--set", text)
    assert code == 2
    assert re.fullmatch(sentence, error)


def test_a_field_without_a_default_is_asked_for(monkeypatch, capsys):
    @dataclass(frozen=True, kw_only=True)
    class Radial(ITDBiO):
        radius: float

    monkeypatch.setitem(METHODS, "radial", Radial)
    code, _, error = call(monkeypatch, capsys, "quadratic", "--method", "radial")
    assert (code, error) == (2, "error: expected --set radius=VALUE, which radial needs, got none\n")
    code, _, _ = call(monkeypatch, capsys, "quadratic", "--method", "radial", "--set", "radius=1", "--iterations", 1)
    assert code == 0


def test_a_method_that_is_not_there_is_refused_with_the_names_of_those_that_are(monkeypatch, capsys):
    code, _, error = call(monkeypatch, capsys, "quadratic", "--method", "itd-bio")
    assert code == 2
    assert f"expected a method out of {', '.join(METHODS)}; got 'itd-bio': did you mean 'itd_bio'?" in error


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


# ---- memory


def test_a_memory_budget_cuts_the_run_and_says_how(monkeypatch, capsys, tmp_path):
    options = ("quadratic", "--iterations", 3, "--batch", 2, "--replicas", 6)
    code, _, refused = call(monkeypatch, capsys, *options, "--memory", "1kB")
    assert code == 2
    least = re.search(r"expected memory of at least (\S+) for one task of one replica at a time", refused)[1]
    found = {}
    for name, memory in {"cut": ("--memory", least), "whole": ()}.items():
        code, printed, _ = call(monkeypatch, capsys, *options, *memory, "--out", tmp_path / name)
        assert code == 0
        assert ("at a time" in printed) == (name == "cut")
        found[name] = json.loads((tmp_path / name).read_text())
    assert found["cut"]["chunks"]["replicas"] < found["whole"]["chunks"]["replicas"] == 6
    assert found["cut"]["chunks"]["peak"] <= parse(least)
    for cut, whole in zip(found["cut"]["phi"]["phi"], found["whole"]["phi"]["phi"], strict=True):
        assert cut == pytest.approx(whole, rel=1e-12)


def test_a_run_that_is_kept_goes_on(monkeypatch, capsys, tmp_path):
    kept, outs = tmp_path / "kept", [tmp_path / name for name in ("whole.json", "resumed.json")]
    asked = ("quadratic", "--batch", 4)
    assert call(monkeypatch, capsys, *asked, "--iterations", 9, "--out", outs[0])[0] == 0
    keep = ("--keep", kept, "--keep-every", 2)
    assert call(monkeypatch, capsys, *asked, "--iterations", 5, *keep)[0] == 0
    code, _, error = call(monkeypatch, capsys, *asked, "--iterations", 9, *keep)
    assert code == 2
    assert "expected a folder without a run, or resume" in error
    assert call(monkeypatch, capsys, *asked, "--iterations", 9, *keep, "--resume", "--out", outs[1])[0] == 0
    whole, resumed = (json.loads(out.read_text()) for out in outs)
    for name in ("phi", "calls", "iterations", "status"):
        assert resumed[name] == whole[name]
    assert resumed["trace"]["grad_norm_sq"] == whole["trace"]["grad_norm_sq"]


def test_a_signal_ends_a_run_that_is_kept_when_it_is_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command.Interrupts, "received", signal.SIGTERM, raising=False)
    monkeypatch.setattr(command.Interrupts, "__init__", lambda self: setattr(self, "_before", {}))
    keep = ("--keep", tmp_path, "--keep-every", 3)
    code, printed, _ = call(monkeypatch, capsys, "quadratic", "--iterations", 9, *keep)
    assert code == 128 + signal.SIGTERM
    assert re.search(r"upper iterations\s+│ 3 ", printed)
    assert (tmp_path / "run.pt").is_file()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--resume",), "expected --keep, the folder of the run to --resume, got none"),
        (("--keep", "KEPT", "--resume"), "expected a checkpoint .*run.pt, got no such file"),
        (("--keep", "KEPT", "--replicas", 2), "expected no replicas with a run that is kept, got 2"),
        (("--keep", "KEPT", "--keep-every", 0), "expected --keep-every an integer >= 1, got 0"),
        (("--keep", "KEPT", "--method", "soba"), "got SOBA"),
        (("--rank-timeout", 0), "expected --rank-timeout a finite number > 0, got 0.0"),
    ],
)
def test_what_cannot_be_kept_is_refused(monkeypatch, capsys, tmp_path, options, sentence):
    named = [str(tmp_path / "kept") if option == "KEPT" else option for option in options]
    code, _, error = call(monkeypatch, capsys, "quadratic", "--iterations", 2, *named)
    assert code == 2
    assert re.search(sentence, error)


OWN = "tests.paper_checks.own"


def test_a_problem_and_a_method_of_one_s_own_are_solved_by_name(monkeypatch, capsys, tmp_path):
    out = tmp_path / "result.json"
    options = ("--upper-step-size", 0.5, "--lower-step-size", 0.5, "--iterations", 60, "--out", out)
    code, printed, error = call(monkeypatch, capsys, f"{OWN}:Means", "--method", f"{OWN}:Mine", *options)
    assert code == 0, error
    assert f"{OWN}:Mine on {OWN}:Means" in printed
    assert json.loads(out.read_text())["trace"]["grad_norm_sq"][-1] < 1e-20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((f"{OWN}:Mean",), "did you mean 'Means'"),
        (("quadratic", "--method", f"{OWN}:Means"), "expected a method with start, step, declared_calls"),
        (("no_such:Thing",), "there is no module 'no_such'"),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(monkeypatch, capsys, arguments, sentence):
    code, _, error = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert sentence in error
