"""Every quantity against the dense quadratic with the same matrices; memory against the law of docs/theory.md S8."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convergence import ITDBiO, MemoryReduced, Oracle, peak_bytes, run
from convergence.chunks import direction_in_chunks
from problems import Expansion, Sparse, Structured, Tasks
from tests.independent import assert_near
from tests.strategies import normal, seeds

STRUCTURES = ("low-rank", "circulant", "sparse")
structures = pytest.mark.parametrize("structure", STRUCTURES)
METHOD = MemoryReduced(lower_steps=4, cg_steps=3, upper_step_size=0.2)


@st.composite
def instances(draw) -> Structured:
    q = draw(st.integers(1, 6))
    return Structured.random(
        draw(st.sampled_from(STRUCTURES)),
        tasks=draw(st.integers(1, 5)),
        p=q * draw(st.integers(1, 3)),
        q=q,
        kappa=draw(st.floats(1, 30)),
        seed=draw(seeds),
        rank=draw(st.integers(1, 3)),
        coupling=draw(st.floats(0.1, 3)),
        rho=draw(st.floats(0.1, 3)),
        realisable=draw(st.booleans()),
    )


# ---- the dense quadratic with the same matrices; 1e-12: kappa <= 30, at most 18 terms a sum, 1e3 rounding units


@given(problem=instances(), seed=seeds, replicas=st.sampled_from([None, 3]))
def test_every_closed_form_is_that_of_the_dense_quadratic(problem, seed, replicas):
    dense, oracle = problem.dense(), Oracle(problem, replicas=replicas)
    lead = () if replicas is None else (replicas,)
    M = problem.tasks
    phi = {"phi": normal(seed, *lead, problem.p)}
    theta, v = normal(seed + 1, 2, *lead, M, problem.q)
    twin = Oracle(dense, replicas=replicas)
    for name in ("lower_gradient", "upper_gradient"):
        found, expected = (getattr(o, name)(o.embed(phi, o.pool), theta, o.pool) for o in (oracle, twin))
        assert_near(found, expected, within=1e-12)
    hessians = [o.lower_hessian(o.embed(phi, o.pool), theta, o.pool) for o in (oracle, twin)]
    assert_near(hessians[0](v), hessians[1](v), within=1e-12)
    directions = [o.hypergradient(o.embed(phi, o.pool), theta, v, o.pool)["phi"] for o in (oracle, twin)]
    assert_near(*directions, within=1e-12)
    assert_near(hessians[0](hessians[0].inverse(v)), v, within=1e-12)
    assert_near(problem.lower_solution(phi, oracle.pool), dense.lower_solution(phi, twin.pool), within=1e-12)
    assert_near(problem.hypergradient(phi)["phi"], dense.hypergradient(phi)["phi"], within=1e-12)
    assert_near(problem.value(phi), dense.value(phi), within=1e-12)


@given(problem=instances())
def test_the_optimum_and_the_constants_are_those_of_the_dense_quadratic(problem):
    dense = problem.dense()
    # the smallest eigenvalue of H_Phi is at least rho >= 0.1, the largest below 1e2 where kappa <= 30
    assert_near(problem.upper_solution()["phi"], dense.upper_solution()["phi"], within=1e-11)
    given, exact = problem.constants, dense.constants
    rounding = {"rel": 1e-9, "abs": 1e-9}
    for name in ("mu", "L_c", "rho_1", "rho_2", "ell", "ell_1", "Lambda", "tau", "nu", "L_Phi", "sigma_sq"):
        assert getattr(given, name) == pytest.approx(getattr(exact, name), **rounding), name
    assert given.B is None
    if isinstance(problem.operator, Sparse):
        assert given.L >= exact.L - 1e-12
    else:
        assert pytest.approx(exact.L, rel=1e-12) == given.L


@given(problem=instances(), seed=seeds)
def test_a_selection_of_tasks_is_a_problem_whose_gradient_is_that_of_the_batch(problem, seed):
    index = torch.randint(problem.tasks, (3,), generator=torch.Generator().manual_seed(seed))
    phi, some, tasks = {"phi": normal(seed, problem.p)}, problem.only(index), problem.select(index)
    assert_near(
        some.lower_solution(phi, some.sample(None, torch.Generator())), problem.lower_solution(phi, tasks), within=1e-13
    )
    oracle = Oracle(problem)
    z = oracle.embed(phi, tasks)
    theta = problem.lower_solution(phi, tasks)
    v = oracle.lower_hessian(z, theta, tasks).inverse(oracle.upper_gradient(z, theta, tasks))
    assert_near(oracle.hypergradient(z, theta, v, tasks)["phi"], some.hypergradient(phi)["phi"], within=1e-12)


# ---- runs


@structures
def test_a_run_is_that_on_the_dense_quadratic(structure):
    problem = Structured.random(structure, tasks=6, p=12, q=6, kappa=5.0, seed=2)
    method = MemoryReduced(lower_steps=3, lower_step_size=0.3, cg_steps=2, upper_step_size=0.2)
    options = {"iterations": 15, "batch": 3, "seed": 5, "replicas": 2}
    found, expected = (run(each, method, **options) for each in (problem, problem.dense()))
    assert_near(found.phi["phi"], expected.phi["phi"], within=1e-12)
    # gradients themselves to 1e-12
    assert_near(found.trace["grad_norm_sq"], expected.trace["grad_norm_sq"], within=1e-11)


@structures
def test_batches_of_a_realisable_problem_converge_exactly_from_a_cold_start(structure):
    """Every task has its optimum at w, so that no noise is left there; K and N take the bias to rounding."""
    problem = Structured.random(structure, tasks=50, p=400, q=200, kappa=3.0, seed=1, realisable=True)
    optimum = problem.upper_solution()
    assert_near(optimum["phi"], problem.w_basis[0], within=1e-12)
    assert float(problem.value(optimum)) < 1e-24
    assert problem.constants.sigma_sq < 1e-24
    # varrho = 1/2, r = 0.27: 2^-50 and 2 0.27^25 = 1e-14; step 2 / (rho + L_Phi) contracts by 1/4 at least
    step = 2 / (problem.rho + problem.constants.L_Phi)
    method = MemoryReduced(lower_steps=50, cg_steps=25, upper_step_size=step, warm_start=False)
    trace = run(problem, method, iterations=30, batch=4).trace["grad_norm_sq"]
    assert float(trace[-1]) < 1e-24 * float(trace[0])
    noisy = Structured.random(structure, tasks=50, p=400, q=200, kappa=3.0, seed=1)
    trace = run(noisy, method, iterations=30, batch=4).trace["grad_norm_sq"]
    assert float(trace[-1]) > 1e-6 * float(trace[0])  # the check can fail: batches keep their noise


@structures
def test_the_automatic_path_is_used_by_methods_that_unroll(structure):
    problem = Structured.random(structure, tasks=3, p=4, q=4, kappa=4.0, seed=0)
    method = ITDBiO(lower_steps=40, lower_step_size=0.35, upper_step_size=0.1)
    found = run(problem, method, iterations=1)
    direction = (run(problem, method, iterations=0).phi["phi"] - found.phi["phi"]) / 0.1
    start = run(problem, method, iterations=0).phi
    assert_near(direction, problem.hypergradient(start)["phi"], within=1e-8)  # varrho^40 40 with varrho = 0.6


# ---- memory


def peak(problem: Structured, K: int, N: int, *, tasks: int, chunk: int) -> float:
    """Numbers held at once by an upper iteration, phi among them."""
    method = MemoryReduced(lower_steps=K, cg_steps=N, warm_start=False)
    batch, oracle = problem.select(torch.arange(tasks)), Oracle(problem)
    assert problem.constants  # kept from here on: they belong to no iteration

    def iteration() -> None:
        phi = {"phi": torch.ones(problem.p, dtype=torch.float64)}
        found = direction_in_chunks(method, oracle, phi, batch, method.start(oracle, phi), chunk=chunk)
        phi["phi"].sub_(found.direction["phi"], alpha=0.1)

    return peak_bytes(iteration) / 8


@structures
def test_one_task_at_a_time_takes_the_memory_of_the_law_whatever_k_n_and_the_batch(structure):
    p, q = 10_000, 1_000
    problem = Structured.random(structure, tasks=100, p=p, q=q, kappa=3.0)
    law = 2 * p + 4 * q + max(p, q)
    cells = [(1, 1, 2), (20, 3, 2), (3, 20, 2), (3, 3, 16)]
    peaks = [peak(problem, K, N, tasks=tasks, chunk=1) for K, N, tasks in cells]
    assert max(peaks) == min(peaks)
    assert 0.9 * law <= peaks[0] <= 1.1 * law


def test_the_law_sees_a_lower_level_that_keeps_its_iterates(monkeypatch):
    plain, kept = Structured.lower_gradient, []

    def keeping(self: Structured, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        kept.append(theta.clone())
        return plain(self, features, theta, tasks)

    monkeypatch.setattr(Structured, "lower_gradient", keeping)
    p, q = 10_000, 1_000
    problem = Structured.random("low-rank", tasks=100, p=p, q=q, kappa=3.0)
    assert peak(problem, 20, 3, tasks=2, chunk=1) > 1.1 * (3 * p + 4 * q)


@structures
def test_tasks_together_take_the_q_parts_as_often_as_there_are_tasks(structure):
    """theta, v, r, p, A p and C phi + b of each task (one more while a transform is taken) and phi: no M q numbers.

    And the right-hand side of CG, where the interpreter does not hand it over: once torch.compile was at work in the
    process, calls from Python to Python keep what they were given.
    """
    p, q, tasks = 10_000, 1_000, 16
    problem = Structured.random(structure, tasks=100, p=p, q=q, kappa=3.0)
    transform = structure == "circulant"
    most = 2 * p + (8 + transform) * q * tasks
    peaks = {peak(problem, K, N, tasks=tasks, chunk=tasks) for K, N in ((2, 2), (20, 2), (2, 20))}
    assert len(peaks) == 1
    assert peaks.pop() <= 1.02 * most


def test_a_thousand_tasks_hold_a_few_numbers_each():
    few, many = (Structured.random("low-rank", tasks=M, p=40, q=20, kappa=3.0) for M in (10, 1010))
    numbers = [sum(tensor.numel() for tensor in problem.data.values()) for problem in (few, many)]
    assert numbers[1] - numbers[0] == 1000 * 6


# ---- dtype, seed, what is refused


@structures
def test_a_copy_in_single_precision_computes_its_closed_forms_anew(structure):
    problem = Structured.random(structure, tasks=4, p=8, q=4, kappa=3.0)
    exact = problem.hypergradient({"phi": torch.ones(8, dtype=torch.float64)})["phi"]  # fills what is kept
    single = problem.to(dtype=torch.float32)
    found = single.hypergradient({"phi": torch.ones(8)})["phi"]
    assert found.dtype == torch.float32
    assert_near(found.double(), exact, within=1e-5)
    assert problem.hypergradient({"phi": torch.ones(8, dtype=torch.float64)})["phi"].dtype == torch.float64
    trace = run(problem, METHOD, iterations=2, dtype=torch.float32).trace["grad_norm_sq"]
    assert float(trace[1]) < float(trace[0])


@pytest.mark.gpu
@structures
def test_on_a_gpu_a_run_is_that_on_the_cpu(structure):
    problem = Structured.random(structure, tasks=6, p=12, q=6, kappa=5.0)
    method = MemoryReduced(lower_steps=3, cg_steps=2, upper_step_size=0.2)
    found, expected = (run(problem, method, iterations=10, batch=3, device=device) for device in ("cuda", "cpu"))
    assert_near(found.phi["phi"].cpu(), expected.phi["phi"], within=1e-9)


def arguments(**changed: object) -> dict[str, object]:
    """Of a problem with q = 2, p = 4, three tasks."""
    return {
        "operator": Sparse([[2.0, -1.0], [-1.0, 2.0]]),
        "weights": np.full((2, 2), math.sqrt(0.5)),
        "scale": np.ones(3),
        "b": Expansion(np.ones((3, 1)), np.ones((1, 2))),
        "u": Expansion(np.ones((3, 2)), np.ones((2, 2))),
        "w": Expansion(np.ones((3, 1)), np.ones((1, 4))),
        "rho": 1.0,
    } | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": np.ones((2, 3))}, r"expected weights of shape \(n, 2\) with n >= 1, got shape \(2, 3\)"),
        ({"weights": np.array([[1.0, 2.0]])}, "expected weights whose columns have one norm > 0 .* from 1 to 2"),
        ({"weights": np.zeros((1, 2))}, "expected weights whose columns have one norm > 0"),
        ({"rho": 0.0}, "expected rho a finite number > 0, got 0.0"),
        ({"scale": np.array([1.0, -1.0, 1.0])}, r"expected scale \(M,\) of positive numbers, got shape \(3,\)"),
        (
            {"b": Expansion(np.ones((2, 1)), np.ones((1, 2)))},
            r"expected b as coefficients of shape \(3, k\) .* got \(2, 1\) and \(1, 2\)",
        ),
        (
            {"w": Expansion(np.ones((3, 1)), np.ones((1, 2)))},
            "expected a basis of w with rows of 4 finite numbers, got 2",
        ),
        (
            {"u": Expansion(np.full((3, 1), np.nan), np.ones((1, 2)))},
            "expected finite values in data tensor 'u', got 3",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed, message):
    Structured(**arguments())
    with pytest.raises(ValueError, match=message):
        Structured(**arguments(**changed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 5}, "expected p a multiple of q, got p = 5, q = 2"),
        ({"tasks": 0}, "expected tasks an integer >= 1, got 0"),
        ({"kappa": 0.5}, "expected kappa a finite number >= 1, got 0.5"),
        ({"structure": "dense"}, 'expected a structure "low-rank", "circulant" or "sparse", got \'dense\''),
    ],
)
def test_random_refuses_wrong_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        Structured.random(**({"structure": "sparse", "tasks": 2, "p": 4, "q": 2, "kappa": 2.0} | options))


def test_tasks_of_a_batch_are_few_numbers():
    problem = Structured.random("sparse", tasks=10, p=8, q=4, kappa=2.0)
    tasks: Tasks = problem.select(torch.tensor([1, 3]))
    assert {name: tuple(tensor.shape) for name, tensor in tasks.tensors.items()} == {
        "scale": (2,),
        "b": (2, 1),
        "u": (2, 2),
        "w": (2, 2),
    }


def values(problem: Structured, phi: Tensor) -> float:
    return float(problem.value({"phi": phi}))


def test_the_value_near_a_realisable_optimum_keeps_its_digits():
    """Phi = 1/2 (phi - w)'H_Phi (phi - w) there: 1e-20 is far below the rounding of a difference of its parts."""
    problem = Structured.random("circulant", tasks=20, p=30, q=15, kappa=3.0, realisable=True)
    d = normal(0, 30)
    far = values(problem, problem.w_basis[0] + d)
    # theta* and u are rounded to 1e-16 of their own size, against 1e-6 |d|
    assert values(problem, problem.w_basis[0] + 1e-6 * d) == pytest.approx(1e-12 * far, rel=1e-6)
