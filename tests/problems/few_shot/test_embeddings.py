"""The networks: their sizes, their starts, and their values by torch.nn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from convergence import MemoryReduced, Oracle, peak_bytes
from problems import Parameters
from problems.few_shot import EMBEDDINGS, Conv4, Episodes, FewShot, ResNet12, SoftmaxHead
from problems.few_shot.normalisation import ByGroup, Groups
from tests.independent import assert_near
from tests.problems.few_shot.independent import conv4
from tests.problems.few_shot.tiny import drawn, episodes, few_shot, image_set, start

NETWORKS = {"conv4": Conv4(4), "resnet12": ResNet12((2, 3, 4, 5))}
ONE = ByGroup(Groups(1))


def tensors(network, shape, dtype=torch.float64) -> Parameters:
    """Standard normal, so that every scale, bias and shift counts."""
    rng = torch.Generator().manual_seed(0)
    like = network.parameters(shape, rng)
    return {name: torch.randn(tensor.shape, generator=rng, dtype=dtype) for name, tensor in like.items()}


def pictures(*shape: int) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


class Block(nn.Module):
    """A block of ResNet12 as a module: pooling after the activation."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        sizes = [(inputs, width), (width, width), (width, width)]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in sizes)
        self.shortcut, self.shortcut_norm = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for k, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(y))
            y = nn.functional.leaky_relu(y, 0.1) if k < 2 else y
        return nn.functional.max_pool2d(nn.functional.leaky_relu(y + self.shortcut_norm(self.shortcut(x)), 0.1), 2)

    def load(self, phi: Parameters, name: str) -> Block:
        parts = [*zip("123", self.convolutions, self.norms, strict=True)]
        with torch.no_grad():
            for part, convolution, norm in [*parts, ("shortcut", self.shortcut, self.shortcut_norm)]:
                convolution.weight.copy_(phi[f"{name}.{part}.conv.weight"])
                norm.weight.copy_(phi[f"{name}.{part}.norm.weight"])
                norm.bias.copy_(phi[f"{name}.{part}.norm.bias"])
        return self


@pytest.mark.parametrize("side", [16, 21, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_conv4_is_four_blocks_with_pooling_after_relu(side, channels):
    network, images = Conv4(4), pictures(5, channels, side, side)
    phi = tensors(network, (channels, side, side))
    assert_near(network(phi, images.double() / 255, ONE), conv4(phi, images)[0], within=1e-12)


@pytest.mark.parametrize("side", [32, 84])
def test_resnet12_is_four_residual_blocks_of_torch_nn(side):
    network, images = NETWORKS["resnet12"], pictures(3, 3, side, side).double() / 255
    phi = tensors(network, (3, side, side))
    x, before = images, 3
    for k, width in enumerate(network.channels, 1):
        x, before = Block(before, width).double().load(phi, f"block{k}")(x), width
    assert_near(network(phi, images, ONE), x.mean((2, 3)).detach(), within=1e-12)
    assert network.size((3, side, side)) == 5 == x.shape[1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", [16, 32, 84])
def test_the_features_have_the_size_that_is_said(name, side):
    network = NETWORKS[name]
    phi = network.parameters((3, side, side), torch.Generator())
    Z = network(phi, pictures(2, 3, side, side).float() / 255, ONE)
    assert Z.shape == (2, network.size((3, side, side)))


def test_the_sizes_of_the_paper():
    assert Conv4(64).size((3, 32, 32)) == 256
    assert Conv4(32).size((3, 84, 84)) == 800
    phi = Conv4(64).parameters((3, 32, 32), torch.Generator())
    assert sum(tensor.numel() for tensor in phi.values()) == 113_088  # 4 blocks: 9 a b + b, and 2 b of batch norm
    phi = ResNet12().parameters((3, 84, 84), torch.Generator())
    blocks = ((3, 64), (64, 160), (160, 320), (320, 640))
    weights = sum(9 * (a * b + 2 * b * b) + a * b for a, b in blocks)  # 12.4 million
    assert sum(tensor.numel() for name, tensor in phi.items() if "conv" in name) == weights


@pytest.mark.parametrize("name", NETWORKS)
def test_the_start_is_a_function_of_the_generator_and_finite(name):
    first, again, other = (
        NETWORKS[name].parameters((3, 32, 32), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert all(tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all()) for tensor in first.values())


def test_conv4_starts_within_the_bounds_of_glorot_with_scales_below_one():
    phi = Conv4(16).parameters((3, 32, 32), torch.Generator().manual_seed(0))
    for k, inputs in enumerate((3, 16, 16, 16), 1):
        bound = math.sqrt(6 / (9 * (inputs + 16)))
        assert 0.9 * bound < float(phi[f"block{k}.conv.weight"].abs().max()) <= bound
        scales = phi[f"block{k}.norm.weight"]
        assert 0 <= float(scales.min()) < 0.3 < 0.7 < float(scales.max()) <= 1
        assert not phi[f"block{k}.norm.bias"].any()
        assert not phi[f"block{k}.conv.bias"].any()


def test_resnet12_starts_with_the_variance_of_he():
    phi = ResNet12((32, 32, 32, 32)).parameters((3, 32, 32), torch.Generator().manual_seed(0))
    for name, area in (("block2.1", 9), ("block2.shortcut", 1)):
        # 1024 area numbers: their variance is known to sqrt(2 / 1024), five times which is 0.22
        assert float(phi[f"{name}.conv.weight"].var()) == pytest.approx(2 / (32 * area), rel=0.25)
        assert bool((phi[f"{name}.norm.weight"] == 1).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_images_that_are_too_small_are_refused(name):
    kind = {"conv4": "Conv4", "resnet12": "ResNet12"}[name]
    for call in (NETWORKS[name].size, lambda shape: NETWORKS[name].parameters(shape, torch.Generator())):
        with pytest.raises(ValueError, match=f"expected images of at least 16 x 16 pixels for {kind}, got 15 x 40"):
            call((3, 15, 40))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Conv4(0), "expected channels of Conv4 an integer >= 1, got 0"),
        (lambda: ResNet12((4, 0, 4, 4)), "expected channels of ResNet12 an integer >= 1, got 0"),
        (lambda: ResNet12((4, 4, 4)), r"expected channels of four blocks for ResNet12, got \(4, 4, 4\)"),
    ],
)
def test_networks_without_channels_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


# ---- blocks that are computed again


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bn", ["task", "support"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_checkpointed_network_has_the_same_direction(name, bn, recompute):
    method = MemoryReduced(lower_steps=3, cg_steps=2, warm_start=False, recompute=recompute)
    found = {}
    for checkpointed in (False, True):
        problem = few_shot(embedding=replace(NETWORKS[name], checkpointed=checkpointed), bn=bn)
        oracle, phi, tasks = Oracle(problem), start(problem), drawn(problem)
        found[checkpointed] = method.step(oracle, phi, tasks, method.start(oracle, phi)).direction
    for key, tensor in found[False].items():  # the same operations on the same numbers
        assert torch.equal(found[True][key], tensor)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpointed_network_has_the_same_second_derivatives(name):
    found = []
    for checkpointed in (False, True):
        network = replace(NETWORKS[name], checkpointed=checkpointed)
        phi = {key: tensor.requires_grad_() for key, tensor in tensors(network, (3, 32, 32)).items()}
        Z = network(phi, pictures(3, 3, 32, 32).double() / 255, ONE)
        slopes = torch.autograd.grad(Z.square().sum(), [*phi.values()], create_graph=True)
        along = torch.stack([slope.square().sum() for slope in slopes]).sum()
        found.append(torch.autograd.grad(along, [*phi.values()]))
    for own, plain in zip(*found, strict=True):
        assert_near(own, plain, within=1e-12)


def test_a_checkpointed_network_keeps_the_inputs_of_its_blocks():
    def peak(*, checkpointed: bool) -> int:
        network = ResNet12((8, 8, 8, 8), checkpointed=checkpointed)
        problem = few_shot(embedding=network, source=episodes(32))
        phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
        method = MemoryReduced(lower_steps=1, cg_steps=1, warm_start=False)
        return peak_bytes(lambda: method.step(oracle, phi, tasks, method.start(oracle, phi)))

    # Pixels of the blocks 1, 1/4, 1/16, 1/64: the first is 3/4 of all, and held while it is computed again
    assert peak(checkpointed=True) < 0.8 * peak(checkpointed=False)


def test_the_catalogue_names_the_classes():
    assert [*EMBEDDINGS.items()] == [("conv4", Conv4), ("resnet12", ResNet12)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_of_one_channel_and_of_any_sides_make_a_problem(name, channels_last):
    images = image_set(20, channels=1)
    source = Episodes(images=images, split="train", way=2, shot=1, queries=1)
    problem = FewShot(source, embedding=NETWORKS[name], head=SoftmaxHead(way=2), channels_last=channels_last)
    phi, tasks = problem.phi0(torch.Generator()), problem.sample(2, torch.Generator())
    z = problem.embed(phi, tasks)
    assert z.support.shape == (2, 2, problem.features + 1)
    assert bool(torch.isfinite(z.support).all())
    assert float(z.query.std()) > 0
