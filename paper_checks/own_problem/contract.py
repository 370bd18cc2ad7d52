"""The problem is what it says it is: derivatives, tasks apart from each other, replicas, constants.

Statement.
    g_i and f_i are functions of phi and of theta_i alone, task by task; their derivatives by torch.func are those of
    their values, and the closed forms given are those derivatives; constants given are bounds; g_i is strongly convex.
Hypotheses.
    None: this is what the other claims take for granted.
Predicted.
    (1) Derivatives of g and f along random directions, and of grad_theta g in theta and phi, are the limits of
    differences of values: one that is cut off by detach is seen. (2) Every closed form equals torch.func on g and f.
    (3) A batch is the stack of its single tasks in any order, and replicas are separate evaluations. (4) Values keep
    float64. (5) Every Hessian in theta is positive definite. (6) g and f depend on theta; phi reaches f or g. (7) Every
    constant given bounds what is measured of it.
Measured.
    At phi_0 and near the starts of the next seeds, theta and v around theta_0, on at most four tasks, mu and L on 64.
    Central differences of steps 1e-2 to 1e-6, the nearest; theta*, Phi and grad Phi by damped Newton (q <= 512);
    constants as eigenvalues and difference quotients between those points, no larger than the constants themselves.
Refuted by.
    A closed form or a batch off by 1e-9 relative, a derivative off its differences by 1e-5, an eigenvalue <= 0, a
    constant exceeded by 1e-8 relative. Where phi does not reach the lower level the implicit part of grad Phi is zero:
    INCONCLUSIVE, so that nobody takes it for a result.
Source.
    docs/theory.md S0. The contract tests of the problems of this package (tests/problems/test_contract.py) are these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from convergence import Oracle, ReferenceFailed, reference
from convergence.streams import generator
from paper_checks.claim import Comparison, Evidence, Setting, at_least, at_most, equal, missing
from paper_checks.own_problem.lower_level import DENSE, extremes
from paper_checks.own_problem.measured_constants import measured
from paper_checks.own_problem.require import CLOSED_FORMS, call
from paper_checks.own_problem.single_tasks import SingleTasks, vector
from paper_checks.own_problem.some_tasks import SomeTasks, judged, like, points
from paper_checks.quadratic_theory import Array
from problems import Constants, Parameters, Problem, Tasks, Wrapper, map_parameters

PLANTED = "a closed form of grad_theta g that is off by a thousandth, and half of L where constants are given"
TASKS, MORE, POINTS = 4, 64, 3
DERIVATIVES = ("grad_theta g", "grad_theta f", "grad_phi f", "d2g/dtheta2", "d2g/dphi dtheta")
WHOLE = ("value", "hypergradient")  # over all tasks of the pool
EXACT = ("lower_solution", "lower_argmin", *WHOLE)  # which need theta*


def lacks(problem: Problem) -> str:
    """Nothing is asked for."""
    return ""


def run(setting: Setting) -> Evidence:
    """Every property at every point."""
    return _gather(setting, judged(setting, TASKS))


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    some = judged(setting, TASKS)
    planted = SomeTasks.of(_Wrong(some.problem), TASKS, seed=setting.seed)
    planted.data = some.data
    return _gather(setting, planted)


def judge(evidence: Evidence) -> list[Comparison]:
    """Differences small, eigenvalues positive, derivatives not zero, constants not exceeded."""
    e = evidence
    found = [
        at_most(
            "derivatives by torch.func against differences of values",
            e["derivative_gap"],
            1e-5,
            cells=_cells(e["derivative_names"], e["derivative_gap"]),
        ),
        at_most("a batch against its single tasks", e["batch_gap"], 1e-9, cells=("g", "f", "theta_0")),
        at_most("the tasks in another order", e["order_gap"], 1e-9, cells=("g", "f", "theta_0")),
        at_most("replicas against separate evaluations", e["replica_gap"], 1e-9, cells=("grad_theta g", "d")),
        equal("bits of a value of g and f in float64", e["bits"], 64, cells=("g", "f")),
        at_least("least eigenvalue of d2g/dtheta2 over the largest", e["eigenvalues"], 1e-14),
        at_least("norm of a derivative in theta, so that it is there", e["theta_enters"], 1e-300, cells=("g", "f")),
        at_least("norm of a derivative in phi, so that it is there", e["phi_enters"].sum(), 1e-300),
    ]
    if not e["phi_enters"][1] > 0:
        reason = (
            "phi does not reach the lower level at any point tried, so that the implicit part of grad Phi is zero: "
            "is it detached there, or is this not a bilevel problem?"
        )
        found.append(missing("norm of d2g/dphi dtheta, so that there is an implicit part", 0.0, reason))
    if len(e["closed_gap"]):
        quantity = "closed forms against torch.func on g and f alone"
        found.append(at_most(quantity, e["closed_gap"], 1e-9, cells=e["closed_names"]))
    if len(e["constants"]):
        # mu from below, as 1 / mu; beside a constant of zero 1e-9 counts as rounding
        ratio = e["constants_measured"] / (e["constants"] * (1 + 1e-8) + 1e-9)
        found.append(at_most("what is measured over the constant given", ratio, 1.0, cells=e["constant_names"]))
    return found


def _cells(names: Iterable[str], gaps: Array) -> list[str]:
    return [f"{name}, point {k}" for name in names for k in range(gaps.shape[1])]


class _Wrong(Wrapper):
    """The problem with a wrong closed form of grad_theta g, and half of L."""

    def has(self, closed_form: str) -> bool:
        """That closed form as well."""
        return closed_form == "lower_gradient" or super().has(closed_form)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """A thousandth too long."""
        return 1.001 * grad(lambda point: self.problem.lower(features, point, tasks).sum())(theta)

    @property
    def constants(self) -> Constants | None:  # type: ignore[override]  # one of them wrong
        """Half of L, and no mu above it."""
        known = self.problem.constants
        return known and replace(known, L=known.L / 2, mu=min(known.mu, known.L / 2))


# ---- what is measured


class _At:
    """One point: phi, theta and v around theta_0, of some tasks."""

    def __init__(self, problem: SomeTasks, phi: Parameters, seed: int):
        self.problem, self.phi, self.x = problem, phi, vector(phi)
        self.tasks = problem.sample(None, torch.Generator())
        self.single = SingleTasks(problem, self.tasks, phi)
        rng = generator(seed, "noise")  # unlike what data may be drawn from
        start = self.single.theta0(self.x)
        self.v, away = like(start, rng), like(start, rng)
        for _ in range(40):  # nearer, until both objectives are finite
            self.theta = start + away
            values = torch.stack([self.values(level) for level in ("lower", "upper")])
            if bool(torch.isfinite(values).all()):
                break
            away = away / 2
        self.z = problem.embed(phi, self.tasks)

    def values(self, level: str, tasks: Tasks | None = None, theta: Tensor | None = None) -> Tensor:
        """g or f of these tasks, in one batch."""
        tasks, theta = self.tasks if tasks is None else tasks, self.theta if theta is None else theta
        return getattr(self.problem, level)(self.problem.embed(self.phi, tasks), theta, tasks).detach()


def _gather(setting: Setting, problem: SomeTasks) -> Evidence:
    at = [_At(problem, phi, setting.seed + k) for k, phi in enumerate(points(problem, setting.seed, POINTS))]
    values = [at[0].values(level) for level in ("lower", "upper")]
    bits = [torch.finfo(x.dtype).bits if x.is_floating_point() else 0 for x in values]
    tasks = [(one, i, one.x, one.theta[i]) for one in at for i in range(len(one.single))]
    slopes = [
        max(float(one.single.slope(level, *where).norm()) for one, *where in tasks) for level in ("lower", "upper")
    ]
    direct = max(float(one.single.phi_slope("upper", *where).norm()) for one, *where in tasks)
    implicit = max(float(one.single.cross(i, x, theta, one.v[i]).norm()) for one, i, x, theta in tasks)
    there = slopes[0] > 0 and direct + implicit > 0  # else the oracle refuses
    ends = [extremes(one.single, one.x, one.theta) for one in at]
    return {
        "derivative_gap": np.array([[_derivative_gap(one, name) for one in at] for name in DERIVATIVES]),
        "derivative_names": np.array(DERIVATIVES),
        "batch_gap": np.max([_batch_gaps(one, slice(None)) for one in at], 0),
        "order_gap": np.max([_batch_gaps(one, slice(None, None, -1)) for one in at], 0),
        "replica_gap": _replica_gaps(at) if there else np.zeros(2),
        "bits": np.array(bits),
        "eigenvalues": np.array([low / high if high > 0 else -1.0 for low, high in ends]),
        "theta_enters": np.array(slopes),
        "phi_enters": np.array([direct, implicit]),
        **_closed_gaps(at),
        **_constants(at),
    }


def _gap(found: Tensor, right: Tensor, *scales: Tensor) -> float:
    """The largest difference, relative to the largest entry of what is right, or of what it is the difference of."""
    if not right.numel():
        return 0.0
    scale = max(float(each.abs().max()) for each in (right, *scales))
    gap = float((found - right).abs().max())
    return gap / scale if scale else gap


def _derivative_gap(one: _At, name: str) -> float:
    """The largest over the tasks of |derivative - its difference|, relative to the norm of the whole derivative."""
    rng = torch.Generator().manual_seed(0)
    return float(np.max([_derivative_gap_of(one, name, i, rng) for i in range(len(one.single))]))


def _derivative_gap_of(one: _At, name: str, i: int, rng: torch.Generator) -> float:
    """Central differences of steps 1e-2 to 1e-6, of which the nearest counts.

    A wrong derivative is far from all of them, a right one near to some, whatever the curvature and the rounding, and
    on either side of a kink.
    """
    x, theta, v, single = one.x, one.theta[i], one.v[i], one.single
    in_phi = "phi" in name
    along = like(x if in_phi else theta, rng)
    along = along / along.norm()

    def value(t: float) -> float:
        at = (x + t * along, theta) if in_phi else (x, theta + t * along)
        if name.startswith("d2g"):
            return float(single.slope("lower", i, *at) @ v)
        return float(single.value("lower" if name.endswith("g") else "upper", i, *at))

    derivatives: dict[str, Callable[[], Tensor]] = {
        "grad_theta g": lambda: single.slope("lower", i, x, theta),
        "grad_theta f": lambda: single.slope("upper", i, x, theta),
        "grad_phi f": lambda: single.phi_slope("upper", i, x, theta),
        "d2g/dtheta2": lambda: single.product(i, x, theta, v),
        "d2g/dphi dtheta": lambda: single.cross(i, x, theta, v),
    }
    whole = derivatives[name]()
    differences = np.array([(value(h) - value(-h)) / (2 * h) for h in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)])
    near = np.abs(differences - float(whole @ along)).min()
    # A derivative of zero is one to the rounding of the values
    return float(near / max(float(whole.norm()), np.abs(differences).min(), 1e-6 * (1 + abs(value(0.0)))))


def _batch_gaps(one: _At, order: slice) -> list[float]:
    """g, f and theta_0 of the batch in that order against its single tasks."""
    rows = torch.arange(len(one.tasks))[order] if order.step is None else torch.arange(len(one.tasks)).flip(0)
    tasks, theta = one.tasks[rows.to(one.tasks.index.device)], one.theta[rows.to(one.theta.device)]
    gaps = []
    for level in ("lower", "upper"):
        singles = torch.stack([one.single.value(level, i, one.x, one.theta[i]) for i in rows.tolist()])
        gaps.append(_gap(one.values(level, tasks, theta), singles))
    start = one.problem.theta0(one.phi, tasks).detach()
    return [*gaps, _gap(start, one.single.theta0(one.x)[rows.to(start.device)])]


def _replica_gaps(at: list[_At]) -> Array:
    """grad_theta g and d of two replicas with tasks of their own against separate evaluations of the oracle."""
    problem, pair = at[0].problem, at[:2]
    count = len(at[0].tasks)
    index = torch.stack([torch.arange(count), torch.arange(count).flip(0)]).to(at[0].tasks.index.device)
    phi = {name: torch.stack([one.phi[name] for one in pair]) for name in pair[0].phi}
    theta, v = (torch.stack([getattr(one, name) for one in pair]) for name in ("theta", "v"))

    def evaluated(replicas: int | None, phi: Parameters, theta: Tensor, v: Tensor, tasks: Tasks) -> tuple[Any, Any]:
        oracle = Oracle(problem, replicas=replicas)
        z = oracle.embed(phi, tasks)
        return oracle.lower_gradient(z, theta, tasks), oracle.hypergradient(z, theta, v, tasks)

    gradients, directions = evaluated(2, phi, theta, v, problem.select(index))
    gaps = np.zeros(2)
    for r, one in enumerate(pair):
        gradient, direction = evaluated(None, one.phi, one.theta, one.v, problem.select(index[r]))
        mine = map_parameters(lambda x, r=r: x[r], directions)
        gaps = np.maximum(gaps, [_gap(gradients[r], gradient), _gap(vector(mine), vector(direction))])
    return gaps


# ---- closed forms


def _closed_gaps(at: list[_At]) -> Evidence:
    problem = at[0].problem.problem
    dense = at[0].theta.shape[-1] <= DENSE
    names = [form for form in CLOSED_FORMS if problem.has(form) and (dense or form not in EXACT)]
    if problem.tasks is None:
        names = [form for form in names if form not in WHOLE]
    gaps = [max(_closed_gap(problem, form, one) for one in at[: 1 if form in WHOLE else None]) for form in names]
    if problem.has("upper_solution") and dense and problem.tasks is not None:
        names.append("upper_solution")
        gaps.append(_slope_left(problem, at[0]))
    return {"closed_names": np.array(names, dtype=np.str_), "closed_gap": np.array(gaps, float)}


def _closed_gap(problem: Problem, form: str, one: _At) -> float:
    single, x, theta, v = one.single, one.x, one.theta, one.v
    given = {"phi": one.phi, "z": one.z, "theta": theta, "v": v, "tasks": one.tasks}
    found = call(problem, form, given)
    each: dict[str, Callable[[int], Tensor]] = {
        "lower_gradient": lambda i: single.slope("lower", i, x, theta[i]),
        "lower_hvp": lambda i: single.product(i, x, theta[i], v[i]),
        "upper_gradient": lambda i: single.slope("upper", i, x, theta[i]),
    }
    M = range(len(single))
    if form in each:
        return _gap(found, torch.stack([each[form](i) for i in M]))
    if form == "lower_inverse_hvp":  # its residual
        return _gap(torch.stack([single.product(i, x, theta[i], found[i]) for i in M]), v)
    if form == "surrogate_gradient":
        parts = [
            torch.stack([single.phi_slope("upper", i, x, theta[i]) for i in M]),
            torch.stack([single.cross(i, x, theta[i], v[i]) for i in M]),
        ]
        return _gap(vector(found), (parts[0] - parts[1]).mean(0), *parts)
    if form == "curvature":
        low, high = extremes(single, x, theta)
        return max(float(found[0].min()) - low, high - float(found[1].max())) / high
    return _exact_gap(problem, form, one, found)


def _exact_gap(problem: Problem, form: str, one: _At, found: Any) -> float:
    """Of theta*, Phi or grad Phi against damped Newton; not a number where that finds no theta*."""
    try:
        if form not in WHOLE:
            return _gap(found, reference(one.problem, one.phi, one.tasks).theta)
        gradient, value = _whole(problem, one)
    except ReferenceFailed:
        return np.nan
    return _gap(found, value) if form == "value" else _gap(vector(found), gradient)


def _slope_left(problem: Problem, one: _At) -> float:
    """|grad Phi| at the solution given over that at this point, or over one; not a number without theta* there."""
    try:
        solution = _At(one.problem, problem.upper_solution(), 0)
        left, size = (float(_whole(problem, each)[0].norm()) for each in (solution, one))
    except ReferenceFailed:
        return np.nan
    return left / max(size, 1.0)


def _whole(problem: Problem, one: _At) -> tuple[Tensor, Tensor]:
    """grad Phi as a vector and Phi, of all tasks of the pool, some at a time."""
    pool = problem.sample(None, torch.Generator())
    some = max(1, 2**22 // one.theta.shape[-1] ** 2)
    gradient, value = torch.zeros_like(one.x), torch.zeros_like(one.x[0])
    for first in range(0, len(pool), some):
        part = pool[first : first + some]
        exact = reference(problem, one.phi, part)
        gradient += len(part) / len(pool) * vector(exact.hypergradient)
        value += len(part) / len(pool) * exact.value
    return gradient, value


# ---- constants


def _constants(at: list[_At]) -> Evidence:
    known = at[0].problem.constants
    names: list[str] = []
    given: list[float] = []
    found: list[float] = []
    if known is not None and at[0].theta.shape[-1] <= DENSE:
        try:
            sizes = measured(at[0].problem, at[0].single, [(one.phi, one.theta) for one in at])
            low, high = _of_more_tasks(at[0])
            sizes |= {"mu": min(low, sizes["mu"]), "L": max(high, sizes["L"])}
        except ReferenceFailed:
            sizes = {}
        for name in (each.name for each in fields(Constants)):
            if getattr(known, name) is not None and name != "sigma_sq":
                size = sizes.get(name, np.nan)
                names.append(f"1 / {name}" if name == "mu" else name)
                given.append(1 / known.mu if name == "mu" else getattr(known, name))
                found.append((1 / size if size > 0 else np.inf) if name == "mu" else size)
    return {
        "constant_names": np.array(names, dtype=np.str_),
        "constants": np.array(given, float),
        "constants_measured": np.array(found, float),
    }


def _of_more_tasks(one: _At) -> tuple[float, float]:
    """The extreme eigenvalues at theta_0 over up to 64 tasks: mu and L are said of all of them."""
    more = SomeTasks.of(one.problem.problem, max(TASKS, min(MORE, 2**18 // one.theta.shape[-1] ** 2)))
    more = more.to(one.x.device, torch.float64)
    single = SingleTasks(more, more.sample(None, torch.Generator()), one.phi)
    return extremes(single, one.x, single.theta0(one.x))
