"""A right problem passes; every planted error is found, in the rows that it touches and in no others."""

from __future__ import annotations

import math
import re

import pytest
import torch

from convergence import Agreement, Oracle, ReferenceFailed, check_gradient, reference
from problems import LARGE, PROBLEMS, ProxLogistic, Quadratic, Structured
from tests.strategies import normal
from tests.twins import Endless, Scalar, Twin, UserRidge

DERIVATIVES = ("lower_gradient", "lower_hvp", "upper_gradient", "surrogate_gradient")
SOLUTIONS = ("lower_solution", "value", "hypergradient")


def differing(found):
    return {(row.quantity, row.source) for row in found.comparisons if row.agreement is not Agreement.AGREES}


def quadratic():
    return Quadratic.random(tasks=3, p=2, q=3, kappa=5.0)


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(PROBLEMS["quadratic-initialisation"](0), id="closed-forms"),
        pytest.param(PROBLEMS["proximal"](0), id="proximal"),
        pytest.param(ProxLogistic.random(tasks=3, q=3, examples=8, prox=0.3), id="logistic"),
        pytest.param(Twin(quadratic()), id="bare"),
        pytest.param(UserRidge(), id="as-a-user-writes-it"),
        pytest.param(Endless(), id="without-end"),
    ],
)
def test_a_right_problem_passes(problem):
    found = check_gradient(problem, seed=1)
    assert found.passed
    assert found.order == pytest.approx(2, abs=0.1)
    assert max(row.difference for row in found.comparisons) < 1e-8  # and by far
    assert {row.quantity for row in found.comparisons} >= {"lower", "upper", *DERIVATIVES, "hypergradient"}


@pytest.mark.parametrize("form", [*DERIVATIVES, *SOLUTIONS])
def test_a_closed_form_that_is_off_by_1e_4_is_named_and_nothing_else_is(monkeypatch, form):
    problem = quadratic()
    right = getattr(Quadratic, form)

    def wrong(self, *arguments):
        found = right(self, *arguments)
        return {"phi": found["phi"] * (1 + 1e-4)} if isinstance(found, dict) else found * (1 + 1e-4)

    monkeypatch.setattr(Quadratic, form, wrong)
    found = check_gradient(problem)
    assert differing(found) == {(form, "closed form")}
    assert not found.passed


def test_a_wrong_inverse_of_the_hessian_is_named(monkeypatch):
    make = LARGE["structured-low-rank"]
    assert check_gradient(make(0)).passed
    right = Structured.lower_inverse_hvp
    monkeypatch.setattr(Structured, "lower_inverse_hvp", lambda self, *given: right(self, *given) * (1 + 1e-4))
    assert ("lower_inverse_hvp", "closed form") in differing(check_gradient(make(0)))


def test_a_gradient_of_ones_own_is_held_against_the_reference_and_against_differences():
    problem, phi = quadratic(), {"phi": normal(0, 2)}
    tasks = problem.sample(None, torch.Generator())
    exact = reference(problem, phi, tasks)
    z = Oracle(problem).embed(phi, tasks)
    flipped = Oracle(problem).hypergradient(z, exact.theta, -exact.v, tasks)  # the sign of the implicit term
    for own, right in ((exact.hypergradient, True), (flipped, False)):
        found = check_gradient(problem, phi, own=own)
        assert found.passed == right
        assert found.order == pytest.approx(2 if right else 1, abs=0.1)
        rows = [row for row in found.comparisons if row.source == "own"]
        assert [row.against for row in rows] == ["reference", "differences of Phi"]
        assert all((row.agreement is Agreement.AGREES) == right for row in rows)


def test_tasks_decide_what_the_mean_is_over():
    problem, phi = quadratic(), {"phi": normal(0, 2)}
    tasks = problem.sample(None, torch.Generator())[1:2]
    assert check_gradient(problem, phi, tasks=tasks, own=reference(problem, phi, tasks).hypergradient).passed
    assert not check_gradient(problem, phi, tasks=tasks, own=problem.hypergradient(phi)).passed


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_a_graph_that_is_cut_by_mistake_is_seen_by_differences_alone(level):
    problem = Scalar(
        lambda x, theta: (theta - (x.detach() if level == "lower" else x)).square() / 2,
        lambda x, theta: (theta - 2).square() / 2 + (x.detach() if level == "upper" else x).square(),
        start=0.7,
    )
    assert differing(check_gradient(problem)) == {("hypergradient", "reference")}


def test_objectives_that_mix_tasks_are_seen():
    base = quadratic()
    mixed = Twin(base, upper=lambda z, theta, tasks: base.upper(z, theta - 0.1 * theta.mean(-2, keepdim=True), tasks))
    assert differing(check_gradient(mixed)) >= {("upper", "all tasks"), ("upper_gradient", "autograd")}


def test_differences_too_coarse_to_tell_decide_nothing():
    # 1e12 leaves 1e-4 of theta^2, and over a step of 0.1 a slope of 1e-3 at best
    problem = Scalar(lambda x, theta: (theta - x).square() / 2, lambda x, theta: 1e12 + theta.square())
    found = check_gradient(problem)
    (row,) = [row for row in found.comparisons if row.against == "differences of Phi"]
    assert (row.agreement, found.passed) == (Agreement.UNDECIDED, False)


def test_where_phi_is_linear_along_the_line_there_is_no_order():
    found = check_gradient(Scalar(lambda x, theta: (theta - x).square() / 2, lambda x, theta: 3 * theta))
    assert found.passed
    assert found.order == math.inf
    assert "rounding" in str(found)


def test_printed_it_is_a_table():
    lines = str(check_gradient(Twin(quadratic()))).splitlines()
    assert re.split(r"  +", lines[0]) == ["quantity", "computed by", "held against", "difference", "allowed"]
    assert len(lines) == 9
    assert all(line.endswith("agrees") for line in lines[1:-1])


def test_what_does_not_fit_is_refused():
    problem = quadratic()
    with pytest.raises(ValueError, match=r"expected own with the names and shapes of phi, .*\(2,\).* got .*\(3,\)"):
        check_gradient(problem, own={"phi": torch.zeros(3)})
    with pytest.raises(ValueError, match="expected within a finite number > 0"):
        check_gradient(problem, within=0.0)

    def upper(z, theta, tasks):
        return theta.square().mean()

    with pytest.raises(ValueError, match=r"expected upper to return one value a task, shape \(3,\), got \(\)"):
        check_gradient(Twin(problem, upper=upper))
    with pytest.raises(ReferenceFailed, match="strongly convex"):
        check_gradient(Scalar(lambda x, theta: -(theta - x).square(), lambda x, theta: theta))
