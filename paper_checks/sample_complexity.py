"""O(1/eps) iterations on O(1/eps) tasks each: 1/eps^2 samples of i.i.d. tasks, of a pool of M only min(M, 1/eps)/eps.

Statement.
    With beta = 1 / L_Phi, T = ceil(6 L_Phi Delta / eps) and batches of b = ceil(3 sigma^2 / eps) i.i.d. tasks, or of
    b = ceil(M / (1 + (M - 1) eps / (3 sigma^2))) <= M of a pool of M without replacement, the average of
    E |grad Phi(phi_t)|^2 over t < T is at most eps. The orders are right: the smallest number of samples b T that does
    it grows like 1/eps^2, of a pool like 1/eps once eps < sigma^2 / M; and no fixed b reaches eps below its floor.
Hypotheses.
    Theorem 4 with sigma^2 constant in phi: all tasks share A, C, Q, R and differ in b, u, w. N = q; the lower level is
    warm and solved to 1e-6. L_Phi Delta = 3 sigma^2 at the start.
Predicted.
    Each third of eps pays for one term: 2 L_Phi Delta / T <= eps / 3, zeta_b sigma^2 <= eps / 3 (the last third would
    pay for a bias, which is none here), hence averages <= eps. Exactly, by the recursion of the second moment (4c): the
    averages, the first T at which an average is <= eps, the smallest b T over the batches run. The slopes of these on
    1/eps are 2 and 1 up to rounding T, b to integers and the noise's transient, of relative order 1/T: within 0.05.
Measured.
    For each b, eps as the rule has it and that T: the mean over seeds of |grad Phi|^2, its average over t < T, and its
    running average, from which the first T for other eps. Slopes with an interval of 4 standard deviations over
    resampled seeds (jointly over b; the chance of |z| <= 4). A batch of 4 for eps = F(4) / 2, 3 times as long.
Refuted by.
    An average above its eps or |z| > 4 off the exact one, a slope whose interval excludes the exact one (half-width
    above 0.12: INCONCLUSIVE), in the pool with eps < sigma^2 / M one sample more or less than predicted, a running
    average below F(4) / 2 with b = 4.
Source.
    docs/theory.md S5. The order 1/eps of claim C4 is the paper's, the constants are derived here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from convergence import run as solve
from convergence.rates import Mean, Slope, burn_in, running_average, stationary_mean
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most, equal, mean_equals, slope_is
from paper_checks.planted import HalfBatch
from paper_checks.quadratic_theory import Array, QuadraticTheory, zeta
from paper_checks.stochastic_theory import GradientMoments, batch_moments
from problems import Quadratic

PLANTED = "only the first half of every batch is used, the rest is counted"
POOL = 16
GAP = 3.0  # L_Phi Delta / sigma^2
IID, FROM_POOL = (4, 6, 8, 12, 16, 24, 32, 48), (4, 6, 8, 10, 12, 14, POOL)
IID_LARGE, FROM_POOL_ALL = (*IID, 64, 96, 128), tuple(range(3, POOL + 1))  # at paper scale
FIXED = 4


def run(setting: Setting) -> Evidence:
    """Both samplings, and a batch that does not grow."""
    return _gather(setting, setting.pick(IID, IID_LARGE), setting.pick(FROM_POOL, FROM_POOL_ALL))


def control(setting: Setting) -> Evidence:
    """The same with the planted error, on fewer batches of the pool."""
    return _gather(replace(setting, method=HalfBatch), IID, (6, 8, 12, POOL))


def judge(evidence: Evidence) -> list[Comparison]:
    """Averages below eps and exact, slopes exact and near their orders, no eps below the floor of a fixed batch."""
    e = evidence
    samples = [e[f"iid_samples{part}"] for part in ("", "_law", "_resampled")]
    return [
        *_rule(e, "iid", "i.i.d."),
        *_slopes("samples until eps, best b, i.i.d.", e["iid_eps"], *samples, order=2),
        *_rule(e, "pool", "pool"),
        equal("samples from the pool, eps < sigma^2 / M", e["pool_samples"][_all(e)], e["pool_samples_law"][_all(e)]),
        equal(
            "slope of these on 1/eps", _slope(e["pool_eps"][_all(e)], e["pool_samples"][_all(e)]), 1.0, absolute=0.05
        ),
        mean_equals(
            "stationary E |grad Phi|^2, b = 4",
            [stationary_mean(e["fixed_moment"][None].repeat(2, 0), discard=0)],
            [e["fixed_law"][()]],
        ),
        at_least("running average with b = 4 / its floor", e["fixed_average"].min() / e["fixed_law"], 0.5),
    ]


def _all(evidence: Evidence) -> Array:
    """Where eps < sigma^2 / M: all tasks at once are the cheapest batch."""
    return np.asarray(evidence["pool_eps"] < evidence["sigma_sq"] / POOL)


def _rule(e: Evidence, name: str, sampling: str) -> list[Comparison]:
    """Of one sampling: the averages with b and T by the rule, and the slope of the iterations that were needed."""
    cells = np.array([f"b {b:.0f}" for b in e[f"{name}_batch"]])
    average, error, eps = (e[f"{name}_{key}"] for key in ("average", "average_error", "rule_eps"))
    noisy = error > 0
    means = [Mean(*each) for each in zip(average[noisy], error[noisy], strict=True)]
    law = e[f"{name}_average_law"][noisy]
    own = e[f"{name}_capped"] == 0
    hits = [e[f"{name}_hit{part}"][..., own] for part in ("", "_law", "_resampled")]
    return [
        at_most(f"average / eps, b and T by the rule, {sampling}", average / eps, 1.0, cells=cells),
        mean_equals(f"average of E |grad Phi|^2 over T, {sampling}", means, law, cells=cells[noisy]),
        *_slopes(f"iterations until eps, b by the rule, {sampling}", eps[own], *hits, order=1),
    ]


def _slopes(
    quantity: str, eps: Array, measured: Array, law: Array, resampled: Array, *, order: int
) -> list[Comparison]:
    """The slope on 1/eps is the exact one, and the exact one is near its order."""
    value, exact = float(_slope(eps, measured)), float(_slope(eps, law))
    spread = 4 * float(_slope(eps, resampled).std(ddof=1))
    slope = Slope(value, value - spread, value + spread, math.nan)
    return [
        slope_is(f"slope of {quantity}", slope, exact, half_width=0.12),
        equal(f"exact slope of {quantity}", exact, order, absolute=0.05),
    ]


def _slope(eps: Array, values: Array) -> Array:
    """The least-squares slope of log values (..., n) on log 1/eps (n,); not a number where a value is missing."""
    x = -np.log(eps)
    x = x - x.mean()
    return np.asarray(np.log(values) @ x / (x @ x))


class Instance(NamedTuple):
    """The problem with additive noise, its start, the method on it, and the theory of both."""

    problem: Quadratic
    theory: QuadraticTheory
    method: Any
    beta: float
    sigma_sq: float
    start: Array

    @classmethod
    def of(cls, setting: Setting) -> Instance:
        """beta = 1 / L_Phi; the start lies along (1, 1, 1) from phi*, where L_Phi Delta = GAP sigma^2."""
        problem = Quadratic.random(tasks=POOL, p=3, q=2, kappa=1.1, equal_hessians=True, seed=setting.seed + 81)
        theory, constants = QuadraticTheory.of(problem), problem.constants
        H, h = theory.upper_form
        away = np.ones(3) * math.sqrt(2 * GAP * constants.sigma_sq / constants.L_Phi / H.sum())
        beta = 1 / constants.L_Phi
        method = setting.method(lower_steps=4, cg_steps=2, upper_step_size=beta, warm_start=True)
        return cls(problem, theory, method, beta, constants.sigma_sq, np.linalg.solve(H, h) + away)

    def moments(self, batch: int, *, replacement: bool) -> GradientMoments:
        """The exact moments with batches of b tasks."""
        return batch_moments(self.theory, self.beta, zeta(batch, POOL, replacement=replacement))

    def trace(self, setting: Setting, iterations: int, batch: int, *, replacement: bool, replicas: int) -> Array:
        """|grad Phi(phi_t)|^2, (T, replicas)."""
        return setting.kept(
            self._squares,
            iterations=iterations,
            batch=batch,
            replacement=replacement,
            replicas=replicas,
            phi0={"phi": torch.as_tensor(self.start)},
            seed=setting.seed,
            device=setting.device,
        )

    def _squares(self, **options: Any) -> Array:
        return solve(self.problem, self.method, **options).trace["grad_norm_sq"].numpy()


def _gather(setting: Setting, iid: tuple[int, ...], pool: tuple[int, ...]) -> Evidence:
    instance = Instance.of(setting)
    samples = {**_samples(setting, instance, "iid", iid), **_samples(setting, instance, "pool", pool)}
    return samples | _fixed_batch(setting, instance)


def _samples(setting: Setting, instance: Instance, name: str, batches: tuple[int, ...]) -> Evidence:
    """Runs with b and T by the rule; from their running averages the first T and the fewest samples for other eps."""
    replacement, replicas = name == "iid", setting.pick(64, 512)
    sigma_sq, largest = instance.sigma_sq, (max(batches) / 3 if replacement else 2.0 * POOL)
    eps = sigma_sq / np.geomspace(2, largest, 10)
    # Of whole seeds, the same for all b; the first row is the mean over all of them
    weights = np.random.default_rng(setting.seed).multinomial(replicas, np.full(replicas, 1 / replicas), size=400)
    weights = np.vstack([np.ones(replicas), weights]) / replicas
    rows, hits, rule_hits, hit_laws = [], [], [], []
    for batch in setting.track(batches, f"batches, {name}"):
        wanted = 3 * sigma_sq * zeta(batch, POOL, replacement=replacement)
        rule_eps = max(wanted, eps[-1])  # from the pool the largest batches all serve the smallest eps
        T = math.ceil(6 * GAP * sigma_sq / rule_eps)
        one = not replacement and batch == POOL  # all tasks: no noise, one run is enough
        trace = instance.trace(setting, T, batch, replacement=replacement, replicas=1 if one else replicas)
        error = 0.0 if one else trace.mean(0).std(ddof=1) / math.sqrt(replicas)
        law = running_average(instance.moments(batch, replacement=replacement).curve(instance.start, T))
        averages = running_average(np.broadcast_to(trace, (T, replicas)) @ weights.T)
        first = _first(law[:, None], [rule_eps])[0, 0]
        rows.append((batch, rule_eps, wanted < rule_eps, averages[-1, 0], error, law[-1], first))
        rule_hits.append(_first(averages, [rule_eps])[:, 0])
        hits.append(batch * _first(averages, eps))
        hit_laws.append(batch * _first(law[:, None], eps)[0])
    names = ("batch", "rule_eps", "capped", "average", "average_error", "average_law", "hit_law")
    found = dict(zip(names, np.array(rows, float).T, strict=True))
    samples, rule = np.min(hits, 0), np.stack(rule_hits, -1)
    found |= {"eps": eps, "samples_law": np.min(hit_laws, 0), "samples": samples[0], "samples_resampled": samples[1:]}
    found |= {"hit": rule[0], "hit_resampled": rule[1:]}
    return {f"{name}_{key}": np.where(np.isinf(x), np.nan, x) for key, x in found.items()}


def _first(averages: Array, eps: Array | list[float]) -> Array:
    """The first T at which each running average (T, k) is <= each eps (n,), infinite where it never is: (k, n)."""
    below = averages[:, :, None] <= np.asarray(eps)
    return np.where(below.any(0), below.argmax(0) + 1.0, np.inf)


def _fixed_batch(setting: Setting, instance: Instance) -> Evidence:
    """b = 4 i.i.d. for 3 times the iterations that the rule would take for eps = F(4) / 2."""
    moments = instance.moments(FIXED, replacement=True)
    T = 3 * math.ceil(6 * GAP * instance.sigma_sq / (moments.stationary / 2))
    trace = instance.trace(setting, T, FIXED, replacement=True, replicas=setting.pick(64, 512))
    return {
        "sigma_sq": np.array(instance.sigma_sq),
        "gap": np.array(GAP),
        "fixed_law": np.array(moments.stationary),
        "fixed_average": running_average(trace.mean(1)),
        "fixed_average_law": running_average(moments.curve(instance.start, T)),
        "fixed_moment": trace[burn_in(moments.radius) :].mean(0),
    }
