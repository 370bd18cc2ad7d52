"""What a command line asks for becomes a recipe, a network and images, or is refused by name."""

import json

import pytest

from convergence.linear_solvers import ConjugateGradient, Direct
from convergence.recipes import RECIPES
from convergence.training.asked import Asked
from problems.few_shot import Conv4, ResNet12


def asked(method="memory_reduced", **options):
    return Asked(data="glyphs", method=method, **options)


def test_what_is_asked_goes_through_json():
    made = asked(classes=(3, 4, 5), ridge=0.5)
    assert Asked.from_json(json.loads(json.dumps(made.as_json()))) == made
    with pytest.raises(ValueError, match=r"expected the labels .* of a run by name, got \['mine'\]"):
        Asked.from_json({"mine": 3})


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
