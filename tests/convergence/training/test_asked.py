"""What a command line asks for becomes a recipe, a network and images, or is refused by name."""

import json
from dataclasses import replace

import pytest

from convergence.linear_solvers import ConjugateGradient, Direct
from convergence.recipes import RECIPES
from convergence.training.asked import Asked
from convergence.training.plan import Plan
from convergence.training.run_folder import described_run
from problems.few_shot import Conv4, ResNet12
from tests.convergence.training.small import tiny_splits


def asked(method="memory_reduced", **options):
    return Asked(data="glyphs", method=method, **options)


def test_what_is_asked_goes_through_json():
    made = asked(classes=(3, 4, 5), ridge=0.5)
    assert Asked.from_json(json.loads(json.dumps(made.as_json()))) == made
    assert Asked.from_json({"data": "glyphs", "method": "anil"}) == asked("anil")
    with pytest.raises(ValueError, match=r"got one made from Python, with the labels \['mine'\]: use .*load and evalu"):
        Asked.from_json({"mine": 3})
    with pytest.raises(ValueError, match="expected the labels of a run by name, got also mine"):
        Asked.from_json({"data": "glyphs", "method": "anil", "mine": 3})


def description(recipe):
    return described_run(recipe, tiny_splits(), Conv4(2), Plan(iterations=1), {})["recipe"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_a_checkpoint_says_whatever_it_is_today(name, monkeypatch):
    then = description(RECIPES[name])
    other = replace(RECIPES[name], learning_rate=0.5, centred=not RECIPES[name].centred)
    if hasattr(other.method, "lower_steps"):
        other = other.varied(lower_steps=7, lower_step_size=0.7)
    if hasattr(other.method, "linear_solver"):
        other = other.varied(linear_solver=Direct(), cg_steps=None)
    if "ridge" in (then["head"] or {}):
        other = other.with_head(ridge=9.0)
    monkeypatch.setitem(RECIPES, name, other)
    assert description(asked(name).recipe()) != then
    assert description(asked(name).recipe(then)) == then


def test_a_resumed_run_is_asked_for_what_it_was_and_changes_stay_changes():
    first = asked("anil", ridge=0.5, low_memory=True, lower_steps=3, channels=8, threads=2).as_json()
    assert asked(threads="auto").resumed(first, {"data", "threads"}) == Asked.from_json(first)
    other = asked("anil", ridge=0.7, channels=32).resumed(first, {"data", "method", "ridge", "channels", "iterations"})
    assert other == replace(Asked.from_json(first), ridge=0.7, channels=32)
    for another, then in ((asked("maml"), "method anil"), (Asked(data="folder", method="anil"), "data glyphs")):
        with pytest.raises(ValueError, match=f"expected --{then}, as in the run to resume, got"):
            another.resumed(first, {"data", "method"})
    held = asked(ridge=0.5)
    changed = asked(ridge=0.7).resumed(held.as_json(), {"data", "ridge"})
    assert description(changed.recipe(description(held.recipe())))["head"]["ridge"] == 0.7


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_changes_is_that_of_the_catalogue(name):
    assert asked(name).recipe() == RECIPES[name]


def test_changes_reach_the_method_and_the_head():
    made = asked(lower_steps=3, lower_step_size=0.2, cg_steps=4, ridge=0.5, low_memory=True).recipe()
    assert (made.method.lower_steps, made.method.lower_step_size, made.method.cg_steps) == (3, 0.2, 4)
    assert made.method.recompute is True
    assert made.head(3).ridge == 0.5
    assert made.head(3).way == 3
    direct = asked(direct=True).recipe().method
    assert (direct.linear_solver, direct.cg_steps) == (Direct(), None)
    assert asked("published", cg_steps=7).recipe().method.linear_solver == ConjugateGradient(7, tolerance=0.0)
    assert asked("itd_bio", lasso=0.0).recipe().head(5).lasso == 0


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("itd_bio", {"cg_steps": 3}, "expected no --cg-steps: itd_bio has .*, and no cg_steps"),
        ("anil", {"low_memory": True}, "expected no --low-memory: anil has .*, and no recompute"),
        ("r2d2", {"direct": True}, "expected no --direct: r2d2 has .*, and no linear_solver"),
        ("protonet", {"ridge": 1.0}, "expected no --ridge: the head of protonet has way, and no ridge"),
        ("maml", {"lasso": 1.0}, "expected no --lasso: the head of maml has no fields"),
        ("memory_reduced", {"direct": True, "cg_steps": 2}, "expected --direct or --cg-steps, got both"),
        ("memory-reduced", {}, "did you mean 'memory_reduced'"),
    ],
)
def test_a_recipe_without_such_a_thing_refuses_it(method, change, message):
    with pytest.raises(ValueError, match=message):
        asked(method, **change).recipe()


def test_networks():
    assert asked(channels=8).network() == Conv4(8)
    assert asked(embedding="resnet12", channels=64).network() == ResNet12()
    assert asked(embedding="resnet12", channels=4).network() == ResNet12((4, 10, 20, 40))
    with pytest.raises(ValueError, match="expected --channels of at least 1, got 0"):
        asked(channels=0).network()
    with pytest.raises(ValueError, match="conv4, resnet12; got 'vgg'"):
        asked(embedding="vgg").network()
