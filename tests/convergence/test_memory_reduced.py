from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import ConjugateGradient, MemoryReduced, Oracle, State, run
from convergence.linear_solvers import Direct
from convergence.streams import TaskStream
from problems import PROBLEMS, ProxLogistic, Quadratic
from tests.independent import assert_near
from tests.problems.few_shot.tiny import few_shot
from tests.strategies import methods, normal, quadratics, warm_starts
from tests.twins import Endless, Twin, UserRidge


def algorithm_1(problem: Quadratic, method: MemoryReduced, batches: list[list[int]], phi: np.ndarray) -> np.ndarray:
    """phi_0, phi_1, ... of the paper's algorithm in numpy, one task after the other, CG by scipy."""
    data = {name: tensor.numpy() for name, tensor in problem.data.items()}
    eigenvalues = np.linalg.eigvalsh(data["A"])
    alpha = 2 / (eigenvalues.min() + eigenvalues.max())
    thetas, vs = np.zeros((2, problem.tasks, problem.q))
    path = [phi]
    for batch in batches:
        direction, new_thetas, new_vs = np.zeros(problem.p), thetas.copy(), vs.copy()
        for i in batch:
            A, C, b, Q, u, R, w = (data[name][i] for name in "ACbQuRw")
            theta = thetas[i] if method.warm_start else np.zeros(problem.q)
            for _ in range(method.lower_steps):
                theta = theta - alpha * (A @ theta - C @ phi - b)
            v = vs[i] if method.warm_start is True else np.zeros(problem.q)
            if method.cg_steps:
                right = Q @ (theta - u)
                v, _ = scipy.sparse.linalg.cg(A, right, x0=v, rtol=0, atol=1e-14, maxiter=method.cg_steps)
            direction += (R @ (phi - w) + C.T @ v) / len(batch)
            new_thetas[i], new_vs[i] = theta, v
        thetas, vs = new_thetas, new_vs
        phi = phi - method.upper_step_size * direction
        path.append(phi)
    return np.stack(path)


@given(problem=quadratics(max_kappa=10), method=methods(max_cg=4), data=st.data(), replacement=st.booleans())
def test_a_run_replays_the_algorithm_written_in_numpy(problem, method, data, replacement):
    M, T = problem.tasks, 6
    batch = data.draw(st.sampled_from([None, *range(1, M + 1)]))
    stream = TaskStream(3, pool=M, batch=batch or M, replacement=replacement)
    batches = [list(range(M)) if batch is None else stream.index(t).tolist() for t in range(T)]
    start = normal(5, problem.p)
    path = algorithm_1(problem, method, batches, start.numpy())
    for steps in (1, T):
        result = run(
            problem,
            method,
            iterations=steps,
            batch=batch,
            replacement=replacement,
            seed=3,
            phi0={"phi": start},
            probes=(),
        )
        # kappa <= 10 and N <= 4: both conjugate gradients stay within 1e-12 of exact arithmetic, 6 times over
        assert_near(result.phi["phi"], torch.from_numpy(path[steps]), within=1e-10)


@given(problem=quadratics(), method=methods(), data=st.data())
def test_tasks_that_are_not_drawn_keep_their_iterates_to_the_bit(problem, method, data):
    oracle, phi = Oracle(problem), {"phi": normal(0, problem.p)}
    state = method.start(oracle, phi)
    stored = [None if part is None else normal(k, *part.shape) for k, part in enumerate(state)]
    rows = data.draw(st.lists(st.integers(0, problem.tasks - 1), min_size=1, max_size=4))
    tasks = problem.select(torch.tensor(rows))
    step = method.step(oracle, phi, tasks, State(*stored))
    others = [i for i in range(problem.tasks) if i not in rows]
    for before, after, brought in zip(stored, step.state, (step.theta, step.v), strict=True):
        if before is None:
            assert after is None
            continue
        assert torch.equal(after[others], before[others])
        assert_near(after[rows], brought, within=1e-14)  # a task drawn twice brings the same row twice


@pytest.mark.parametrize("warm_start", [True, False, "theta"])
@pytest.mark.parametrize("name", ["quadratic", "prox-logistic"])
def test_a_step_writes_to_nothing_it_is_given(name, warm_start):
    problem = PROBLEMS[name](0)
    oracle, phi = Oracle(problem), problem.phi0(torch.Generator().manual_seed(0))
    method = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.1, warm_start=warm_start)
    state = method.start(oracle, phi)
    given_tensors = [*phi.values(), *(part for part in state if part is not None), *problem.data.values()]
    copies = [tensor.clone() for tensor in given_tensors]
    first = method.step(oracle, phi, oracle.pool, state)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given_tensors, copies, strict=True))
    again = method.step(oracle, phi, oracle.pool, state)
    assert all(torch.equal(first.phi[n], again.phi[n]) for n in phi)
    assert not any(tensor.requires_grad for tensor in (*first.phi.values(), first.theta, first.v))


def test_the_state_holds_what_is_warm_for_every_task_of_the_pool():
    problem = Quadratic.random(tasks=4, p=3, q=3, kappa=5.0, initialisation=True)
    oracle, phi = Oracle(problem), {"phi": normal(0, 3)}

    def start(warm):
        return MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.1, warm_start=warm).start(oracle, phi)

    assert start(False) == (None, None)
    assert torch.equal(start("theta").theta, phi["phi"].expand(4, 3))
    assert start("theta").v is None
    assert torch.equal(start(True).theta, phi["phi"].expand(4, 3))
    assert torch.equal(start(True).v, torch.zeros(4, 3, dtype=torch.float64))


@pytest.mark.parametrize("batch", [None, 2])
def test_a_cold_lower_level_starts_at_theta0_in_every_iteration(batch):
    problem = Quadratic.random(tasks=4, p=3, q=3, kappa=5.0, initialisation=True)
    method = MemoryReduced(lower_steps=0, cg_steps=2, upper_step_size=0.1, warm_start=False)
    steps = []

    def theta_and_phi(snapshot):
        steps.append((snapshot.step.theta, snapshot.phi["phi"]))
        return torch.zeros(())

    run(problem, method, iterations=3, batch=batch, probes=(theta_and_phi,))
    for theta, phi in steps:
        assert torch.equal(theta, phi.expand_as(theta))


# ---- what it converges to


def test_only_a_start_warm_in_theta_and_v_is_exact_with_few_steps():
    problem = Quadratic.random(tasks=4, p=3, q=6, kappa=10.0, seed=1)
    floors = {}
    for warm in (True, "theta", False):
        method = MemoryReduced(lower_steps=3, cg_steps=2, upper_step_size=0.3, warm_start=warm)
        floors[warm] = float(run(problem, method, iterations=500).trace["grad_norm_sq"][-1])
    assert floors[True] < 1e-25
    assert 1e-8 < floors["theta"] < floors[False]


@pytest.mark.parametrize("lower_steps", [1, 3, 6])
def test_the_floor_of_a_cold_start_is_the_one_of_the_theory(lower_steps):
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=5.0, seed=2)
    A, C, b, Q, u, R, w = (problem.data[name].numpy() for name in "ACbQuRw")
    alpha = problem.constants.lower_step_size
    J, star0 = np.linalg.solve(A, C), np.linalg.solve(A, b[..., None])[..., 0]
    power = np.linalg.matrix_power(np.eye(4) - alpha * A, lower_steps)
    moved = np.eye(4) - power  # docs/theory.md S3a with theta_0 = 0, G = 0
    H = (R + J.transpose(0, 2, 1) @ Q @ moved @ J).mean(0)
    h = (R @ w[..., None] - J.transpose(0, 2, 1) @ Q @ (moved @ star0[..., None] - u[..., None]))[..., 0].mean(0)
    limit = torch.from_numpy(np.linalg.solve(H, h))
    floor = float(problem.hypergradient({"phi": limit})["phi"].square().sum())
    method = MemoryReduced(lower_steps=lower_steps, cg_steps=8, upper_step_size=0.3, warm_start=False)
    result = run(problem, method, iterations=400)
    assert_near(result.phi["phi"], limit, within=1e-11)
    assert float(result.trace["grad_norm_sq"][-1]) == pytest.approx(floor, rel=1e-8)


# ---- arguments


def test_the_lower_step_size_is_two_over_l_plus_mu_where_none_is_given():
    problem = ProxLogistic.random(tasks=3, q=2, examples=6)
    options = {"lower_steps": 3, "cg_steps": 2, "upper_step_size": 0.1}
    alpha = 2 / (problem.constants.mu + problem.constants.L)
    results = [run(problem, MemoryReduced(lower_step_size=a, **options), iterations=3).phi for a in (None, alpha)]
    assert torch.equal(results[0]["centre"], results[1]["centre"])


def test_without_constants_a_lower_step_size_is_asked_for():
    method = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.1)
    sentence = "expected lower_step_size a number, got None with UserRidge, which gives no constants mu, L"
    with pytest.raises(ValueError, match=sentence):
        run(UserRidge(), method, iterations=1)


def test_a_warm_start_needs_a_finite_pool():
    for warm in (True, "theta"):
        method = MemoryReduced(lower_steps=1, lower_step_size=0.5, cg_steps=1, upper_step_size=0.1, warm_start=warm)
        with pytest.raises(
            ValueError, match=r"finite pool of tasks for warm_start, got Endless, .* use warm_start=False"
        ):
            run(Endless(), method, iterations=1, batch=2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lower_steps": -1}, "expected lower_steps an integer >= 0, got -1"),
        ({"lower_steps": 1.5}, "expected lower_steps an integer >= 0, got 1.5"),
        ({"lower_steps": True}, "expected lower_steps an integer >= 0, got True"),
        ({"cg_steps": -2}, "expected cg_steps an integer >= 0, got -2"),
        ({"upper_step_size": 0.0}, "expected upper_step_size a finite number > 0, got 0.0"),
        ({"upper_step_size": math.inf}, "expected upper_step_size a finite number > 0, got inf"),
        ({"upper_step_size": math.nan}, "expected upper_step_size a finite number > 0, got nan"),
        ({"lower_step_size": -0.1}, "expected lower_step_size a finite number > 0, got -0.1"),
        ({"warm_start": "v"}, "expected warm_start True, False or \"theta\", got 'v'"),
        ({"warm_start": None}, 'expected warm_start True, False or "theta", got None'),
        # equal to True or False, yet neither of them: not to be taken for "theta"
        *(({"warm_start": x}, 'expected warm_start True, False or "theta", got') for x in (0, 1, np.True_, np.False_)),
    ],
)
def test_impossible_hyperparameters_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        MemoryReduced(**({"lower_steps": 1, "cg_steps": 1, "upper_step_size": 0.1} | change))


@given(warm_start=warm_starts, lower_steps=st.integers(0, 5), cg_steps=st.integers(0, 5), batch=st.integers(1, 9))
def test_the_declared_cost_is_that_of_the_docstring(warm_start, lower_steps, cg_steps, batch):
    method = MemoryReduced(lower_steps=lower_steps, cg_steps=cg_steps, upper_step_size=0.1, warm_start=warm_start)
    products = cg_steps + 1 if warm_start is True and cg_steps > 0 else cg_steps
    assert method.declared_calls(batch) == {
        "lower_gradient": lower_steps * batch,
        "hvp": products * batch,
        "cross_product": batch,
        "upper_gradient": batch,
    }


def test_a_method_is_frozen_and_equal_to_its_like():
    method = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.1)
    assert method == MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.lower_steps = 2


def test_the_path_of_automatic_differentiation_runs_like_that_of_closed_forms():
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=10.0)
    twin = Twin(problem)
    twin.constants = problem.constants
    method = MemoryReduced(lower_steps=2, cg_steps=3, upper_step_size=0.2)
    expected, found = (run(each, method, iterations=10, batch=2) for each in (problem, twin))
    assert_near(found.phi["phi"], expected.phi["phi"], within=1e-12)
    assert_near(found.trace["grad_norm_sq"], expected.trace["grad_norm_sq"], within=1e-11)


# ---- other ways to the same direction


@pytest.mark.parametrize("name", [*PROBLEMS, "user"])
@pytest.mark.parametrize("warm_start", [True, False])
def test_features_computed_again_change_nothing_but_rounding(name, warm_start):
    problem = UserRidge() if name == "user" else PROBLEMS[name](0)
    method = MemoryReduced(lower_steps=2, lower_step_size=0.05, cg_steps=2, upper_step_size=0.05, warm_start=warm_start)
    options = {"iterations": 3, "batch": 2, "probes": ()}
    expected, found = (
        run(problem, dataclasses.replace(method, recompute=recompute), **options) for recompute in (False, True)
    )
    assert found.calls == expected.calls
    for key, tensor in expected.phi.items():
        assert_near(found.phi[key], tensor, within=1e-12)


@pytest.mark.parametrize("warm_start", [True, False])
def test_a_direct_solver_runs_as_many_cg_steps_do(warm_start):
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=5.0)
    options = {"lower_steps": 2, "upper_step_size": 0.2, "warm_start": warm_start}
    direct = MemoryReduced(linear_solver=Direct(), **options)
    found, expected = (run(problem, each, iterations=8) for each in (direct, MemoryReduced(cg_steps=30, **options)))
    assert_near(found.phi["phi"], expected.phi["phi"], within=1e-12)
    assert found.calls["hvp"] == 8 * 4 * problem.q
    with pytest.raises(ValueError, match="expected a solver whose HVPs are known beforehand, got Direct"):
        direct.declared_calls(4)


def test_cg_steps_are_a_linear_solver_by_another_name():
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=5.0)
    named = MemoryReduced(lower_steps=2, cg_steps=3, upper_step_size=0.2)
    given_one = dataclasses.replace(named, cg_steps=None, linear_solver=ConjugateGradient(3))
    ends = [run(problem, method, iterations=5).phi["phi"] for method in (named, given_one)]
    assert torch.equal(*ends)
    assert named.declared_calls(4) == given_one.declared_calls(4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "expected cg_steps an integer >= 0, got None"),
        ({"cg_steps": 2, "linear_solver": Direct()}, "expected cg_steps=None and accuracy=None beside a linear_solver"),
        ({"accuracy": 0.1, "linear_solver": Direct()}, "beside a linear_solver, got None and 0.1"),
    ],
)
def test_cg_steps_or_a_linear_solver_are_asked_for(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        MemoryReduced(lower_steps=1, upper_step_size=0.1, **change)


def test_without_an_upper_step_phi_is_left_to_others():
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=5.0)
    oracle, phi = Oracle(problem), {"phi": normal(0, 3)}
    method = MemoryReduced(lower_steps=2, cg_steps=3)
    step = method.step(oracle, phi, oracle.pool, method.start(oracle, phi))
    assert step.phi is phi
    assert torch.equal(phi["phi"], normal(0, 3))
    moved = dataclasses.replace(method, upper_step_size=0.5).step(oracle, phi, oracle.pool, method.start(oracle, phi))
    assert torch.equal(moved.phi["phi"], phi["phi"] - 0.5 * step.direction["phi"])


def test_new_tasks_are_adapted_by_k_steps_from_theta0():
    problem = Quadratic.random(tasks=4, p=4, q=4, kappa=5.0, initialisation=True)
    oracle, phi = Oracle(problem), {"phi": normal(0, 4)}
    method = MemoryReduced(lower_steps=3, cg_steps=1, warm_start=False)
    z = oracle.features(phi, oracle.pool)
    theta = method.adapt(oracle, z, phi, oracle.pool)
    assert torch.equal(theta, method.step(oracle, phi, oracle.pool, method.start(oracle, phi)).theta)
    assert oracle.calls["lower_gradient"] == 2 * 3 * 4


def test_an_accuracy_without_constants_is_refused():
    method = MemoryReduced(lower_steps=3, cg_steps=3, accuracy=0.1, warm_start=False, upper_step_size=0.1)
    with pytest.raises(ValueError, match="FewShot"):
        run(few_shot(), method, iterations=1, batch=2)
