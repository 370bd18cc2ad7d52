"""Some tasks of a problem are a problem like it: a pool of their own, under its name, started where one likes."""

from __future__ import annotations

import pytest
import torch

from paper_checks.claim import Setting
from paper_checks.own_problem.cost import affordable, seconds
from paper_checks.own_problem.some_tasks import SomeTasks, judged, points
from problems import Quadratic
from tests.paper_checks.own_problem.problems import Centre, Endless, setting_of


def test_they_are_the_first_of_a_pool_and_keep_their_name():
    some = SomeTasks.of(Centre(tasks=6), 4)
    assert (some.tasks, type(some).__name__) == (4, "Centre")
    pool = some.sample(None, torch.Generator())
    assert torch.equal(pool.train, Centre(tasks=6).data["train"][:4])
    assert torch.equal(some.select(torch.tensor([[3, 0]])).train, pool.train[[3, 0]][None])
    assert SomeTasks.of(some, 9).tasks == 4


def test_a_distribution_without_end_becomes_a_pool_that_the_seed_decides():
    first, again, other = (SomeTasks.of(Endless(), 3, seed=seed).data["m"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert SomeTasks.of(Endless(), 3).tasks == 3


def test_constants_of_the_mean_are_kept_for_the_whole_pool_alone():
    problem = Quadratic.random(tasks=4, p=2, q=3, kappa=5.0, seed=0)
    assert SomeTasks.of(problem, 4).constants == problem.constants
    part = SomeTasks.of(problem, 3).constants
    assert (part.L_Phi, part.sigma_sq, part.L) == (None, None, problem.constants.L)


def test_closed_optima_are_hidden_and_other_closed_forms_are_not():
    some = SomeTasks.of(Quadratic.random(tasks=4, p=2, q=3, kappa=5.0, seed=0), 4)
    assert some.has("lower_gradient")
    assert not any(some.has(name) for name in ("hypergradient", "value", "upper_solution", "sample"))


def test_a_lower_level_starts_where_it_is_told_to():
    some = SomeTasks.of(Centre(), 4)
    theta = torch.arange(12.0).view(4, 3)
    tasks = some.select(torch.tensor([2, 0]))
    assert torch.equal(some.started(theta).theta0({}, tasks), theta[[2, 0]])
    assert some.start is None


def test_points_are_functions_of_the_seed_in_double_precision():
    some = judged(setting_of(Centre), 4)
    first, again = points(some, 0, 2), points(some, 0, 2)
    assert all(torch.equal(a["centre"], b["centre"]) for a, b in zip(first, again, strict=True))
    assert first[0]["centre"].dtype == torch.float64
    assert not torch.equal(first[0]["centre"], first[1]["centre"])


def test_without_a_problem_there_is_nothing_to_judge():
    with pytest.raises(ValueError, match="expected a setting with a problem of one's own"):
        judged(Setting(), 4)


def test_the_cost_is_a_count_and_grows_with_what_is_done():
    x = torch.ones(300, 300)
    assert seconds(lambda: x @ x) == seconds(lambda: x @ x)
    assert seconds(lambda: x @ x @ x) == pytest.approx(2 * seconds(lambda: x @ x))
    assert seconds(lambda: x + x) < seconds(lambda: x @ x)
    assert affordable(1.0, 5.0, least=1, most=3) == 3
    assert affordable(1.0, 5.0, least=7, most=9) == 7
