"""Few-shot problems of malformed parts: plans, recipes, image sets, episodes, embeddings, heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from convergence.recipes import RECIPES
from convergence.training.plan import Plan
from problems.few_shot import (
    Augmentation,
    Conv4,
    EpisodeList,
    Episodes,
    FewShot,
    ImageSet,
    PrototypeHead,
    ResNet12,
    RidgeHead,
    SoftmaxHead,
)
from tests.convergence.training.small import tiny_splits
from tests.fuzz.ends import Case, ends_well
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.strategies import VALUES, Named, _hints, fits, replaced

IMAGES = tiny_splits()["train"]  # 4 classes of 6 images, 16 x 16
FIELDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Episodes": (Episodes, {"images": IMAGES, "split": "train", "way": 3, "shot": 1, "queries": 2, "seed": 0}),
    "ImageSet": (ImageSet, {"images": IMAGES.images, "labels": IMAGES.labels, "names": IMAGES.names, "groups": None}),
    "Augmentation": (Augmentation, {"rotate_classes": True, "crop": 2}),
    "Conv4": (Conv4, {"channels": 2, "checkpointed": False}),
    "ResNet12": (ResNet12, {"channels": (2, 2, 2, 2), "slope": 0.1, "checkpointed": False}),
    "SoftmaxHead": (SoftmaxHead, {"way": 3, "ridge": 1.0, "lasso": 0.0, "learned_start": False}),
    "RidgeHead": (RidgeHead, {"way": 3, "ridge": 1.0, "scale": 2.0}),
    "PrototypeHead": (PrototypeHead, {"way": 3}),
    "Plan": (Plan, {"iterations": 2, "way": 3, "shot": 1, "batch": 2, "seed": 0}),
}


def _usable(made: Any) -> bool:
    """What was made of legal values makes finite features, or tasks of the shape asked for."""
    if isinstance(made, Episodes):
        return made.draw(torch.tensor([0])).support.shape[1] == made.way * made.shot
    return True


@fuzz(
    st.sampled_from(sorted(FIELDS)).flatmap(lambda n: replaced(n, *FIELDS[n], right=_usable)),
    distinct=60,
)
def test_fields_of_few_shot_parts():
    """Images, episodes, networks, heads and plans."""


# ---- plans in JSON, as a folder of a run holds them

PLAN = {"iterations": 3, "way": 3, "shot": 1, "batch": 2}
JSON = [Named(f"{value!r}"[:60], value) for value in (None, True, -1, 0, 2.5, "3", "", [], [1], {}, {"crop": 2})]
JSON += [Named("NaN", float("nan")), Named("Infinity", float("inf")), Named("1e400", 10**400), Named("-2^70", -(2**70))]
JSON += [Named("another field", {"nothing": 1}), Named("deep", {"crop": {"crop": {"crop": 1}}})]
PLANS = _hints(Plan)


def _plan_case(field: str, value: Named) -> Case:
    legal = field in PLANS and fits(PLANS[field], value.value)
    return Case(
        f"Plan.from_json({field}={value.name})",
        lambda: Plan.from_json({**PLAN, field: value.value}),
        (lambda plan: getattr(plan, field) == value.value or field == "augmentation")
        if legal or (field == "augmentation" and isinstance(value.value, dict))
        else None,
    )


@fuzz(
    st.builds(_plan_case, st.sampled_from([*sorted(PLANS), "nothing", "", "__class__"]), st.sampled_from(JSON)),
    distinct=40,
)
def test_plans_in_json():
    """Every field replaced by what JSON may hold."""


@pytest.mark.parametrize("whole", [None, 3, "plan", [], [1, 2], {}, {1: 2}, {"iterations": 1, "Iterations": 2}])
def test_what_is_no_plan(whole):
    ends_well(Case(f"Plan.from_json({whole!r})", lambda: Plan.from_json(whole)))


# ---- problems of parts that do not fit each other


def _few_shot(
    way: int = 3, shot: int = 1, queries: int = 2, head: Any = None, side: int = 16, channels: int = 1, **options: Any
) -> Any:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, side, side, channels), dtype=np.uint8)
    images = ImageSet(images, IMAGES.labels, IMAGES.names)
    episodes = Episodes(images=images, split="train", way=way, shot=shot, queries=queries)
    problem = FewShot(
        episodes, embedding=options.pop("embedding", Conv4(2)), head=head or SoftmaxHead(way=way), **options
    )
    phi = problem.phi0(torch.Generator().manual_seed(0))
    tasks = problem.sample(2, torch.Generator().manual_seed(0))
    theta = problem.theta0(phi, tasks)
    return problem.upper(problem.embed(phi, tasks), theta, tasks)


def _is_log_of_way(way: int) -> Callable[[Any], bool]:
    """A head of zeros finds all classes as likely."""
    return lambda values: values.shape == (2,) and np.allclose(values.detach().numpy(), np.log(way), atol=1e-5)


SHAPES: dict[str, tuple[dict[str, Any], Callable[[Any], bool] | None]] = {
    "as it should be": ({}, _is_log_of_way(3)),
    **{
        f"way {way}": ({"way": way}, _is_log_of_way(way) if 2 <= way <= 4 else None)
        for way in (-1, 0, 1, 2, 4, 5, 10**9)
    },
    **{
        f"shot {shot}": ({"shot": shot}, _is_log_of_way(3) if 1 <= shot <= 4 else None) for shot in (-1, 0, 4, 5, 10**9)
    },
    **{f"queries {n}": ({"queries": n}, _is_log_of_way(3) if 1 <= n <= 5 else None) for n in (-1, 0, 5, 6, 2**62)},
    **{f"side {n}": ({"side": n}, _is_log_of_way(3) if n >= 16 else None) for n in (0, 1, 8, 15, 16, 17, 33)},
    **{f"{n} channels": ({"channels": n}, _is_log_of_way(3) if n in (1, 3) else None) for n in (0, 1, 2, 3, 4)},
    **{f"a head for {n}": ({"head": SoftmaxHead(way=n)}, None) for n in (2, 4, 5, 100)},
    "another head's class": ({"head": SoftmaxHead}, None),
    "no head": ({"head": 3}, None),
    "no embedding": ({"embedding": 3}, None),
    "a module as embedding": ({"embedding": torch.nn.Linear(2, 2)}, None),
    "an unknown bn": ({"bn": "batch"}, None),
    "autocast to whole numbers": ({"autocast": torch.int32}, None),
    "autocast by name": ({"autocast": "bfloat16"}, None),
    "channels_last as text": ({"channels_last": "yes"}, None),
    "centred as text": ({"centred": "no"}, None),
}


@pytest.mark.parametrize("what", SHAPES)
def test_few_shot_problems(what):
    options, right = SHAPES[what]
    ends_well(Case(what, lambda: _few_shot(**options), right))


INDICES = [
    -1,
    2**62,
    2**63 - 1,
    0.5,
    True,
    None,
    "0",
    [],
    [0, 1],
    torch.tensor(0),
    torch.tensor([0.0]),
    np.array(["a"]),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indices_of_episodes(index):
    episodes = Episodes(**FIELDS["Episodes"][1])
    given = index if isinstance(index, (torch.Tensor, np.ndarray, list)) else [index]
    right = {"[]": (0,), "[0, 1]": (2,)}.get(str(index))
    ends_well(
        Case(
            f"draw({index!r})",
            lambda: episodes.draw(given),
            None if right is None else lambda tasks: tasks.index.shape == right,
        )
    )


# ---- recipes


def _varied(value: Named, name: str, field: str) -> Case:
    method = RECIPES[name].method
    hints = _hints(type(method))
    legal = field in {each.name for each in dataclasses.fields(method)} and fits(hints.get(field, Any), value.value)
    return Case(
        f"{name}.varied({field}={value.name})",
        lambda: RECIPES[name].varied(**{field: value.value}),
        (lambda recipe: getattr(recipe.method, field) is value.value) if legal else None,
    )


@fuzz(
    st.builds(
        _varied,
        VALUES,
        st.sampled_from(sorted(RECIPES)),
        st.sampled_from(["lower_steps", "cg_steps", "lower_step_size", "nothing"]),
    ),
    distinct=30,
)
def test_recipes_with_other_fields():
    """Of methods that have them, and of others."""


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("field", ["ridge", "way", "nothing", "lasso"])
@pytest.mark.parametrize("value", [-1, float("nan"), "1", None])
def test_recipes_with_other_heads(name, field, value):
    ends_well(Case(f"{name}.with_head({field}={value})", lambda: RECIPES[name].with_head(**{field: value})))


LISTING = Episodes(**FIELDS["Episodes"][1]).listing(2)


@pytest.mark.parametrize("name", sorted(LISTING))
@pytest.mark.parametrize(
    "value", [None, -1, 1.5, "x", np.nan, [[[0]]], np.zeros((2, 3, 3)), 10**18, torch.ones(2)], ids=str
)
def test_lists_of_episodes(name, value):
    right = (lambda listed: len(listed) == 2) if name == "seed" and str(value) == str(10**18) else None
    ends_well(Case(f"{name}={value}", lambda: EpisodeList(IMAGES, {**LISTING, name: np.asarray(value)}), right))
