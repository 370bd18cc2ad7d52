"""On this problem the direction of a batch is unbiased, and its variance falls as that of a batch mean does.

Statement.
    At a fixed phi, with theta and v solved, the direction d_B of a batch of b of M tasks has mean grad Phi and
    E |d_B - grad Phi|^2 = zeta_b sigma^2: zeta_b = 1/b for i.i.d. tasks, (M - b) / (b (M - 1)) without replacement.
Hypotheses.
    A finite pool of at least two tasks with gradients that differ; exact objectives; q <= 512.
Predicted.
    sigma^2 = mean_i |grad Phi_i - grad Phi|^2 with grad Phi_i by damped Newton. Mean and mean squared distance over
    all batches of b = 1, 2, 3 of the first five tasks, each as likely as the others: exact sums, no sampling. Over
    batches of the driver's stream the mean of d_B, seen along at most four random directions, is grad Phi.
Measured.
    One step of the method on every batch, from theta* and with N so large that sqrt(kappa) chi_N <= 1e-12. The stream
    on the same tasks, 2000 batches or more.
Refuted by.
    A mean off by 1e-7 of sigma + |grad Phi|, a mean square by 1e-7 of sigma times that, or a mean along the stream so
    far from grad Phi that Hotelling's T^2 is exceeded with a probability below 1e-6 (a singular covariance counts as
    that). Where sigma is 1e-5 of the sum or less: INCONCLUSIVE.
Source.
    docs/theory.md S4. The decay in |B| of claim C2 is the paper's, the law is that of a finite population.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convergence import Oracle
from convergence.streams import TaskStream
from paper_checks.claim import Comparison, Evidence, Setting, at_most, mean_vector_equals, missing
from paper_checks.own_problem.cost import affordable, seconds
from paper_checks.own_problem.hypergradient_error import enough
from paper_checks.own_problem.lower_level import Solved, solved
from paper_checks.own_problem.needs import EXACT, SEVERAL, SMALL_THETA, TWICE_DIFFERENTIABLE, lacking
from paper_checks.own_problem.single_tasks import SingleTasks
from paper_checks.own_problem.some_tasks import SomeTasks, judged, points
from paper_checks.quadratic_theory import zeta
from paper_checks.written_out import flattened
from problems import Problem

PLANTED = "i.i.d. batches passed off as batches without replacement"
TASKS, BATCHES, SAMPLINGS, DIRECTIONS = 5, (1, 2, 3), (True, False), 4


def lacks(problem: Problem) -> str:
    """Why this problem is outside the claim; "" where it is not."""
    return lacking("batch_size_decay", problem, EXACT, SEVERAL, SMALL_THETA, TWICE_DIFFERENTIABLE)


def run(setting: Setting) -> Evidence:
    """Every batch, and batches of the stream."""
    return _gather(setting, planted=False)


def control(setting: Setting) -> Evidence:
    """Every batch drawn with replacement, whatever it is said to be."""
    return _gather(setting, planted=True)


def judge(evidence: Evidence) -> list[Comparison]:
    """Exact means and mean squares over all batches; the mean along the stream."""
    e = evidence
    cells = [f"b {b:.0f}, {'i.i.d.' if iid else 'without replacement'}" for b, iid in e["cells"]]
    sigma = float(np.sqrt(e["sigma_sq"]))
    scale = sigma + float(e["gradient_norm"])
    if not sigma > 1e-5 * scale:
        reason = (
            "the gradients of the tasks judged are equal to a part in 100000 of grad Phi, so that no batch is off by "
            "more than rounding may be: give tasks that differ"
        )
        return [missing("sigma^2, so that there is something to decay", 0.0, reason)]
    # d off by a share of the scale is a mean square off by twice that share of sigma times the scale
    gap = np.abs(e["mean_square"] - e["law"]) / (sigma * scale)
    return [
        at_most(
            "|mean of d_B over all batches - grad Phi| / (sigma + |grad Phi|)", e["bias"] / scale, 1e-7, cells=cells
        ),
        at_most("|mean of |d_B - grad Phi|^2 - zeta_b sigma^2| / sigma (sigma + |grad Phi|)", gap, 1e-7, cells=cells),
        mean_vector_equals(
            "T^2 of the direction of batches of the stream",
            e["stream"],
            e["stream_mean"],
            cells=[f"b {e['stream_b']:.0f}, {'i.i.d.' if iid else 'without replacement'}" for iid in SAMPLINGS],
        ),
    ]


def _gather(setting: Setting, *, planted: bool) -> Evidence:
    problem = judged(setting, TASKS)
    M = problem.tasks
    (phi,) = points(problem, setting.seed, 1)
    exact = solved(problem, phi)
    single = SingleTasks(problem, problem.sample(None, torch.Generator()), phi)
    gradients = torch.stack([single.direction(i, exact.x, exact.theta[i], exact.v[i]) for i in range(M)])
    gradient = gradients.mean(0)
    sigma_sq = float((gradients - gradient).square().sum(-1).mean())
    solver = _Directions(setting, problem.started(exact.theta), phi, exact)
    rows = []
    for b, iid in setting.track([(b, iid) for b in BATCHES if b <= M for iid in SAMPLINGS], "batches"):
        drawn = product(range(M), repeat=b) if iid or planted else combinations(range(M), b)
        found = _moments(solver, torch.tensor(list(drawn)), gradient)
        rows.append((b, iid, *found, zeta(b, M, replacement=iid) * sigma_sq))
    batch, sampling, bias, mean_square, law = (np.array(column, float) for column in zip(*rows, strict=True))
    return {
        "cells": np.stack([batch, sampling], -1),
        "bias": bias,
        "mean_square": mean_square,
        "law": law,
        "sigma_sq": np.array(sigma_sq),
        "gradient_norm": np.array(float(gradient.norm())),
        **_stream(setting, solver, gradients, planted=planted),
    }


class _Directions(NamedTuple):
    """One cold step of the method from theta*, v solved to rounding, on batches of the tasks."""

    setting: Setting
    problem: SomeTasks
    phi: dict[str, Tensor]
    exact: Solved

    def of(self, index: Tensor) -> Tensor:
        """d_B of the batches (n, b) of these tasks, (n, p)."""
        method = self.setting.method(
            lower_steps=1,
            lower_step_size=self.exact.step_size,
            cg_steps=enough(self.exact),
            upper_step_size=1.0,
            warm_start=False,
        )
        phi = {name: x.expand(len(index), *x.shape) for name, x in self.phi.items()}
        oracle = Oracle(self.problem, replicas=len(index))
        tasks = self.problem.select(index.to(self.setting.device))
        return flattened(method.step(oracle, phi, tasks, method.start(oracle, phi)).direction, lead=1)

    def pieces(self, index: Tensor) -> tuple[Tensor, ...]:
        """The batches, so many at a time that their directions and systems are at most 4 million numbers."""
        p, q = len(self.exact.x), self.exact.theta.shape[-1]
        return index.split(max(1, 2**22 // (index.shape[-1] * (p + q * q))))


def _moments(solver: _Directions, index: Tensor, gradient: Tensor) -> tuple[float, float]:
    """|mean d_B - grad Phi| and mean |d_B - grad Phi|^2 over the batches."""
    off = [solver.of(piece) - gradient for piece in solver.pieces(index)]
    bias = sum(piece.sum(0) for piece in off) / len(index)
    return float(bias.norm()), float(sum(piece.square().sum() for piece in off)) / len(index)


def _stream(setting: Setting, solver: _Directions, gradients: Tensor, *, planted: bool) -> Evidence:
    """Directions of batches of the driver's stream, seen along the directions in which the tasks differ most."""
    M, b = len(gradients), min(2, len(gradients) - 1)
    _, sizes, rows = torch.linalg.svd(gradients - gradients.mean(0), full_matrices=False)
    seen = rows[: min(DIRECTIONS, max(1, int((sizes > 1e-3 * sizes[0]).sum())))]
    each = seconds(lambda: solver.of(torch.arange(M)[None, :b]))
    count = affordable(each, setting.pick(2.0, 20.0), least=200, most=setting.pick(2000, 20000))
    found = []
    for iid in SAMPLINGS:
        stream = TaskStream(setting.seed, pool=M, batch=b, replacement=iid or planted)
        index = torch.stack([stream.index(t) for t in range(count)])
        found.append(torch.cat([solver.of(piece) @ seen.mT for piece in solver.pieces(index)]).cpu().numpy())
    return {
        "stream": np.stack(found),
        "stream_mean": (seen @ gradients.mean(0)).cpu().numpy(),
        "stream_b": np.array(b),
    }
