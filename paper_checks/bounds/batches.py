"""Bounds on batches of tasks, Theorems 4 and 4b: expectations over every sequence of batches, each one a replica."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from convergence import Oracle
from paper_checks.bounds.instances import Instances, Shape, Theory, instance, numbers, parameters, share
from paper_checks.falsify import Bound, Cell, Method
from paper_checks.quadratic_theory import Array, zeta
from paper_checks.stochastic_theory import StaleBound


def _shape(cell: Cell) -> Shape:
    return Shape(tasks=cell["M"], p=1, q=2)


def _sequences(cell: Cell) -> Array:
    """Every sequence of T batches of b of M tasks, (S, T, b)."""
    batches = (
        list(product(range(cell["M"]), repeat=cell["b"]))
        if cell["iid"]
        else list(combinations(range(cell["M"]), cell["b"]))
    )
    return np.array(list(product(batches, repeat=cell["T"])))


def _expectations(method: Method, cell: Cell, theory: Theory, N: int) -> tuple[Array, Array]:
    """E |grad Phi_t|^2 and E sigma^2(phi_t), (T, n), of the warm method with alpha = beta = 1."""
    sequences = _sequences(cell)
    n, S = len(theory.phi), len(sequences)
    each = theory.repeated(S)
    problem = Instances(each)
    oracle, phi = Oracle(problem, replicas=n * S), parameters(each.phi)
    solver = method(lower_steps=cell["K"], lower_step_size=1.0, cg_steps=N, upper_step_size=1.0, warm_start=True)
    state = solver.start(oracle, phi)
    squares, spread = [], []
    for t in range(cell["T"]):
        gradients = each.gradients(numbers(phi["phi"]))
        mean = gradients.mean(1)
        squares.append(np.square(mean).sum(-1).reshape(n, S).mean(1))
        spread.append(np.square(gradients - mean[:, None]).sum(-1).mean(-1).reshape(n, S).mean(1))
        step = solver.step(oracle, phi, problem.batch(np.tile(sequences[:, t], (n, 1))), state)
        phi, state = step.phi, step.state
    return np.stack(squares), np.stack(spread)


def _zeta(cell: Cell) -> float:
    return zeta(cell["b"], cell["M"], replacement=bool(cell["iid"]))


def _average(squares: Array) -> Array:
    return np.asarray(np.cumsum(squares, 0) / np.arange(1, len(squares) + 1)[:, None])


def _largest(squares: Array, bound: Array) -> Array:
    """1/T sum_{t<T} E |grad Phi_t|^2 over its bound, both (T, n), the largest over T."""
    return np.asarray((_average(squares) / (bound + 1e-12 * squares[0])).max(0))


def _decode_4(cell: Cell, x: Array) -> Theory:
    """A = I, so that one lower and one CG step are exact; beta L_Phi <= 1."""
    theory = Theory(_shape(cell).decode(x[:, :-1]))
    theory = Theory(theory.arrays | {"A": np.broadcast_to(np.eye(2), theory.A.shape).copy()})
    return theory.scaled(share(x[:, -1]) / theory.bounds["L_Phi"])


def _theorem_4(method: Method, cell: Cell, x: Array) -> Array:
    """1/T sum E |grad Phi_t|^2 over 2 Delta / (beta T) + beta L_Phi zeta_b / T sum E sigma_t^2, the largest over T."""
    theory = _decode_4(cell, x)
    squares, spread = _expectations(method, cell, theory, 1)
    T = np.arange(1, cell["T"] + 1)[:, None]
    bound = 2 * theory.gap(theory.phi) / T + theory.bounds["L_Phi"] * _zeta(cell) * _average(spread)
    return _largest(squares, bound)


def _theorem_4b(method: Method, cell: Cell, x: Array) -> Array:
    """The same with stale theta, over the bound of Theorem 4b, at a share of the largest beta it allows."""
    theory = Theory(_shape(cell).decode(x[:, :-1]))
    options = {"pool": cell["M"], "batch": cell["b"], "lower": (cell["K"], 1.0)}
    theory = theory.scaled(share(x[:, -1]) * [StaleBound.of(c, **options).largest_step for c in theory.constants])
    squares, spread = _expectations(method, cell, theory, 2)
    stale = np.square(theory.start_at - theory.theta(theory.phi)).sum(-1).mean(-1)
    gap = theory.gap(theory.phi)
    bounds = [
        StaleBound.of(c, **options).average(1.0, gap[k], stale[k], _zeta(cell) * spread[:, k])
        for k, c in enumerate(theory.constants)
    ]
    return _largest(squares, np.stack(bounds, -1))


def _instance(cell: Cell, x: Array) -> dict[str, Array]:
    return instance(_shape(cell))(cell, x[:-1]) | {"share of the largest beta": share(x[-1:])}


def _dimensions(cell: Cell) -> int:
    return _shape(cell).dimensions + 1


BOUNDS = {
    "batch_size_decay": (
        Bound(
            "Theorem 4: average of E |grad Phi|^2 over its bound",
            _dimensions,
            (
                {"M": 2, "b": 1, "T": 4, "K": 1, "iid": 1},
                {"M": 3, "b": 2, "T": 3, "K": 1, "iid": 0},
                {"M": 2, "b": 2, "T": 2, "K": 1, "iid": 1},
            ),
            _theorem_4,
            lambda cell, x: {name: a[0] for name, a in _decode_4(cell, x[None]).arrays.items()},
        ),
    ),
    "stale_warm_start": (
        Bound(
            "Theorem 4b: average of E |grad Phi|^2 over its bound",
            _dimensions,
            (
                {"M": 2, "b": 1, "T": 5, "K": 1, "iid": 0},
                {"M": 3, "b": 2, "T": 3, "K": 2, "iid": 0},
                {"M": 2, "b": 2, "T": 8, "K": 1, "iid": 0},
            ),
            _theorem_4b,
            _instance,
        ),
    ),
}
