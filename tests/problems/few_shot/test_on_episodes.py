"""What problems on episodes share: the draw of tasks, the network on their images, what both refuse."""

from __future__ import annotations

import pytest
import torch

from convergence import ITDBiO, Oracle
from problems import Tasks
from problems.few_shot import Conv4, FewShot, SoftmaxHead, WholeNetwork
from problems.few_shot.on_episodes import OnEpisodes
from tests.problems.few_shot.tiny import drawn, episodes, start

PROBLEMS = {
    "few-shot": lambda **options: FewShot(episodes(), embedding=Conv4(4), head=SoftmaxHead(way=3), **options),
    "whole network": lambda **options: WholeNetwork(episodes(), embedding=Conv4(4), **options),
}
of_each = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)


@of_each
def test_tasks_are_the_episodes_at_indices_of_the_generator(make):
    problem = make()
    assert isinstance(problem, OnEpisodes)
    tasks = problem.sample(3, torch.Generator().manual_seed(0))
    expected = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(tasks.index, expected)
    assert torch.equal(tasks.support, problem.episodes.draw(expected).support)


@of_each
@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (None, "expected a number of episodes, got None: they are drawn without end"),
        (0, "expected at least one episode, got 0"),
        (-1, "expected at least one episode, got -1"),
    ],
)
def test_other_numbers_of_episodes_are_refused(make, size, sentence):
    with pytest.raises(ValueError, match=sentence):
        make().sample(size, torch.Generator())


@of_each
@pytest.mark.gpu
def test_a_generator_on_a_gpu_draws_tasks_on_the_cpu(make):
    tasks, again = (make().sample(3, torch.Generator("cuda").manual_seed(0)) for _ in range(2))
    assert tasks.index.device.type == tasks.support.device.type == "cpu"
    assert torch.equal(tasks.index, again.index)


@of_each
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_network_runs_in_bfloat16_or_as_phi_is(make, dtype):
    with pytest.raises(ValueError, match=f"expected autocast None or torch.bfloat16, got {dtype}"):
        make(autocast=dtype)
    assert make(autocast=torch.bfloat16).autocast is torch.bfloat16


@of_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_images_that_are_not_uint8_are_refused_and_left_as_they_are(make, dtype):
    problem = make()
    phi, tasks, oracle = start(problem, dtype=torch.float32), drawn(problem), Oracle(problem)
    images = {name: tasks.tensors[name].to(dtype) for name in ("support", "query")}
    copies = {name: tensor.clone() for name, tensor in images.items()}
    with pytest.raises(TypeError, match=f"expected the images of tasks as torch.uint8, got {dtype}"):
        ITDBiO(lower_steps=1, lower_step_size=0.1).step(
            oracle, phi, Tasks(tasks.index, **(tasks.tensors | images)), None
        )
    assert all(torch.equal(images[name], copies[name]) for name in images)


@pytest.mark.parametrize("part", [slice(0, 2), slice(2, 5), slice(3, 3)])
def test_a_part_of_a_batch_is_that_of_the_whole(part):
    problem = FewShot(episodes(), embedding=Conv4(4), head=SoftmaxHead(way=3))
    whole, some = (problem.sample(5, torch.Generator().manual_seed(1), *parts) for parts in ((), (part,)))
    assert torch.equal(some.index, whole.index[part])
    assert all(torch.equal(tensor, whole.tensors[name][part]) for name, tensor in some.tensors.items())
