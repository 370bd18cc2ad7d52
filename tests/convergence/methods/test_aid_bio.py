"""AID-BiO and AID-FP: whole trajectories against loops in numpy, one task after the other."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from convergence import AIDBiO, MemoryReduced, Neumann, Richardson, run
from convergence.streams import TaskStream
from problems import Quadratic
from tests.independent import assert_near
from tests.strategies import normal

K, N, ALPHA, ETA, BETA = 2, 2, 0.25, 0.2, 0.3
T = 5


def cg(A: np.ndarray, b: np.ndarray, v: np.ndarray) -> np.ndarray:
    return scipy.sparse.linalg.cg(A, b, x0=v, rtol=0, atol=1e-15, maxiter=N)[0]


def fixed_point(A: np.ndarray, b: np.ndarray, v: np.ndarray) -> np.ndarray:
    for _ in range(N):
        v = v - ETA * (A @ v - b)
    return v


def series(A: np.ndarray, b: np.ndarray, v: np.ndarray) -> np.ndarray:
    return ETA * sum(np.linalg.matrix_power(np.eye(len(b)) - ETA * A, j) @ b for j in range(N + 1))


SOLVERS = {
    "cg": (cg, {"cg_steps": N}),
    "fixed point": (fixed_point, {"linear_solver": Richardson(N, ETA)}),
    "neumann": (series, {"linear_solver": Neumann(N, ETA)}),
}


def loop(problem: Quadratic, batches: list[list[int]], solve, phi: np.ndarray, *, warm: bool) -> np.ndarray:
    thetas, vs = np.zeros((2, problem.tasks, problem.q))
    for batch in batches:
        d, before = np.zeros(problem.p), (thetas.copy(), vs.copy())
        for i in batch:
            A, C, b, Q, u, R, w = (problem.data[name][i].numpy() for name in "ACbQuRw")
            theta, v = (old[i] if warm else np.zeros(problem.q) for old in before)
            for _ in range(K):
                theta = theta - ALPHA * (A @ theta - C @ phi - b)
            v = solve(A, Q @ (theta - u), v)
            thetas[i], vs[i] = theta, v
            d += (R @ (phi - w) + C.T @ v) / len(batch)
        phi = phi - BETA * d
    return phi


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", SOLVERS)
def test_five_iterations_are_those_of_a_plain_loop(name, batch, warm):
    problem = Quadratic.random(tasks=3, p=3, q=4, kappa=4.0, seed=1)
    solve, options = SOLVERS[name]
    made = AIDBiO(lower_steps=K, lower_step_size=ALPHA, upper_step_size=BETA, warm_start=warm, **options)
    phi = normal(0, 3)
    result = run(problem, made, iterations=T, batch=batch, seed=2, phi0={"phi": phi}, probes=())
    stream = TaskStream(2, pool=3, batch=batch or 3, replacement=False)
    batches = [list(range(3)) if batch is None else stream.index(t).tolist() for t in range(T)]
    assert_near(
        result.phi["phi"], torch.from_numpy(loop(problem, batches, solve, phi.numpy(), warm=warm)), within=1e-12
    )
    assert result.calls == {call: T * count for call, count in made.declared_calls(batch or 3).items()}


def test_with_cg_it_takes_the_steps_of_the_memory_reduced_algorithm_with_a_warm_start():
    problem = Quadratic.random(tasks=3, p=3, q=4, kappa=4.0)
    options = {"lower_steps": 2, "cg_steps": 2, "upper_step_size": 0.3}
    ends = [run(problem, kind(**options), iterations=6, batch=2).phi["phi"] for kind in (AIDBiO, MemoryReduced)]
    assert torch.equal(*ends)


@pytest.mark.parametrize("replicas", [2])
@pytest.mark.parametrize("name", SOLVERS)
def test_replicas_together_equal_separate_runs(name, replicas):
    problem = Quadratic.random(tasks=3, p=3, q=4, kappa=4.0)
    made = AIDBiO(lower_steps=2, lower_step_size=ALPHA, upper_step_size=BETA, **SOLVERS[name][1])
    together = run(problem, made, iterations=4, batch=2, replicas=replicas, seed=1, probes=())
    for r in range(replicas):
        alone = run(problem, made, iterations=4, batch=2, seed=1 + r, probes=())
        assert_near(together.phi["phi"][r], alone.phi["phi"], within=1e-13)


@pytest.mark.parametrize(("name", "exact"), [("cg", True), ("fixed point", True), ("neumann", False)])
def test_it_is_exact_where_v_goes_on_from_where_it_was(name, exact):
    problem = Quadratic.random(tasks=3, p=3, q=4, kappa=4.0)
    made = AIDBiO(lower_steps=2, lower_step_size=ALPHA, upper_step_size=BETA, **SOLVERS[name][1])
    end = float(run(problem, made, iterations=400).trace["grad_norm_sq"][-1])
    assert (end <= 1e-25) if exact else (end > 1e-4)
