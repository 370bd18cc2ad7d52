"""Every method converges at the rate that it declares, no slower, and where the instance allows it no faster.

Statement.
    With all tasks, exact objectives and constant steps, methods declared exact have min_{t<T} |grad Phi(phi_t)|^2 =
    O(1/T), and no better on the convex worst case; the others end at a floor. With stochastic objectives of fixed
    variance and the step sizes of their sources, the mean over t < T of E |grad Phi(phi_t)|^2 is O(T^-r), r as
    declared. On finite sums, variance reduction has r = 1 with constant steps, which leave SOBA at a floor.
Hypotheses.
    Worst case: Huber's function behind a lower level of kappa = 4, beta = 1 / (2 L_Phi). Floors: quadratic levels.
    Noise: strongly convex quadratics, all tasks share their second derivatives; additive Gaussian noise in
    grad_theta g, grad_theta f and grad_phi f, and batches of half the tasks. Finite sums: logistic heads in blocks.
Predicted.
    Worst case: for each T an instance whose gradients stay at the level g^2 = 2 L Delta / (2 h N + 1) for the T = N + 1
    iterates of gradient descent. Methods that estimate d along the way leave it at most a constant number of iterates
    later: slope -1 of log g^2 on log(2 h N + 1), N + 1 the iterates measured; constant 2 L Delta. Floors: slope 0, at
    |grad Phi|^2 of the point where the formula of d (S10) vanishes, or above it where d is drawn. Noise: a / (beta T)
    + c beta + ..., both T^-1/2 for beta = T^-1/2 / L_Phi (SOBA, STABLE, ALSET, BSA: attained); at least T^-2/5 for
    TTSA, T^-2/7 for F2SA. Finite sums: a summable series over T, slope -1.
Measured.
    Iterates at the level (up to 1e-9) of one run from each start; the mean over the second half of t < T; the mean
    over t < T of runs made for that T, one a seed, 40 seeds or more (finite sums: T within one run, 20 seeds).
    Intervals: whole seeds resampled, 99.99 %; for worst case and finite sums what a factor of 1.01 in the constant can
    change (horizons whose constant is further from that of the longest are dropped), beside that of the seeds.
Refuted by.
    An interval of the slope above -r: the method is slower than declared; where the rate is attained, an interval
    without any value between -r and the slope of T^-r / (1 - beta L_Phi / 2), the next term for exact hypergradients.
    One wider than +- 0.01 (worst case, finite sums), 0.04 (noise; smoke scale with its shorter runs: 0.1) or 0.2
    (floors of drawn directions) is INCONCLUSIVE. A constant of the worst case off 2 L Delta by 1 %, a floor off its
    law by 1e-6, SOBA on a finite sum less than 10^3 times above the others.
Source.
    docs/theory.md S10, S6; the theorems named in `rate_settings.SCHEDULES`; Dagréou et al. 2022 and 2024 (SABA, SRBA).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import root

from convergence import run as solve
from convergence.declared import Declared
from convergence.method import Method
from convergence.methods import SOBA
from convergence.needs import FINITE_SUM
from convergence.rates import Slope, log_log_slope
from paper_checks import method_laws as laws
from paper_checks.claim import (
    DECLARED,
    Comparison,
    Evidence,
    Setting,
    at_least,
    at_most,
    equal,
    missing,
    slope_at_most,
    slope_is,
)
from paper_checks.planted import HiddenDecay
from paper_checks.quadratic_theory import Array, QuadraticTheory
from paper_checks.rate_settings import OneTerm, Values, accepts, build, logistic_probe, schedule_of, settled_slope
from paper_checks.subject import methods_on
from problems import Huber, LearnedStart, Minibatch, Noisy, ProxLogistic, Quadratic

ASKS = (DECLARED,)
PLANTED = "upper step sizes that decay in secret"

Makes = Mapping[str, Callable[..., Method]]
FIELDS: Values = {"lower_steps": 2, "cg_steps": 2, "terms": 4, "multiplier": 10.0, "warm_start": True}
CONSTANT: Values = {"lower_decay": 0.0, "upper_decay": 0.0, "lower_growth": 0.0, "multiplier_growth": 0.0}
RELATIVE_STEP = 0.5  # beta L_Phi on the worst case
WITHIN = 0.01  # of the worst case's constant, and the half-width of its slope


def run(setting: Setting) -> Evidence:
    """Every method by name, where it can run."""
    methods = methods_on(setting)
    return {
        **_worst_case(setting, methods),
        **_floors(setting, methods),
        **_noise(setting, methods),
        **_finite_sums(setting, methods),
    }


def control(setting: Setting) -> Evidence:
    """The paper's method on the worst case and SOBA with noise, both with the planted error."""
    planted = replace(setting, method=HiddenDecay)
    return {**_worst_case(planted, {"memory_reduced": HiddenDecay}), **_noise(planted, {"soba": _DecayingSOBA})}


@dataclass(frozen=True, kw_only=True)
class _DecayingSOBA(SOBA):
    """Steps on phi that decay like t^-1/2 beside the T^-1/2 they are said to be."""

    upper_decay: float = 0.5


def judge(evidence: Evidence) -> list[Comparison]:
    """Slopes within their intervals, constants and floors as predicted."""
    parts = (("worst", _judge_worst_case), ("floor", _judge_floors), ("noisy", _judge_noise), ("sum", _judge_sums))
    return [each for part, judged in parts if f"{part}_names" in evidence for each in judged(evidence)]


def _declared(make: Any) -> Declared:
    """What the method of this name says of itself."""
    declared: Declared = make.declared
    return declared


def _of_sums(make: Callable[..., Any]) -> bool:
    """Whether it is a method for finite sums."""
    return FINITE_SUM in getattr(build(make, FIELDS), "needs", ())


# ---- the worst case


def _worst_case(setting: Setting, methods: Makes) -> Evidence:
    """For each method and T the iterates it stays at the level of the instance made for T.

    The instances are one function stretched, so one run with a start for each T has them all: gradients g = 1 there,
    and Delta grows with T in place of g falling at fixed Delta.
    """
    horizons = 2 ** np.arange(6, setting.pick(10, 14))
    options: Any = {"relative_step": RELATIVE_STEP, "kappa": setting.pick(2.0, 10.0), "dimension": 4, "coupled": True}
    problem = Huber(horizon=int(horizons[-1]), **options)
    starts = [Huber(horizon=int(T), **options).start for T in horizons]
    phi0 = {"phi": torch.stack(starts).to(setting.device)}
    values = FIELDS | CONSTANT | {"upper_step_size": problem.upper_step_size}
    names, found = [], []
    for name, make in setting.track(list(methods.items()), "methods on the worst case"):
        method = build(make, values)
        if not _declared(make).exact:
            continue
        instance = problem if accepts(method, problem) else OneTerm(problem)
        iterations = int(horizons[-1]) + 16
        trace = (
            solve(instance, method, iterations=iterations, replicas=len(starts), phi0=phi0, device=setting.device)
            .trace["grad_norm_sq"]
            .numpy()
        )
        left = trace < 1 - 1e-9
        names.append(name)
        found.append(np.where(left.any(0), left.argmax(0), np.inf))
    delta = np.array([float(problem.profile(start[0])) for start in starts])
    return {
        "worst_names": np.array(names),
        "worst_T": horizons,
        "worst_iterates": np.stack(found),
        "worst_level": 1 / (problem.smoothness * delta),
    }


def _judge_worst_case(e: Evidence) -> list[Comparison]:
    """The constant at the longest horizon, and the slope where the others are within 1 % of it."""
    comparisons = [
        at_most(
            "iterates at the level / T, all T",
            e["worst_iterates"][:, -1] / e["worst_T"][-1],
            1 + WITHIN,
            cells=e["worst_names"],
        )
    ]
    for name, iterates in zip(e["worst_names"], e["worst_iterates"], strict=True):
        if np.isfinite(iterates).all():
            x = 2 * RELATIVE_STEP * (iterates - 1) + 1
            slope = settled_slope(x, e["worst_level"], within=WITHIN)
            comparisons.append(slope_is(f"slope on the worst case, {name}", slope, -1.0, half_width=WITHIN))
            constant = x[-1] * e["worst_level"][-1] / 2
            comparisons.append(equal(f"constant / (2 L Delta), {name}", constant, 1.0, relative=WITHIN))
    return comparisons


# ---- floors


def _floors(setting: Setting, methods: Makes) -> Evidence:
    """|grad Phi|^2 over the second half of t < T, for methods declared to end elsewhere, and the law of the floor."""
    horizons = 2 ** np.arange(6, setting.pick(9, 12))
    options: Any = {"tasks": 3, "seed": setting.seed + 5}
    problems = (
        Quadratic.random(p=3, q=3, kappa=4.0, initialisation=True, **options),
        # A start that the lower steps soon forget would settle late
        LearnedStart(Quadratic.random(p=2, q=2, kappa=30.0, **options)),
    )
    names, means, floors, drawn = [], [], [], []
    for name, make in setting.track(list(methods.items()), "methods at their floors"):
        if _declared(make).exact:
            continue
        method, problem = None, None
        for problem in problems:
            theory = QuadraticTheory.of(problem)
            smoothness = float(np.linalg.eigvalsh(theory.upper_form[0])[-1])
            method = build(make, FIELDS | CONSTANT | {"upper_step_size": 0.8 / smoothness})
            if accepts(method, problem):
                break
        else:
            continue
        trace = (
            solve(problem, method, iterations=int(horizons[-1]), replicas=40, seed=setting.seed, device=setting.device)
            .trace["grad_norm_sq"]
            .numpy()
        )
        names.append(name)
        means.append([trace[T // 2 : T].mean(0) for T in horizons])
        floors.append(_floor(theory, method))
        drawn.append(_declared(make).estimates.startswith("sampled"))
    return {
        "floor_names": np.array(names),
        "floor_T": horizons,
        "floor_mean": np.array(means),
        "floor_law": np.array(floors),
        "floor_drawn": np.array(drawn),
    }


def _floor(theory: QuadraticTheory, method: Any) -> float:
    """|grad Phi|^2 where the formula of d vanishes (with CG it is not affine in phi)."""
    law = laws.LAWS[method.declared.estimates]
    near = np.linalg.lstsq(*theory.upper_form)[0]  # a learned start has no curvature
    found = root(lambda phi: law(theory, phi, method), near, tol=1e-13)
    return float(np.square(theory.gradient(found.x)).sum())


def _judge_floors(e: Evidence) -> list[Comparison]:
    """Slope 0, exactly at the law where nothing is drawn."""
    drawn, names = e["floor_drawn"], e["floor_names"]
    slopes = [_over_seeds(e["floor_T"], means) for means in e["floor_mean"]]
    share = e["floor_mean"][:, -1].mean(-1) / e["floor_law"]
    settled = np.array([slope.value for slope in slopes])[~drawn]
    comparisons = [
        equal("|grad Phi|^2 at the end / its floor", share[~drawn], 1.0, relative=1e-6, cells=names[~drawn]),
        equal("slope at the floor", settled, 0.0, absolute=WITHIN, cells=names[~drawn]),
    ]
    if drawn.any():
        of_drawn = "E |grad Phi|^2 / its floor, directions drawn"
        comparisons.append(at_least(of_drawn, share[drawn], 1.0, cells=names[drawn]))
    comparisons += [
        slope_is(f"slope at the floor, {names[k]}", slopes[k], 0.0, half_width=0.2) for k in np.flatnonzero(drawn)
    ]
    return comparisons


# ---- noise


def _noise(setting: Setting, methods: Makes) -> Evidence:
    """The mean over t < T of |grad Phi|^2, one a seed, of runs with the step sizes for that T."""
    horizons = 2 ** np.arange(*setting.pick((4, 8), (6, 12)))
    exact = Quadratic.random(
        tasks=4, p=2, q=2, kappa=2.0, upper_curvature=(1.0, 1.5), equal_hessians=True, seed=setting.seed + 3
    )
    problem = Noisy(exact, lower=0.5, upper=0.5, upper_phi=0.5)
    phi0 = {"phi": exact.upper_solution()["phi"] + 1}
    start = exact.hypergradient(phi0)["phi"].square().sum().numpy()
    names, means = [], []
    schedules = {name: found for name, make in methods.items() if (found := schedule_of(name, make))}
    for name, schedule in setting.track(list(schedules.items()), "methods with noise"):
        found = []
        for T in map(int, horizons):
            method = build(methods[name], schedule.values(T, exact.constants))
            result = solve(
                problem,
                method,
                iterations=T,
                batch=2,
                replicas=setting.pick(40, 64),
                seed=setting.seed,
                phi0=phi0,
                device=setting.device,
            )
            found.append(result.trace["grad_norm_sq"].mean(0).numpy())
        names.append(name)
        means.append(found)
    wanted = {name for name in methods if _declared(methods[name]).noisy_rate and not _of_sums(methods[name])}
    return {
        "noisy_names": np.array(names),
        "noisy_T": horizons,
        "noisy_start": start,
        "noisy_mean": np.array(means),
        "noisy_rate": np.array([_declared(methods[name]).noisy_rate for name in names]),
        "noisy_attained": np.array([schedules[name].attained for name in names]),
        "noisy_missing": np.array(sorted(wanted - set(names)), dtype=str),
        "noisy_half_width": np.array(setting.pick(0.1, 0.04)),
    }


def _judge_noise(e: Evidence) -> list[Comparison]:
    comparisons = []
    next_term = log_log_slope(e["noisy_T"], 1 / (1 - e["noisy_T"] ** -0.5 / 2)).value
    for k, name in enumerate(e["noisy_names"]):
        slope = _over_seeds(e["noisy_T"], e["noisy_mean"][k])
        rate, width = float(e["noisy_rate"][k]), float(e["noisy_half_width"])
        if e["noisy_attained"][k]:  # somewhere between the exponent and what the next term makes of it
            near = round(float(np.clip(slope.value, next_term - rate, -rate)), 4)
            comparisons.append(slope_is(f"slope with noise, {name}", slope, near, half_width=width))
        else:
            comparisons.append(slope_at_most(f"slope with noise, {name}", slope, -rate, half_width=width))
    comparisons += [
        missing(
            f"slope with noise, {name}",
            np.nan,
            "no step sizes: neither in rate_settings.SCHEDULES nor as its `schedule`",
        )
        for name in e["noisy_missing"]
    ]
    return comparisons


# ---- finite sums


def _finite_sums(setting: Setting, methods: Makes) -> Evidence:
    """The mean of |grad Phi|^2 over t < T, and over the second half of it, of one run a method with the same steps."""
    horizons = 2 ** np.arange(5, setting.pick(9, 13))
    whole = ProxLogistic.random(tasks=2, q=2, examples=8, regulariser=0.5, seed=setting.seed)
    problem = Minibatch(whole, lower=1, upper=1)
    values = CONSTANT | {"upper_step_size": 0.3, "lower_step_size": 0.3, "linear_step_size": 0.3, "period": 4}
    chosen = [(name, make) for name, make in methods.items() if name == "soba" or _of_sums(make)]
    means, late = [], []
    for _, make in setting.track(chosen, "methods for finite sums"):
        result = solve(
            problem,
            build(make, values),
            iterations=int(horizons[-1]),
            replicas=20,
            seed=setting.seed,
            probes=(logistic_probe(whole),),
            device=setting.device,
        )
        (trace,) = (found.numpy() for found in result.trace.values())
        means.append([trace[:T].mean(0) for T in horizons])
        late.append([trace[T // 2 : T].mean(0) for T in horizons])
        start = trace[0].mean()  # the same for all
    names = np.array([name for name, _ in chosen])
    return {
        "sum_names": names,
        "sum_T": horizons,
        "sum_mean": np.array(means),
        "sum_late": np.array(late),
        "sum_start": start,
    }


def _judge_sums(e: Evidence) -> list[Comparison]:
    """-1 with variance reduction; SOBA with the same steps ends far above."""
    late = e["sum_late"][:, -1].mean(-1)
    reduced = e["sum_names"] != "soba"
    comparisons = [
        at_least(
            "SOBA's |grad Phi|^2 / that of others at the end, same steps",
            late[~reduced] / late[reduced],
            1e3,
            cells=e["sum_names"][reduced],
        ),
    ]
    for name, means in zip(e["sum_names"][reduced], e["sum_mean"][reduced], strict=True):
        slope = settled_slope(e["sum_T"], means, within=WITHIN)
        comparisons.append(slope_is(f"slope on finite sums, {name}", slope, -1.0, half_width=WITHIN))
    return comparisons


def _over_seeds(horizons: Array, means: Array) -> Slope:
    """The slope over T of means (n, seeds), with the interval that a right one misses once in 10^4."""
    return log_log_slope(horizons, means, confidence=0.9999, resamples=20_000)
