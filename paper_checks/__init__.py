"""The paper's statements as claims: each is accepted or rejected by one command."""

from types import ModuleType

from paper_checks import (
    algorithm_replay,
    batch_size_decay,
    certificate,
    cg_rate,
    cold_start_floor,
    complexity,
    counterexamples,
    deterministic_exact,
    few_shot_accuracy,
    few_shot_assumption,
    few_shot_cost,
    growing_lower_steps,
    hypergradient_error,
    itd_floor,
    lyapunov_decrease,
    memory,
    method_bias,
    method_comparison,
    method_rates,
    representation,
    sample_complexity,
    stale_warm_start,
    stationary_moment,
    step_size_limit,
    sublinear_rate,
    sublinear_tail,
    worst_case_sdp,
)
from paper_checks.claim import Claim, Comparison, Evidence, Outcome, Setting, Verdict

# One line makes a module a claim; the order is that of the report.
MODULES: tuple[ModuleType, ...] = (
    algorithm_replay,
    hypergradient_error,
    certificate,
    cg_rate,
    lyapunov_decrease,
    deterministic_exact,
    representation,
    cold_start_floor,
    step_size_limit,
    itd_floor,
    growing_lower_steps,
    sublinear_rate,
    worst_case_sdp,
    sublinear_tail,
    batch_size_decay,
    stationary_moment,
    stale_warm_start,
    complexity,
    sample_complexity,
    memory,
    method_bias,
    method_rates,
    method_comparison,
    few_shot_cost,
    few_shot_assumption,
    few_shot_accuracy,
    counterexamples,
)
CLAIMS = {claim.name: claim for claim in map(Claim.of, MODULES)}

__all__ = ["CLAIMS", "Claim", "Comparison", "Evidence", "Outcome", "Setting", "Verdict"]
