"""Networks that map images to features, as functions of named tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from problems.arguments import integer, non_negative, shown, truth
from problems.base import Parameters
from problems.few_shot.normalisation import Normalisation

Shape = tuple[int, int, int]  # (C, H, W) of an image


class Embedding(Protocol):
    """A network without state: its tensors are given with each call."""

    def parameters(self, shape: Shape, rng: torch.Generator) -> Parameters:
        """Initial tensors for images of this shape, float32, drawn from `rng`. Raises ValueError where it is small."""

    def size(self, shape: Shape) -> int:
        """Features of an image of this shape."""

    def __call__(self, phi: Parameters, images: Tensor, normalise: Normalisation) -> Tensor:
        """Features (n, d) of images (n, C, H, W)."""


@dataclass(frozen=True)
class Conv4:
    """Four blocks of [3 x 3 convolution with bias, batch norm, ReLU, 2 x 2 max-pooling], then flattened.

    channels       64 for images of 32 x 32 (256 features), 32 for 84 x 84 (800 features) in the paper
    checkpointed   keep the inputs of the blocks alone, and compute a block again when its derivatives are needed

    ReLU and max-pooling change places: the same values and gradients, and ReLU sees a quarter of the numbers.
    Raises ValueError on fewer than one channel.
    Source: Vinyals et al., NeurIPS 2016; Snell et al., NeurIPS 2017.
    """

    channels: int = 64
    checkpointed: bool = False

    def __post_init__(self) -> None:
        integer("channels of Conv4", self.channels, least=1)
        truth("checkpointed", self.checkpointed)

    def parameters(self, shape: Shape, rng: torch.Generator) -> Parameters:
        """Weights uniform within sqrt(6 / (fan_in + fan_out)); scales uniform in [0, 1]; biases and shifts 0.

        The scales of batch norm as in the published experiments: with scales 1 the features are twice as long, the
        lower level is four times as curved, and gradient steps of 0.1 diverge.
        """
        self.size(shape)
        phi: Parameters = {}
        before = shape[0]
        for name in self._blocks():
            phi |= _convolution(name, before, self.channels, rng, bias=True) | _affine(name, self.channels)
            phi[f"{name}.norm.weight"] = torch.rand(self.channels, generator=rng)
            before = self.channels
        return phi

    def size(self, shape: Shape) -> int:
        """channels (H // 16) (W // 16)."""
        height, width = shape[1] // 16, shape[2] // 16
        if min(height, width) < 1:
            raise ValueError(f"expected images of at least 16 x 16 pixels for Conv4, got {shape[1]} x {shape[2]}")
        return self.channels * height * width

    def __call__(self, phi: Parameters, images: Tensor, normalise: Normalisation) -> Tensor:
        """Features (n, d) of images (n, C, H, W)."""

        def block(name: str, x: Tensor) -> Tensor:
            x = F.conv2d(x, phi[f"{name}.conv.weight"], phi[f"{name}.conv.bias"], padding=1)
            return F.relu(F.max_pool2d(normalise(x, phi, f"{name}.norm"), 2))

        return _through(block, self._blocks(), images, checkpointed=self.checkpointed).flatten(1)

    @staticmethod
    def _blocks() -> Iterator[str]:
        return (f"block{k}" for k in range(1, 5))


@dataclass(frozen=True)
class ResNet12:
    """Four residual blocks of three 3 x 3 convolutions with batch norm and leaky ReLU, then the average over pixels.

    channels       of the blocks
    slope          of leaky ReLU below zero
    checkpointed   keep the inputs of the blocks alone, and compute a block again when its derivatives are needed: at
                   84 x 84 a third of the memory for a quarter more time

    Each block ends in 2 x 2 max-pooling; its shortcut is a 1 x 1 convolution with batch norm.
    Raises ValueError on other than four blocks, or fewer than one channel.
    Source: Oreshkin et al., NeurIPS 2018; Lee et al., CVPR 2019 (MetaOptNet). Differs: no DropBlock, and the average
    over pixels instead of all of them.
    """

    channels: tuple[int, int, int, int] = (64, 160, 320, 640)
    slope: float = 0.1
    checkpointed: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.channels, (tuple, list)) or len(self.channels) != 4:
            raise ValueError(f"expected channels of four blocks for ResNet12, got {shown(self.channels)}")
        for count in self.channels:
            integer("channels of ResNet12", count, least=1)
        non_negative("slope", self.slope)
        truth("checkpointed", self.checkpointed)

    def parameters(self, shape: Shape, rng: torch.Generator) -> Parameters:
        """Weights normal with variance 2 / fan_out (He et al. 2015), scales 1, shifts 0."""
        self.size(shape)
        phi: Parameters = {}
        before = shape[0]
        for k, width in enumerate(self.channels, 1):
            for part, inputs, side in ((1, before, 3), (2, width, 3), (3, width, 3), ("shortcut", before, 1)):
                name = f"block{k}.{part}"
                phi |= _convolution(name, inputs, width, rng, side=side, bias=False) | _affine(name, width)
            before = width
        return phi

    def size(self, shape: Shape) -> int:
        """Channels of the last block."""
        if min(shape[1:]) < 16:
            raise ValueError(f"expected images of at least 16 x 16 pixels for ResNet12, got {shape[1]} x {shape[2]}")
        return self.channels[-1]

    def __call__(self, phi: Parameters, images: Tensor, normalise: Normalisation) -> Tensor:
        """Features (n, d) of images (n, C, H, W)."""

        def convolved(x: Tensor, name: str, padding: int) -> Tensor:
            x = F.conv2d(x, phi[f"{name}.conv.weight"], padding=padding)
            return normalise(x, phi, f"{name}.norm")

        def block(name: str, x: Tensor) -> Tensor:
            shortcut = convolved(x, f"{name}.shortcut", padding=0)
            for part in (1, 2):
                x = F.leaky_relu(convolved(x, f"{name}.{part}", padding=1), self.slope)
            x = convolved(x, f"{name}.3", padding=1) + shortcut
            return F.leaky_relu(F.max_pool2d(x, 2), self.slope)  # in this order: the same values at a quarter of them

        blocks = (f"block{k}" for k in range(1, len(self.channels) + 1))
        return _through(block, blocks, images, checkpointed=self.checkpointed).mean((-2, -1))


def _through(block: Callable[[str, Tensor], Tensor], names: Iterator[str], x: Tensor, *, checkpointed: bool) -> Tensor:
    """The blocks one after the other; checkpointed ones keep their inputs alone (Chen et al. 2016)."""
    for name in names:
        if checkpointed and torch.is_grad_enabled():
            x = checkpoint(block, name, x, use_reentrant=False, preserve_rng_state=False)
        else:
            x = block(name, x)
    return x


EMBEDDINGS = {"conv4": Conv4, "resnet12": ResNet12}


def _convolution(
    name: str, inputs: int, outputs: int, rng: torch.Generator, *, bias: bool, side: int = 3
) -> Parameters:
    area = side * side
    shape = (outputs, inputs, side, side)
    if bias:
        bound = math.sqrt(6 / (area * (inputs + outputs)))
        weight = (2 * torch.rand(shape, generator=rng) - 1) * bound
        return {f"{name}.conv.weight": weight, f"{name}.conv.bias": torch.zeros(outputs)}
    return {f"{name}.conv.weight": torch.randn(shape, generator=rng) * math.sqrt(2 / (area * outputs))}


def _affine(name: str, channels: int) -> Parameters:
    return {f"{name}.norm.weight": torch.ones(channels), f"{name}.norm.bias": torch.zeros(channels)}
