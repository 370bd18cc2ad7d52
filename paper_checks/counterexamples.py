"""Each assumption is needed: without it the method fails, and exactly as predicted.

Statement.
    The theorems assume 0 < alpha < 2 / L, strong convexity of the lower level, a positive definite lower Hessian, a
    finite variance of the tasks' directions, and a beta below limits that depend on the noise and on the coupling of
    the levels. For each there is an instance that breaks it alone, and on which the method fails.
Hypotheses.
    (f1) alpha = 2.2 / L. (f2) g = 1/4 (theta - phi)^4. (f3) d2g/dtheta2 = diag(1, 0) with a right-hand side outside its
    range. (f4) Tasks' noise symmetric Pareto with index s <= 2, variance infinite. (f5) Curvatures h +- s,
    2 h / (h^2 + zeta s^2) < beta < 2 / h. (f6) beta = 1 / L_Phi, two lower modes that nearly cancel.
Predicted.
    (f1) The inner error grows by |1 - alpha L| = 1.2 a step along the eigenvector of L. (f2) It falls like
    (2 alpha k)^(-1/2): with y = 1 / e^2, y_k = y_0 + 2 alpha k + (3 alpha / 2) ln(y_k / y_0) up to a bounded remainder.
    (f3) One CG step gives d = (phi^2 + 1) / phi, unbounded as phi -> 0; a second one meets p'Hp = 0: BREAKDOWN.
    (f4) The median of |d - grad Phi| over batches of b is that of a mean of b Pareto variables, by Fourier inversion:
    squared ~ b^(-2 (1 - 1/s)) instead of 1/b. (f5) E phi_t^2 = ((1 - beta h)^2 + beta^2 zeta s^2)^t grows, while with
    all tasks, whose phi_t is the mean of the others, phi_t = (1 - beta h)^t vanishes. (f6) |phi_{t+1} - phi_t| grows a
    step by the spectral radius of the affine map, to NON_FINITE.
Measured.
    (f1, f2) theta_K of the method's lower solver. (f3, f4) The direction of single steps of the method; in (f4) the
    share of batches whose error lies below the predicted median, one batch a replica, s = 1.2, 1.5 and, with a finite
    variance, 3. (f5, f6) phi_t of runs.
Refuted by.
    A factor of f1, f3 or f6, or the vanishing phi_t, off by 1e-6 relative; an e_K of f2 off its law by half a step,
    or a slope over its last decade off -1/2 by 2e-3 (the logarithm leaves 1.4e-3 at K = 10^4); a share of f4 off 1/2,
    or a moment of f5 off its law, by more than 4 standard errors; a second moment that does not grow.
Source.
    docs/theory.md S7f, S4 (f5), S2 (f6). Not in the paper: these instances say what its assumptions are for.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from convergence import Oracle, Probe, Status, Step
from convergence import run as solve
from convergence.rates import Mean
from convergence.streams import generator
from paper_checks.claim import Array, Comparison, Evidence, Setting, at_least, equal, mean_equals
from paper_checks.heavy_tails import exponent, median_of_mean
from paper_checks.planted import FirstOrder, HalfBatch, LongerStep, OneLowerStepFewer
from problems import HeavyTailed, Problem, Quadratic, QuarticLower, SingularLower, Tasks
from problems.counterexamples import cancelling_modes, two_curvatures

PLANTED = (
    "a lower step forgotten (f1, f2), no cross term (f3), half of each batch (f4), an upper step too long (f5, f6)"
)
BATCHES = (16, 64, 256, 1024)
INDICES = (1.2, 1.5, 3.0)
PHI = Probe("phi", lambda now: now.phi["phi"][..., 0])


def run(setting: Setting) -> Evidence:
    """The six failures."""
    return {**_in_theta(setting), **_singular(setting), **_heavy(setting), **_in_phi(setting)}


def control(setting: Setting) -> Evidence:
    """Each failure with a planted error that it must show."""
    parts = ((_in_theta, OneLowerStepFewer), (_singular, FirstOrder), (_heavy, HalfBatch), (_in_phi, LongerStep))
    found: Evidence = {}
    for part, mutant in parts:
        found |= part(replace(setting, method=mutant))
    return found


def judge(evidence: Evidence) -> list[Comparison]:
    """Every failure is there, and is the predicted one."""
    e = evidence
    K1, K2 = ([f"K {K:.0f}" for K in e[name]] for name in ("diverging_K", "quartic_K"))
    phis = [f"phi {phi:.1e}" for phi in e["singular_phi"]]
    heavy = [f"index {index:g}, b {batch:.0f}" for index, batch in zip(e["heavy_index"], e["heavy_batch"], strict=True)]
    below = [Mean(each.mean(), each.std(ddof=1) / np.sqrt(len(each))) for each in e["heavy_below"].astype(float)]
    squares = np.square(e["noisy"])
    moments = [Mean(each.mean(), each.std(ddof=1) / np.sqrt(len(each))) for each in squares]
    times = [f"t {t:.0f}" for t in e["noisy_t"]]
    moves = e["coupled_moves"]
    flattest, steepest = _slopes(e, 1.2), _slopes(e, 3.0)
    return [
        equal("f1: inner error at alpha = 2.2 / L", e["diverging"], e["diverging_law"], relative=1e-6, cells=K1),
        equal("f2: iterations of the quartic error, off its law", e["quartic_shift"], 0, absolute=0.5, cells=K2),
        equal("f2: slope of the error over the last decade of K", _last_slope(e), -0.5, absolute=2e-3),
        equal("f3: d after one CG step", e["singular"], e["singular_law"], relative=1e-6, cells=phis),
        equal("f3: status of the second step", e["singular_status"], float(Status.BREAKDOWN), cells=phis),
        mean_equals("f4: share of errors below the predicted median", below, np.full(len(below), 0.5), cells=heavy),
        at_least("f4: slope of the squared median in b, index 1.2", flattest, -0.5),
        equal("f4: the same, index 3", steepest, -1.0, absolute=0.1),
        mean_equals("f5: E phi_t^2", moments, e["noisy_law"], cells=times),
        equal("f5: phi_t with all tasks", e["mean"], e["mean_law"], relative=1e-6, cells=times),
        at_least(
            "f5: E phi_t^2 / E phi_{t-1}^2", [b.value / a.value for a, b in pairwise(moments)], 1.2, cells=times[1:]
        ),
        equal("f6: growth of the moves at beta = 1 / L_Phi", moves[-1] / moves[-2], e["coupled_law"], relative=1e-6),
        equal("f6: how that run ends", e["coupled_status"], float(Status.NON_FINITE)),
    ]


def _last_slope(evidence: Evidence) -> float:
    K, error = evidence["quartic_K"], evidence["quartic"]
    return float(np.log(error[-1] / error[-2]) / np.log(K[-1] / K[-2]))


def _slopes(evidence: Evidence, index: float) -> float:
    """Of the squared median error between the smallest and the largest batch."""
    own = evidence["heavy_index"] == index
    batch, median = evidence["heavy_batch"][own], evidence["heavy_median"][own]
    return float(2 * np.log(median[-1] / median[0]) / np.log(batch[-1] / batch[0]))


# ---- f1, f2: the lower level


def _in_theta(setting: Setting) -> Evidence:
    """Errors of theta_K from the cold start: alpha beyond 2 / L; a lower level without strong convexity."""
    problem = Quadratic.random(tasks=1, p=2, q=3, kappa=5.0, seed=setting.seed)
    eigenvalues, vectors = np.linalg.eigh(problem.data["A"][0].numpy())
    alpha = 2.2 / eigenvalues[-1]
    phi = torch.zeros(2, dtype=torch.float64)
    optimum = problem.lower_solution({"phi": phi}, problem.sample(None, torch.Generator()))[0].numpy()
    steps = np.array([1, 2, 5, 10, 20, 40])
    theta = np.stack([_lower(setting, problem, phi, K, alpha)[0] for K in steps])
    start = problem.theta0({"phi": phi}, problem.sample(None, torch.Generator()))[0].numpy()

    quartic = QuarticLower(torch.zeros(1, 1, dtype=torch.float64))
    K = setting.pick(np.array([1, 3, 10, 100, 1000, 10000]), np.array([1, 3, 10, 100, 1000, 10000, 100000]))
    e = np.array([_lower(setting, quartic, torch.zeros(1, dtype=torch.float64), k, 0.2)[0, 0] for k in K])
    law = quartic_law(K, 0.2)
    return {
        "diverging_K": steps,
        "diverging": np.abs((theta - optimum) @ vectors[:, -1]),
        "diverging_law": abs(1 - alpha * eigenvalues[-1]) ** steps * abs((start - optimum) @ vectors[:, -1]),
        "quartic_K": K,
        "quartic": e,
        "quartic_law": law,
        "quartic_shift": quartic_time(e, 0.2) - K,
    }


def quartic_time(error: Array, alpha: float) -> Array:
    """The steps e' = e - alpha e^3 that lead from 1 to this error, up to a bounded remainder."""
    y = 1 / np.square(error)
    return np.asarray((y - 1 - 1.5 * alpha * np.log(y)) / (2 * alpha))


def quartic_law(K: Array, alpha: float) -> Array:
    """The error after K steps from 1, by inverting `quartic_time`."""
    errors = np.geomspace(1, 0.1 / np.sqrt(alpha * K.max()), 100_001)
    return np.asarray(np.exp(np.interp(K, quartic_time(errors, alpha), np.log(errors))))


def _lower(setting: Setting, problem: Problem, phi: torch.Tensor, K: int, alpha: float) -> Array:
    """theta_K of one step of the method from the cold start, (M, q)."""
    problem = problem.to(setting.device)
    at = {"phi": phi.to(setting.device)}
    oracle = Oracle(problem)
    method = setting.method(
        lower_steps=int(K), lower_step_size=alpha, cg_steps=1, upper_step_size=1.0, warm_start=False
    )
    return np.asarray(method.step(oracle, at, oracle.pool, method.start(oracle, at)).theta.cpu().numpy())


# ---- f3, f4: the direction


def _step(setting: Setting, problem: Problem, phi: torch.Tensor, tasks: Tasks | None, *, N: int) -> Step:
    """One step at phi (replicas, p) with exact theta, K = alpha = 1; all tasks where none are given."""
    oracle = Oracle(problem.to(setting.device), replicas=len(phi))
    at = {"phi": phi.to(setting.device)}
    method = setting.method(lower_steps=1, lower_step_size=1.0, cg_steps=N, upper_step_size=1.0, warm_start=False)
    tasks = oracle.pool if tasks is None else tasks.to(setting.device)
    return method.step(oracle, at, tasks, method.start(oracle, at))


def _singular(setting: Setting) -> Evidence:
    """Powers of two: the second residual is then orthogonal to the first without rounding, p'Hp = 0 exactly."""
    phi = 2.0 ** -np.arange(-2, 21, 2)
    first, second = (_step(setting, SingularLower(), torch.as_tensor(phi)[:, None], None, N=N) for N in (1, 2))
    return {
        "singular_phi": phi,
        "singular": first.direction["phi"][:, 0].cpu().numpy(),
        "singular_law": (phi**2 + 1) / phi,
        "singular_status": second.failure[:, 0].cpu().numpy(),
    }


def _heavy(setting: Setting) -> Evidence:
    replicas = setting.pick(4096, 16384)
    cells = [(index, batch) for index in INDICES for batch in BATCHES]
    medians, laws, below = [], [], []
    for k, (index, batch) in enumerate(setting.track(cells, "batches of heavy-tailed tasks")):
        problem = HeavyTailed(index)
        rng = generator(setting.seed, "tasks", k)
        tasks = problem.sample(replicas * batch, rng)
        tasks = Tasks(tasks.index.view(replicas, batch), noise=tasks.noise.view(replicas, batch, 1))
        d = _step(setting, problem, torch.ones(replicas, 1, dtype=torch.float64), tasks, N=1).direction["phi"]
        error = np.abs(d[:, 0].cpu().numpy() - 1)
        laws.append(median_of_mean(batch, index))
        medians.append(np.median(error))
        below.append(error < laws[-1])
    index, batch = (np.array(column, float) for column in zip(*cells, strict=True))
    return {
        "heavy_index": index,
        "heavy_batch": batch,
        "heavy_median": np.array(medians),
        "heavy_law": np.array(laws),
        "heavy_exponent": np.array([exponent(each) for each in index]),
        "heavy_below": np.stack(below),
    }


# ---- f5, f6: the upper level


def _in_phi(setting: Setting) -> Evidence:
    """Single tasks of curvatures h +- s beyond the limit of the second moment; two modes that nearly cancel."""
    h, s, beta, last = 1.0, 1.5, 0.8, 10  # 2 h / (h^2 + s^2) = 0.62 < beta < 2 / h
    options = {"iterations": last + 1, "seed": setting.seed, "probes": (PHI,), "device": setting.device}
    start = {"phi": torch.ones(1, dtype=torch.float64)}
    method = setting.method(lower_steps=1, lower_step_size=1.0, cg_steps=1, upper_step_size=beta, warm_start=False)
    problem, replicas = two_curvatures(h, s), setting.pick(8192, 65536)
    noisy = solve(problem, method, batch=1, replacement=True, replicas=replicas, phi0=start, **options).trace["phi"]
    mean = solve(problem, method, phi0=start, **options).trace["phi"]
    t = np.arange(1, last + 1)

    modes = cancelling_modes(kappa=10.0, s=0.9, opposed="slow")
    beta_c = 1 / modes.constants.L_Phi
    method = setting.method(lower_steps=1, lower_step_size=0.1, cg_steps=2, upper_step_size=beta_c, warm_start=True)
    run = solve(modes, method, raise_on_failure=False, phi0=start, **(options | {"iterations": 400}))
    radius, phi = coupled(modes, beta_c, 0.1, 1.0, 50)
    moves, law = (np.abs(np.diff(each)) for each in (run.trace["phi"].numpy()[:51], phi))
    return {
        "noisy_t": t,
        "noisy": noisy[1:].numpy(),
        "noisy_law": ((1 - beta * h) ** 2 + beta**2 * s**2) ** t,
        "mean": mean[1:].numpy(),
        "mean_law": (1 - beta * h) ** t,
        "coupled_moves": moves,
        "coupled_moves_law": law,
        "coupled_law": np.array(radius),
        "coupled_status": np.array(float(run.status)),
    }


def coupled(problem: Quadratic, beta: float, alpha: float, start: float, T: int) -> tuple[float, Array]:
    """Of one task with one warm lower step and exact v, from theta = 0: the spectral radius, and phi_0 .. phi_T."""
    A, C, Q, u = (problem.data[name][0].numpy() for name in ("A", "C", "Q", "u"))
    JQ = np.linalg.solve(A, C).T @ Q
    after = np.hstack([alpha * C, np.eye(len(A)) - alpha * A])  # theta' of (phi, theta)
    linear = np.vstack([np.eye(1, 1 + len(A)) - beta * JQ @ after, after])
    constant = np.concatenate([beta * JQ @ u, np.zeros(len(A))])
    states = [np.concatenate([[start], np.zeros(len(A))])]
    for _ in range(T):
        states.append(linear @ states[-1] + constant)
    return float(np.abs(np.linalg.eigvals(linear)).max()), np.stack(states)[:, 0]
