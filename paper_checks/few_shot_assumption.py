"""Without a ridge the lower level of the published experiments has no solution v, and it shows.

Statement.
    The theorems ask for a strongly convex lower level. The heads of the published experiments have no ridge: the
    Hessian H of the cross entropy of n images is singular, grad_theta f is not in its range, and H v = grad_theta f has
    no solution. |v_N| then grows with the CG steps N as long as the arithmetic lasts, and d is not reproducible. With a
    ridge the solve converges at the rate of CG, and d is reproducible to rounding.
Hypotheses.
    Softmax heads, 5-way 5-shot, on features of Conv4 at its start, centred within each task unless it is said
    otherwise; theta after K = 20 steps of 2 / (L_i + mu).
Predicted.
    (a) The solve. With a ridge |b - H v_N| <= sqrt(kappa) chi_N |b|, kappa = L / mu by `curvature`. Without one
    |b - H v| is at least the part of b outside the range of H for every v, and v_N has there (sum_j 1 / theta_j) times
    that part, theta_j the Ritz values, one of which tends to zero. v_N is that of CG in exact arithmetic as long as its
    residuals are orthogonal to rounding: judged to N = 10, where two runs are still within 1e-11 of each other.
    (b) Reproducibility. Two solves that ran to rounding (N = 100) differ by at most 2 kappa eps |v|: each v solves a
    system whose H and b are off by eps relative, eps = (n + d + 5) u, as many roundings as the longest sums have terms
    (Higham, Accuracy and Stability, Theorem 7.2). At N = 20, that of the published experiments, d by two precisions,
    and by two orders of summation in float64, differs without a ridge at least 1000 times more than with ridge 0.1.
    (c) The lower steps. All eigenvalues of H lie within [mu, L]; a step of size alpha shrinks the gradient by
    varrho = max |1 - alpha lambda| at least, lambda over [mu, L] (the Hessian averaged along the step is within these
    limits too). Centring the features does not raise L; how far it lowers it is measured, and that
    alpha = 0.1 exceeds 2 / L where it is not done and the scales of batch norm start at 1.
    (d) Accuracy (paper scale). Of ridges 0, 0.01, 0.1, 1 with N = 1, 5, 10, 20, each trained on three seeds, those
    selected on validation episodes are better on test episodes than no ridge with N = 20.
Measured.
    v, theta and d of the method at given features; H as a matrix, its range and exact CG in numpy by its eigenvectors.
    (d) 100 iterations of 4 tasks of the glyphs, Conv4 of 16 channels; 100 validation and 600 test episodes of unseen
    alphabets; the interval is Student's over the seeds at 95 %. Paper scale takes about 12 minutes of one core.
Refuted by.
    A residual above its bound, another v_N, two solves with a ridge that differ by more than rounding explains, an
    eigenvalue outside [mu, L]; an interval of (d) below zero.
Source.
    docs/theory.md S7g. The public code of Yang, Ma, Yu, AAAI 2025 has no ridge in the loss, K = N = 20, no test in CG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convergence import Oracle, Step
from convergence.streams import generator
from paper_checks.claim import ALGORITHM, Comparison, Evidence, Setting, at_least, at_most, equal
from paper_checks.few_shot_grid import RIDGES, judge_grid, train_grid
from paper_checks.few_shot_theory import exact_cg, lower_hessian, residual_bound, upper_gradient
from problems import Parameters, Tasks
from problems.few_shot import Conv4, Episodes, FewShot, Head, SoftmaxHead
from problems.few_shot.glyphs import glyphs
from problems.few_shot.problem import TaskFeatures

ASKS = (*ALGORITHM, "adapt")
PLANTED = "the ridge is left out of the Hessian-vector products"
RIDGE = 0.1  # the smaller of the two that validation does not tell apart in (d)
COUNTS = (1, 2, 3, 5, 7, 10, 14, 20)
ORTHOGONAL, PUBLISHED, CONVERGED = 10, 20, 100  # CG steps
LOWER_STEPS = 20
WAY = 5

# |v|, |b - H v| / |b| and so on, of each seed, task, ridge and N
_COLUMNS = ("ridge", "N", "kappa", "v", "v_law", "v_outside", "v_outside_law", "residual", "floor")
_COLUMNS += ("bound", "v_precision", "d_precision", "v_order", "d_order")
MakeHead = Callable[..., Head]


class RidgeLeftOut(SoftmaxHead):
    """Claims a ridge that its Hessian-vector products do not have."""

    def lower_hvp(self, Z: Tensor, y: Tensor, theta: Tensor, v: Tensor, own: Parameters) -> Tensor:
        """The product without the ridge."""
        return super().lower_hvp(Z, y, theta, v, own) - self.ridge * v


class OnFeatures(FewShot):
    """Heads on features that are phi themselves: d is the derivative with respect to them."""

    def embed(self, phi: Parameters, tasks: Tasks) -> TaskFeatures:
        """The features as they are."""
        return TaskFeatures(self.head.prepare(phi["support"]), self.head.prepare(phi["query"]), {})


class Given(NamedTuple):
    """Features (B, n, d) of the support and query images of tasks, float64."""

    problem: FewShot
    tasks: Tasks
    features: Parameters


def run(setting: Setting) -> Evidence:
    """The solves, the lower steps, and at paper scale the accuracies."""
    evidence = _without_training(setting, SoftmaxHead)
    return evidence if setting.scale == "smoke" else evidence | train_grid(setting)


def control(setting: Setting) -> Evidence:
    """The same with the planted error, without training."""
    return _without_training(setting, RidgeLeftOut)


def judge(evidence: Evidence) -> list[Comparison]:
    """Laws of the solve, of reproducibility, of the lower steps; the accuracies where there are any."""
    laws = [*_judge_solves(evidence), *_judge_differences(evidence), *_judge_lower_steps(evidence)]
    return [*laws, *judge_grid(evidence)]


def _judge_solves(e: Evidence) -> list[Comparison]:
    ridge, N = e["ridge"], e["N"]
    strong = ridge > 0
    early = N <= ORTHOGONAL
    cells = np.array([f"ridge {r:g}, N {n:.0f}" for r, n in zip(ridge, N, strict=True)])
    bound = (e["bound"] + _rounding(e))[strong]
    singular = ~strong & early
    law = {"relative": 1e-9, "cells": cells[singular]}
    grown = e["v"][~strong & (N == PUBLISHED)] / e["v"][~strong & (N == 1)]
    return [
        at_most("ridge: |b - H v_N| / bound", e["residual"][strong] / bound, 1.0, cells=cells[strong]),
        equal("|v_N| and that of exact CG", e["v"][early], e["v_law"][early], relative=1e-9, cells=cells[early]),
        at_least("no ridge: share of b outside the range of H", e["floor"][~strong], 0.1),
        equal("no ridge: v_N outside the range of H", e["v_outside"][singular], e["v_outside_law"][singular], **law),
        at_least("no ridge: |v_20| / |v_1|", grown, 100.0),
    ]


def _judge_differences(e: Evidence) -> list[Comparison]:
    ridge, N = e["ridge"], e["N"]
    converged = (ridge > 0) & (N == CONVERGED)
    cells = [f"ridge {value:g}" for value in ridge[converged]]
    comparisons = []
    for name, said in (("precision", "float32 and float64"), ("order", "two orders of summation")):
        allowed = 2 * _rounding(e, np.finfo(np.float32).eps if name == "precision" else np.finfo(float).eps)
        measured = e[f"v_{name}"][converged]
        comparisons.append(at_most(f"ridge: v by {said}, / bound", measured / allowed[converged], 1.0, cells=cells))
        without, with_ridge = (e[f"d_{name}"][(ridge == value) & (N == PUBLISHED)] for value in (0.0, RIDGE))
        ratio = np.median(without) / np.median(with_ridge)
        comparisons.append(at_least(f"d by {said}: without a ridge / with", ratio, 1e3))
    return comparisons


def _rounding(e: Evidence, unit: float = np.finfo(float).eps) -> np.ndarray:
    """kappa eps, eps as many roundings as the longest sums have terms; without a ridge it is not finite."""
    return e["kappa"] * float(e["terms"]) * unit / 2


def _judge_lower_steps(e: Evidence) -> list[Comparison]:
    cells = [
        f"scales {('drawn', '1')[int(unit)]}, features {('as they are', 'centred')[int(centred)]}, "
        f"step {f'{alpha:g}' if alpha else '2 / (L + mu)'}"
        for unit, centred, alpha in e["lower_cells"]
    ]
    steps = np.arange(1, e["lower_ratio"].shape[-1])
    bound = e["lower_contraction"][..., None] ** steps
    ratio = (e["lower_ratio"][..., 1:] / bound).max(axis=(1, 2))
    tiny = 1 + 1e-12
    return [
        at_most("lower steps: |grad g| / bound", ratio, tiny, cells=cells),
        at_most("largest eigenvalue of H / L", (e["lower_largest"] / e["lower_L"]).max(axis=1), tiny, cells=cells),
        at_least("smallest eigenvalue of H / mu", (e["lower_smallest"] / e["lower_mu"]).min(axis=1), 1 - 1e-9),
        at_most("L with the features centred / as they are", e["lower_L_ratio"], tiny),
    ]


# ---- (a), (b)


def _without_training(setting: Setting, head: MakeHead) -> Evidence:
    return {**_solves(setting, head), **_lower_steps(setting, head)}


def _solves(setting: Setting, head: MakeHead) -> Evidence:
    rows: list[tuple[float, ...]] = []
    given = [_features(setting, seed) for seed in range(setting.seed, setting.seed + setting.pick(1, 3))]
    cells = [(one, ridge) for one in given for ridge in RIDGES]
    for one, ridge in setting.track(cells, "solves"):
        rows.extend(_solve(setting, one, head, ridge))
    columns = dict(zip(_COLUMNS, np.array(rows, float).T, strict=True))
    terms = given[0].features["support"].shape[1] + given[0].problem.features + 1 + WAY
    return columns | {"terms": np.array(terms)}


def _solve(setting: Setting, given: Given, head: MakeHead, ridge: float) -> Iterator[tuple[float, ...]]:
    """Rows of all tasks and CG steps at one ridge."""
    problem = OnFeatures(given.problem.episodes, embedding=given.problem.embedding, head=head(ridge=ridge))
    order = torch.randperm(len(given.tasks.support_labels[0]), generator=generator(setting.seed, "noise"))

    def step(N: int, dtype: torch.dtype = torch.float64, order: Tensor | None = None) -> Step:
        return _step(setting, problem, given, N, dtype, order)

    first = step(1)
    _, L = problem.curvature(problem.embed(given.features, given.tasks), given.tasks)
    systems = [_system(given, theta, i, ridge) for i, theta in enumerate(first.theta.cpu().numpy())]
    laws = [exact_cg(values, b, max(COUNTS)) for values, _, b in systems]
    for N in (*COUNTS, CONVERGED):
        one, rough, permuted = step(N), step(N, torch.float32), step(N, order=order)
        apart = [*_differences(one, rough), *_differences(one, permuted)]
        for i, (values, vectors, b) in enumerate(systems):
            v = vectors.T @ one.v[i].cpu().numpy()
            law = laws[i][N - 1] if max(COUNTS) >= N else np.full_like(v, np.nan)
            null = values <= 1e-10 * values[-1]
            lengths = (v, law, v[null], law[null], (b - values * v) / np.linalg.norm(b), b[null] / np.linalg.norm(b))
            kappa = float(L[i]) / ridge if ridge else np.inf
            *found, floor = map(np.linalg.norm, lengths)
            bound = float(residual_bound(kappa, N)) if ridge else floor
            yield ridge, N, kappa, *found, floor, bound, *(difference[i] for difference in apart)


def _step(setting: Setting, problem: FewShot, given: Given, N: int, dtype: torch.dtype, order: Tensor | None) -> Step:
    """One upper iteration of the method at these features; with the images in another order, d in the first one."""
    method = setting.method(lower_steps=LOWER_STEPS, cg_steps=N, warm_start=False)
    there = torch.arange(len(given.tasks.support_labels[0])) if order is None else order
    labels = {name: given.tasks.tensors[name][:, there] for name in ("support_labels", "query_labels")}
    features = {name: Z[:, there].to(dtype) for name, Z in given.features.items()}
    step = method.step(Oracle(problem), features, Tasks(given.tasks.index, **labels), method.start(Oracle(problem), {}))
    back = there.argsort()
    return step._replace(direction={name: d[:, back].double() for name, d in step.direction.items()}, v=step.v.double())


def _differences(one: Step, other: Step) -> tuple[list[float], list[float]]:
    """Of v and of d, relative, one number a task."""
    directions = [
        torch.cat([step.direction["support"], step.direction["query"]], 1).flatten(1) for step in (one, other)
    ]
    return _relative(one.v, other.v), _relative(*directions)


def _relative(x: Tensor, y: Tensor) -> list[float]:
    return ((x - y).norm(dim=-1) / x.norm(dim=-1)).tolist()


def _system(given: Given, theta: np.ndarray, i: int, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of H of task i, and b = grad_theta f by them."""
    images = (given.features[name][i].cpu().numpy() for name in ("support", "query"))
    support, query = (np.pad(Z, ((0, 0), (0, 1)), constant_values=1.0) for Z in images)
    values, vectors = np.linalg.eigh(lower_hessian(support, theta, way=WAY, ridge=ridge))
    b = upper_gradient(query, given.tasks.query_labels[i].cpu().numpy(), theta, way=WAY)
    return values, vectors, vectors.T @ b


def _features(setting: Setting, seed: int, *, centred: bool = True, unit_scales: bool = False) -> Given:
    """Of some training episodes, by the network at its start."""
    images = glyphs(classes=(20, 5, 10), progress=False)["train"]
    episodes = Episodes(images=images, split="train", way=WAY, queries=5, seed=seed)
    problem = FewShot(episodes, embedding=Conv4(32), head=SoftmaxHead(way=WAY), centred=centred)
    phi = problem.phi0(generator(seed, "start"))
    if unit_scales:
        phi = {name: torch.ones_like(x) if name.endswith("norm.weight") else x for name, x in phi.items()}
    tasks = episodes.draw(range(setting.pick(3, 6))).to(setting.device)
    phi = {name: tensor.to(setting.device) for name, tensor in phi.items()}
    z = Oracle(problem).features(phi, tasks).value
    return Given(problem, tasks, {"support": z.support[..., :-1].double(), "query": z.query[..., :-1].double()})


# ---- (c)


def _lower_steps(setting: Setting, head: MakeHead) -> Evidence:
    """|grad g| along the lower steps, the curvature and the eigenvalues of H: (cells, tasks); alpha 0: 2 / (L + mu)."""
    cells = list(product((False, True), (False, True), (None, 0.1)))
    rows = [_descent(setting, head, *cell) for cell in setting.track(cells, "lower steps")]
    columns = {f"lower_{name}": np.array([row[name] for row in rows], float) for name in rows[0]}
    L = columns["lower_L"].reshape(2, 2, 2, -1)[:, :, 0]  # scales, centred or not, step
    numbers = np.array([(unit_scales, centred, alpha or 0) for unit_scales, centred, alpha in cells], float)
    return columns | {"lower_cells": numbers, "lower_L_ratio": (L[:, 1] / L[:, 0]).ravel()}


def _descent(
    setting: Setting, head: MakeHead, unit_scales: bool, centred: bool, alpha: float | None
) -> dict[str, np.ndarray]:
    """What `_lower_steps` gathers of one cell, one row a task."""
    given = _features(setting, setting.seed, centred=centred, unit_scales=unit_scales)
    problem = OnFeatures(given.problem.episodes, embedding=given.problem.embedding, head=head(ridge=RIDGE))
    oracle = Oracle(problem)
    z = oracle.features(given.features, given.tasks)
    lengths = []
    for k in range(LOWER_STEPS + 1):
        method = setting.method(lower_steps=k, lower_step_size=alpha, cg_steps=1)
        theta = method.adapt(oracle, z, given.features, given.tasks)
        lengths.append(oracle.lower_gradient(z, theta, given.tasks).norm(dim=-1).cpu().numpy())
    ends = np.array([_system(given, end, i, RIDGE)[0][[0, -1]] for i, end in enumerate(theta.cpu().numpy())])
    mu, L = (x.cpu().numpy() for x in oracle.curvature(z, given.tasks))
    step = 2 / (L + mu) if alpha is None else alpha
    return {
        "ratio": np.stack(lengths, -1) / lengths[0][:, None],
        "contraction": np.maximum(np.abs(1 - step * mu), np.abs(1 - step * L)),
        "mu": mu,
        "L": L,
        "smallest": ends[:, 0],
        "largest": ends[:, 1],
    }
