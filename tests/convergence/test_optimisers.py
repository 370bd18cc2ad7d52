"""The upper step by torch.optim: a loop written by hand, replicas, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import SOBA, ITDBiO, MemoryReduced, Oracle, RunFailed, Status, run
from convergence.optimisers import ELEMENTWISE, MakeOptimizer, Optimised
from convergence.streams import TaskStream, generator
from problems import Parameters, ProxLogistic, Quadratic
from tests.independent import assert_near
from tests.problems.few_shot.tiny import few_shot, start
from tests.strategies import normal, quadratics, seeds
from tests.twins import Scalar

METHOD = MemoryReduced(lower_steps=3, cg_steps=3)
COLD = MemoryReduced(lower_steps=3, cg_steps=3, warm_start=False)
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": partial(torch.optim.Adam, lr=0.05),
    "adam with decay": partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1),
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01),
}
by_name = pytest.mark.parametrize("name", OPTIMIZERS)


def by_hand(problem, method, phi: Parameters, make: MakeOptimizer, draw: Callable, *, iterations: int) -> Parameters:
    """The loop as a user of torch writes it: parameters, their .grad, optimizer.step()."""
    oracle = Oracle(problem)
    own = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in phi.items()}
    optimizer = make(own.values())
    state = method.start(oracle, phi)
    for t in range(iterations):
        step = method.step(oracle, {name: tensor.detach().clone() for name, tensor in own.items()}, draw(t), state)
        state = step.state
        optimizer.zero_grad()
        for name, parameter in own.items():
            parameter.grad = step.direction[name].clone()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in own.items()}


@by_name
@pytest.mark.parametrize("warm_start", [True, False, "theta"])
def test_a_run_equals_the_loop_written_by_hand(name, warm_start):
    problem = Quadratic.random(tasks=5, p=3, q=4, kappa=5.0)
    method = dataclasses.replace(METHOD, warm_start=warm_start)
    stream = TaskStream(2, pool=5, batch=2, replacement=False)
    phi = {"phi": normal(1, 3)}
    expected = by_hand(problem, method, phi, OPTIMIZERS[name], lambda t: problem.select(stream.index(t)), iterations=12)
    result = run(problem, method, iterations=12, batch=2, seed=2, phi0=phi, optimizer=OPTIMIZERS[name])
    assert_near(result.phi["phi"], expected["phi"], within=1e-13)
    assert float((result.phi["phi"] - phi["phi"]).norm()) > 0.1
    assert result.iterations == 12


@by_name
@pytest.mark.parametrize("method", [COLD, ITDBiO(lower_steps=2, lower_step_size=0.1)], ids=["implicit", "unrolled"])
def test_a_few_shot_run_equals_the_loop_written_by_hand(name, method):
    problem = few_shot()
    phi = start(problem)
    expected = by_hand(
        problem, method, phi, OPTIMIZERS[name], lambda t: problem.sample(2, generator(4, "tasks", t)), iterations=4
    )
    result = run(problem, method, iterations=4, batch=2, seed=4, phi0=phi, optimizer=OPTIMIZERS[name])
    for key, tensor in expected.items():
        assert_near(result.phi[key], tensor, within=1e-12)
        assert not result.phi[key].requires_grad


@given(problem=quadratics(), beta=st.floats(1e-3, 0.2), seed=seeds)
def test_plain_sgd_is_the_method_s_own_upper_step_to_the_bit(problem, beta, seed):
    options = {"iterations": 5, "seed": seed % 1000, "probes": ()}
    own = run(problem, dataclasses.replace(METHOD, upper_step_size=beta), **options)
    sgd = run(problem, METHOD, optimizer=partial(torch.optim.SGD, lr=beta), **options)
    assert torch.equal(own.phi["phi"], sgd.phi["phi"])
    assert torch.equal(own.state.theta, sgd.state.theta)
    assert own.calls == sgd.calls


# ---- replicas


@by_name
def test_replicas_together_equal_separate_runs(name):
    problem = ProxLogistic.random(tasks=4, q=3, examples=6)
    options = {"iterations": 6, "batch": 2, "probes": (), "optimizer": OPTIMIZERS[name]}
    together = run(problem, METHOD, replicas=3, seed=4, **options)
    for r in range(3):
        alone = run(problem, METHOD, seed=4 + r, **options)
        for key, tensor in alone.phi.items():
            assert_near(together.phi[key][r], tensor, within=1e-12)


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_an_elementwise_optimizer_keeps_replicas_apart(kind):
    problem = ProxLogistic.random(tasks=4, q=3, examples=6)
    options = {"iterations": 6, "batch": 2, "probes": (), "optimizer": partial(kind, lr=0.05)}
    together = run(problem, METHOD, replicas=2, seed=4, **options)
    for r in range(2):
        alone = run(problem, METHOD, seed=4 + r, **options)
        assert_near(together.phi["centre"][r], alone.phi["centre"], within=1e-12)


@by_name
def test_a_replica_that_stops_stays_where_it_is_and_leaves_the_others_alone(name):
    problem = Quadratic.random(tasks=4, p=2, q=3, kappa=3.0, seed=1)
    near, far = problem.upper_solution()["phi"], normal(0, 2) + 3
    phi0 = {"phi": torch.stack([near + 1e-3, far])}
    options = {"stop_at": {"grad_norm_sq": 1e-5}, "optimizer": OPTIMIZERS[name]}
    together = run(problem, METHOD, iterations=25, replicas=2, phi0=phi0, **options)
    for r in range(2):
        alone = run(problem, METHOD, iterations=25, phi0={"phi": phi0["phi"][r]}, **options)
        assert together.iterations_of[r] == alone.iterations
        assert together.statuses[r] == alone.status
        assert_near(together.phi["phi"][r], alone.phi["phi"], within=1e-12)
    assert together.iterations_of[0] < together.iterations_of[1]


def test_a_replica_that_fails_keeps_its_last_phi_and_leaves_the_others_alone():
    # H = 1 while x > 0, else -1: the replica that starts at 0.1 moves to a negative x and breaks down
    problem = Scalar(
        lambda x, theta: 0.5 * torch.sign(x) * theta.square() - x * theta,
        lambda x, theta: x + 1e-3 * theta,
    )
    method = MemoryReduced(lower_steps=1, lower_step_size=0.1, cg_steps=1, warm_start=False)
    sgd = partial(torch.optim.SGD, lr=0.25)
    starts = {"x": torch.tensor([[0.1], [10.0]], dtype=torch.float64)}
    together = run(
        problem, method, iterations=8, replicas=2, phi0=starts, optimizer=sgd, probes=(), raise_on_failure=False
    )
    assert together.statuses == (Status.BREAKDOWN, Status.MAX_ITERATIONS)
    assert together.iterations_of == (1, 8)
    alone = run(problem, method, iterations=8, phi0={"x": starts["x"][1]}, optimizer=sgd, probes=())
    assert_near(together.phi["x"][1], alone.phi["x"], within=1e-14)
    with pytest.raises(RunFailed, match="BREAKDOWN after 1 upper iterations") as caught:
        run(problem, method, iterations=8, phi0={"x": starts["x"][0]}, optimizer=sgd, probes=())
    assert_near(together.phi["x"][0], caught.value.result.phi["x"], within=1e-14)


# ---- the step itself


@by_name
def test_a_step_moves_tensors_of_its_own_and_leaves_the_direction(name):
    phi, d = {"a": normal(0, 3), "b": normal(1, 2, 2)}, {"a": normal(2, 3), "b": normal(3, 2, 2)}
    kept, along = ({key: tensor.clone() for key, tensor in each.items()} for each in (phi, d))
    optimised = Optimised(METHOD, phi, OPTIMIZERS[name])
    optimised.step(d)
    moved = optimised.from_point(phi, d)
    assert all(torch.equal(phi[key], kept[key]) and torch.equal(d[key], along[key]) for key in phi)
    assert all(not torch.equal(moved[key], phi[key]) for key in phi)
    assert all(moved[key].data_ptr() != optimised.phi[key].data_ptr() for key in phi)
    assert all(tensor.grad is None for tensor in optimised.phi.values())


@pytest.mark.parametrize("foreach", [False, True])
def test_a_step_that_writes_into_its_gradient_leaves_the_direction(foreach):
    phi, d = {"a": normal(0, 3)}, {"a": normal(1, 3)}
    Optimised(METHOD, phi, partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=foreach)).step(d)
    assert torch.equal(d["a"], normal(1, 3))


def test_the_size_of_the_direction_does_not_depend_on_how_the_optimizer_computes():
    problem = Quadratic.random(tasks=4, p=3, q=4, kappa=5.0)
    sizes = [
        run(
            problem,
            METHOD,
            iterations=5,
            probes=("direction_norm_sq",),
            optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=foreach),
        ).trace["direction_norm_sq"]
        for foreach in (False, True)
    ]
    assert_near(sizes[0], sizes[1], within=1e-13)


def test_a_step_is_taken_from_the_point_given():
    phi, d = {"a": normal(0, 3)}, {"a": normal(1, 3)}
    optimised = Optimised(METHOD, phi, OPTIMIZERS["sgd"])
    for k in range(2):  # as a replica that has stopped, whose phi was put back
        assert_near(optimised.from_point(phi, d)["a"], phi["a"] - 0.1 * d["a"], within=1e-15)
        assert_near(optimised.from_point({"a": phi["a"] + k}, d)["a"], phi["a"] + k - 0.1 * d["a"], within=1e-15)


def test_a_phi0_that_the_caller_holds_is_not_moved():
    phi = {"phi": normal(0, 2)}
    before = phi["phi"].clone()
    run(Quadratic.random(tasks=2, p=2, q=2, kappa=2.0), METHOD, iterations=3, phi0=phi, optimizer=OPTIMIZERS["adam"])
    assert torch.equal(phi["phi"], before)


# ---- what is refused


@pytest.mark.parametrize(
    "method",
    [
        dataclasses.replace(METHOD, upper_step_size=0.1),
        ITDBiO(lower_steps=1, lower_step_size=0.1, upper_step_size=0.1),
        SOBA(lower_step_size=0.1, upper_step_size=0.1),
    ],
)
def test_two_upper_steps_are_refused(method):
    with pytest.raises(ValueError, match=r"expected upper_step_size=None with an optimizer, got 0\.1: two upper steps"):
        run(Quadratic.random(tasks=2, p=2, q=2, kappa=2.0), method, iterations=1, optimizer=OPTIMIZERS["adam"])


@pytest.mark.parametrize("method", [METHOD, ITDBiO(lower_steps=1), SOBA()])
def test_no_upper_step_is_refused(method):
    name = type(method).__name__
    with pytest.raises(ValueError, match=f"expected upper_step_size or an optimizer, got neither: {name} moves no phi"):
        run(Quadratic.random(tasks=2, p=2, q=2, kappa=2.0), method, iterations=1)


@pytest.mark.parametrize("make", [lambda tensors: None, list])
def test_a_function_that_makes_no_optimizer_is_refused(make):
    with pytest.raises(TypeError, match=r"expected optimizer to make a torch\.optim\.Optimizer, got"):
        run(Quadratic.random(tasks=2, p=2, q=2, kappa=2.0), METHOD, iterations=1, optimizer=make)


@pytest.mark.parametrize("replicas", [None, 2])
def test_an_optimizer_whose_step_needs_a_closure_is_refused(replicas):
    with pytest.raises(ValueError, match="expected an optimizer that steps along d alone, got LBFGS, whose step needs"):
        run(
            Quadratic.random(tasks=2, p=2, q=2, kappa=2.0),
            METHOD,
            iterations=1,
            replicas=replicas,
            optimizer=torch.optim.LBFGS,
        )


@pytest.mark.parametrize("kind", [torch.optim.Adafactor, type("Own", (torch.optim.Adam,), {})])
def test_an_optimizer_that_may_mix_replicas_is_refused_with_replicas_alone(kind):
    problem, options = Quadratic.random(tasks=2, p=2, q=2, kappa=2.0), {"iterations": 1, "optimizer": kind}
    assert run(problem, METHOD, **options).iterations == 1
    with pytest.raises(
        ValueError, match=f"expected an elementwise optimizer with replicas, one of SGD, .* got {kind.__name__}"
    ):
        run(problem, METHOD, replicas=2, **options)


@pytest.mark.gpu
@by_name
def test_a_run_on_a_gpu_equals_the_run_on_the_cpu(name):
    problem = Quadratic.random(tasks=5, p=3, q=4, kappa=5.0)
    cpu, gpu = (
        run(problem, METHOD, iterations=10, batch=2, optimizer=OPTIMIZERS[name], device=device)
        for device in ("cpu", "cuda")
    )
    assert_near(gpu.phi["phi"].cpu(), cpu.phi["phi"], within=1e-10)
