"""Few-shot classification with all of the network adapted to each task, as in MAML."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from problems.base import Parameters, Tasks
from problems.few_shot.embeddings import Embedding
from problems.few_shot.episodes import Source
from problems.few_shot.normalisation import ByGroup, Groups
from problems.few_shot.on_episodes import OnEpisodes


class WholeNetwork(OnEpisodes):
    """theta_i are all tensors of the network and of its last layer, and start at phi: theta0 = phi.

    g_i and f_i are the mean cross entropies of the support and query images, neither of which sees phi otherwise: the
    implicit gradient is zero, and phi is learned through the steps (`ITDBiO`). g_i is not convex: outside the theory.

    episodes, embedding, autocast, channels_last   as in `OnEpisodes`; batch norm has the semantics "task"

    Source: Finn, Abbeel, Levine, ICML 2017 (MAML).
    """

    bn = "task"

    def __init__(
        self,
        episodes: Source,
        *,
        embedding: Embedding,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ):
        super().__init__(episodes, embedding=embedding, autocast=autocast, channels_last=channels_last)
        like = self.phi0(torch.Generator())
        self.shapes = {name: tensor.shape for name, tensor in like.items()}
        self.q = sum(tensor.numel() for tensor in like.values())

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
        return self._network(own, images, ByGroup(Groups(1))) @ own["last.weight"].mT + own["last.bias"]

    def _last_layer(self, rng: torch.Generator) -> Parameters:
        bound = 1 / math.sqrt(self.features)
        way = self.episodes.way
        return {
            "last.weight": (2 * torch.rand(way, self.features, generator=rng) - 1) * bound,
            "last.bias": (2 * torch.rand(way, generator=rng) - 1) * bound,
        }
