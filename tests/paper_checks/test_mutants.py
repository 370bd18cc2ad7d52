"""Every planted error is refuted, by the check that is there for it, which holds for the right algorithm.

Only the part of a claim's evidence that the check looks at is gathered; the rest is written down from its laws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest

from convergence import MemoryReduced
from paper_checks import (
    CLAIMS,
    algorithm_replay,
    batch_size_decay,
    cg_rate,
    cold_start_floor,
    complexity,
    deterministic_exact,
    hypergradient_error,
    planted,
)
from paper_checks.claim import Comparison, Evidence, Outcome, Setting
from tests.figures.evidence import make
from tests.paper_checks import mutants

Gather = Callable[[Setting], Evidence]

# check -> the claim, the part of its evidence, the quantity compared
CHECKS: dict[str, tuple[str, Gather, str]] = {
    "identity": ("hypergradient_error", hypergradient_error._identity, "d, exact identity"),
    "solved": ("hypergradient_error", hypergradient_error._bilinear, "d, cross derivative depending on theta"),
    "chebyshev": ("cg_rate", cg_rate.run, "energy-norm ratio on the Chebyshev spectrum"),
    "cold floor": ("cold_start_floor", cold_start_floor._over_lower_steps, "floor of |grad Phi|^2, K steps, exact v"),
    "counts": ("complexity", complexity._counts, "calls counted by the oracle = declared"),
    "evaluations": ("complexity", complexity._counts, "evaluations counted by heads = stated"),
} | {
    f"replay {family}": (
        "algorithm_replay",
        partial(algorithm_replay.replayed, family=family),
        f"phi_t replayed, {family.replace('_', ' ')}",
    )
    for family in algorithm_replay.FAMILIES
}
CHECKS["long replay"] = ("algorithm_replay", algorithm_replay.lasting, "phi_t replayed, long run")
WARM = partial(deterministic_exact._warm, kappas=(2.0,))
CHECKS |= {
    "exact": ("deterministic_exact", WARM, "final |grad Phi|^2"),
    "potential": ("deterministic_exact", WARM, "largest (V_{t+1} - V_t + beta/2 |grad Phi_t|^2) / V_t"),
}
CHECKS["exact heads"] = ("deterministic_exact", deterministic_exact._curved, "final |grad Phi|^2, logistic heads")
MOMENTS = partial(batch_size_decay._cells, batches=dict.fromkeys(batch_size_decay.SAMPLINGS, (1, 4)))
CHECKS |= {
    "moment": ("batch_size_decay", MOMENTS, "stationary E |grad Phi|^2"),
    "all tasks": ("batch_size_decay", MOMENTS, "|grad Phi|^2 with all tasks"),
    "hotelling": ("batch_size_decay", batch_size_decay._directions, "T^2 of the batch direction"),
    "spread": ("batch_size_decay", batch_size_decay._directions, "E |batch direction - grad Phi|^2"),
}

# The first twelve are those of docs/theory.md S9
CAUGHT = [
    (planted.FirstOrder, "identity", "missed"),
    (mutants.WrongSign, "identity", "missed"),
    (mutants.ColdPassedOffAsWarm, "exact", "exceeds the bound"),
    (mutants.OneCGStepFewer, "chebyshev", "missed"),
    (planted.OneLowerStepFewer, "cold floor", "missed"),
    (mutants.FirstTaskAlwaysIn, "hotelling", "beyond what a right mean exceeds"),
    (mutants.WithReplacement, "all tasks", "exceeds the bound"),
    (mutants.SumOfTasks, "identity", "missed"),
    (mutants.NoProxInCG, "identity", "missed"),
    (mutants.StaleV, "replay quadratic", "missed"),
    (planted.HiddenDecay, "moment", "misses the exact moment"),
    (mutants.SameTasks, "moment", "misses the exact moment"),
    # Found by other checks as well
    (mutants.SameTasks, "hotelling", "singular covariance"),
    (mutants.WithReplacement, "spread", "misses the exact moment"),
    (planted.OneLowerStepFewer, "counts", "missed"),
    # Hard to catch
    (mutants.LateHessian, "replay heads", "missed"),
    (planted.LateLastLine, "replay representation", "missed"),
    (mutants.LateUpperGradient, "identity", "missed"),
    (mutants.CrossDerivativeAtTheOrigin, "solved", "missed"),
    (mutants.WrongRow, "replay quadratic", "missed"),
    (mutants.StepOfTheSmoothness, "replay quadratic", "missed"),
    (mutants.RepeatedTaskTakesTwice, "replay quadratic", "missed"),
    (mutants.Momentum, "replay quadratic", "missed"),
    (mutants.UnevenWeights, "replay quadratic", "missed"),
    (mutants.SinglePrecisionV, "replay quadratic", "missed"),
    (planted.ColdDirection, "chebyshev", "missed"),
    (mutants.TasksOfTheFirstReplica, "replay quadratic", "missed"),
    (mutants.LastTaskNeverIn, "hotelling", "beyond what a right mean exceeds"),
    (mutants.LooseCG, "exact", "exceeds the bound"),
    (mutants.TiredStep, "long replay", "missed"),
    (mutants.ForgetsV, "potential", "exceeds the bound"),
    # Wrong in one kind of run only
    (mutants.SameTasksWithoutReplicas, "replay quadratic", "missed"),
    (mutants.PairsShareTasks, "replay quadratic", "missed"),
    (mutants.ColdThetaOnAllTasks, "replay quadratic", "missed"),
    (mutants.FirstTensorOnly, "replay two_tensors", "missed"),
    (mutants.MoreStepsWithoutClosedForms, "replay heads", "missed"),
    (mutants.MoreStepsWithoutClosedForms, "counts", "missed"),
    (mutants.UncountedStep, "evaluations", "missed"),
    (mutants.ColdVWithoutClosedForms, "exact heads", "exceeds the bound"),
    (mutants.BigBatchSkips, "replay quadratic", "missed"),
    (mutants.BigBatchSkips, "all tasks", "exceeds the bound"),
]
# What other checks do not see: why there is a check of iterates, on families that are not quadratic
UNSEEN = [
    (planted.HiddenDecay, "chebyshev"),  # right in v, which its state holds beside a count of iterations
    (mutants.StaleV, "exact"),
    (mutants.Momentum, "exact"),
    (mutants.UnevenWeights, "hotelling"),
    (mutants.LateHessian, "identity"),
    (mutants.LateHessian, "replay quadratic"),
    (planted.LateLastLine, "solved"),
    (planted.LateLastLine, "replay heads"),
    (mutants.RepeatedTaskTakesTwice, "hotelling"),
    (mutants.TiredStep, "exact"),
    (mutants.TiredStep, "replay quadratic"),
    (mutants.ForgetsV, "replay quadratic"),
    (mutants.LooseCG, "replay quadratic"),
    (mutants.WithReplacement, "hotelling"),
    (mutants.FirstTaskAlwaysIn, "exact"),
    (mutants.OneCGStepFewer, "moment"),
    (mutants.ColdPassedOffAsWarm, "moment"),
    (mutants.SameTasksWithoutReplicas, "hotelling"),
    (mutants.ColdThetaOnAllTasks, "exact"),
    (mutants.FirstTensorOnly, "replay heads"),
    (mutants.MoreStepsWithoutClosedForms, "exact heads"),
    (mutants.UncountedStep, "counts"),
    (mutants.UncountedStep, "replay heads"),
    (mutants.ColdVWithoutClosedForms, "replay heads"),
    (mutants.ColdVWithoutClosedForms, "potential"),
    (mutants.BigBatchSkips, "long replay"),
    (mutants.BigBatchSkips, "hotelling"),
]


@cache
def compared(method: type[MemoryReduced], check: str) -> Comparison:
    """The comparison of this check, on evidence gathered with this method."""
    claim, gather, quantity = CHECKS[check]
    evidence: dict[str, Any] = make(claim, 6) | gathered(method, gather)
    (found,) = (each for each in CLAIMS[claim].judge(evidence) if each.quantity == quantity)
    return found


@cache
def gathered(method: type[MemoryReduced], gather: Gather) -> Evidence:
    return gather(Setting(method=method))


@pytest.mark.parametrize("check", CHECKS)
def test_the_check_holds_for_the_right_algorithm(check):
    found = compared(MemoryReduced, check)
    assert found.outcome is Outcome.HOLDS, found.reason


@pytest.mark.parametrize(("mutant", "check", "reason"), CAUGHT)
def test_the_mutant_is_refuted_and_for_its_reason(mutant, check, reason):
    found = compared(mutant, check)
    assert found.outcome is Outcome.VIOLATED, found.reason
    assert reason in found.reason


@pytest.mark.battery
@pytest.mark.parametrize(("mutant", "check"), UNSEEN)
def test_the_mutant_passes_a_check_that_looks_elsewhere(mutant, check):
    found = compared(mutant, check)
    assert found.outcome is Outcome.HOLDS, found.reason


def test_every_mutant_there_is_is_refuted():
    own = {each for each in vars(mutants).values() if isinstance(each, type) and each.__module__ == mutants.__name__}
    named = {each for each in own if issubclass(each, MemoryReduced)} - {mutants.Resampled}
    assert named <= {mutant for mutant, *_ in CAUGHT}
