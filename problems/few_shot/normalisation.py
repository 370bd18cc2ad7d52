"""Batch norm by its semantics: over which images the mean and the variance of a channel are taken.

task      the support images of a task among themselves, its query images among themselves (as in the paper: the
          query images of a task see each other)
support   the query images of a task by the statistics of its support images
running   fixed statistics, gathered over many training tasks, to evaluate with; training is as with "task"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from problems.base import Parameters

Semantics = Literal["task", "support", "running"]
SEMANTICS: tuple[Semantics, ...] = ("task", "support", "running")
EPSILON = 1e-5


@dataclass(frozen=True)
class Groups:
    """How the images of `count` groups of m lie in one batch of count m: interleaved (image by image), or one after
    the other."""

    count: int
    consecutive: bool = False

    def join(self, x: Tensor) -> Tensor:
        """(count, m, ...) -> (count m, ...)."""
        return (x if self.consecutive else x.transpose(0, 1)).flatten(0, 1)

    def split(self, x: Tensor) -> Tensor:
        """(count m, ...) -> (count, m, ...), a view."""
        if self.consecutive:
            return x.unflatten(0, (self.count, -1))
        return x.unflatten(0, (-1, self.count)).transpose(0, 1)


class Moments(NamedTuple):
    """Mean and variance (with divisor n) of each channel: (count, C), or (C,) for all groups."""

    mean: Tensor
    variance: Tensor


class Normalisation(Protocol):
    """Batch norm of x, (count m, C, H, W)."""

    def __call__(self, x: Tensor, phi: Parameters, layer: str) -> Tensor:
        """(x - mean) / sqrt(variance + EPSILON) phi[layer.weight] + phi[layer.bias]."""


@dataclass(frozen=True)
class ByGroup:
    """Each group by its own statistics.

    Interleaved, (m count, C, H, W) seen as (m, count C, H, W) is the same memory: one batch norm over count C channels
    does it for all groups without a copy. Images stored with channels last have no such view: consecutive groups are
    normalised one by one.
    """

    groups: Groups

    def __call__(self, x: Tensor, phi: Parameters, layer: str) -> Tensor:
        """Normalised x."""
        weight, bias, count = phi[f"{layer}.weight"], phi[f"{layer}.bias"], self.groups.count
        if count == 1:
            return _batch_norm(x, weight, bias)
        if self.groups.consecutive:
            return torch.cat([_batch_norm(part, weight, bias) for part in x.chunk(count)])
        together = x.contiguous().view(-1, count * x.shape[1], *x.shape[2:])
        return _batch_norm(together, weight.repeat(count), bias.repeat(count)).reshape(x.shape)  # a copy under vmap


class Recording:
    """`ByGroup`, keeping the statistics of each layer in `moments`."""

    def __init__(self, groups: Groups):
        self.groups = groups
        self.moments: dict[str, Moments] = {}

    def __call__(self, x: Tensor, phi: Parameters, layer: str) -> Tensor:
        """Normalised x."""
        variance, mean = torch.var_mean(self.groups.split(_precise(x)), (1, 3, 4), correction=0)
        moments = Moments(mean, variance)
        self.moments.setdefault(layer, moments)  # a checkpointed block comes here twice; the graph is that of the first
        return _normalised(x, self.groups, moments, phi, layer)


@dataclass(frozen=True)
class Fixed:
    """By given statistics of each layer, for each group or for all."""

    groups: Groups
    moments: dict[str, Moments]

    def __call__(self, x: Tensor, phi: Parameters, layer: str) -> Tensor:
        """Normalised x."""
        return _normalised(x, self.groups, self.moments[layer], phi, layer)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPSILON)


def _precise(x: Tensor) -> Tensor:
    """At least float32: variances of bfloat16 numbers would be rounded to three digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _normalised(x: Tensor, groups: Groups, moments: Moments, phi: Parameters, layer: str) -> Tensor:
    scale = phi[f"{layer}.weight"] * (moments.variance + EPSILON).rsqrt()
    shift = phi[f"{layer}.bias"] - moments.mean * scale
    scale, shift = (each.to(x.dtype)[..., None, None].unsqueeze(-4) for each in (scale, shift))
    return groups.join(groups.split(x) * scale + shift)
