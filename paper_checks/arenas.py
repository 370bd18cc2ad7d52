"""The problems of the comparison, each with its budget, step sizes and what is looked at along a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convergence.probes import Probe, Snapshot
from convergence.streams import generator
from paper_checks.centred_heads import CentredHeads
from paper_checks.claim import Setting
from paper_checks.contest import Arena, smallest, steepest
from problems import HyperCleaning, LearnedStart, LogisticRegularisation, Minibatch, Quadratic, Representation

QUADRATIC_KAPPA = 10.0
NORM = 1.5  # of U, for which the lower step of the representation is safe
CERTAIN = 40.0  # log odds of a weight that is 1 (or, negative, 0) to rounding


def arenas(setting: Setting) -> list[Arena]:
    """Quadratic, representation, logistic heads, hyper-cleaning; at paper scale regularisation selection as well."""
    found = [*exact_arenas(setting), logistic(setting), cleaning(setting)]
    return [*found, regularisation(setting)] if setting.scale == "paper" else found


def exact_arenas(setting: Setting) -> list[Arena]:
    """Those whose objectives are exact and whose solution is known."""
    return [quadratic(setting), representation(setting)]


def quadratic(setting: Setting) -> Arena:
    """All tasks, exact objectives, theta_0 = phi: every quantity is known in closed form."""
    problem = Quadratic.random(tasks=8, p=5, q=5, kappa=QUADRATIC_KAPPA, initialisation=True, seed=setting.seed + 3)
    calls = 8 * setting.pick(1700, 6000)
    best = float(problem.value(problem.upper_solution()))
    return _arena(setting, "quadratic", problem, (5, 3), budget=calls, points=setting.pick(49, 81), best=best)


def representation(setting: Setting) -> Arena:
    """All tasks, exact objectives, not convex, the start of the heads learned beside U; Phi* = 0."""
    inside = Representation.random(tasks=12, d=8, rank=2, examples=16, seed=setting.seed + 2)
    calls = 12 * setting.pick(1100, 8000)
    return _arena(
        setting,
        "representation",
        LearnedStart(inside),
        (2, 2),
        budget=calls,
        points=setting.pick(25, 41),
        best=0.0,
        step_size=1 / inside.lower_smoothness(NORM),
    )


def logistic(setting: Setting) -> Arena:
    """Finite sums seen through blocks of examples."""
    whole = CentredHeads.random(tasks=4, q=5, examples=20, prox=0.5, seed=setting.seed)
    examples = 4 * 5 * setting.pick(600, 8000)
    return _arena(
        setting, "logistic", Minibatch(whole, lower=5, upper=5), (3, 3), budget=examples, points=setting.pick(13, 31)
    )


def cleaning(setting: Setting) -> Arena:
    """A weight for each of some handwritten digits, two in five of them with a wrong label."""
    whole = digits(setting)
    size = setting.pick(20, 25)
    return _arena(
        setting,
        "cleaning",
        Minibatch(whole, lower=size, upper=size),
        (3, 3),
        budget=size * setting.pick(900, 6000),
        points=setting.pick(9, 21),
        probes=(Probe("auc", _inside("detection_auc")), Probe("accuracy", _inside("test_accuracy"))),
        steps=setting.pick(200, 1000),
        judged_by="value",
    )


def digits(setting: Setting) -> HyperCleaning:
    """The data of `cleaning`."""
    if setting.scale == "smoke":
        return HyperCleaning.digits(train=100, validation=100, classes=5, pool=2, ridge=0.01, seed=setting.seed)
    return HyperCleaning.digits(train=300, validation=200, pool=2, ridge=0.003, seed=setting.seed)


def regularisation(setting: Setting) -> Arena:
    """A ridge for each feature of the breast cancer data."""
    whole = LogisticRegularisation.breast_cancer(seed=setting.seed)
    tasks = whole.sample(None, generator(setting.seed, "tasks"))
    _, largest = whole.curvature(whole.embed(whole.phi0(generator(setting.seed, "start")), tasks), tasks)
    return _arena(
        setting,
        "regularisation",
        whole,
        (10, 10),
        budget=4_000_000,
        points=21,
        step_size=1 / float(largest.max()),  # ridges may grow to twice that smoothness
        probes=(Probe("accuracy", _inside("test_accuracy")),),
        judged_by="value",
    )


def _arena(
    setting: Setting,
    name: str,
    problem: Any,
    counts: tuple[int, int],
    *,
    budget: int,
    points: int,
    best: float | None = None,
    step_size: float | None = None,
    probes: tuple[Probe, ...] = (),
    steps: int = 500,
    judged_by: str = "grad_norm_sq",
) -> Arena:
    start = problem.phi0(generator(setting.seed, "start"))
    return Arena(
        name,
        problem,
        *counts,
        budget=budget,
        points=points,
        scale=1 / steepest(problem, start),
        best=smallest(problem, start, steps=steps) if best is None else best,
        step_size=step_size,
        probes=probes,
        judged_by=judged_by,
    )


def _inside(measure: str) -> Any:
    """A probe of what the problem inside a wrapper measures of phi."""

    def of(snapshot: Snapshot) -> Tensor:
        value: Tensor = getattr(snapshot.problem, measure)(snapshot.phi)
        return value

    return of


def without_weights(problem: HyperCleaning) -> dict[str, float]:
    """Test accuracy where every weight is 1, and where those of the corrupted labels alone are 0."""
    assert problem.corrupted is not None
    every = torch.full((problem.weights,), CERTAIN, dtype=torch.float64)
    clean = torch.where(problem.corrupted, -every, every)
    return {name: float(problem.test_accuracy({"weights": x})) for name, x in (("all", every), ("clean", clean))}
