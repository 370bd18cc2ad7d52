"""Named few-shot methods: each takes a step, costs what it says, and is what its source says."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

from convergence import (
    ANIL,
    BOIL,
    FOMAML,
    IMAML,
    MAML,
    ITDBiO,
    MemoryReduced,
    Oracle,
    Reptile,
    RunFailed,
    Status,
    run,
)
from convergence.chunks import Direction, direction_in_chunks
from convergence.linear_solvers import ConjugateGradient
from convergence.methods import ClosedForm
from convergence.needs import require
from convergence.recipes import RECIPES, Recipe
from problems.few_shot import (
    Conv4,
    Embedding,
    FewShot,
    PrototypeHead,
    ResNet12,
    RidgeHead,
    SoftmaxHead,
    WholeNetwork,
)
from tests.independent import assert_near
from tests.problems.few_shot.tiny import drawn, episodes, few_shot, start

by_name = pytest.mark.parametrize("name", RECIPES)
ADAM = partial(torch.optim.Adam, lr=1e-3)


def direction(
    recipe: Recipe, *, embedding: Embedding | None = None, side: int = 16, tasks: int = 2, **options
) -> tuple[Direction, Oracle]:
    """d of a fresh network in float32, one task at a time."""
    problem = recipe.problem(episodes(side), embedding=embedding or Conv4(4), **options)
    phi, oracle = problem.phi0(torch.Generator().manual_seed(0)), Oracle(problem)
    state = recipe.method.start(oracle, phi)
    return direction_in_chunks(recipe.method, oracle, phi, drawn(problem, tasks), state, chunk=1), oracle


def assert_moves(found: Direction, *, breakdowns: bool) -> None:
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.direction.values())
    assert all(tensor.dtype == torch.float32 for tensor in found.direction.values())
    moved = {name for name, tensor in found.direction.items() if float(tensor.norm()) > 1e-7}
    # a bias that batch norm takes away again has slope zero, but for rounding
    still = {name for name in found.direction if name.endswith("conv.bias")}
    assert found.direction.keys() - moved <= still
    assert breakdowns or int(found.failed) == 0


@by_name
def test_each_takes_a_step_at_the_cost_it_declares(name):
    recipe = RECIPES[name]
    found, oracle = direction(recipe, tasks=3)
    assert_moves(found, breakdowns=recipe.breakdowns)
    assert oracle.calls == recipe.method.declared_calls(3)
    assert float(found.upper) > 0 or (name == "reptile" and torch.isnan(found.upper))  # which never looks at f


@by_name
@pytest.mark.parametrize("side", [32, 84])
def test_each_trains_a_residual_network(name, side):
    found, _ = direction(RECIPES[name], embedding=ResNet12((2, 3, 4, 4)), side=side, tasks=1)
    assert_moves(found, breakdowns=RECIPES[name].breakdowns)


@by_name
@pytest.mark.parametrize("options", [{"autocast": torch.bfloat16}, {"channels_last": True}], ids=["bf16", "layout"])
def test_each_takes_a_step_in_mixed_precision_and_with_channels_last(name, options):
    found, _ = direction(RECIPES[name], side=32, **options)
    exact, _ = direction(RECIPES[name], side=32)
    assert all(tensor.dtype == torch.float32 for tensor in found.direction.values())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.direction.values())
    if name == "published" or (name in ("maml", "fomaml", "imaml", "boil") and "autocast" in options):
        return  # v of the one, and steps of 0.5 on a whole network, make much of a rounding
    flat, expected = (torch.cat([x.flatten() for x in each.direction.values()]) for each in (found, exact))
    cosine = float(flat @ expected / (flat.norm() * expected.norm()))
    assert cosine > (0.999 if "channels_last" in options else 0.8)


@by_name
def test_each_runs_with_adam(name):
    recipe = RECIPES[name]
    problem = recipe.problem(episodes(), embedding=Conv4(4))
    options = {"iterations": 2, "batch": 2, "optimizer": ADAM, "raise_on_failure": not recipe.breakdowns}
    result = run(problem, recipe.method, **options)
    assert result.iterations == 2 or recipe.breakdowns
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.phi.values())


@by_name
def test_replicas_together_equal_separate_runs(name):
    recipe = RECIPES[name]
    problem = recipe.problem(episodes(), embedding=Conv4(4))
    sgd = partial(torch.optim.SGD, lr=1e-2)  # Adam would make a step of a rounding error
    options = {"iterations": 2, "batch": 2, "optimizer": sgd, "raise_on_failure": not recipe.breakdowns}
    together = run(problem, recipe.method, replicas=2, seed=1, **options)
    for r in range(2):
        alone = run(problem, recipe.method, seed=1 + r, **options)
        for key, tensor in alone.phi.items():
            # without a ridge rounding errors grow with each CG step
            assert_near(together.phi[key][r], tensor, within=1e-6 if name == "published" else 1e-12)


@by_name
def test_the_adapted_theta_is_what_new_tasks_are_judged_by(name):
    recipe = RECIPES[name]
    problem = recipe.problem(episodes(), embedding=Conv4(4))
    phi, tasks, oracle = start(problem, dtype=torch.float32), drawn(problem), Oracle(problem)
    z = oracle.features(phi, tasks)
    theta = recipe.method.adapt(oracle, z, phi, tasks)
    assert theta.shape == (3, problem.q)
    assert not theta.requires_grad
    step = recipe.method.step(oracle, phi, tasks, recipe.method.start(oracle, phi))
    # float32, and the lasso of ITD-BiO: a step of it, 0.1 times 1e-4, turns with the sign of a rounding error
    assert float((theta - step.theta).abs().max()) <= 1e-4 * max(1.0, float(theta.abs().max()))
    with torch.no_grad():
        before = problem.lower(z.value, oracle.theta0(phi, tasks), tasks)
        after = problem.lower(z.value, theta, tasks)
    assert bool((after < before).all()) or name == "maml"  # three steps of 0.5 on a whole network may overshoot


# ---- the published setting


def test_the_published_setting_takes_twenty_products_to_a_finite_direction():
    recipe = RECIPES["published"]
    for seed in range(3):
        problem = recipe.problem(episodes(32, seed=seed), embedding=Conv4(8))
        phi, oracle = problem.phi0(torch.Generator().manual_seed(seed)), Oracle(problem)
        state = recipe.method.start(oracle, phi)
        found = direction_in_chunks(recipe.method, oracle, phi, drawn(problem, 4, seed), state, chunk=2)
        assert oracle.calls["hvp"] == 20 * 4
        assert all(bool(torch.isfinite(tensor).all()) for tensor in found.direction.values())
        assert int(found.failure) < Status.NON_FINITE


class Shared(FewShot):
    """grad_theta f is the same for both classes, which a bare cross entropy does not see: p'Hp = 0 at once."""

    def upper(self, features, theta, tasks):
        return theta.sum(-1)

    def upper_gradient(self, features, theta, tasks):
        return torch.ones_like(theta)


def test_a_breakdown_is_counted_and_leaves_the_last_good_iterate():
    problem = Shared(episodes(way=2), embedding=Conv4(4), head=SoftmaxHead(way=2, ridge=0.0))
    method = RECIPES["published"].varied(lower_steps=0).method  # at theta = 0 both odds are 1/2, without rounding
    phi, oracle = start(problem), Oracle(problem)
    found = direction_in_chunks(method, oracle, phi, drawn(problem, 4), method.start(oracle, phi), chunk=2)
    assert (int(found.failed), int(found.failure)) == (4, Status.BREAKDOWN)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.direction.values())
    assert not method.step(oracle, phi, drawn(problem, 1), method.start(oracle, phi)).v.any()
    with pytest.raises(RunFailed, match=r"BREAKDOWN after 0 upper iterations: .* add a ridge term"):
        run(problem, method, iterations=1, batch=1, optimizer=ADAM)


# ---- what they are


def test_the_settings_are_those_of_the_sources():
    methods = {name: recipe.method for name, recipe in RECIPES.items()}
    assert {name: type(method) for name, method in methods.items()} == {
        "memory_reduced": MemoryReduced,
        "published": MemoryReduced,
        "itd_bio": ITDBiO,
        "anil": ANIL,
        "maml": MAML,
        **dict.fromkeys(("fo_anil", "fomaml"), FOMAML),
        "boil": BOIL,
        "reptile": Reptile,
        "imaml": IMAML,
        "protonet": ClosedForm,
        "r2d2": ClosedForm,
    }
    published = methods["published"]
    assert (published.lower_steps, published.lower_step_size, published.warm_start) == (20, 0.1, False)
    assert published.linear_solver == ConjugateGradient(20, tolerance=0.0)
    assert {
        n: (methods[n].lower_steps, methods[n].lower_step_size)
        for n in methods
        if not isinstance(methods[n], (MemoryReduced, ClosedForm))
    } == {
        "itd_bio": (20, 0.1),
        "anil": (10, 0.1),
        "fo_anil": (10, 0.1),
        "maml": (3, 0.5),
        "fomaml": (3, 0.5),
        "boil": (3, 0.5),
        "reptile": (8, 0.1),
        "imaml": (16, 0.05),
    }
    assert methods["imaml"].cg_steps == 5
    assert {name: (recipe.adapts, recipe.prox) for name, recipe in RECIPES.items() if recipe.head is None} == {
        **dict.fromkeys(("maml", "fomaml", "reptile"), ("all", 0.0)),
        "boil": ("body", 0.0),
        "imaml": ("all", 2.0),
    }
    heads = {name: recipe.head(5) for name, recipe in RECIPES.items() if recipe.head is not None}
    assert heads == {
        "memory_reduced": SoftmaxHead(way=5, ridge=1.0),
        "published": SoftmaxHead(way=5, ridge=0.0),
        "itd_bio": SoftmaxHead(way=5, ridge=0.0, lasso=1e-4),
        "anil": SoftmaxHead(way=5, ridge=0.0, learned_start=True),
        "fo_anil": SoftmaxHead(way=5, ridge=0.0, learned_start=True),
        "protonet": PrototypeHead(way=5),
        "r2d2": RidgeHead(way=5),
    }
    assert [name for name, recipe in RECIPES.items() if recipe.centred] == ["memory_reduced"]
    assert [name for name, recipe in RECIPES.items() if recipe.breakdowns] == ["published", "imaml"]


@by_name
def test_the_problem_is_the_one_asked_for(name):
    recipe = RECIPES[name]
    options = {"autocast": torch.bfloat16, "channels_last": True}
    problem = recipe.problem(episodes(), embedding=Conv4(4), **options)
    assert isinstance(problem, WholeNetwork if recipe.head is None else FewShot)
    assert (problem.autocast, problem.channels_last, problem.bn) == (torch.bfloat16, True, "task")
    assert require(recipe.method, problem) is None
    if recipe.head is None:
        assert (problem.adapts, problem.prox) == (recipe.adapts, recipe.prox)
        with pytest.raises(ValueError, match="expected bn=\"task\" where the network itself adapts, got 'support'"):
            recipe.problem(episodes(), embedding=Conv4(4), bn="support")
    else:
        assert recipe.problem(episodes(), embedding=Conv4(4), bn="support").bn == "support"
        assert problem.head.way == 3
        assert problem.centred == recipe.centred


@pytest.mark.parametrize(
    ("recipe", "options", "sentence"),
    [
        (
            RECIPES["memory_reduced"].with_head(learned_start=True),
            {},
            "expected learned_start=False with MemoryReduced, .*head.start is zero, got True",
        ),
        (
            RECIPES["memory_reduced"].varied(recompute=True),
            {"bn": "support"},
            """expected bn "task" or "running" with recompute, .* got 'support'""",
        ),
    ],
)
def test_what_a_method_cannot_do_with_a_problem_is_refused(recipe, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe.problem(episodes(), embedding=Conv4(4), **options)


def test_a_learned_start_has_an_implicit_gradient_of_exactly_zero():  # why it is refused
    problem = few_shot(SoftmaxHead(way=3, learned_start=True))
    phi, oracle, method = start(problem), Oracle(problem), RECIPES["memory_reduced"].method
    found = method.step(oracle, phi, drawn(problem), method.start(oracle, phi)).direction
    assert not found["head.start"].any()
    assert found["block1.conv.weight"].any()


def test_fields_that_a_head_does_not_have_are_refused_at_once():
    assert RECIPES["memory_reduced"].with_head(ridge=0.5).head(3) == SoftmaxHead(way=3, ridge=0.5)
    with pytest.raises(TypeError, match="ridge"):
        RECIPES["protonet"].with_head(ridge=0.5)
    with pytest.raises(TypeError, match="expected a recipe with a head for ridge, got one whose network adapts"):
        RECIPES["maml"].with_head(ridge=0.5)
    with pytest.raises(ValueError, match="expected ridge a finite number >= 0, got -1"):
        RECIPES["memory_reduced"].with_head(ridge=-1)


def test_a_recipe_varied_has_other_fields_of_its_method_alone():
    recipe = RECIPES["memory_reduced"]
    other = recipe.varied(lower_steps=5, recompute=True)
    assert (other.method.lower_steps, other.method.cg_steps, other.method.recompute) == (5, 10, True)
    assert dataclasses.replace(other, method=recipe.method) == recipe
    with pytest.raises(TypeError, match="cg_steps"):
        RECIPES["maml"].varied(cg_steps=3)
    with pytest.raises(ValueError, match="expected lower_steps an integer >= 0, got -1"):
        recipe.varied(lower_steps=-1)
