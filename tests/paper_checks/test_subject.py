"""Methods and problems of one's own: found by name, judged by what applies, refused in a sentence."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from convergence import MemoryReduced
from convergence.imported import method_of
from convergence.methods import SOBA
from paper_checks import CLAIMS, Outcome, Setting, hypergradient_error, planted
from paper_checks.__main__ import main
from paper_checks.claim import equal
from paper_checks.subject import OwnProblem, applicable, lacks, methods_on
from tests.paper_checks import mutants, own
from tests.paper_checks.test_mutants import CAUGHT, CHECKS

OWN = "tests.paper_checks.own"


def judged(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["paper_checks", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize("name", ["algorithm_replay", "cg_rate", "hypergradient_error", "memory"])
def test_a_method_of_the_same_fields_is_judged_as_the_paper_s(name):
    assert lacks(CLAIMS[name], own.Mine) == ""


def test_what_a_method_lacks_is_said():
    assert lacks(CLAIMS["cg_rate"], SOBA) == (
        "expected a method with lower_steps, lower_step_size, cg_steps, upper_step_size, warm_start for cg_rate, "
        "got SOBA without lower_steps, cg_steps, warm_start"
    )
    assert lacks(CLAIMS["itd_floor"], own.Mine) == "itd_floor judges ITD-BiO, and no method of one's own"
    assert lacks(CLAIMS["few_shot_accuracy"], own.Mine).endswith("got Mine without adapt")
    assert lacks(CLAIMS["method_rates"], own.Mine) == (
        "expected a method with declared for method_rates, got Mine without declared"
    )
    assert "got None of Undeclared" in lacks(CLAIMS["method_rates"], own.Undeclared)
    assert lacks(CLAIMS["method_rates"], SOBA) == ""


def test_claims_that_do_not_judge_a_method_are_set_apart_and_none_left_is_wrong_usage():
    chosen, apart = applicable(Setting(method=SOBA), ())
    assert [claim.name for claim in chosen] == ["method_bias", "method_rates", "method_comparison"]
    assert set(apart) == set(CLAIMS) - {claim.name for claim in chosen}
    with pytest.raises(ValueError, match="expected a claim that judges this, got none:\n  expected a method"):
        applicable(Setting(method=SOBA), ["cg_rate"])
    with pytest.raises(ValueError, match="did you mean 'cg_rate'"):
        applicable(Setting(method=SOBA), ["cg_rat"])


def test_a_method_by_name_takes_the_place_of_the_paper_s_or_stands_beside_it():
    assert methods_on(Setting(method=own.Mine))["memory_reduced"] is own.Mine
    assert methods_on(Setting(method=own.Shy))["Shy"] is own.Shy
    assert methods_on(Setting(method=own.Shy))["memory_reduced"] is MemoryReduced


@pytest.mark.parametrize("mutant", sorted({each.__name__ for each, *_ in CAUGHT if hasattr(mutants, each.__name__)}))
def test_every_mutant_comes_through_the_door_to_the_claim_that_refutes_it(mutant):
    make = method_of(f"{mutants.__name__}:{mutant}")
    assert make is getattr(mutants, mutant)
    checks = [check for caught, check, _ in CAUGHT if caught is make]
    assert checks
    assert all(lacks(CLAIMS[CHECKS[check][0]], make) == "" for check in checks)


@pytest.fixture
def quick(monkeypatch):
    """The claim hypergradient_error with its exact identity alone; its control: the cross term lost."""
    whole = CLAIMS["hypergradient_error"]

    def judge(evidence):
        return [equal("d", evidence["identity_measured"], evidence["identity_predicted"], relative=1e-10)]

    def control(setting):
        return hypergradient_error._identity(replace(setting, method=planted.FirstOrder))

    claim = replace(whole, run=hypergradient_error._identity, judge=judge, control=control)
    monkeypatch.setitem(CLAIMS, claim.name, claim)
    monkeypatch.setitem(sys.modules["paper_checks.output"].FIGURES, claim.name, lambda evidence: Figure())
    return claim.name


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("convergence:MemoryReduced", 0),
        (f"{OWN}:Mine", 0),
        (f"{OWN}:Backwards", 1),
        (f"{mutants.__name__}:WrongSign", 1),
        (f"{mutants.__name__}:LateUpperGradient", 1),
        (f"{OWN}:Broken", 3),
        (f"{OWN}:Leaves", 3),
        (f"{OWN}:Shy", 2),
    ],
)
def test_the_command_line_judges_a_method_of_one_s_own(monkeypatch, tmp_path, quick, method, status):
    assert judged(monkeypatch, quick, "--method", method, "--out", tmp_path) == status
    if status == 2:
        assert not (tmp_path / "verdicts.json").exists()
        return
    (record,) = json.loads((tmp_path / "verdicts.json").read_text())
    assert record["method"] in (method, "convergence.memory_reduced:MemoryReduced")
    assert record["control"] == "VIOLATED"
    assert (status == 3) == ("could not be judged: it raised " in record["reason"])


@pytest.mark.battery
@pytest.mark.parametrize(("mutant", "check"), [(mutant, check) for mutant, check, _ in CAUGHT])
def test_the_command_line_refutes_every_mutant(monkeypatch, tmp_path, mutant, check):
    method = f"{mutant.__module__}:{mutant.__name__}"
    assert judged(monkeypatch, CHECKS[check][0], "--method", method, "--out", tmp_path) == 1


def test_what_a_method_raises_leaves_the_claim_open_and_names_the_line(quick):
    verdict, _ = CLAIMS[quick].verdict(Setting(method=own.Broken))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.control_outcome is Outcome.VIOLATED  # the control is the paper's algorithm with its planted error
    assert re.search(r"could not be judged: it raised RuntimeError: .* at \w+\.py, line \d+", verdict.reason)


def test_a_problem_is_made_from_a_class_or_a_function_the_same_for_a_seed():
    problem = OwnProblem(f"{OWN}:Means", 3)()
    assert problem.data["centre"].dtype == torch.float64
    assert torch.equal(problem.data["centre"], own.Means(3).data["centre"].double())
    before = torch.random.get_rng_state()
    first, again = (OwnProblem(f"{OWN}:drawn", 3) for _ in range(2))
    assert torch.equal(first().data["centre"], again().data["centre"])
    assert first.sha256() == again.sha256() != OwnProblem(f"{OWN}:drawn", 4).sha256()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("own.py:Means", "expected a problem as MODULE:NAME"),
        (f"{OWN}:Mean", "did you mean 'Means'"),
        (f"{OWN}:OWN", "got no 'OWN' there"),
        (f"{OWN}:Mine", "to make a problem, got TypeError"),
        ("collections:Counter", "expected a problems.Problem from collections:Counter, got Counter"),
    ],
)
def test_what_is_no_problem_is_refused_in_a_sentence(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        OwnProblem(spec, 0)()
