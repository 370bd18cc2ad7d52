"""Loops over single tasks in numpy, from the equations of a method's source: what its runs are held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convergence import Method, Oracle, Result, Step, run
from convergence.streams import TaskStream, generator
from convergence.trees import map_tensors, tensors_of
from problems import Examples, Noisy, Parameters, Problem, Quadratic, Tasks
from tests.independent import assert_near
from tests.strategies import normal

SEED, ITERATIONS = 3, 5
TERMS = 4  # Q
Visit = Callable[[int, int, np.ndarray], np.ndarray]  # (t, i, phi) -> d_i; it moves what it keeps of task i


def quadratic() -> Quadratic:
    return Quadratic.random(tasks=3, p=2, q=4, kappa=5.0, seed=1)


class OneTask(NamedTuple):
    """The matrices of one task of a quadratic, and its derivatives."""

    A: np.ndarray
    C: np.ndarray
    b: np.ndarray
    Q: np.ndarray
    u: np.ndarray
    R: np.ndarray
    w: np.ndarray

    def lower_slope(self, phi, theta):
        return self.A @ theta - self.C @ phi - self.b

    def upper_slope(self, theta):
        return self.Q @ (theta - self.u)

    def direction(self, phi, v):
        return self.R @ (phi - self.w) + self.C.T @ v

    def star(self, phi):
        return np.linalg.solve(self.A, self.C @ phi + self.b)


def tasks_of(problem: Quadratic) -> list[OneTask]:
    return [OneTask(*(problem.data[name][i].numpy() for name in "ACbQuRw")) for i in range(problem.tasks)]


def step_size_of(problem: Quadratic) -> float:
    eigenvalues = np.linalg.eigvalsh(problem.data["A"].numpy())
    return float(2 / (eigenvalues.min() + eigenvalues.max()))


def batches_of(problem: Problem, batch: int | None) -> list[list[int]]:
    if batch is None:
        return [list(range(problem.tasks))] * ITERATIONS
    stream = TaskStream(SEED, pool=problem.tasks, batch=batch, replacement=False)
    return [stream.index(t).tolist() for t in range(ITERATIONS)]


def numbers(iteration: int, rows: int, *counts: int) -> list[list[int]]:
    """What is drawn first in an iteration: for each count so many integers below it."""
    rng = generator(SEED, "noise", iteration)
    return [torch.randint(count, (rows,), generator=rng).tolist() for count in counts]


def assert_replays(
    problem: Problem, method: Method, visit: Visit, beta: Callable[[int], float], *, batch: int | None = None
) -> Result:
    """5 iterations of the run are those of phi <- phi - beta_t mean_i visit(t, i, phi), to 1e-12."""
    name, like = next(iter(problem.phi0(torch.Generator()).items()))
    start = normal(5, *like.shape)
    phi = start.numpy()
    batches = batches_of(problem, batch)
    for t, rows in enumerate(batches):
        phi = phi - beta(t) * np.mean([visit(t, i, phi) for i in rows], axis=0)
        options = {"iterations": t + 1, "batch": batch, "seed": SEED, "phi0": {name: start}, "probes": ()}
        result = run(problem, method, **options)
        assert_near(result.phi[name], torch.from_numpy(phi), within=1e-12)
    assert float(np.abs(phi - start.numpy()).max()) > 1e-3  # it went somewhere
    return result


# ---- one step from a given point


def step_from(method: Method, problem: Problem, phi: Parameters, state: Any) -> Step:
    oracle = Oracle(problem)
    return method.step(oracle, phi, oracle.pool, state)


def assert_unbiased(
    method: Method,
    problem: Quadratic,
    levels: dict[str, float],
    state: Any,
    phi: Parameters,
    *,
    of: tuple[str, ...] = ("direction", "theta"),
) -> None:
    """The mean of one step on noisy objectives is the step on exact ones: 4000 replicas, no coordinate at |z| > 6."""
    count = 4000
    expected = step_from(method, problem, phi, state)
    many = map_tensors(lambda x: x.expand(count, *x.shape), (phi, state))
    oracle = Oracle(Noisy(problem, **levels), replicas=count, seeds=range(count))
    found = method.step(oracle, many[0], oracle.pool, many[1])
    for part in of:
        mean, drawn = (next(iter(tensors_of(getattr(step, part)))) for step in (expected, found))
        error = drawn.std(0) / count**0.5
        assert bool((error > 0).all())
        assert float(error.max()) < 0.06 * float(mean.abs().max())  # sharp enough to see a wrong factor
        assert float(((drawn.mean(0) - mean) / error).abs().max()) < 6


# ---- lower steps, then a series: BSA, stocBiO, TTSA, ALSET


def one_term(task: OneTask, b: np.ndarray, eta: float, p: int) -> np.ndarray:
    """Q eta (I - eta A)^p b."""
    return TERMS * eta * np.linalg.matrix_power(np.eye(len(b)) - eta * task.A, p) @ b


def all_terms(task: OneTask, b: np.ndarray, eta: float) -> np.ndarray:
    """eta sum_{j=0}^{Q} (I - eta A)^j b."""
    return eta * sum(np.linalg.matrix_power(np.eye(len(b)) - eta * task.A, j) @ b for j in range(TERMS + 1))


def assert_alternates(method, problem, *, batch, steps, rho, eta, beta, whole=False, cold=False):
    """The run is the loop: steps(t) steps of size rho(t) on theta, then d there, by one term or the whole."""
    tasks, rows_of = tasks_of(problem), batches_of(problem, batch)
    theta = np.zeros((problem.tasks, problem.q))

    def visit(t, i, phi):
        task = tasks[i]
        if cold:
            theta[i] = 0
        for _ in range(steps(t)):
            theta[i] -= rho(t) * task.lower_slope(phi, theta[i])
        b = task.upper_slope(theta[i])
        if whole:
            return task.direction(phi, all_terms(task, b, eta))
        (drawn,) = numbers(t, len(rows_of[t]), TERMS)
        return task.direction(phi, one_term(task, b, eta, drawn[rows_of[t].index(i)]))

    result = assert_replays(problem, method, visit, beta, batch=batch)
    if cold:
        assert result.state.theta is None
    else:
        assert_near(result.state.theta, torch.from_numpy(theta), within=1e-12)


# ---- a finite sum whose blocks differ in every derivative


class LeastSquares(Problem):
    """g = 1/2n |X (theta - phi / 2) - y|^2 + ridge/2 |theta|^2,  f = 1/2m |X_val (theta + phi / 3) - y_val|^2 + ..."""

    examples = Examples(lower=("X", "y"), upper=("X_val", "y_val"))
    ridge = 0.5

    def __init__(self, *, tasks: int = 3, examples: int = 6, q: int = 2):
        self.q = q
        names = {"X": (examples, q), "y": (examples,), "X_val": (examples, q), "y_val": (examples,)}
        self.data = {name: normal(seed, tasks, *shape) for seed, (name, shape) in enumerate(names.items())}

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"phi": torch.ones(self.q, dtype=torch.float64)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        residual = (tasks.X @ (theta - features["phi"] / 2).unsqueeze(-1)).squeeze(-1) - tasks.y
        return 0.5 * residual.square().mean(-1) + 0.5 * self.ridge * theta.square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        residual = (tasks.X_val @ (theta + features["phi"] / 3).unsqueeze(-1)).squeeze(-1) - tasks.y_val
        return 0.5 * residual.square().mean(-1) + 0.5 * features["phi"].square().sum(-1)


class Derivatives(NamedTuple):
    """grad_theta g, d2g/dtheta2 v, d2g/dphi dtheta v, grad_theta f, grad_phi f of one task of `LeastSquares`."""

    slope: np.ndarray
    product: np.ndarray
    cross: np.ndarray
    upper: np.ndarray
    direct: np.ndarray


def derivatives(problem: LeastSquares, i: int, phi, theta, v, lower=None, upper=None, size: int = 2) -> Derivatives:
    """Of these blocks of `size` examples, or of the whole sums where a block is None."""
    X, y, X_val, y_val = (problem.data[name][i].numpy() for name in ("X", "y", "X_val", "y_val"))
    own = slice(None) if lower is None else slice(size * lower, size * (lower + 1))
    its = slice(None) if upper is None else slice(size * upper, size * (upper + 1))
    X, y, X_val, y_val = X[own], y[own], X_val[its], y_val[its]
    gram = X.T @ X / len(y)
    residual = X_val.T @ (X_val @ (theta + phi / 3) - y_val) / len(y_val)
    return Derivatives(
        X.T @ (X @ (theta - phi / 2) - y) / len(y) + problem.ridge * theta,
        gram @ v + problem.ridge * v,
        -gram @ v / 2,
        residual,
        residual / 3 + phi,
    )
