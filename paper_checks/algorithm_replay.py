"""Every iterate is the one that the lines of the algorithm give, task by task.

Statement.
    phi_{t+1} = phi_t - beta mean_{i in B_t} [ grad_phi f_i - (d2g_i/dphi dtheta) v_i ], at theta_i after K gradient
    steps of size alpha and v_i after N steps of CG on (d2g_i/dtheta2) v = grad_theta f_i. Warm, both start where task i
    was left when it was last drawn; cold, at theta_0 and 0.
Hypotheses.
    None on the problem; float64 and a few iterations, so that rounding stays far below what is allowed.
Predicted.
    phi_0, ..., phi_T with K = N = 2 on quadratics; on softmax heads, where d2g/dtheta2 depends on theta; on a shared
    representation, where the cross derivative and grad_phi f do. Batches of three tasks with and without replacement,
    all tasks; warm, cold, and warm in theta alone; each replica as the run with its own seed. And phi_0, ..., phi_1000
    of a quadratic on batches with N = q, for what goes wrong late: with N < q two runs that differ by rounding part.
Measured.
    phi_t along runs through the driver. Predicted by closed forms in numpy for warm quadratics, else by dense
    derivatives (torch.func) of g and f alone; v by scipy's CG.
Refuted by.
    One phi_t off by 1e-12 relative.
Source.
    docs/theory.md S9. Algorithm 1 of the paper; differs: v may be warm. Limits and rates see fewer errors than
    iterates: exact convergence survives a forgotten CG step, every quadratic a Hessian at the wrong theta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor

from convergence import Probe, Snapshot
from convergence import run as solve
from convergence.streams import TaskStream, generator
from paper_checks.claim import Comparison, Evidence, Setting, equal
from paper_checks.planted import LateLastLine
from paper_checks.quadratic_theory import Array, QuadraticTheory
from paper_checks.written_out import written_out
from problems import Problem, ProxSoftmax, Quadratic, Representation

PLANTED = "the last line of the algorithm, the backward pass, at theta_{K-1} instead of theta_K"
POOL, BATCH = 5, 3
Cell = tuple[bool | Literal["theta"], bool | None]
# warm start; with replacement, without, or (None) all tasks in every iteration
CELLS: tuple[Cell, ...] = ((True, True), (True, False), (True, None), (False, True), ("theta", False))
FAMILIES = ("quadratic", "heads", "representation")


def run(setting: Setting) -> Evidence:
    """Measured and predicted iterates of every family, (cells, replicas, T + 1, p)."""
    evidence: Evidence = {}
    for family in setting.track(FAMILIES, "families"):
        evidence |= replayed(setting, family)
    return evidence | lasting(setting)


def control(setting: Setting) -> Evidence:
    """The same with the planted error, which only the shared representation can show."""
    return run(replace(setting, method=LateLastLine))


def judge(evidence: Evidence) -> list[Comparison]:
    """Every iterate of every replica attained."""
    comparisons = []
    for name in (*FAMILIES, "long_run"):
        measured, law = evidence[f"{name}_phi"], evidence[f"{name}_law"]
        cells = _names(CELLS if name in FAMILIES else CELLS[:1], *measured.shape[1:3])
        found = equal(
            f"phi_t replayed, {name.replace('_', ' ')}", _rows(measured), _rows(law), relative=1e-12, cells=cells
        )
        comparisons.append(found)
    return comparisons


def replayed(setting: Setting, family: str) -> Evidence:
    """Measured and predicted iterates of one family."""
    problem, alpha = instance(family, setting.seed)
    cells = [_cell(setting, problem, alpha, *cell, T=setting.pick(8, 20)) for cell in CELLS]
    measured, law = (np.stack(each) for each in zip(*cells, strict=True))
    return {f"{family}_phi": measured, f"{family}_law": law}


def lasting(setting: Setting) -> Evidence:
    """The same of a long run in the first of the cells."""
    measured, law = _cell(setting, *instance("quadratic", setting.seed), *CELLS[0], T=setting.pick(1000, 5000), N=4)
    return {"long_run_phi": measured[None], "long_run_law": law[None]}


def _rows(iterates: Array) -> Array:
    return iterates.reshape(-1, iterates.shape[-1])


def _names(cells: Sequence[Cell], replicas: int, times: int) -> list[str]:
    start = {True: "warm", False: "cold", "theta": "warm theta"}
    draw = {True: "i.i.d.", False: "without replacement", None: "all tasks"}
    names = [f"{start[warm]}, {draw[replacement]}" for warm, replacement in cells]
    return [f"{name}, replica {r}, t {t}" for name in names for r in range(replicas) for t in range(times)]


def instance(family: str, seed: int) -> tuple[Problem, float]:
    """The problem of this family, and its alpha."""
    if family == "quadratic":
        quadratic = Quadratic.random(tasks=POOL, p=3, q=4, kappa=10.0, seed=seed + 5)
        return quadratic, 2 / (quadratic.constants.L + quadratic.constants.mu)
    if family == "heads":
        heads = ProxSoftmax.random(tasks=POOL, classes=3, features=2, examples=8, prox=0.5, seed=seed + 5)
        return heads, 2 / (heads.constants.L + heads.constants.mu)
    representation = Representation.random(tasks=POOL, d=4, rank=3, examples=6, prox=0.5, seed=seed + 5)
    return representation, 1 / representation.lower_smoothness(2.0)


def _cell(
    setting: Setting,
    problem: Problem,
    alpha: float,
    warm: bool | Literal["theta"],
    replacement: bool | None,
    *,
    T: int,
    N: int = 2,
) -> tuple[Array, Array]:
    """phi_t of two replicas, measured and predicted, (2, T + 1, p)."""
    beta = 0.1
    seeds = (setting.seed, setting.seed + 1)
    starts = [problem.phi0(generator(seed, "start")) for seed in seeds]
    steps = {"K": 2, "N": N, "lower_step_size": alpha, "upper_step_size": beta}
    law = []
    for seed, start in zip(seeds, starts, strict=True):
        stream = TaskStream(seed, pool=POOL, batch=BATCH, replacement=bool(replacement))
        batches = [np.arange(POOL) if replacement is None else stream.index(t).numpy() for t in range(T)]
        if isinstance(problem, Quadratic) and warm is True:
            law.append(QuadraticTheory.of(problem).replay(start["phi"].numpy(), batches, **steps))
        else:
            law.append(written_out(problem, start, batches, **steps, warm=warm))

    default = None if problem.constants else alpha  # which is 2 / (L + mu)
    method = setting.method(lower_steps=2, lower_step_size=default, cg_steps=N, upper_step_size=beta, warm_start=warm)
    trace = solve(
        problem,
        method,
        iterations=T + 1,
        batch=None if replacement is None else BATCH,
        replacement=bool(replacement),
        seed=setting.seed,
        replicas=len(seeds),
        probes=[Probe(f"phi_{j}", lambda snapshot, j=j: _flat(snapshot)[:, j]) for j in range(law[0].shape[-1])],
        device=setting.device,
    ).trace
    measured = np.stack([trace[f"phi_{j}"].numpy().T for j in range(law[0].shape[-1])], axis=-1)
    return measured, np.stack(law)


def _flat(snapshot: Snapshot) -> Tensor:
    """phi of each replica as a row."""
    (phi,) = snapshot.phi.values()
    return phi.flatten(1)
