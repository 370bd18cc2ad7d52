"""A wrong algorithm is shown up on a problem of one's own too, by the check that is there for it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from convergence import MemoryReduced
from paper_checks import planted
from paper_checks.algorithm_replay import Cell
from paper_checks.claim import Outcome
from paper_checks.own_problem import (
    algorithm_replay,
    batch_size_decay,
    cg_rate,
    complexity,
    hypergradient_error,
    memory,
)
from paper_checks.own_problem.some_tasks import judged
from problems import PROBLEMS
from tests.paper_checks import mutants
from tests.paper_checks.own_problem.problems import Centre, TwoTensors, WithForms, setting_of

CELLS = {
    "warm": Cell(True, False),
    "i.i.d.": Cell(True, True),
    "all": Cell(True, None, pool=5),
    "cold theta": Cell("theta", None),
    "more steps": Cell(True, False, 5, 3),
    "many": Cell(True, False, batch=9, pool=10),
}
MAKES = {
    "centre": Centre,
    "forms": WithForms,
    "bent": TwoTensors,
    "ten": lambda: Centre(tasks=10),
    "proximal": lambda: PROBLEMS["proximal"](0),
}
REPLAYED = [
    (mutants.WrongSign, "centre", "warm"),
    (mutants.SumOfTasks, "centre", "all"),
    (mutants.StaleV, "centre", "warm"),
    (mutants.CrossDerivativeAtTheOrigin, "bent", "warm"),
    (mutants.UnevenWeights, "centre", "warm"),
    (mutants.BigBatchSkips, "ten", "many"),
    (mutants.Momentum, "centre", "warm"),
    (mutants.FirstTensorOnly, "bent", "warm"),
    (mutants.StepOfTheSmoothness, "forms", "warm"),
    (mutants.MoreStepsWithoutClosedForms, "centre", "more steps"),
    (mutants.RepeatedTaskTakesTwice, "centre", "i.i.d."),
    (mutants.OneCGStepFewer, "centre", "warm"),
    (mutants.NoProxInCG, "proximal", "warm"),
    (mutants.LateHessian, "bent", "warm"),
    (mutants.LateUpperGradient, "centre", "warm"),
    (mutants.ColdPassedOffAsWarm, "centre", "warm"),
    (mutants.ColdVWithoutClosedForms, "bent", "all"),
    (mutants.ColdThetaOnAllTasks, "centre", "cold theta"),
    (mutants.SinglePrecisionV, "bent", "warm"),
    (mutants.WrongRow, "centre", "warm"),
    (mutants.FirstTaskAlwaysIn, "centre", "warm"),
    (mutants.LastTaskNeverIn, "centre", "warm"),
    (mutants.WithReplacement, "centre", "warm"),
    (mutants.SameTasks, "centre", "warm"),
    (mutants.TasksOfTheFirstReplica, "centre", "warm"),
    (mutants.PairsShareTasks, "centre", "warm"),
    (mutants.SameTasksWithoutReplicas, "centre", "warm"),
    (planted.FirstOrder, "centre", "warm"),
    (planted.OneLowerStepFewer, "centre", "warm"),
    (planted.LateLastLine, "bent", "warm"),
]
BY_OTHERS = [
    (mutants.UncountedStep, complexity, "what the problem was asked for = what those calls need"),
    (planted.OneLowerStepFewer, complexity, "calls counted by the oracle = declared"),
    (mutants.OneCGStepFewer, cg_rate, "|v_N - v*|_H / |v_0 - v*|_H"),
    (mutants.FirstTaskAlwaysIn, batch_size_decay, "|mean of d_B over all batches - grad Phi| / (sigma + |grad Phi|)"),
    (mutants.SumOfTasks, batch_size_decay, "|mean of d_B over all batches - grad Phi| / (sigma + |grad Phi|)"),
    (mutants.SameTasks, batch_size_decay, "T^2 of the direction of batches of the stream"),
    (planted.KeptGraph, memory, "peak bytes for every K (N = 3)"),
    (mutants.LateUpperGradient, hypergradient_error, "|d - D(phi, theta_K, v_N)|"),
]
UNSEEN = {
    mutants.TiredStep: "from iteration 500 on",
    mutants.ForgetsV: "in every 50th iteration: made good by the ones after it",
    mutants.LooseCG: "to a relative residual of 1e-6, which few steps do not reach",
}


@cache
def law(make, cell):
    """The cell's sizes and its iterates as the lines of the algorithm give them; of no method."""
    setting = setting_of(MAKES[make])
    problem = judged(setting, CELLS[cell].pool)
    alpha = algorithm_replay.lower_step_size(setting, problem)
    beta, _ = algorithm_replay.upper_step_size(setting, problem, alpha)
    return problem, alpha, beta, algorithm_replay.law(0, problem, CELLS[cell], 10, alpha, beta)


def replayed(method, make, cell):
    problem, alpha, beta, right = law(make, cell)
    found = algorithm_replay.measured(setting_of(MAKES[make], method), problem, CELLS[cell], 10, alpha, beta)
    evidence = {
        "allowed": np.array(1e-10),
        "few_cells": np.array([cell]),
        "few_phi": found[None],
        "few_law": right[None],
    }
    (comparison,) = algorithm_replay.judge(evidence)
    return comparison


@pytest.mark.parametrize(("make", "cell"), sorted({(make, cell) for _, make, cell in REPLAYED}))
def test_the_replay_holds_for_the_right_algorithm(make, cell):
    found = replayed(MemoryReduced, make, cell)
    assert found.outcome is Outcome.HOLDS, found


@pytest.mark.parametrize(("mutant", "make", "cell"), REPLAYED)
def test_the_replay_refutes_the_mutant(mutant, make, cell):
    assert replayed(mutant, make, cell).outcome is Outcome.VIOLATED


@pytest.mark.parametrize(("mutant", "claim", "quantity"), BY_OTHERS)
def test_other_claims_refute_it_as_well(mutant, claim, quantity):
    found = {each.quantity: each for each in claim.judge(claim.run(setting_of(Centre, mutant)))}
    assert found[quantity].outcome is Outcome.VIOLATED


def test_every_mutant_is_refuted_or_has_a_reason_not_to_be():
    own = {each for each in vars(mutants).values() if isinstance(each, type) and each.__module__ == mutants.__name__}
    there = {each for each in own if issubclass(each, MemoryReduced)} - {mutants.Resampled}
    assert there - UNSEEN.keys() <= {mutant for mutant, *_ in (*REPLAYED, *BY_OTHERS)}
