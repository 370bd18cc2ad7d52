"""The plan of a run: defaults as in the paper, what follows from it, and what it refuses."""

import json

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from convergence.recipes import RECIPES
from convergence.training.plan import OPTIMIZERS, Plan
from problems.few_shot import Augmentation, Conv4
from tests.convergence.training.small import tiny_splits


@pytest.mark.parametrize("augmentation", [None, Augmentation(rotate_classes=True, crop=2)])
def test_a_plan_goes_through_json(augmentation):
    plan = Plan(iterations=3, augmentation=augmentation, patience=2)
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
    assert Plan.from_json({"iterations": 3, "patience": 2}) == Plan(iterations=3, patience=2)  # of an earlier release
    for wrong in ({"batch": 3}, {"iterations": 3, "epochs": 2}):
        with pytest.raises(ValueError, match="expected a plan of the fields"):
            Plan.from_json(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": -1},
        {"iterations": 2.5},
        {"batch": 0},
        {"chunk": 0},
        {"validate_every": 0},
        {"learning_rate": 0.0},
        {"decay": -1},
        {"optimizer": "adma"},
        {"schedule": "linear"},
        {"bn": "tasks"},
        {"dtype": "float16"},
        {"device": "tpu"},
        {"patience": 3, "validate_every": None},
        {"autocast": True, "dtype": "float64"},
    ],
)
def test_wrong_fields_are_named(wrong):
    with pytest.raises(ValueError, match="expected ") as refused:
        Plan(**{"iterations": 1, **wrong})
    assert next(iter(wrong)).split("_")[0] in str(refused.value)


def test_training_and_evaluation_episodes():
    plan = Plan(
        iterations=1, way=3, shot=2, queries=1, evaluation_queries=3, seed=7, augmentation=Augmentation(flip=True)
    )
    train, validation = (plan.episodes(tiny_splits(), split) for split in ("train", "validation"))
    assert (train.queries, train.seed, train.augmentation) == (1, 7, plan.augmentation)
    assert (validation.queries, validation.seed, validation.augmentation) == (3, 0, None)
    fixed = plan.episodes(tiny_splits(), "train", seed=0)
    assert (fixed.seed, fixed.augmentation) == (0, None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_take_the_rate_of_the_recipe_or_the_plan(name):
    recipe = RECIPES["memory_reduced"]
    for rate, expected in ((None, recipe.learning_rate), (0.5, 0.5)):
        made = Plan(iterations=1, optimizer=name, learning_rate=rate).make_optimizer(recipe)([torch.zeros(1)])
        assert type(made) is OPTIMIZERS[name]
        assert made.param_groups[0]["lr"] == expected


def test_schedules_are_those_of_torch():
    def scheduler(**options):
        return Plan(iterations=9, **options).scheduler(torch.optim.SGD([torch.zeros(1)], lr=1.0))

    assert scheduler() is None
    assert isinstance(cosine := scheduler(schedule="cosine"), CosineAnnealingLR)
    assert cosine.T_max == 9
    assert isinstance(step := scheduler(schedule="step", decay=0.5), StepLR)
    assert (step.step_size, step.gamma) == (3, 0.5)
    assert scheduler(schedule="step", decay_every=4).step_size == 4


def test_validations_are_regular_and_at_the_end():
    plan = Plan(iterations=7, validate_every=3)
    assert [t for t in range(1, 8) if plan.validates_after(t)] == [3, 6, 7]
    assert not any(Plan(iterations=7, validate_every=None).validates_after(t) for t in range(1, 8))


def test_tasks_at_a_time():
    assert Plan(iterations=1, batch=4).tasks_at_a_time == 1
    assert Plan(iterations=1, batch=4, chunk=3).tasks_at_a_time == 3


def test_images_are_resident_where_asked_for_and_on_a_cpu_not_else():
    for resident, expected in ((None, None), (False, None), (True, torch.device("cpu"))):
        assert (
            Plan(iterations=1, way=3, shot=1, queries=1, resident=resident).episodes(tiny_splits(), "train").resident
            == expected
        )


def test_compiling_is_refused_where_the_network_itself_adapts():
    plan = Plan(iterations=1, compile=True, way=3, shot=1, queries=1)
    episodes = plan.episodes(tiny_splits(), "train")
    assert plan.problem(RECIPES["memory_reduced"], episodes, Conv4(2)).embedding.embedding == Conv4(2)
    with pytest.raises(ValueError, match="expected compile=False where the network itself adapts"):
        plan.problem(RECIPES["maml"], episodes, Conv4(2))
