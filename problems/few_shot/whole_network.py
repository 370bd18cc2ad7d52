"""Few-shot classification with the network itself adapted to each task, as in MAML, BOIL and iMAML."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from problems.base import Parameters, Tasks
from problems.few_shot.embeddings import Embedding
from problems.few_shot.episodes import Source
from problems.few_shot.normalisation import ByGroup, Groups
from problems.few_shot.on_episodes import OnEpisodes

Adapts = Literal["all", "body"]
_LAST = ("last.weight", "last.bias")


class WholeNetwork(OnEpisodes):
    """theta_i are the tensors of the network, with its last layer or without, and start at those of phi.

    adapts   "all": theta0 = phi. "body": theta starts at all tensors but the last layer, which g and f read from phi
    prox     lambda >= 0: g_i is the mean cross entropy of the support images plus lambda/2 |theta - theta0|^2

    f_i is the mean cross entropy of the query images. With lambda = 0 the implicit gradient with respect to the start
    is zero, and it is learned through the steps (`MAML`, `BOIL`) or by their displacement (`Reptile`); `IMAML` needs
    lambda > 0. g_i is not convex: outside the theory, unless lambda is larger than its most negative curvature.

    episodes, embedding, autocast, channels_last   as in `OnEpisodes`; batch norm has the semantics "task". Channels are
                                                   last only where asked for: second derivatives are faster without

    Raises ValueError on another `adapts`, or a prox that is negative or not finite.
    Source: Finn, Abbeel, Levine, ICML 2017 (MAML); Oh, Yoo, Kim, Yun, ICLR 2021 (BOIL); Rajeswaran, Finn, Kakade,
    Levine, NeurIPS 2019 (iMAML).
    """

    bn = "task"

    def __init__(
        self,
        episodes: Source,
        *,
        embedding: Embedding,
        adapts: Adapts = "all",
        prox: float = 0.0,
        autocast: torch.dtype | None = None,
        channels_last: bool | None = None,
    ):
        if adapts not in get_args(Adapts):
            raise ValueError(f"expected adapts one of {', '.join(get_args(Adapts))}, got {adapts!r}")
        if not 0 <= prox < math.inf:
            raise ValueError(f"expected prox a finite number >= 0, got {prox}")
        super().__init__(episodes, embedding=embedding, autocast=autocast, channels_last=channels_last)
        self.adapts, self.prox = adapts, prox
        shapes = {name: tensor.shape for name, tensor in self.phi0(torch.Generator()).items()}
        self.shapes = {name: shape for name, shape in shapes.items() if adapts == "all" or name not in _LAST}
        self.q = sum(shape.numel() for shape in self.shapes.values())

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Initial tensors of the network; the last layer uniform within 1 / sqrt(features)."""
        return self.embedding.parameters(self.episodes.images.shape, rng) | self._last_layer(rng)

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """The tensors of phi that adapt, all in a row."""
        return self._start(phi).expand(*tasks.index.shape, -1)

    def embed(self, phi: Parameters, tasks: Tasks) -> Parameters:
        """What g and f see of phi beside theta: a last layer that does not adapt, and the start where theta is tied."""
        shared = {name: phi[name] for name in _LAST if name not in self.shapes}
        return shared | ({"start": self._start(phi)} if self.prox else {})

    def lower(self, features: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        """Mean cross entropy of the support images, and what ties theta to its start."""
        losses = self._losses(features, theta, tasks.support, tasks.support_labels)
        if not self.prox:
            return losses
        return losses + 0.5 * self.prox * (theta - features["start"]).square().sum(-1)

    def upper(self, features: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        """Mean cross entropy of the query images."""
        return self._losses(features, theta, tasks.query, tasks.query_labels)

    def accuracy(self, features: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        """Share of the query images that the network puts in their class, (B,), float64."""
        rows = zip(theta, tasks.query, tasks.query_labels, strict=True)
        right = [(self._logits(features, own, images).argmax(-1) == labels) for own, images, labels in rows]
        return torch.stack(right).double().mean(-1)

    def _losses(self, features: Parameters, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        rows = zip(theta, images, labels, strict=True)  # each task has a network of its own
        return torch.stack([cross_entropy(self._logits(features, own, x), y) for own, x, y in rows])

    def _logits(self, features: Parameters, theta: Tensor, images: Tensor) -> Tensor:
        sizes = [shape.numel() for shape in self.shapes.values()]
        own = {name: x.view(self.shapes[name]) for name, x in zip(self.shapes, theta.split(sizes), strict=True)}
        weight, bias = ((own | features)[name] for name in _LAST)
        return self._network(own, images, ByGroup(Groups(1))) @ weight.mT + bias

    def _start(self, phi: Parameters) -> Tensor:
        return torch.cat([phi[name].flatten() for name in self.shapes])

    def _last_layer(self, rng: torch.Generator) -> Parameters:
        bound = 1 / math.sqrt(self.features)
        way = self.episodes.way
        shapes = zip(_LAST, ((way, self.features), (way,)), strict=True)
        return {name: (2 * torch.rand(shape, generator=rng) - 1) * bound for name, shape in shapes}
