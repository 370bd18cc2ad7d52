"""The few-shot problem against `independent`: its hypergradient, its features, what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad

from convergence import FOMAML, ITDBiO, MemoryReduced, Oracle, run
from convergence.chunks import direction_in_chunks
from convergence.linear_solvers import Direct
from convergence.methods import ClosedForm
from problems import Parameters, Tasks
from problems.few_shot import SEMANTICS, Conv4, FewShot, PrototypeHead, ResNet12, RidgeHead, SoftmaxHead
from tests.independent import assert_near
from tests.problems.few_shot import independent
from tests.problems.few_shot.tiny import Counting, drawn, episodes, few_shot, singles, start
from tests.strategies import seeds

HEADS = {
    "softmax": SoftmaxHead(way=3, ridge=0.3),
    "ridge": RidgeHead(way=3, ridge=0.5, scale=4.0),
    "prototype": PrototypeHead(way=3),
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "not centred": {"centred": False},
    "support": {"bn": "support"},
    "support, not centred": {"bn": "support", "centred": False},
    "channels first": {"channels_last": False},
    "channels first, support": {"channels_last": False, "bn": "support"},
    "more queries": {"queries": 3},
    "more shots": {"shot": 3, "queries": 1, "bn": "support"},
    "two by two pixels": {"side": 32, "channels": 2},
    "ridge regression": {"head": "ridge"},
    "ridge regression, not centred": {"head": "ridge", "centred": False},
    "prototypes": {"head": "prototype"},
    "prototypes, support": {"head": "prototype", "bn": "support"},
}
# kappa <= 40 (a test below): 700 steps contract by (39/41)^700 < 1e-15; CG ends after at most q <= 27 steps and a few
METHOD = MemoryReduced(lower_steps=700, cg_steps=60, warm_start=False)
DIRECT = dataclasses.replace(METHOD, cg_steps=None, linear_solver=Direct())


def instance(
    *, head: str = "softmax", side: int = 16, channels: int = 4, shot: int = 2, queries: int = 2, **options: Any
) -> FewShot:
    source = episodes(side, shot=shot, queries=queries)
    return few_shot(HEADS[head], embedding=Conv4(channels), source=source, **options)


def of_task(problem: FewShot, task: tuple[Tensor, ...]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """g and f of one task as functions of (phi, theta), by the independent implementation."""
    support, y, query, labels = task
    kind = next(name for name, head in HEADS.items() if type(head) is type(problem.head))
    penalties = {name: getattr(problem.head, name) for name in ("ridge", "lasso")} if kind == "softmax" else {}
    lower, upper = independent.objectives(kind, way=problem.head.way, **penalties)
    options = {"bn": problem.bn, "centred": problem.centred}

    def g(phi: Parameters, theta: Tensor) -> Tensor:
        return lower(phi, independent.features(phi, support, query, **options)[0], y, theta)

    def f(phi: Parameters, theta: Tensor) -> Tensor:
        return upper(phi, independent.features(phi, support, query, **options)[1], labels, theta)

    return g, f


@cache
def reference(case: str) -> tuple[Parameters, Tensor]:
    """The mean hypergradient of three tasks, and theta* of each."""
    problem = instance(**CASES[case])
    phi, directions, thetas = start(problem), [], []
    for task in singles(drawn(problem)):
        g, f = of_task(problem, task)
        thetas.append(independent.minimiser(lambda theta, g=g: g(phi, theta), torch.zeros(problem.q).double()))
        directions.append(independent.hypergradient(g, f, phi, thetas[-1]))
    return independent.mean_over(directions), torch.stack(thetas)


def assert_same_direction(found: Parameters, expected: Parameters, *, within: float = 1e-9) -> None:
    """Each tensor, relative to the largest entry of the direction; those before a batch norm have slope zero."""
    scale = max(float(tensor.abs().max()) for tensor in expected.values())
    assert scale > 1e-3
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        assert float((found[name] - tensor).abs().max()) <= within * scale, name


# ---- the hypergradient


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recompute", [False, True], ids=["graph", "recompute"])
def test_the_hypergradient_is_that_of_single_tasks_by_torch_func(case, recompute):
    problem = instance(**CASES[case])
    expected, thetas = reference(case)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    step = dataclasses.replace(METHOD, recompute=recompute).step(oracle, phi, tasks, METHOD.start(oracle, phi))
    assert not step.failure.any()
    assert_near(step.theta, thetas, within=1e-10)
    assert_same_direction(step.direction, expected)


@pytest.mark.parametrize(
    "case", ["plain", "support", "channels first", "more queries", "ridge regression", "prototypes"]
)
@pytest.mark.parametrize("recompute", [False, True], ids=["graph", "recompute"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_and_the_order_of_tasks_and_direct_solves_leave_it_alone(case, recompute, chunk):
    problem = instance(**CASES[case])
    phi, oracle = start(problem), Oracle(problem)
    tasks = drawn(problem)[torch.tensor([2, 0, 1])]
    method = dataclasses.replace(DIRECT, recompute=recompute)
    found = direction_in_chunks(method, oracle, phi, tasks, method.start(oracle, phi), chunk=chunk)
    assert int(found.failed) == 0
    assert_same_direction(found.direction, reference(case)[0])


@pytest.mark.parametrize("case", CASES)
def test_the_lower_levels_of_these_tests_are_well_conditioned(case):
    problem = instance(**CASES[case])
    tasks = drawn(problem)
    mu, L = problem.curvature(problem.embed(start(problem), tasks), tasks)
    assert float((L / mu).max()) <= 40


@pytest.mark.parametrize("case", ["plain", "ridge regression"])
def test_too_few_steps_miss_it(case):  # so that the tests above say something of K and N
    problem = instance(**CASES[case])
    phi, oracle = start(problem), Oracle(problem)
    for fewer in ({"lower_steps": 3}, {"cg_steps": 1}):
        method = dataclasses.replace(METHOD, **fewer)
        found = method.step(oracle, phi, drawn(problem), method.start(oracle, phi)).direction
        with pytest.raises(AssertionError):
            assert_same_direction(found, reference(case)[0], within=1e-4)


# ---- the other methods


def mean_gradient(problem: Any, composed: Callable[..., Tensor], phi: Parameters, tasks: Tasks) -> Parameters:
    """d/dphi of the mean of `composed`(phi, g, f) over the tasks."""
    directions = []
    for task in singles(tasks):
        g, f = of_task(problem, task)
        directions.append(grad(lambda own, g=g, f=f: composed(own, g, f))(phi))
    return independent.mean_over(directions)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("head", ["itd_bio", "anil"])
def test_itd_bio_and_anil_differentiate_the_composed_function(head, steps, chunk):
    options = {"learned_start": True, "ridge": 0.0} if head == "anil" else {"ridge": 0.0, "lasso": 1e-2}
    problem = few_shot(SoftmaxHead(way=3, **options), centred=False)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    zeros = torch.zeros(problem.q).double()
    expected = mean_gradient(
        problem,
        lambda own, g, f: f(
            own, independent.descended(g, own, own.get("head.start", zeros), steps=steps, step_size=0.3)
        ),
        phi,
        tasks,
    )
    method = ITDBiO(lower_steps=steps, lower_step_size=0.3)
    assert_same_direction(direction_in_chunks(method, oracle, phi, tasks, None, chunk=chunk).direction, expected)


@pytest.mark.parametrize("learned", [False, True])
def test_first_order_anil_drops_the_derivative_of_the_steps_alone(learned):
    problem = few_shot(SoftmaxHead(way=3, ridge=0.0, learned_start=learned), centred=False)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    theta0 = phi.get("head.start", torch.zeros(problem.q).double())

    def composed(own: Parameters, g: Callable[..., Tensor], f: Callable[..., Tensor]) -> Tensor:
        moved = independent.descended(g, phi, theta0, steps=4, step_size=0.3) - theta0
        return f(own, own.get("head.start", theta0) + moved)

    method = FOMAML(lower_steps=4, lower_step_size=0.3)
    expected = mean_gradient(problem, composed, phi, tasks)
    assert_same_direction(method.step(oracle, phi, tasks, None).direction, expected)
    second = ITDBiO(lower_steps=4, lower_step_size=0.3).step(oracle, phi, tasks, None).direction
    with pytest.raises(AssertionError):
        assert_same_direction(second, expected, within=1e-3)


@pytest.mark.parametrize("head", ["ridge", "prototype"])
def test_closed_forms_differentiate_the_minimiser_and_equal_the_implicit_hypergradient(head):
    problem = instance(head=head, centred=False)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)

    def minimiser(Z: Tensor, y: Tensor, own: Parameters) -> Tensor:
        Y = torch.eye(3, dtype=Z.dtype)[y]
        if head == "prototype":
            return torch.stack([Z[y == c].mean(0) for c in range(3)]).flatten()
        normal = Z.T @ Z / len(y) + own["head.log_ridge"].exp() * torch.eye(Z.shape[1], dtype=Z.dtype)
        return torch.linalg.solve(normal, Z.T @ Y / len(y)).T.flatten()

    directions = []
    for support, y, query, labels in singles(tasks):
        _, upper = independent.objectives(head, way=3)

        def composed(own: Parameters, support=support, y=y, query=query, labels=labels, upper=upper) -> Tensor:
            Z, Q = independent.features(own, support, query, centred=False)
            return upper(own, Q, labels, minimiser(Z, y, own))

        directions.append(grad(composed)(phi))
    expected = independent.mean_over(directions)
    assert_same_direction(ClosedForm().step(oracle, phi, tasks, None).direction, expected)
    assert_same_direction(DIRECT.step(oracle, phi, tasks, DIRECT.start(oracle, phi)).direction, expected)


# ---- features


@pytest.mark.parametrize("bn", SEMANTICS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("queries", [2, 3])
@pytest.mark.parametrize("centred", [False, True])
def test_the_features_are_those_of_single_tasks(bn, channels_last, queries, centred):
    problem = instance(bn=bn, channels_last=channels_last, queries=queries, centred=centred, head="ridge")
    phi, tasks = start(problem), drawn(problem)
    z = problem.embed(phi, tasks)
    assert z.support.dtype == z.query.dtype == torch.float64
    for i, (support, _, query, _) in enumerate(singles(tasks)):
        expected = independent.features(phi, support, query, bn=bn, centred=centred)
        for found, features in zip((z.support[i], z.query[i]), expected, strict=True):
            assert_near(found, features, within=1e-11)


@pytest.mark.parametrize("bn", SEMANTICS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("queries", [2, 3])
def test_the_parts_join_to_the_features(bn, channels_last, queries):
    problem = instance(bn=bn, channels_last=channels_last, queries=queries, head="ridge")
    phi, tasks = start(problem), drawn(problem)
    if bn == "running":
        problem = problem.gather(phi, [drawn(problem, seed=1)])
    functions, join = problem.embed_parts()
    whole, joined = problem.embed(phi, tasks), join(*(part(phi, tasks) for part in functions))
    assert_near(joined.support, whole.support, within=1e-13)
    assert_near(joined.query, whole.query, within=1e-13)
    assert whole.own.keys() == joined.own.keys() == {"head.log_ridge", "head.scale"}


def test_accuracy_is_the_share_of_right_answers():
    problem = instance(head="ridge")
    phi, tasks = start(problem), drawn(problem)
    z = problem.embed(phi, tasks)
    theta = problem.lower_argmin(z, tasks)
    right = []
    for features, labels, W in zip(z.query, tasks.query_labels, theta.unflatten(-1, (3, -1)), strict=True):
        scores = features @ W.T  # a scale > 0 changes no order
        right.append(sum(int(scores[j].argmax()) == int(labels[j]) for j in range(len(labels))) / len(labels))
    assert problem.accuracy(z, theta, tasks).tolist() == pytest.approx(right, abs=1e-12)
    assert 0 < sum(right) < 3


# ---- how often the network runs


@pytest.mark.parametrize(("K", "N"), [(0, 0), (1, 1), (20, 10), (40, 40)])
@pytest.mark.parametrize(
    ("channels_last", "queries", "calls", "apart"),
    [
        (False, 2, [36], [18, 18]),
        (False, 3, [18, 27], [18, 27]),
        (None, 2, 6 * [6], 6 * [6]),
        (True, 3, 3 * [6] + 3 * [9], 3 * [6] + 3 * [9]),
    ],
)
def test_the_network_sees_each_image_once_an_iteration_whatever_k_and_n_are(K, N, channels_last, queries, calls, apart):
    network = Counting(Conv4(4))
    problem = few_shot(embedding=network, source=episodes(queries=queries), channels_last=channels_last)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    method = MemoryReduced(lower_steps=K, cg_steps=N, warm_start=False)
    method.step(oracle, phi, tasks, method.start(oracle, phi))
    assert network.images == calls  # 3 tasks of 3 classes with 2 shots
    network.images.clear()
    method = dataclasses.replace(method, recompute=True)
    method.step(oracle, phi, tasks, method.start(oracle, phi))
    assert network.images == 2 * apart  # support and query for themselves, without a graph and with
    network.images.clear()
    direction_in_chunks(method, oracle, phi, tasks, method.start(oracle, phi), chunk=1)
    assert sum(network.images) == 2 * 3 * (6 + 3 * queries)


# ---- the fast paths


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    side=st.sampled_from([16, 19, 33]),
    network=st.sampled_from([Conv4(3), ResNet12((2, 3, 2, 4))]),
    bn=st.sampled_from(["task", "support"]),
    seed=seeds,
)
@settings(max_examples=6)
def test_every_fast_path_has_the_direction_of_the_plain_one(shape, side, network, bn, seed):
    """Channels first, all tasks at once, one graph, against every other way, on networks and images of any shape."""
    shot, queries, count = shape
    source = episodes(side, shot=shot, queries=queries, seed=seed)
    method = MemoryReduced(lower_steps=3, cg_steps=2, warm_start=False)

    def direction(*, chunk: int = count, recompute: bool = False, checkpointed: bool = False, **options) -> Tensor:
        embedding = dataclasses.replace(network, checkpointed=checkpointed)
        problem = few_shot(embedding=embedding, source=source, bn=bn, **options)
        phi, oracle, own = start(problem, seed), Oracle(problem), dataclasses.replace(method, recompute=recompute)
        state, tasks = own.start(oracle, phi), drawn(problem, count, seed)
        found = direction_in_chunks(own, oracle, phi, tasks, state, chunk=chunk).direction
        return torch.cat([tensor.flatten() for tensor in found.values()])

    expected = direction(channels_last=False)
    assert float(expected.norm()) > 0
    for options in (
        {"channels_last": True},
        {"channels_last": True, "chunk": 1},
        {"channels_last": True, "recompute": True},
        {"channels_last": True, "checkpointed": True},
        {"channels_last": False, "chunk": 2, "recompute": True, "checkpointed": True},
    ):
        # 100 epsilon is what other orders of the same sums make of it; the variances of few pixels magnify that
        assert float((direction(**options) - expected).norm()) <= 1e-12 * float(expected.norm())


# ---- replicas


@pytest.mark.parametrize("bn", SEMANTICS)
@pytest.mark.parametrize(("head", "channels_last"), [*((head, None) for head in HEADS), ("softmax", False)])
def test_replicas_together_equal_separate_runs(bn, head, channels_last):
    problem = instance(head=head, bn=bn, channels_last=channels_last)
    method = MemoryReduced(lower_steps=3, cg_steps=2, upper_step_size=0.1, warm_start=False)
    together = run(problem, method, iterations=2, batch=2, seed=1, replicas=2)
    for r in range(2):
        alone = run(problem, method, iterations=2, batch=2, seed=1 + r)
        for name, tensor in alone.phi.items():
            assert_near(together.phi[name][r], tensor, within=1e-12)


# ---- mixed precision


@pytest.mark.parametrize("bn", SEMANTICS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_is_for_the_network_alone(bn, channels_last):
    exact, mixed = (
        instance(side=32, channels=8, bn=bn, channels_last=channels_last, autocast=dtype)
        for dtype in (None, torch.bfloat16)
    )
    phi, tasks = start(exact, dtype=torch.float32), drawn(exact)
    z, rounded = (problem.embed(phi, tasks) for problem in (exact, mixed))
    for found, expected in ((rounded.support, z.support), (rounded.query, z.query)):
        assert found.dtype == torch.float32
        gap = float((found - expected).norm() / expected.norm())
        assert 1e-4 < gap < 0.1  # four layers, of 8 bits each: some 2^-8 a layer, and not float32
    for recompute in (False, True):
        method, oracle = MemoryReduced(lower_steps=5, cg_steps=5, warm_start=False, recompute=recompute), Oracle(mixed)
        step = method.step(oracle, phi, tasks, method.start(oracle, phi))
        assert step.theta.dtype == step.v.dtype == torch.float32
        assert not step.failure.any()
        for name, tensor in step.direction.items():
            assert tensor.dtype == phi[name].dtype
            assert bool(torch.isfinite(tensor).all())
    assert sum(float(tensor.norm()) for tensor in step.direction.values()) > 0


# ---- what is refused, and what is said


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: few_shot(SoftmaxHead(way=5)), "expected a head for the 3 classes of an episode, got one for 5"),
        (lambda: few_shot(bn="batch"), "expected bn one of task, support, running, got 'batch'"),
        (
            lambda: few_shot(source=episodes(side=8)),
            "expected images of at least 16 x 16 pixels for Conv4, got 8 x 8",
        ),
        (lambda: few_shot().gather(start(few_shot()), []), "expected at least one batch of tasks .* got none"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_closed_forms_of_the_head_are_those_of_the_problem():
    both = {"lower_gradient", "lower_hvp", "upper_gradient", "curvature"}
    names = both | {"lower_inverse_hvp", "lower_argmin", "surrogate_gradient", "value", "lower_solution"}
    found = {kind: {name for name in names if instance(head=kind).has(name)} for kind in HEADS}
    assert found["softmax"] == both | {"lower_inverse_hvp"}
    assert found["ridge"] == found["prototype"] == both | {"lower_inverse_hvp", "lower_argmin"}
    assert not few_shot(SoftmaxHead(way=3, ridge=0.0)).has("lower_inverse_hvp")


def test_closed_forms_of_a_subclass_count_whatever_the_head_has():
    class Own(FewShot):
        def lower_solution(self, phi, tasks):
            return torch.zeros(len(tasks), self.q)

        def lower_inverse_hvp(self, features, theta, b, tasks):
            return b / 2

    problem = Own(episodes(), embedding=Conv4(4), head=SoftmaxHead(way=3, ridge=0.0))
    assert problem.has("lower_solution")
    assert problem.has("lower_inverse_hvp")
    assert not problem.has("lower_argmin")
    assert not problem.has("value")
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    theta = torch.ones(3, problem.q).double()
    inverse = oracle.lower_hessian(oracle.features(phi, tasks), theta, tasks).inverse
    assert torch.equal(inverse(theta), theta / 2)


def test_features_that_are_not_finite_fail_in_their_task_alone():
    class Poisoned(FewShot):
        def embed(self, phi, tasks):
            z = super().embed(phi, tasks)
            return z._replace(support=torch.where(torch.arange(3)[:, None, None] == 1, torch.nan, z.support))

    for kind, head in HEADS.items():
        problem = Poisoned(episodes(), embedding=Conv4(4), head=head)
        phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
        for method in (METHOD, DIRECT):
            failure = method.step(oracle, phi, tasks, method.start(oracle, phi)).failure
            assert failure.tolist() == [0, 3, 0], kind


@pytest.mark.gpu
def test_a_step_on_a_gpu_is_that_on_the_cpu():
    problem = instance()
    phi, tasks = start(problem), drawn(problem)
    on_gpu = {name: tensor.cuda() for name, tensor in phi.items()}
    oracle = Oracle(problem)
    for method in (METHOD, dataclasses.replace(DIRECT, recompute=True)):
        found = method.step(oracle, on_gpu, tasks.to("cuda"), method.start(oracle, on_gpu)).direction
        assert_same_direction({name: tensor.cpu() for name, tensor in found.items()}, reference("plain")[0])
