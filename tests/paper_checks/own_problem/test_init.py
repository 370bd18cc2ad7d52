"""Every claim judges a problem of one's own, or says in a sentence why not."""

from __future__ import annotations

import pytest

from paper_checks import CLAIMS as GENERAL
from paper_checks.claim import SECTIONS, Outcome
from paper_checks.own_problem import CLAIMS, OTHERS, lacks
from problems import PROBLEMS, STOCHASTIC
from tests.paper_checks.own_problem import problems
from tests.paper_checks.own_problem.problems import Centre, setting_of

QUICK = ("cg_rate", "complexity", "memory", "batch_size_decay")
LACKING = [
    (problems.Endless, "batch_size_decay", "expected a finite pool of at least two tasks"),
    (Centre, "lyapunov_decrease", "expected constants mu, L, L_c, Lambda"),
    (lambda: Centre(tasks=1), "batch_size_decay", "at least two tasks"),
    (problems.IgnoresTheta, "cg_rate", "whose grad_theta f is zero"),
    (problems.OnlyUpper, "hypergradient_error", "the implicit part of grad Phi is zero"),
    (problems.OnlyUpper, "complexity", "the implicit part of grad Phi is zero"),
    (problems.OnlyUpper, "deterministic_exact", "the implicit part of grad Phi is zero"),
    (lambda: STOCHASTIC["quadratic-noisy"](0), "algorithm_replay", "expected exact objectives"),
]


def test_every_claim_there_is_judges_it_or_says_why_not():
    assert GENERAL.keys() <= CLAIMS.keys() | OTHERS.keys()
    assert not CLAIMS.keys() & OTHERS.keys()
    for name in OTHERS:
        assert lacks(name, Centre()) == f"{name} judges {OTHERS[name]}, and no problem of one's own"


@pytest.mark.parametrize("name", CLAIMS)
def test_the_claim_says_its_statement_hypotheses_and_what_would_refute_it(name):
    assert set(CLAIMS[name].sections) == set(SECTIONS)
    assert CLAIMS[name].planted


@pytest.mark.parametrize(("make", "name", "sentence"), LACKING)
def test_what_a_problem_lacks_is_said(make, name, sentence):
    problem = make()
    assert sentence in lacks(name, problem)
    assert type(problem).__name__ in lacks(name, problem)
    assert lacks("contract", problem) == ""


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_claim_holds_on_the_problem_of_the_readme_and_its_control_is_violated(name):
    verdict, _ = CLAIMS[name].verdict(setting_of(Centre))
    assert verdict.outcome is Outcome.HOLDS, verdict.reason
    assert verdict.control_outcome is Outcome.VIOLATED


@pytest.mark.battery
@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("problem", ["centre", "quadratic", "prox-logistic", "proximal", "two tensors"])
def test_every_claim_that_applies_holds_and_its_control_is_violated(problem, name):
    makes = {"centre": Centre, "two tensors": problems.TwoTensors}
    make = makes.get(problem, lambda: PROBLEMS[problem](0))
    if not lacks(name, make()):
        verdict, _ = CLAIMS[name].verdict(setting_of(make))
        assert verdict.outcome is Outcome.HOLDS, verdict.reason


def test_the_evidence_is_a_function_of_the_seed():
    first, again = (CLAIMS["cg_rate"].run(setting_of(Centre, seed=3)) for _ in range(2))
    assert all((first[key] == again[key]).all() for key in first)


@pytest.mark.parametrize("name", ["hypergradient_error", "batch_size_decay", "deterministic_exact"])
def test_a_lower_level_that_is_not_strongly_convex_is_violated_for_that_reason(name):
    verdict, _ = CLAIMS[name].verdict(setting_of(problems.NotConvex))
    assert verdict.outcome is Outcome.VIOLATED
    assert "strongly convex" in verdict.reason
