"""The common ground of the comparison: budgets, step sizes, what is metered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from convergence import FOMAML, SOBA, SRBA, ITDBiO, MemoryReduced, run
from convergence.oracle.parts import CALLS
from paper_checks.contest import Arena, Metered, declared, iterations_for, race, smallest, steepest, trial, tuned
from problems import Minibatch, ProxLogistic, Quadratic
from problems.base import Problem

CPU = "cpu"


def quadratic(seed: int = 0) -> Quadratic:
    return Quadratic.random(tasks=3, p=3, q=4, kappa=5.0, seed=seed)


def blocks() -> Problem:
    return Minibatch(ProxLogistic.random(tasks=2, q=3, examples=12), lower=3, upper=4)


def arena(problem: Problem, **more) -> Arena:
    given = {"lower_steps": 4, "steps_for_v": 2, "budget": 600, "points": 5, "scale": 0.2, "best": 0.0}
    return Arena("here", problem, **(given | more))


def test_a_method_gets_what_it_has_a_field_for_and_nothing_else():
    here = arena(quadratic(), step_size=0.1)
    assert here.build(MemoryReduced, 0.5) == MemoryReduced(
        lower_steps=4, lower_step_size=0.1, cg_steps=2, upper_step_size=0.1
    )
    assert here.build(SOBA, 0.5) == SOBA(lower_step_size=0.1, linear_step_size=0.1, upper_step_size=0.1)


def test_a_problem_without_what_a_method_needs_is_refused_in_a_sentence_with_both_names():
    here = arena(quadratic())
    assert here.refusal(MemoryReduced) == ""
    assert "FOMAML" in here.refusal(FOMAML)
    assert "Quadratic" in here.refusal(FOMAML)


def test_evaluations_are_metered_before_each_step_and_are_those_that_the_oracle_counts():
    metered = Metered(MemoryReduced(lower_steps=2, cg_steps=1, upper_step_size=0.1))
    result = run(blocks(), metered, iterations=4, replicas=2, probes=())
    # Two tasks: two lower gradients, two products and one cross product of 3 examples, one upper gradient of 4
    assert metered.spent == [0, 38, 76, 114]
    assert sum(result.examples.values()) == 4 * 38


def test_replicas_with_factors_are_runs_with_those_step_sizes():
    problem, factors = quadratic(), (0.25, 1.0, 2.0)
    made = [MemoryReduced(lower_steps=3, cg_steps=4, upper_step_size=0.1 * factor) for factor in factors]
    stepped = Metered(made[1], torch.tensor(factors, dtype=torch.float64))
    together = run(problem, stepped, iterations=6, replicas=3, seed=7, probes=())
    for r, method in enumerate(made):
        alone = run(problem, method, iterations=6, seed=7 + r, probes=())
        torch.testing.assert_close(together.phi["phi"][r], alone.phi["phi"], rtol=1e-12, atol=1e-13)


def test_calls_declared_iteration_by_iteration_are_added_up():
    method = SRBA(upper_step_size=0.01, period=3)
    found = race(arena(blocks(), points=2), method, 8, seed=0, replicas=2, device=CPU)
    assert found.declared == {name: found.result.calls[name] for name in CALLS}
    assert declared(method, 2, 8)["hvp"] == 2 * (3 + 5 * 2)  # three passes over the whole sums, five pairs of blocks


@pytest.mark.parametrize(("iterations", "looks", "last"), [(41, 5, 40), (40, 4, 30), (3, 3, 2), (2, 2, 1)])
def test_a_race_looks_at_its_last_iterate_at_no_more_points_than_asked(iterations, looks, last):
    method = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.1)
    found = race(arena(quadratic()), method, iterations, seed=0, replicas=2, device=CPU)
    assert len(found.evaluations) == len(found.traces["grad_norm_sq"]) == looks
    assert found.result.iterations == last + 1
    assert found.evaluations[-1] == last * 3 * 5  # of three tasks: K = 1, N + 1 = 2, one cross product, one gradient


def test_what_a_run_that_fails_would_show_is_as_far_off_as_can_be():
    method = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=1e9)
    found = race(arena(quadratic()), method, 401, seed=0, replicas=2, device=CPU)
    assert found.result.status.failed
    assert np.isinf(found.traces["grad_norm_sq"][-1]).all()


def test_the_budget_buys_iterations_of_the_cost_that_a_trial_measures():
    here = arena(quadratic())
    evaluations, seconds = trial(here, here.build(ITDBiO, 1.0), seed=0, device=CPU)
    assert evaluations == 3 * 13
    assert seconds > 0
    assert iterations_for(here, evaluations) == 15
    assert iterations_for(replace(here, budget=10), evaluations) == 2


def test_the_best_step_ends_lowest_and_one_at_which_a_run_fails_is_not_taken():
    here = arena(quadratic(), scale=1 / quadratic().constants.L_Phi, lower_steps=8, steps_for_v=4, points=4)
    place, squares = tuned(here, MemoryReduced, 60, (1e-3, 1.0, 1e6), seed=3, seeds=2, device=CPU)
    assert place == 1
    assert squares.shape[1:] == (3, 2)
    assert (squares[-1, 1] < 1e-3 * squares[-1, 0]).all()
    assert np.isinf(squares[-1, 2]).all()


def test_of_several_steps_that_arrive_the_first_to_arrive_is_taken():
    here = arena(quadratic(), scale=1 / quadratic().constants.L_Phi, lower_steps=20, steps_for_v=4)
    place, squares = tuned(here, MemoryReduced, 2000, (0.1, 1.0), seed=3, seeds=2, device=CPU)
    assert (squares[-1] < 1e-20).all()
    assert place == 1


def test_the_steepest_curvature_and_the_smallest_value_of_a_quadratic_are_its_own():
    problem = quadratic()
    phi = problem.phi0(torch.Generator().manual_seed(0))
    assert steepest(problem, phi) == pytest.approx(problem.constants.L_Phi, rel=1e-6)
    assert smallest(problem, phi) == pytest.approx(float(problem.value(problem.upper_solution())), abs=1e-13)


def test_one_number_and_several_tensors_have_a_curvature():
    one = Quadratic.random(tasks=2, p=1, q=2, kappa=3.0, seed=0)
    assert steepest(one, one.phi0(torch.Generator())) == pytest.approx(one.constants.L_Phi, rel=1e-6)
