"""Few-shot classification as a bilevel problem: phi embeds the images, theta_i is the head of task i."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from problems.base import Parameters, Parts, Problem, Tasks
from problems.few_shot.embeddings import Embedding
from problems.few_shot.episodes import Episodes
from problems.few_shot.heads import CLOSED_FORMS, Head
from problems.few_shot.normalisation import SEMANTICS, ByGroup, Fixed, Groups, Moments, Recording, Semantics


class Embedded(NamedTuple):
    """Features of the support images (B, way shot, d) and query images (B, way queries, d), tensors of the head."""

    support: Tensor
    query: Tensor
    own: Parameters


class FewShot(Problem):
    """g_i: the head's loss on the support images of episode i, f_i on its query images; phi is the embedding.

    episodes        where tasks are drawn from, without end
    embedding       `Conv4`, `ResNet12` or any `Embedding`
    head            `SoftmaxHead`, `RidgeHead`, `PrototypeHead` or any `Head`, for as many classes as the episodes have
    centred         subtract the mean of a task's support features from all its features: that mean, which the classes
                    share, makes the lower level ten times worse conditioned (docs/findings.md)
    bn              over which images batch norm averages: "task", "support" or "running" (`normalisation`)
    autocast        run the network, and it alone, in this dtype (torch.bfloat16); None: in that of phi
    channels_last   store the images of the network with channels last

    Images are uint8 in the tasks and divided by 255. The lower level is strongly convex for fixed features, with
    moduli that depend on them: `curvature`; constants for all phi do not exist, so `constants` is None.
    The features are all that the K lower and N CG steps see: embed runs once, on support and query images.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        embedding: Embedding,
        head: Head,
        centred: bool = True,
        bn: Semantics = "task",
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ):
        if head.way != episodes.way:
            raise ValueError(f"expected a head for the {episodes.way} classes of an episode, got one for {head.way}")
        if bn not in SEMANTICS:
            raise ValueError(f"expected bn one of {', '.join(SEMANTICS)}, got {bn!r}")
        self.episodes, self.embedding, self.head = episodes, embedding, head
        self.centred = centred
        self.bn, self.autocast, self.channels_last = bn, autocast, channels_last
        self.features = embedding.size(episodes.images.shape)
        self.q = head.way * head.inputs(self.features)
        self.moments: dict[str, Moments] | None = None  # of "running", once gathered

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        """`size` episodes, their indices drawn from `rng`. Raises ValueError on None: there is no pool."""
        if size is None:
            raise ValueError("expected a number of episodes, got None: they are drawn without end")
        return self.episodes.draw(torch.randint(2**62, (size,), generator=rng))

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Initial tensors of the embedding and of the head."""
        shape = self.episodes.images.shape
        return self.embedding.parameters(shape, rng) | self.head.parameters(self.features, rng)

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """The start of the head: zeros, or the tensor that phi holds."""
        some = next(iter(phi.values()))
        return self.head.start(phi, some, self.features).expand(*tasks.index.shape, -1)

    # ---- features

    def embed(self, phi: Parameters, tasks: Tasks) -> Embedded:
        """Features of all images: one pass of the network where support and query are equally many."""
        if self.bn == "support":
            recording = Recording(self._groups(tasks))
            support = self._features(phi, tasks.support, recording)
            query = self._features(phi, tasks.query, Fixed(recording.groups, recording.moments))
        elif tasks.support.shape == tasks.query.shape:
            support, query = self._features(phi, torch.cat([tasks.support, tasks.query])).chunk(2)
        else:
            support, query = self._features(phi, tasks.support), self._features(phi, tasks.query)
        return self._join(support, query, self._own(phi))

    def embed_parts(self) -> Parts:
        """Support and query apart, unless the statistics of one normalise the other."""
        if self.bn == "support":
            return super().embed_parts()
        functions = (
            lambda phi, tasks: self._features(phi, tasks.support),
            lambda phi, tasks: self._features(phi, tasks.query),
            lambda phi, tasks: self._own(phi),
        )
        return Parts(functions, self._join)

    def _join(self, support: Tensor, query: Tensor, own: Parameters) -> Embedded:
        if self.centred:
            mean = support.mean(-2, keepdim=True)
            support, query = support - mean, query - mean
        return Embedded(self.head.prepare(support), self.head.prepare(query), own)

    def _features(
        self, phi: Parameters, images: Tensor, normalise: ByGroup | Recording | Fixed | None = None
    ) -> Tensor:
        """(G, m, features) of images (G, m, C, H, W) uint8: each group normalised by itself."""
        groups = self._groups(images)
        if normalise is None:
            normalise = ByGroup(groups) if self.moments is None else Fixed(groups, self.moments)
        like = next(iter(phi.values()))
        x = groups.join(images).to(like.dtype).div_(255)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(like.device.type, self.autocast, enabled=self.autocast is not None):
            Z = self.embedding(phi, x, normalise)
        return groups.split(Z.to(like.dtype)).contiguous()

    def _groups(self, batch: Tasks | Tensor) -> Groups:
        return Groups(len(batch), consecutive=self.channels_last)

    def _own(self, phi: Parameters) -> Parameters:
        return {name: tensor for name, tensor in phi.items() if name.startswith("head.")}

    def gather(self, phi: Parameters, batches: Iterable[Tasks]) -> FewShot:
        """This problem with bn="running" statistics: the mean of those of the support groups of these tasks.

        A copy that evaluates; the original trains on. The variance of a channel is over all images of all tasks.
        """
        of_groups: list[dict[str, Moments]] = []
        with torch.no_grad():
            for tasks in batches:
                recording = Recording(self._groups(tasks))
                self._features(phi, tasks.support, recording)
                of_groups.append(recording.moments)
        if not of_groups:
            raise ValueError("expected at least one batch of tasks to gather statistics from, got none")
        gathered = copy.copy(self)
        gathered.bn, gathered.moments = "running", {layer: _pooled(of_groups, layer) for layer in of_groups[0]}
        return gathered

    # ---- the two levels, by the head

    def lower(self, features: Embedded, theta: Tensor, tasks: Tasks) -> Tensor:
        """g_i, of the support images."""
        return self.head.lower(features.support, tasks.support_labels, theta, features.own)

    def upper(self, features: Embedded, theta: Tensor, tasks: Tasks) -> Tensor:
        """f_i, of the query images."""
        return self.head.upper(features.query, tasks.query_labels, theta, features.own)

    def lower_gradient(self, features: Embedded, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta g_i."""
        return self.head.lower_gradient(features.support, tasks.support_labels, theta, features.own)

    def lower_hvp(self, features: Embedded, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """(d2g_i / dtheta2) v_i."""
        return self.head.lower_hvp(features.support, tasks.support_labels, theta, v, features.own)

    def lower_inverse_hvp(self, features: Embedded, theta: Tensor, b: Tensor, tasks: Tasks) -> Tensor:
        """(d2g_i / dtheta2)^-1 b_i."""
        return self.head.lower_inverse_hvp(features.support, tasks.support_labels, theta, b, features.own)

    def lower_argmin(self, features: Embedded, tasks: Tasks) -> Tensor:
        """theta_i*."""
        return self.head.lower_argmin(features.support, tasks.support_labels, features.own)

    def upper_gradient(self, features: Embedded, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta f_i."""
        return self.head.upper_gradient(features.query, tasks.query_labels, theta, features.own)

    def has(self, closed_form: str) -> bool:
        """Whether the head has it, or a subclass of `FewShot` gives it."""
        if closed_form in CLOSED_FORMS and getattr(type(self), closed_form) is getattr(FewShot, closed_form):
            return closed_form in self.head.closed_forms
        return super().has(closed_form)

    # ---- what is reported

    def curvature(self, features: Embedded, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """mu and L of each task's lower level at these features, (B,)."""
        return self.head.curvature(features.support, tasks.support_labels, features.own)

    def accuracy(self, features: Embedded, theta: Tensor, tasks: Tasks) -> Tensor:
        """Share of the query images that the head puts in their class, (B,), float64."""
        logits = self.head.logits(features.query, theta, features.own)
        return (logits.argmax(-1) == tasks.query_labels).double().mean(-1)


def _pooled(of_groups: list[dict[str, Moments]], layer: str) -> Moments:
    """Mean and variance of a layer over all images of equally large groups."""
    mean, variance = (torch.cat(each) for each in zip(*(moments[layer] for moments in of_groups), strict=True))
    return Moments(mean.mean(0), variance.mean(0) + mean.var(0, correction=0))
