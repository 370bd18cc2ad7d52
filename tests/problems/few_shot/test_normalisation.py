"""Batch norm of groups against torch.nn.BatchNorm2d, and what each semantics lets an image see."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from problems import Tasks
from problems.few_shot import Conv4
from problems.few_shot.normalisation import EPSILON, ByGroup, Fixed, Groups, Moments, Recording
from tests.independent import assert_near
from tests.problems.few_shot import independent
from tests.problems.few_shot.tiny import drawn, episodes, few_shot, start
from tests.strategies import normal, seeds

LAYOUTS = pytest.mark.parametrize("consecutive", [False, True], ids=["interleaved", "consecutive"])


def affine(channels: int, seed: int = 9) -> dict[str, Tensor]:
    return {"layer.weight": normal(seed, channels), "layer.bias": normal(seed + 1, channels)}


def module(channels: int) -> nn.BatchNorm2d:
    """torch's own, with the tensors of `affine`; momentum 1, so that it keeps the last statistics."""
    found = nn.BatchNorm2d(channels, momentum=1.0).double()
    with torch.no_grad():
        found.weight.copy_(affine(channels)["layer.weight"])
        found.bias.copy_(affine(channels)["layer.bias"])
    return found


@given(
    count=st.integers(1, 3),
    m=st.integers(1, 4),
    channels=st.integers(1, 3),
    consecutive=st.booleans(),
    seed=seeds,
)
def test_each_group_is_normalised_as_torch_does_a_batch_in_training(count, m, channels, consecutive, seed):
    groups = Groups(count, consecutive=consecutive)
    x = 3 * normal(seed, count, m, channels, 3, 4) + 1
    recording = Recording(groups)
    for normalise in (ByGroup(groups), recording):
        found = groups.split(normalise(groups.join(x), affine(channels), "layer"))
        assert found.dtype == torch.float64
        for group, own in zip(found, x, strict=True):
            assert_near(group, module(channels)(own).detach(), within=1e-12)
    mean, variance = recording.moments["layer"]
    assert_near(mean, x.mean((1, 3, 4)), within=1e-12)
    assert_near(variance, x.var((1, 3, 4), correction=0), within=1e-12)


@LAYOUTS
def test_fixed_statistics_are_those_of_torch_in_evaluation(consecutive):
    groups, x = Groups(3, consecutive=consecutive), normal(0, 3, 4, 2, 5, 5)
    of_each = Moments(normal(1, 3, 2), normal(2, 3, 2).exp())
    of_all = Moments(of_each.mean[0], of_each.variance[0])
    for moments in (of_each, of_all):
        found = groups.split(Fixed(groups, {"layer": moments})(groups.join(x), affine(2), "layer"))
        for i, (group, own) in enumerate(zip(found, x, strict=True)):
            norm = module(2).eval()
            assert norm.eps == EPSILON
            norm.running_mean, norm.running_var = (each[i] if each.dim() == 2 else each for each in moments)
            assert_near(group, norm(own).detach(), within=1e-12)


@given(count=st.integers(1, 4), m=st.integers(1, 4), consecutive=st.booleans())
def test_groups_split_what_they_join(count, m, consecutive):
    x = torch.arange(count * m * 6).view(count, m, 6)
    groups = Groups(count, consecutive=consecutive)
    joined = groups.join(x)
    assert joined.shape == (count * m, 6)
    assert torch.equal(groups.split(joined), x)
    first = x[:, 0] if not consecutive else x[0]
    assert torch.equal(joined[: len(first)], first)


@LAYOUTS
def test_a_wrong_grouping_is_seen(consecutive):  # the control of the tests above
    groups, x = (
        Groups(2, consecutive=consecutive),
        normal(0, 2, 4, 2, 3, 3) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1, 1),
    )
    wrong = Groups(2, consecutive=not consecutive)
    found = groups.split(ByGroup(wrong)(groups.join(x), affine(2), "layer"))
    with pytest.raises(AssertionError):
        assert_near(found[1], module(2)(x[1]).detach(), within=1e-2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_layout_in_memory_does_not_matter(memory_format):
    x = normal(0, 8, 3, 4, 4).contiguous(memory_format=memory_format)
    for consecutive in (False, True):
        groups = Groups(2, consecutive=consecutive)
        found = ByGroup(groups)(x, affine(3), "layer")
        assert_near(found, Recording(groups)(x, affine(3), "layer"), within=1e-12)


def test_statistics_are_taken_in_float32_at_least_and_the_type_is_kept():
    x = (100 + normal(0, 6, 2, 4, 4)).bfloat16()
    recording, phi = Recording(Groups(2)), {name: tensor.float() for name, tensor in affine(2).items()}
    assert recording(x, phi, "layer").dtype == torch.bfloat16
    mean, variance = recording.moments["layer"]
    assert mean.dtype == variance.dtype == torch.float32
    exact = x.double().view(3, 2, 2, 4, 4).transpose(0, 1)
    assert_near(mean.double(), exact.mean((1, 3, 4)), within=1e-6)
    assert_near(variance.double(), exact.var((1, 3, 4), correction=0), within=1e-5)


# ---- what a query image sees


def changed(tasks: Tasks, part: str) -> Tasks:
    """The same tasks with the last image of each task's `part` turned into its negative."""
    images = getattr(tasks, part).clone()
    images[:, -1] = 255 - images[:, -1]
    return Tasks(tasks.index, **(tasks.tensors | {part: images}))


def seen(bn: str, part: str) -> bool:
    """Whether features of the first query image of each task change with the last image of `part`."""
    problem = few_shot(bn=bn, centred=False)
    phi, tasks = start(problem), drawn(problem, 2)
    if bn == "running":
        problem = problem.gather(phi, [drawn(problem, 4, seed=5)])
    before, after = (problem.embed(phi, each).query[:, 0] for each in (tasks, changed(tasks, part)))
    gap = float((before - after).abs().max())
    assert gap == 0 or gap > 1e-3
    return gap > 0


def test_query_images_see_what_the_semantics_says():
    assert {(bn, part) for bn in ("task", "support", "running") for part in ("query", "support") if seen(bn, part)} == {
        ("task", "query"),
        ("support", "support"),
    }


def test_tasks_of_a_batch_never_see_each_other():
    for bn in ("task", "support", "running"):
        for channels_last in (False, True):
            problem = few_shot(bn=bn, channels_last=channels_last)
            phi, tasks = start(problem), drawn(problem)
            together = problem.embed(phi, tasks)
            for i, task in enumerate(tasks):
                alone = problem.embed(phi, task)
                assert_near(together.support[i], alone.support[0], within=1e-12)
                assert_near(together.query[i], alone.query[0], within=1e-12)


# ---- running statistics


def layer_inputs(phi, images: Tensor) -> list[Tensor]:
    """What each batch norm of Conv4 is given, of the images of one group."""
    inputs, original = [], independent.batch_norm

    def noting(x, *rest):
        inputs.append(x)
        return original(x, *rest)

    independent.batch_norm = noting
    try:
        independent.conv4(phi, images)
    finally:
        independent.batch_norm = original
    return inputs


@pytest.mark.parametrize("bn", ["task", "support", "running"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_running_statistics_are_those_of_all_support_images_of_the_batches(bn, channels_last):
    problem = few_shot(bn=bn, channels_last=channels_last)
    phi, batches = start(problem), [drawn(problem, 3, seed=1), drawn(problem, 2, seed=2)]
    gathered = problem.gather(phi, batches)
    assert (gathered.bn, problem.bn) == ("running", bn)
    assert problem.moments is None
    by_task = [layer_inputs(phi, images) for tasks in batches for images in tasks.support]
    for k, inputs in enumerate(zip(*by_task, strict=True), 1):
        pooled = torch.cat(inputs)
        mean, variance = gathered.moments[f"block{k}.norm"]
        assert_near(mean, pooled.mean((0, 2, 3)), within=1e-12)
        assert_near(variance, pooled.var((0, 2, 3), correction=0), within=1e-12)
        assert not mean.requires_grad


def test_gathered_statistics_normalise_support_and_query_alike():
    problem = few_shot(centred=False)
    phi, tasks = start(problem), drawn(problem, 2)
    gathered = problem.gather(phi, [drawn(problem, 4, seed=5)])
    given = {layer: (m.view(1, -1, 1, 1), v.view(1, -1, 1, 1)) for layer, (m, v) in gathered.moments.items()}
    z = gathered.embed(phi, tasks)
    for i in range(2):
        for images, found in ((tasks.support[i], z.support[i]), (tasks.query[i], z.query[i])):
            expected, _ = independent.conv4(phi, images, given)
            assert_near(found[:, :-1], expected, within=1e-12)


def test_gathered_statistics_go_where_the_problem_goes():
    problem = few_shot()
    phi, tasks = start(problem), drawn(problem, 2)
    gathered = problem.gather(phi, [drawn(problem, 4, seed=5)])
    single = gathered.to(dtype=torch.float32)
    assert {x.dtype for moments in single.moments.values() for x in moments} == {torch.float32}
    assert {x.dtype for moments in gathered.moments.values() for x in moments} == {torch.float64}
    phi32 = {name: tensor.float() for name, tensor in phi.items()}
    found = single.embed(phi32, tasks)
    assert found.query.dtype == torch.float32
    assert_near(found.query.double(), gathered.embed(phi, tasks).query, within=1e-5)
    assert {x.device.type for moments in gathered.to("meta").moments.values() for x in moments} == {"meta"}
    assert problem.to(dtype=torch.float32).moments is None


def test_statistics_of_long_means_and_small_variances_are_not_lost_in_rounding():
    problem = few_shot(embedding=Conv4(2), source=episodes(shot=1, queries=1))
    phi = {name: tensor.float() for name, tensor in start(problem).items()}
    phi["block1.conv.bias"] += 1000.0  # the mean of what the first batch norm is given; its variance is of 0.1
    for _, variance in problem.gather(phi, [drawn(problem, 8)]).moments.values():
        assert bool((variance >= 0).all())
    phi64 = {name: tensor.double() for name, tensor in phi.items()}
    single, double = (problem.gather(each, [drawn(problem, 8)]).moments["block1.norm"] for each in (phi, phi64))
    assert_near(single.variance.double(), double.variance, within=1e-3)
