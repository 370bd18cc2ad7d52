"""One upper iteration of a small problem: in Python, compiled, and beside the same in JAX.

Quadratic, p 10, q 20, M 32, batch 8, K 5, N 5, float64, no probes; one replica and 256.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convergence import MemoryReduced, Oracle, run
from convergence.batches import Batches
from convergence.compiled import BLOCK, CompiledSteps
from convergence.recording import Running
from problems import Problem, ProxLogistic, Quadratic
from tests.benchmarks.rounds import Figure, figure_of, in_turn, ratios

PROBLEM = Quadratic.random(tasks=32, p=10, q=20, kappa=10.0, seed=0)
METHOD = MemoryReduced(lower_steps=5, cg_steps=5, upper_step_size=0.3)
BATCH, MANY = 8, 256


class _Operations(TorchDispatchMode):
    """Counts the torch operations that reach a kernel or make a view."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class WithoutClosedForms(Problem):
    """The same quadratic, differentiated automatically."""

    broadcasts_replicas = True

    def __init__(self, twin: Quadratic):
        self.data, self.q, self.constants = twin.data, twin.q, twin.constants
        self.phi0, self.embed, self.lower, self.upper = twin.phi0, twin.embed, twin.lower, twin.upper


def small() -> dict[str, Figure]:
    """The figures of both sizes, and of derivatives that are taken automatically."""
    figures: dict[str, Figure] = {}
    one, many, automatic = in_turn(
        in_python(PROBLEM, 400),
        in_python(PROBLEM, 25, MANY),
        in_python(WithoutClosedForms(PROBLEM), 100),
        label="small",
    )
    figures["256 replicas / 1 replica"] = figure_of(ratios(many, one), "ratio", "<= 20")
    figures["automatic derivatives / closed forms"] = figure_of(ratios(automatic, one), "ratio", "")
    figures["torch operations an upper iteration, 1 replica"] = figure_of([float(_operations())], "operations", "")
    heads = ProxLogistic.random(tasks=32, q=20, examples=20, seed=0)
    figures |= _compiled("logistic heads by automatic derivatives, 1 replica", heads, None, {})
    figures |= _compiled("1 replica", PROBLEM, None, {"compiled": "<= 6, aim 3", "eager": ""})
    return figures | _compiled(f"{MANY} replicas", PROBLEM, MANY, {"compiled": "<= 1.5, aim 1", "eager": ""})


def _compiled(name: str, problem: Problem, replicas: int | None, aims: dict[str, str]) -> dict[str, Figure]:
    """Compiled against eager, and both against JAX where there are aims for it and it is installed."""
    compiled, seconds = in_one_program(problem, replicas)
    measures = {"eager": in_python(problem, 300 if replicas is None else 20, replicas), "compiled": compiled}
    if aims and importlib.util.find_spec("jax") is not None:
        measures["jitted JAX"] = in_jax(replicas)
    times = dict(zip(measures, in_turn(*measures.values(), label=name), strict=True))
    figures = {
        f"{way} upper iteration, {name}": figure_of([1e6 * x for x in found], "us", "") for way, found in times.items()
    }
    aim = "<= 0.25" if replicas is None else ""
    figures[f"compiled / eager, {name}"] = figure_of(ratios(times["compiled"], times["eager"]), "ratio", aim)
    figures[f"to compile it, {name}"] = figure_of([seconds], "s", "")
    if "jitted JAX" in times:
        for way, limit in aims.items():
            found = figure_of(ratios(times[way], times["jitted JAX"]), "ratio", limit)
            figures[f"{way} / jitted JAX, {name}"] = found
    return figures


def in_python(problem: Problem, iterations: int, replicas: int | None = None) -> Callable[[], float]:
    """Seconds an upper iteration of `run`, as it is by default."""

    def measure() -> float:
        result = run(problem, METHOD, iterations=iterations, batch=BATCH, replicas=replicas, probes=())
        return result.seconds / iterations

    return measure


def in_one_program(problem: Problem, replicas: int | None) -> tuple[Callable[[], float], float]:
    """Seconds an upper iteration of compiled blocks, the drawing of their tasks with them; and what compiling took."""
    seeds = tuple(range(replicas or 1))
    oracle = Oracle(problem, replicas=replicas, seeds=seeds)
    batches = Batches(oracle, seeds, BATCH, replacement=False, device=torch.device("cpu"), dtype=torch.float64)
    drawn = [problem.phi0(torch.Generator().manual_seed(seed)) for seed in seeds]
    phi = drawn[0] if replicas is None else {name: torch.stack([x[name] for x in drawn]) for name in drawn[0]}
    state, programs = METHOD.start(oracle, phi), CompiledSteps(METHOD, oracle, batches)
    running = Running(() if replicas is None else (replicas,), torch.device("cpu"))
    blocks = 20 if replicas is None else 1

    def measure() -> float:
        nonlocal phi, state
        began = time.perf_counter()
        for block in range(blocks):
            seen = [batches.seen(BLOCK * block + t) for t in range(BLOCK)]
            phi, state = programs.steps(phi, state, seen, running)
        return (time.perf_counter() - began) / (BLOCK * blocks)

    measure()
    return measure, programs.seconds


def in_jax(replicas: int | None) -> Callable[[], float]:
    """Seconds an upper iteration of the same in JAX: jax.lax.scan over iterations whose tasks are drawn before.

    Written as one writes it there: matrices of the tasks gathered, replicas by jax.vmap, all of it by jax.jit, one
    thread. Checked against `run` on the same tasks.
    """
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax

    jax.config.update("jax_enable_x64", True)
    iterations = 1280 if replicas is None else BLOCK
    seeds = tuple(range(replicas or 1))
    oracle = Oracle(PROBLEM, replicas=replicas, seeds=seeds)
    batches = Batches(oracle, seeds, BATCH, replacement=False, device=torch.device("cpu"), dtype=torch.float64)
    tasks = torch.stack([batches.seen(t) for t in range(iterations)], dim=0 if replicas is None else 1)
    drawn = [PROBLEM.phi0(torch.Generator().manual_seed(0)) for _ in seeds]
    phi = torch.stack([x["phi"] for x in drawn])
    program = jax.jit(_scan(jax) if replicas is None else jax.vmap(_scan(jax)))
    start = jax.numpy.array(phi[0] if replicas is None else phi)
    three = run(PROBLEM, METHOD, iterations=3, batch=BATCH, replicas=replicas, probes=(), phi0={"phi": phi.squeeze(0)})
    theirs = program(start, jax.numpy.array(tasks[..., :3, :]))
    assert np.abs(np.asarray(theirs) - three.phi["phi"].numpy()).max() < 1e-12
    index = jax.numpy.array(tasks)
    jax.block_until_ready(program(start, index))

    def measure() -> float:
        began = time.perf_counter()
        jax.block_until_ready(program(start, index))
        return (time.perf_counter() - began) / iterations

    return measure


def _scan(jax: Any) -> Callable[[Any, Any], Any]:
    """phi after an upper iteration on each of these batches of tasks, theta and v warm."""
    xp = jax.numpy
    data = {name: xp.array(tensor.numpy()) for name, tensor in PROBLEM.data.items()}
    alpha, tiny = PROBLEM.constants.lower_step_size, float(np.finfo(float).eps) ** 2

    def product(matrix: Any, vector: Any) -> Any:
        return xp.einsum("bij,bj->bi", matrix, vector)

    def dot(a: Any, b: Any) -> Any:
        return (a * b).sum(-1, keepdims=True)

    def iteration(carried: Any, index: Any) -> Any:
        phi, thetas, vs = carried
        A, C, b, Q, u, R, w = (data[name][index] for name in ("A", "C", "b", "Q", "u", "R", "w"))
        theta, v = thetas[index], vs[index]
        row = xp.broadcast_to(phi, (len(index), len(phi)))
        linear = product(C, row) + b
        for _ in range(METHOD.lower_steps):
            theta = theta - alpha * (product(A, theta) - linear)
        slope = product(Q, theta - u)
        r = slope - product(A, v)
        p, rr = r, dot(r, r)
        limit = tiny * xp.maximum(rr, dot(slope, slope))
        active = rr > limit
        for _ in range(METHOD.cg_steps or 0):
            Ap = product(A, p)
            pAp = dot(p, Ap)
            active = active & (pAp > 0)
            step = xp.where(active, rr / pAp, 0.0)
            v, r = v + step * p, r - step * Ap
            after = dot(r, r)
            active = active & (after > limit)
            p, rr = r + xp.where(active, after / rr, 0.0) * p, after
        d = (product(R, phi - w) + xp.einsum("bij,bi->bj", C, v)).mean(0)
        return (phi - METHOD.upper_step_size * d, thetas.at[index].set(theta), vs.at[index].set(v)), None

    def run_all(phi: Any, tasks: Any) -> Any:
        zeros = xp.zeros((PROBLEM.tasks, PROBLEM.q))
        return jax.lax.scan(iteration, (phi, zeros, zeros), tasks)[0][0]

    return run_all


def _operations() -> int:
    """Of the step alone, without sampling."""
    oracle = Oracle(PROBLEM)
    phi = PROBLEM.phi0(torch.Generator().manual_seed(0))
    state, tasks = METHOD.start(oracle, phi), PROBLEM.select(torch.arange(BATCH))
    METHOD.step(oracle, phi, tasks, state)  # constants are computed once
    with _Operations() as operations:
        METHOD.step(oracle, phi, tasks, state)
    return operations.count
