"""One figure a claim, drawn from the claim's evidence alone: `python -m figures DIR` redraws them all."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from figures import (
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
from figures.style import Evidence

FIGURES: dict[str, Callable[[Evidence], Figure]] = {
    "algorithm_replay": algorithm_replay.draw,
    "hypergradient_error": hypergradient_error.draw,
    "certificate": certificate.draw,
    "cg_rate": cg_rate.draw,
    "lyapunov_decrease": lyapunov_decrease.draw,
    "deterministic_exact": deterministic_exact.draw,
    "representation": representation.draw,
    "cold_start_floor": cold_start_floor.draw,
    "step_size_limit": step_size_limit.draw,
    "itd_floor": itd_floor.draw,
    "growing_lower_steps": growing_lower_steps.draw,
    "sublinear_rate": sublinear_rate.draw,
    "worst_case_sdp": worst_case_sdp.draw,
    "sublinear_tail": sublinear_tail.draw,
    "batch_size_decay": batch_size_decay.draw,
    "stationary_moment": stationary_moment.draw,
    "stale_warm_start": stale_warm_start.draw,
    "complexity": complexity.draw,
    "sample_complexity": sample_complexity.draw,
    "memory": memory.draw,
    "method_bias": method_bias.draw,
    "method_rates": method_rates.draw,
    "method_comparison": method_comparison.draw,
    "few_shot_cost": few_shot_cost.draw,
    "few_shot_assumption": few_shot_assumption.draw,
    "few_shot_accuracy": few_shot_accuracy.draw,
    "counterexamples": counterexamples.draw,
}
