"""A right problem keeps the contract, and every mistake that a user can make in one is named."""

from __future__ import annotations

import pytest

from paper_checks.claim import Comparison, Outcome
from paper_checks.own_problem import contract
from tests.paper_checks.own_problem import problems
from tests.paper_checks.own_problem.problems import setting_of

DERIVATIVES = "derivatives by torch.func against differences of values"
CLOSED = "closed forms against torch.func on g and f alone"
CONSTANTS = "what is measured over the constant given"
IMPLICIT = "norm of d2g/dphi dtheta, so that there is an implicit part"
WRONG = [
    (problems.WrongGradient, CLOSED, "lower_gradient"),
    (problems.WrongHVP, CLOSED, "lower_hvp"),
    (problems.WrongSolution, CLOSED, "lower_solution"),
    (problems.WrongOptimum, CLOSED, "upper_solution"),
    (problems.WrongL, CONSTANTS, "L"),
    (problems.WrongMu, CONSTANTS, "1 / mu"),
    (problems.MixedTasks, "a batch against its single tasks", "g"),
    (problems.DetachedPhi, DERIVATIVES, "d2g/dphi dtheta, point"),
    (problems.DetachedTheta, DERIVATIVES, "grad_theta f, point"),
    (problems.IgnoresTheta, "norm of a derivative in theta, so that it is there", "f"),
    (problems.NotConvex, "least eigenvalue of d2g/dtheta2 over the largest", ""),
    (problems.SinglePrecision, "bits of a value of g and f in float64", "f"),
]


def judged(make, *, evidence=contract.run) -> dict[str, Comparison]:
    return {found.quantity: found for found in contract.judge(evidence(setting_of(make)))}


@pytest.mark.parametrize("make", [problems.Centre, problems.WithForms, problems.TwoTensors, problems.Endless])
def test_a_right_problem_keeps_it(make):
    for found in judged(make).values():
        assert found.outcome is Outcome.HOLDS, found


@pytest.mark.parametrize(("make", "quantity", "cell"), WRONG)
def test_a_wrong_problem_does_not_and_the_mistake_is_named(make, quantity, cell):
    found = judged(make)[quantity]
    assert found.outcome is Outcome.VIOLATED
    assert found.cell.startswith(cell)


def test_an_implicit_part_of_zero_is_said():
    found = judged(problems.OnlyUpper)
    assert found[IMPLICIT].outcome is Outcome.INCONCLUSIVE
    assert "is it detached" in found[IMPLICIT].reason
    assert all(each.outcome is Outcome.HOLDS for name, each in found.items() if name != IMPLICIT)


def test_the_control_is_caught_by_the_closed_form_and_by_the_constant():
    found = judged(problems.WithForms, evidence=contract.control)
    assert found[CLOSED].outcome is found[CONSTANTS].outcome is Outcome.VIOLATED
    assert found[CLOSED].measured == pytest.approx(1e-3, rel=1e-2)
    assert found[CONSTANTS].measured == pytest.approx(2, rel=1e-6)
    assert judged(problems.Centre, evidence=contract.control)[CLOSED].outcome is Outcome.VIOLATED
