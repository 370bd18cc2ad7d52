"""Few-shot classification with all of the network adapted to each task, as in MAML."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from problems.base import Parameters, Problem, Tasks
from problems.few_shot.embeddings import Embedding
from problems.few_shot.episodes import Episodes
from problems.few_shot.normalisation import ByGroup, Groups


class WholeNetwork(Problem):
    """theta_i are all tensors of the network and of its last layer, and start at phi: theta0 = phi.

    g_i and f_i are the mean cross entropies of the support and query images, neither of which sees phi otherwise: the
    implicit gradient is zero, and phi is learned through the steps (`ITDBiO`). g_i is not convex: outside the theory.

    episodes, embedding, autocast, channels_last   as in `FewShot`; batch norm has the semantics "task"

    Source: Finn, Abbeel, Levine, ICML 2017 (MAML).
    """

    bn = "task"

    def __init__(
        self,
        episodes: Episodes,
        *,
        embedding: Embedding,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ):
        self.episodes, self.embedding = episodes, embedding
        self.autocast, self.channels_last = autocast, channels_last
        shape = episodes.images.shape
        self.features = embedding.size(shape)
        like = embedding.parameters(shape, torch.Generator()) | self._last_layer(torch.Generator())
        self.shapes = {name: tensor.shape for name, tensor in like.items()}
        self.q = sum(tensor.numel() for tensor in like.values())

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        """`size` episodes, their indices drawn from `rng`. Raises ValueError on None: there is no pool."""
        if size is None:
            raise ValueError("expected a number of episodes, got None: they are drawn without end")
        return self.episodes.draw(torch.randint(2**62, (size,), generator=rng))

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Initial tensors of the network; the last layer uniform within 1 / sqrt(features)."""
        return self.embedding.parameters(self.episodes.images.shape, rng) | self._last_layer(rng)

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """phi, all tensors in a row."""
        return torch.cat([phi[name].flatten() for name in self.shapes]).expand(*tasks.index.shape, -1)

    def embed(self, phi: Parameters, tasks: Tasks) -> Parameters:
        """Nothing: g and f see phi through theta alone."""
        return {}

    def lower(self, features: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        """Mean cross entropy of the support images."""
        return self._losses(theta, tasks.support, tasks.support_labels)

    def upper(self, features: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        """Mean cross entropy of the query images."""
        return self._losses(theta, tasks.query, tasks.query_labels)

    def accuracy(self, features: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        """Share of the query images that the network puts in their class, (B,), float64."""
        rows = zip(theta, tasks.query, tasks.query_labels, strict=True)
        right = [(self._logits(own, images).argmax(-1) == labels) for own, images, labels in rows]
        return torch.stack(right).double().mean(-1)

    def _losses(self, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        rows = zip(theta, images, labels, strict=True)  # each task has a network of its own
        return torch.stack([cross_entropy(self._logits(own, x), y) for own, x, y in rows])

    def _logits(self, theta: Tensor, images: Tensor) -> Tensor:
        sizes = [shape.numel() for shape in self.shapes.values()]
        own = {name: x.view(self.shapes[name]) for name, x in zip(self.shapes, theta.split(sizes), strict=True)}
        x = images.to(theta.dtype).div_(255)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(theta.device.type, self.autocast, enabled=self.autocast is not None):
            Z = self.embedding(own, x, ByGroup(Groups(1)))
        return Z.to(theta.dtype) @ own["last.weight"].mT + own["last.bias"]

    def _last_layer(self, rng: torch.Generator) -> Parameters:
        bound = 1 / math.sqrt(self.features)
        way = self.episodes.way
        return {
            "last.weight": (2 * torch.rand(way, self.features, generator=rng) - 1) * bound,
            "last.bias": (2 * torch.rand(way, generator=rng) - 1) * bound,
        }
