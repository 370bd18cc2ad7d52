from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad

from convergence import MemoryReduced, Oracle, run
from problems import PROBLEMS, Parameters, Problem, ProxLogistic, Quadratic, Tasks
from problems.base import Parts
from tests.independent import Dense, assert_near
from tests.strategies import methods, normal, quadratics, seeds
from tests.twins import Endless, Scalar, Twin, UserRidge

QUANTITIES = ("lower_gradient", "hvp", "upper_gradient", "hypergradient")


def quantities(oracle: Oracle, phi: Parameters, theta: Tensor, v: Tensor, tasks: Tasks) -> dict[str, Tensor]:
    """What the four counted calls return, phi flattened over its names."""
    z = oracle.embed(phi, tasks)
    d = oracle.hypergradient(z, theta, v, tasks)
    lead = () if oracle.replicas is None else (oracle.replicas,)
    return {
        "lower_gradient": oracle.lower_gradient(z, theta, tasks),
        "hvp": oracle.lower_hessian(z, theta, tasks)(v),
        "upper_gradient": oracle.upper_gradient(z, theta, tasks),
        "hypergradient": torch.cat([tensor.reshape(*lead, -1) for tensor in d.values()], -1),
    }


def somewhere(problem: Problem, seed: int, *lead: int) -> tuple[Parameters, Tensor, Tensor]:
    like = problem.phi0(torch.Generator())
    theta, v = normal(seed + 1, 2, *lead, problem.tasks, problem.q)
    return {name: normal(seed, *lead, *tensor.shape) for name, tensor in like.items()}, theta, v


# ---- one quantity, several paths


@given(problem=quadratics(), seed=seeds)
def test_the_path_of_automatic_differentiation_equals_that_of_closed_forms(problem, seed):
    twin, (phi, theta, v) = Twin(problem), somewhere(problem, seed)
    assert not any(twin.has(form) for form in ("lower_gradient", "lower_hvp", "upper_gradient", "surrogate_gradient"))
    closed, automatic = Oracle(problem), Oracle(twin)
    expected = quantities(closed, phi, theta, v, closed.pool)
    for name, found in quantities(automatic, phi, theta, v, automatic.pool).items():
        assert_near(found, expected[name], within=1e-13)
    assert automatic.calls == closed.calls


@pytest.mark.parametrize("name", ["prox-logistic", "user-ridge"])
def test_every_quantity_equals_dense_derivatives_by_torch_func(name):
    problem = UserRidge().to(dtype=torch.float64) if name == "user-ridge" else PROBLEMS[name](0)
    dense, oracle = Dense(problem), Oracle(problem)
    phi, theta, v = somewhere(problem, 3)
    x = dense.vector(phi)
    crosses = (dense.each(dense.cross, x, theta).mT @ v[..., None])[..., 0]
    expected = {
        "lower_gradient": dense.each(dense.lower_slope, x, theta),
        "hvp": (dense.each(dense.hessian, x, theta) @ v[..., None])[..., 0],
        "upper_gradient": dense.each(dense.upper_slope, x, theta),
        "hypergradient": (dense.each(torch.func.grad(dense.f), x, theta) - crosses).mean(0),
    }
    for quantity, found in quantities(oracle, phi, theta, v, oracle.pool).items():
        assert_near(found, expected[quantity], within=1e-13)


@given(problem=quadratics(), replicas=st.integers(1, 3), own_tasks=st.booleans(), seed=seeds)
def test_mapping_over_replicas_equals_broadcasting_over_them(problem, replicas, own_tasks, seed):
    phi, theta, v = somewhere(problem, seed, replicas)
    index = torch.randint(problem.tasks, (replicas, problem.tasks), generator=torch.Generator().manual_seed(seed))
    found = {}
    for broadcasts in (True, False):
        oracle = Oracle(Twin(problem, broadcasts=broadcasts), replicas=replicas)
        tasks = problem.select(index) if own_tasks else oracle.pool
        found[broadcasts] = quantities(oracle, phi, theta, v, tasks) | {"theta0": oracle.theta0(phi, tasks)}
    for name, mapped in found[False].items():
        assert_near(mapped, found[True][name], within=1e-13)


class Proximal(Problem):
    """Three tasks, q = p = 3."""

    q = 3

    def __init__(self):
        self.data = {"c": normal(0, 3, 3)}

    def phi0(self, rng):
        return {"x": torch.randn(3, generator=rng, dtype=torch.float64)}

    def lower(self, phi, theta, tasks):
        return 0.5 * (theta - phi["x"] - tasks.c).square().sum(-1)

    def upper(self, phi, theta, tasks):
        return 0.5 * theta.square().sum(-1)


class ProximalInClosedForm(Proximal):
    """The same with closed forms, written without a thought of replicas."""

    def lower_gradient(self, phi, theta, tasks):
        return theta - phi["x"] - tasks.c

    def lower_hvp(self, phi, theta, v, tasks):
        return v

    def upper_gradient(self, phi, theta, tasks):
        return theta

    def surrogate_gradient(self, phi, features, theta, v, tasks):
        return {"x": v.mean(0)}

    def lower_solution(self, phi, tasks):
        return phi["x"] + tasks.c

    def hypergradient(self, phi):
        return {"x": (phi["x"] + self.data["c"]).mean(0)}


@pytest.mark.parametrize("batch", [None, 2], ids=["all-tasks", "own-tasks"])
@pytest.mark.parametrize("probes", [(), ("grad_norm_sq",)], ids=["unprobed", "probed"])
def test_closed_forms_written_without_replicas_are_mapped_over_them_too(batch, probes):
    # as many replicas as tasks and coordinates: a wrong broadcast raises nothing
    method = MemoryReduced(lower_steps=1, lower_step_size=0.5, cg_steps=2, upper_step_size=0.1)
    options = {"iterations": 4, "batch": batch, "probes": probes}
    together = run(ProximalInClosedForm(), method, replicas=3, **options)
    for r in range(3):
        alone = run(Proximal(), method, seed=r, **options)
        assert_near(together.phi["x"][r], alone.phi["x"], within=1e-13)
        for name in probes:
            assert_near(together.trace[name][:, r], alone.trace[name], within=1e-12)


# ---- what it counts, and what it keeps


@given(problem=quadratics(), replicas=st.sampled_from([None, 1, 3]))
def test_a_call_counts_its_tasks_whatever_the_number_of_replicas(problem, replicas):
    lead = () if replicas is None else (replicas,)
    phi, theta, v = somewhere(problem, 0, *lead)
    oracle = Oracle(problem, replicas=replicas)
    quantities(oracle, phi, theta, v, oracle.pool)
    M = problem.tasks
    assert oracle.calls == {"lower_gradient": M, "hvp": M, "cross_product": M, "upper_gradient": M}


@given(problem=quadratics(max_tasks=4), method=methods(), iterations=st.integers(0, 3), data=st.data())
def test_the_calls_of_a_run_are_those_that_the_method_declares(problem, method, iterations, data):
    batch = data.draw(st.sampled_from([None, *range(1, problem.tasks + 1)]))
    replicas = data.draw(st.sampled_from([None, 2]))
    declared = method.declared_calls(problem.tasks if batch is None else batch)
    twin = Twin(problem)
    twin.constants = problem.constants
    for each in (problem, twin):
        result = run(each, method, iterations=iterations, batch=batch, replicas=replicas, probes=())
        assert result.calls == {name: iterations * count for name, count in declared.items()}


class Nested(NamedTuple):
    shifted: Tensor
    rest: dict[str, Any]


class Embedding(Problem):
    """Features of every container the oracle knows; counts the calls of embed."""

    q, calls = 2, 0

    def __init__(self):
        self.data = {"c": normal(0, 3, 2)}

    def phi0(self, rng):
        return {"x": torch.ones(2, dtype=torch.float64), "unused": torch.ones(4, dtype=torch.float64)}

    def embed(self, phi, tasks):
        type(self).calls += 1
        return Nested(phi["x"] + tasks.c, {"pair": (phi["x"], [phi["x"].exp()])})

    def lower(self, z, theta, tasks):
        return 0.5 * (theta - z.shifted).square().sum(-1)

    def upper(self, z, theta, tasks):
        return (z.rest["pair"][1][0] * theta).sum(-1) + z.rest["pair"][0].square().sum()


def test_features_in_nested_containers_are_computed_once_an_iteration_and_cut_from_their_graph():
    problem = Embedding()
    oracle, phi = Oracle(problem), problem.phi0(torch.Generator())
    z = oracle.embed(phi, oracle.pool)
    inside = [z.value.shifted, z.value.rest["pair"][0], z.value.rest["pair"][1][0]]
    assert isinstance(z.value, Nested)
    assert not any(tensor.requires_grad for tensor in inside)
    assert not any(tensor.requires_grad for tensor in phi.values())
    theta, v = normal(1, 3, 2), normal(2, 3, 2)
    found = quantities(oracle, phi, theta, v, oracle.pool)
    assert not any(tensor.requires_grad for tensor in found.values())
    # d = mean_i [ e^x theta + 2 x + v ]; the tensor of phi that no objective sees has gradient zero
    by_hand = (torch.e * theta + 2 + v).mean(0)
    assert_near(found["hypergradient"], torch.cat([by_hand, torch.zeros(4, dtype=torch.float64)]), within=1e-14)
    method = MemoryReduced(lower_steps=3, lower_step_size=0.5, cg_steps=3, upper_step_size=0.1)
    run(problem, method, iterations=1, probes=())  # which looks at the problem, once
    Embedding.calls = 0
    run(problem, method, iterations=2, probes=())
    assert Embedding.calls == 2


def test_no_graph_is_built_of_the_features_where_the_hypergradient_has_a_closed_form():
    oracle = Oracle(Quadratic.random(tasks=2, p=2, q=2, kappa=2.0))
    phi = {"phi": normal(0, 2)}
    assert oracle.embed(phi, oracle.pool).graph["linear"].requires_grad is False
    assert oracle.embed(phi, oracle.pool, keep_graph=True).graph["linear"].requires_grad is True


def test_the_pool_is_one_object_and_an_endless_problem_has_none():
    oracle = Oracle(Quadratic.random(tasks=2, p=2, q=2, kappa=2.0))
    assert oracle.pool is oracle.pool
    assert oracle.pool.index.tolist() == [0, 1]
    with pytest.raises(ValueError, match="expected a finite pool of tasks, got Endless, which has none"):
        _ = Oracle(Endless()).pool


# ---- objectives at the edge of what is allowed


def all_calls(problem: Problem) -> dict[str, Tensor]:
    oracle = Oracle(problem)
    phi, theta, v = somewhere(problem, 0)
    return quantities(oracle, phi, theta, v, oracle.pool)


def test_an_upper_objective_that_does_not_see_theta_has_gradient_zero():
    found = all_calls(Scalar(lambda x, theta: (theta - x) ** 2, lambda x, theta: x**2))
    assert torch.equal(found["upper_gradient"], torch.zeros(2, 1, dtype=torch.float64))


def test_a_lower_objective_linear_in_theta_has_hessian_zero():
    found = all_calls(Scalar(lambda x, theta: x * theta, lambda x, theta: theta))
    assert torch.equal(found["hvp"], torch.zeros(2, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "lower", [lambda x, theta: x**2, lambda x, theta: (theta.detach() - x) ** 2], ids=["constant", "detached"]
)
def test_a_lower_objective_that_does_not_see_theta_is_refused(lower):
    sentence = r"the lower objective of Scalar to depend on theta, got one that does not \(or a graph cut by detach\)"
    problem = Scalar(lower, lambda x, theta: theta)
    with pytest.raises(ValueError, match=sentence):
        all_calls(problem)
    for steps in (0, 1):
        method = MemoryReduced(lower_steps=steps, lower_step_size=0.1, cg_steps=1, upper_step_size=0.1)
        with pytest.raises(ValueError, match=f"{sentence}|derivative of lower of Scalar in theta .* is a graph cut"):
            run(problem, method, iterations=1, probes=())


def test_a_phi_that_reaches_no_objective_is_refused_with_a_way_out():
    problem = Scalar(lambda x, theta: theta**2, lambda x, theta: theta)
    sentence = "expected phi to reach an objective of Scalar, got none that depends on it: .* add a proximal term"
    with pytest.raises(ValueError, match=sentence):
        all_calls(problem)


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_an_objective_that_returns_anything_but_one_value_a_task_is_refused(level):
    base = ProxLogistic.random(tasks=3, q=2, examples=4)
    summed = Twin(base, **{level: lambda z, theta, tasks: (theta - z["centre"]).square().sum()})
    with pytest.raises(ValueError, match=rf"expected {level} to return one value a task, shape \(3,\), got \(\)"):
        all_calls(summed)


def test_a_start_without_a_row_for_each_task_is_refused():
    twin = Twin(ProxLogistic.random(tasks=3, q=2, examples=4))
    twin.theta0 = lambda phi, tasks: torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"expected theta0 of shape \(3, q\), one row a task, got \(1, 2\)"):
        Oracle(twin).theta0(twin.phi0(torch.Generator()), twin.sample(None, torch.Generator()))


# ---- the part of f alone


@pytest.mark.parametrize("name", ["quadratic", "representation", "prox-logistic", "user-ridge"])
@pytest.mark.parametrize("replicas", [None, 3])
def test_the_direct_gradient_is_that_of_f_alone_in_phi_and_counts_nothing(name, replicas):
    problem = UserRidge().to(dtype=torch.float64) if name == "user-ridge" else PROBLEMS[name](0)
    dense, oracle = Dense(problem), Oracle(problem, replicas=replicas)
    phi, theta, _ = somewhere(problem, 3, *(() if replicas is None else (replicas,)))
    found = oracle.direct_gradient(oracle.embed(phi, oracle.pool, keep_graph=True), theta, oracle.pool)
    for r in range(replicas or 1):
        own = phi if replicas is None else {key: tensor[r] for key, tensor in phi.items()}
        expected = dense.each(grad(dense.f), dense.vector(own), theta if replicas is None else theta[r]).mean(0)
        here = found if replicas is None else {key: tensor[r] for key, tensor in found.items()}
        assert_near(dense.vector(here), expected, within=1e-13)
        assert bool(expected.any()) == (name != "user-ridge")  # its f does not see phi: zeros
    assert not any(oracle.calls.values())


def test_the_direct_gradient_evaluates_f_and_not_g():
    class Watched(Scalar):
        seen: ClassVar[list[str]] = []

        def lower(self, features, theta, tasks):
            self.seen.append("g")
            return super().lower(features, theta, tasks)

        def upper(self, features, theta, tasks):
            self.seen.append("f")
            return super().upper(features, theta, tasks)

    problem = Watched(lambda x, theta: (theta - x) ** 2, lambda x, theta: x * theta)
    oracle, phi = Oracle(problem), problem.phi0(torch.Generator())
    theta = torch.full((len(oracle.pool), 1), 3.0, dtype=torch.float64)
    (found,) = oracle.direct_gradient(oracle.embed(phi, oracle.pool, keep_graph=True), theta, oracle.pool).values()
    assert (problem.seen, float(found)) == (["f"], 3.0)
    assert_near(oracle.upper_values, problem.upper(phi, theta, oracle.pool), within=0)


# ---- features computed again


class InParts(Problem):
    """Two parts of the features, of which one is a sum that gives both its tensors one and the same gradient."""

    q = 2

    def __init__(self):
        self.data = {"c": normal(0, 3, 2)}
        self.computed: list[str] = []

    def phi0(self, rng):
        return {name: torch.ones(2, dtype=torch.float64) for name in ("a", "b", "unused")}

    def sums(self, phi, tasks):
        self.computed.append("sums")
        return phi["a"] + phi["b"]

    def pairs(self, phi, tasks):
        self.computed.append("pairs")
        return {"scaled": phi["a"] * tasks.c, "list": [phi["b"].exp()]}

    def embed(self, phi, tasks):
        return self._joined(self.sums(phi, tasks), self.pairs(phi, tasks))

    def embed_parts(self):
        return Parts((self.sums, self.pairs), self._joined)

    def _joined(self, sums, pairs):
        return {"sums": sums, **pairs}

    def lower(self, z, theta, tasks):
        return 0.5 * (theta - z["sums"] - z["scaled"]).square().sum(-1)

    def upper(self, z, theta, tasks):
        return (z["list"][0] * theta).sum(-1) + z["sums"].square().sum(-1)


def last_line(problem: Problem, *, recompute: bool, replicas: int | None = None) -> dict[str, Tensor]:
    oracle, lead = Oracle(problem, replicas=replicas), () if replicas is None else (replicas,)
    like = problem.phi0(torch.Generator())
    phi = {name: normal(k, *lead, *tensor.shape) for k, (name, tensor) in enumerate(like.items())}
    theta, v = normal(7, *lead, len(oracle.pool), problem.q), normal(8, *lead, len(oracle.pool), problem.q)
    return oracle.hypergradient(oracle.embed(phi, oracle.pool, recompute=recompute), theta, v, oracle.pool)


@pytest.mark.parametrize("replicas", [None, 2])
@pytest.mark.parametrize("make", [InParts, UserRidge, Embedding, *(lambda n=n: PROBLEMS[n](0) for n in PROBLEMS)])
def test_the_last_line_is_the_same_with_features_computed_again(make, replicas):
    problem = make().to(dtype=torch.float64)
    expected, found = (last_line(problem, recompute=recompute, replicas=replicas) for recompute in (False, True))
    for name, tensor in expected.items():
        assert_near(found[name], tensor, within=1e-12)


def test_the_last_line_of_parts_is_the_one_written_by_hand():
    # d = mean_i [ (1 + c) v + 2 s ] for a, and [ v + e^b theta + 2 s ] for b, s = a + b; nothing for the third
    a, b, theta, v, c = normal(0, 2), normal(1, 2), normal(7, 3, 2), normal(8, 3, 2), normal(0, 3, 2)
    found = last_line(InParts(), recompute=True)
    assert_near(found["a"], ((1 + c) * v + 2 * (a + b)).mean(0), within=1e-13)
    assert_near(found["b"], (v + b.exp() * theta + 2 * (a + b)).mean(0), within=1e-13)
    assert_near(found["unused"], torch.zeros(2, dtype=torch.float64), within=0)


def test_features_are_computed_once_and_again_part_by_part_without_a_graph_in_between():
    problem = InParts()
    oracle, phi = Oracle(problem), problem.phi0(torch.Generator())
    z = oracle.embed(phi, oracle.pool, recompute=True)
    assert z.graph is None
    assert not any(tensor.requires_grad for tensor in (z.value["sums"], z.value["scaled"], *z.value["list"]))
    assert problem.computed == ["sums", "pairs"]
    for K, N in ((0, 0), (3, 2), (40, 40)):
        for recompute, expected in ((False, ["sums", "pairs"]), (True, 2 * ["sums", "pairs"])):
            problem.computed.clear()
            method = MemoryReduced(
                lower_steps=K, lower_step_size=0.5, cg_steps=N, warm_start=False, recompute=recompute
            )
            method.step(oracle, phi, oracle.pool, method.start(oracle, phi))
            assert problem.computed == expected


# ---- the start, the minimiser and the values of f


def test_a_start_keeps_its_graph_where_it_is_asked_for():
    problem = Quadratic.random(tasks=3, p=2, q=2, kappa=2.0, initialisation=True)
    oracle = Oracle(problem)
    z = oracle.embed({"phi": normal(0, 2)}, oracle.pool, keep_graph=True)
    assert oracle.theta0(z.phi, oracle.pool, keep_graph=True).requires_grad
    assert not oracle.theta0(z.phi, oracle.pool).requires_grad


def test_a_problem_without_the_minimiser_is_refused():
    oracle = Oracle(UserRidge())
    z = oracle.embed(UserRidge().phi0(torch.Generator()), oracle.pool, keep_graph=True)
    with pytest.raises(ValueError, match="expected a problem with the closed form lower_argmin, got UserRidge without"):
        oracle.lower_argmin(z, oracle.pool)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_values_of_f_are_kept_from_the_last_line(recompute):
    problem = UserRidge()
    oracle, phi = Oracle(problem), problem.phi0(torch.Generator())
    assert oracle.upper_values is None
    theta = torch.ones(len(oracle.pool), 3)
    z = oracle.embed(phi, oracle.pool, recompute=recompute)
    oracle.hypergradient(z, theta, theta, oracle.pool)
    assert not oracle.upper_values.requires_grad
    assert_near(oracle.upper_values, problem.upper(phi, theta, oracle.pool), within=1e-6)


def test_the_values_of_f_are_not_those_of_an_earlier_line_where_a_closed_form_took_the_last():
    problem = Quadratic.random(tasks=3, p=2, q=2, kappa=2.0)
    oracle, phi = Oracle(problem), {"phi": normal(0, 2)}
    z, theta = oracle.embed(phi, oracle.pool, keep_graph=True), normal(1, 3, 2)
    oracle.total_gradient(z, theta, oracle.pool)
    assert oracle.upper_values is not None
    oracle.hypergradient(z, theta, theta, oracle.pool)
    assert oracle.upper_values is None
