"""The error of the stochastic algorithm has the mean predicted for it at every time, up to its stability limit.

Statement.
    On quadratics the first two moments of phi_t - phi~ obey a linear recursion, so E |grad Phi(phi_t)|^2 is known for
    every t and has the limit F(b) = |grad Phi(phi~)|^2 + tr(H X H): the floor of a cold start plus the noise of the
    batches. With task-dependent curvature the noise is multiplicative. The limit then exists only below a step size at
    which the mean still contracts: for H_i = h +- s in one dimension, beta < 2 h / (h^2 + zeta_b s^2), not 2 / h.
Hypotheses.
    Quadratic levels; batches i.i.d. or without replacement; exact v; the lower level solved to 1e-6, or K = 3 steps
    from a cold start in every iteration. Standard errors need a fourth moment: E T (x) T (x) T (x) T of T = I - beta
    H_i has spectral radius < 1 (batches of more tasks: by convexity).
Predicted.
    X = (I - beta H~) X (I - beta H~)' + beta^2 zeta_b [mean_i delta_i X delta_i' + mean_i g_i g_i'] with
    d_i = H~_i phi - h~_i, H~_i = H~ + delta_i, g_i = d_i(phi~); the curve by its recursion in t. zeta_b = 1/b (i.i.d.)
    or (M - b) / (b (M - 1)). All tasks without replacement leave the floor of the cold start alone.
Measured.
    (a) Four families (additive noise; task-dependent Hessians at beta L_Phi = 0.5 and 1; cold start), both samplings:
    |grad Phi|^2 averaged over time after a burn-in from the spectral radius, one average a seed.
    (b) Its mean over seeds at single times from one start. (c) The growth of E phi^2, exactly: the method is
    run on every batch, and along every path of 8 batches, as replicas; the limit is the root of growth = 1.
    (d) phi_t in independent runs above the limit: the mean falls, the mean square grows.
Refuted by.
    |z| > 4 in any cell of (a), (b), (d) (60 in all: a right one fails in 1 of 250 runs, by Bonferroni), a growth off by
    1e-12, a limit off by 1e-8 relative, or a floor with all tasks off by 1e-8. Standard errors above 2 % are
    INCONCLUSIVE.
Source.
    docs/theory.md S4, 4c. The decay in |B| of claim C2 is the paper's, the moments are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from convergence import Oracle, Probe
from convergence import run as solve
from convergence.rates import Mean, burn_in, stationary_mean
from paper_checks.claim import Comparison, Evidence, Setting, at_most, equal, mean_equals
from paper_checks.planted import RepeatedBatch
from paper_checks.quadratic_theory import Array, QuadraticTheory, zeta
from paper_checks.stochastic_theory import GradientMoments, batch_moments, fourth_moment_radius
from problems import Quadratic
from problems.counterexamples import two_curvatures

PLANTED = "every batch used in two iterations in a row"
POOL = 16
BATCHES = ((1, True), (4, True), (2, False), (8, False))  # (b, with replacement)
SHOWN = (1, 2, 3, 5, 8, 12, 20)  # times of (b), from t = 1: phi_0 is the same in every run
CURVES = ((1, True), (4, True), (1, True), (2, False))  # of (b), one a family
STEPS = 6  # step sizes of (c) an instance
H, SPREAD, STEP, PATH = 1.0, 0.8, 1.3, 8  # of (d): limits 2 / 1.64 and 2


class Family(NamedTuple):
    """One kind of noise: the instance, beta L_Phi, and the lower steps of a cold start (None: warm and exact)."""

    name: str
    relative_step: float
    equal_hessians: bool = False
    lower_steps: int | None = None


FAMILIES = (
    Family("additive", 1.0, equal_hessians=True),
    Family("task-dependent, beta L_Phi = 0.5", 0.5),
    Family("task-dependent, beta L_Phi = 1", 1.0),
    Family("cold start, K = 3", 0.5, lower_steps=3),
)


class Instance(NamedTuple):
    """A family's problem, the method on it and the theory of both."""

    problem: Quadratic
    method: Any
    theory: QuadraticTheory
    beta: float
    lower: tuple[int | None, float]  # K and alpha

    @classmethod
    def of(cls, setting: Setting, number: int) -> Instance:
        """The instance of this family; 6 lower steps at kappa = 1.2 leave 1e-6 of theta's error, N = q none of v's."""
        _, relative_step, equal_hessians, lower_steps = FAMILIES[number]
        kappa, seed = 1.2 if lower_steps is None else 4.0, setting.seed + 31 + number
        problem = Quadratic.random(tasks=POOL, p=3, q=3, kappa=kappa, equal_hessians=equal_hessians, seed=seed)
        alpha, beta = problem.constants.lower_step_size, relative_step / problem.constants.L_Phi
        method = setting.method(
            lower_steps=lower_steps or 6,
            lower_step_size=alpha,
            cg_steps=3,
            upper_step_size=beta,
            warm_start=lower_steps is None,
        )
        return cls(problem, method, QuadraticTheory.of(problem), beta, (lower_steps, alpha))

    def moments(self, zeta_b: float) -> GradientMoments:
        """The exact moments of batches with this variance factor."""
        return batch_moments(self.theory, self.beta, zeta_b, lower=self.lower)

    @property
    def fourth_moment(self) -> float:
        """The spectral radius of the fourth moment at b = 1."""
        return fourth_moment_radius(np.eye(3) - self.beta * self.theory.direction(*self.lower)[0])


def run(setting: Setting) -> Evidence:
    """Stationary moments and curves of all families; the stability limit."""
    return _gather(setting, range(len(FAMILIES)))


def control(setting: Setting) -> Evidence:
    """The same with the planted error, for one family. Every batch alone is right: single steps do not see it."""
    return _gather(replace(setting, method=RepeatedBatch), range(1))


def judge(evidence: Evidence) -> list[Comparison]:
    """Exact moments within 4 standard errors; growth, limit and floors attained."""
    e = evidence
    names = [FAMILIES[int(family)].name for family in e["all_tasks_family"]]
    cells = [
        f"{FAMILIES[int(family)].name}, b {batch:.0f}, {'i.i.d.' if iid else 'without replacement'}"
        for family, batch, iid in zip(e["family"], e["batch"], e["iid"], strict=True)
    ]
    means = [stationary_mean(per_seed[None].repeat(2, 0), discard=0) for per_seed in e["moment"]]
    times = [(k, t) for k in range(len(names)) for t in SHOWN]
    curve = [Mean(e["curve"][at], e["curve_error"][at]) for at in times]
    curve_law = [e["curve_law"][at] for at in times]
    squares = [Mean(*each) for each in zip(e["sample_square"], e["sample_square_error"], strict=True)]
    limits = [f"s {s:g}, zeta_b {share:.3g}" for s, share in zip(e["limit_s"], e["limit_zeta"], strict=True)]
    steps = [f"beta {beta:.1f}, {limits[k // STEPS]}" for k, beta in enumerate(e["growth_beta"])]
    return [
        mean_equals("stationary E |grad Phi|^2", means, e["law"], cells=cells),
        mean_equals("E |grad Phi_t|^2", curve, curve_law, cells=[f"{names[k]}, t {t}" for k, t in times]),
        equal(
            "|grad Phi|^2 with all tasks",
            e["all_tasks"],
            e["all_tasks_law"],
            relative=1e-8,
            absolute=1e-20,
            cells=names,
        ),
        equal("growth of E phi^2 over all batches", e["growth"], e["growth_law"], relative=1e-12, cells=steps),
        equal("step size limit of E phi^2", e["limit"], e["limit_law"], relative=1e-8, cells=limits),
        equal("E phi_t^2 over all paths", e["path_square"], e["path_square_law"], relative=1e-12),
        equal("E phi_t over all paths", e["path_mean"], e["path_mean_law"], absolute=1e-12),
        mean_equals("E phi_t^2 of runs above the limit", squares, e["path_square_law"][1:]),
        at_most("|z| of E phi_t of runs above the limit", np.abs(e["sample_mean_z"]), 4.0),
        at_most("spectral radius of the fourth moment", e["fourth_moment"], 1.0, cells=names),
    ]


def _gather(setting: Setting, families: Sequence[int]) -> Evidence:
    instances = [Instance.of(setting, number) for number in families]
    return {
        **_stationary(setting, instances),
        **_curves(setting, instances),
        **_limit(setting),
        **_above_the_limit(setting),
        "all_tasks_family": np.array(families, float),
        "fourth_moment": np.array([instance.fourth_moment for instance in instances]),
    }


# ---- (a) and (b): |grad Phi|^2 of four families


def _stationary(setting: Setting, instances: list[Instance]) -> Evidence:
    rows, moments, floors = [], [], []
    cells = [(number, *batch) for number in range(len(instances)) for batch in BATCHES]
    for number, batch, replacement in setting.track(cells, "stationary moments"):
        share = zeta(batch, POOL, replacement=replacement)
        law = instances[number].moments(share)
        discard = burn_in(law.radius)
        trace = _trace(
            setting,
            instances[number],
            iterations=discard + setting.pick(60, 500),
            batch=batch,
            replacement=replacement,
            replicas=setting.pick(256, 1024),
        )
        rows.append((number, batch, replacement, share, law.stationary))
        moments.append(trace[discard:].mean(0))
    for instance in instances:
        law = instance.moments(0.0)
        # The transient enters |grad Phi|^2 to first order: phi_t - phi~ down to 1e-13
        trace = _trace(setting, instance, iterations=burn_in(law.radius, remainder=1e-26), batch=POOL)
        floors.append((trace[-1], law.stationary))
    found = dict(zip(("family", "batch", "iid", "zeta", "law"), np.array(rows, float).T, strict=True))
    found |= dict(zip(("all_tasks", "all_tasks_law"), np.array(floors).T, strict=True))
    return found | {"moment": np.stack(moments)}


def _curves(setting: Setting, instances: list[Instance]) -> Evidence:
    start, replicas = np.full(3, 4.0), setting.pick(8192, 32768)
    means, errors, laws = [], [], []
    for number in setting.track(range(len(instances)), "curves over time"):
        batch, replacement = CURVES[number]
        iterations = SHOWN[-1] + 1
        trace = _trace(
            setting,
            instances[number],
            iterations=iterations,
            batch=batch,
            replacement=replacement,
            replicas=replicas,
            phi0={"phi": torch.as_tensor(start)},
        )
        means.append(trace.mean(1))
        errors.append(trace.std(1, ddof=1) / math.sqrt(replicas))
        laws.append(instances[number].moments(zeta(batch, POOL, replacement=replacement)).curve(start, iterations))
    return {"curve": np.stack(means), "curve_error": np.stack(errors), "curve_law": np.stack(laws)}


def _trace(setting: Setting, instance: Instance, **options: Any) -> Array:
    """|grad Phi(phi_t)|^2, (T,) or (T, replicas)."""
    options |= {"seed": setting.seed, "device": setting.device}
    return setting.kept(_squares, instance, **options)


def _squares(instance: Instance, **options: Any) -> Array:
    return solve(instance.problem, instance.method, **options).trace["grad_norm_sq"].numpy()


# ---- (c) and (d): phi' = (1 - beta H_B) phi


def _limit(setting: Setting) -> Evidence:
    """E phi'^2 / phi^2 over all batches as a function of beta, where it crosses 1, and E over all paths."""
    growths: list[tuple[float, ...]] = []
    limits = []
    cells = list(product((0.4, 0.8, 1.5), ((1, True), (2, True), (2, False), (3, False))))
    for s, (batch, replacement) in setting.track(cells, "stability limits"):
        problem = two_curvatures(H, s, tasks=4)
        batches = list(product(range(4), repeat=batch) if replacement else combinations(range(4), batch))
        paths = torch.tensor(batches)[:, None]  # one step each

        def growth(beta: float, problem: Quadratic = problem, paths: Tensor = paths) -> float:
            return float(_follow(setting, problem, beta, paths)[-1].square().mean())

        share = zeta(batch, 4, replacement=replacement)
        betas = np.linspace(0.2, 2.2, STEPS) / H
        growths += [(beta, growth(beta), (1 - beta * H) ** 2 + beta**2 * share * s**2) for beta in betas]
        root = brentq(lambda beta: growth(beta) - 1, 0.1 / H, 4 / H, xtol=1e-14)
        limits.append((s, share, root, 2 * H / (H**2 + share * s**2)))
    found = dict(zip(("growth_beta", "growth", "growth_law"), np.array(growths).T, strict=True))
    return found | dict(zip(("limit_s", "limit_zeta", "limit", "limit_law"), np.array(limits).T, strict=True))


def _above_the_limit(setting: Setting) -> Evidence:
    """b = 1 between the two limits: every path of batches, and independent runs of the driver's."""
    problem, replicas = two_curvatures(H, SPREAD), setting.pick(16384, 65536)
    paths = torch.tensor(list(product(range(2), repeat=PATH)))[..., None]
    exact = _follow(setting, problem, STEP, paths)
    runs = (
        solve(
            problem,
            _on_the_line(setting, STEP),
            iterations=PATH + 1,
            batch=1,
            seed=setting.seed,
            replicas=replicas,
            phi0={"phi": torch.ones(1)},
            probes=(Probe("phi", lambda snapshot: snapshot.phi["phi"][..., 0]),),
            device=setting.device,
        )
        .trace["phi"]
        .numpy()[1:]
    )
    factors, t = 1 - STEP * np.array([H + SPREAD, H - SPREAD]), np.arange(PATH + 1)
    mean, square, fourth = (np.mean(factors**power) ** t for power in (1, 2, 4))
    deviation = np.sqrt(square - mean**2)[1:]
    return {
        "path_mean": exact.mean(1).numpy(),
        "path_mean_law": mean,
        "path_square": exact.square().mean(1).numpy(),
        "path_square_law": square,
        "sample_square": np.square(runs).mean(1),
        "sample_square_error": np.sqrt((fourth - square**2)[1:] / replicas),
        "sample_mean_z": (runs.mean(1) - mean[1:]) / deviation * math.sqrt(replicas),
    }


def _on_the_line(setting: Setting, beta: float) -> Any:
    """theta* = phi and v are exact after one step of each."""
    return setting.method(lower_steps=1, lower_step_size=1.0, cg_steps=1, upper_step_size=beta, warm_start=False)


def _follow(setting: Setting, problem: Quadratic, beta: float, paths: Tensor) -> Tensor:
    """phi_0 = 1, phi_1, ... of the method on these batches, paths (R, T, b): (T + 1, R) on the CPU."""
    problem = problem.to(setting.device)
    oracle, method = Oracle(problem, replicas=len(paths)), _on_the_line(setting, beta)
    phi = {"phi": torch.ones(len(paths), 1, dtype=torch.float64, device=setting.device)}
    state, found = method.start(oracle, phi), [phi["phi"]]
    for t in range(paths.shape[1]):
        step = method.step(oracle, phi, problem.select(paths[:, t].to(setting.device)), state)
        phi, state = step.phi, step.state
        found.append(phi["phi"])
    return torch.cat(found, -1).T.cpu()
