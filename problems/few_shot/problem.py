"""Few-shot classification as a bilevel problem: phi embeds the images, theta_i is the head of task i."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from problems.arguments import instance, truth
from problems.base import Parameters, Parts, Tasks
from problems.few_shot.embeddings import Embedding
from problems.few_shot.episodes import Source
from problems.few_shot.heads import CLOSED_FORMS, Head
from problems.few_shot.normalisation import SEMANTICS, ByGroup, Fixed, Groups, Moments, Recording, Semantics
from problems.few_shot.on_episodes import OnEpisodes


class TaskFeatures(NamedTuple):
    """Features of the support images (B, way shot, d) and query images (B, way queries, d), tensors of the head."""

    support: Tensor
    query: Tensor
    own: Parameters


class FewShot(OnEpisodes):
    """g_i: the head's loss on the support images of episode i, f_i on its query images; phi is the embedding.

    head            `SoftmaxHead`, `RidgeHead`, `PrototypeHead` or any `Head`, for as many classes as the episodes have
    centred         subtract the mean of a task's support features from all its features: that mean, which the classes
                    share, makes the lower level ten times worse conditioned (docs/findings.md)
    bn              over which images batch norm averages: "task", "support" or "running" (`normalisation`)
    episodes, embedding, autocast, channels_last   as in `OnEpisodes`

    Images are uint8 in the tasks and divided by 255. The lower level is strongly convex for fixed features, with
    moduli that depend on them: `curvature`; constants for all phi do not exist, so `constants` is None.
    The features are all that the K lower and N CG steps see: embed runs once, on support and query images. On a CPU
    channels are last unless asked otherwise, and each group of images (support or query of a task) passes the network
    by itself: batch norm is then an ordinary one, and nothing is copied to take groups apart and join them.
    To compute them again for the last line (`recompute`) saves memory where support and query are apart. With
    bn="support" they are not, and the peak stays what it was.

    Raises ValueError on a head for another number of classes, an unknown bn, and as `OnEpisodes` does; TypeError on
    tasks whose images are not uint8.
    """

    def __init__(
        self,
        episodes: Source,
        *,
        embedding: Embedding,
        head: Head,
        centred: bool = True,
        bn: Semantics = "task",
        autocast: torch.dtype | None = None,
        channels_last: bool | None = None,
    ):
        instance("head", head, Head)
        truth("centred", centred)
        if head.way != episodes.way:
            raise ValueError(f"expected a head for the {episodes.way} classes of an episode, got one for {head.way}")
        if bn not in SEMANTICS:
            raise ValueError(f"expected bn one of {', '.join(SEMANTICS)}, got {bn!r}")
        super().__init__(episodes, embedding=embedding, autocast=autocast, channels_last=channels_last)
        self.head, self.centred, self.bn = head, centred, bn
        self.q = head.way * head.inputs(self.features)
        self.moments: dict[str, Moments] | None = None  # of "running", once gathered

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Initial tensors of the embedding and of the head."""
        shape = self.episodes.images.shape
        return self.embedding.parameters(shape, rng) | self.head.parameters(self.features, rng)

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """The start of the head: zeros, or the tensor that phi holds."""
        some = next(iter(phi.values()))
        return self.head.start(phi, some, self.features).expand(*tasks.index.shape, -1)

    # ---- features

    def embed(self, phi: Parameters, tasks: Tasks) -> TaskFeatures:
        """Features of all images, from one pass of the network where support and query can pass together."""
        if self.bn == "support":
            recording = Recording(self._groups(tasks.support))
            support = self._features(phi, tasks.support, recording)
            query = self._features(phi, tasks.query, Fixed(recording.groups, recording.moments))
        elif tasks.support.shape == tasks.query.shape and not self._apart(tasks.support):
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

    def _join(self, support: Tensor, query: Tensor, own: Parameters) -> TaskFeatures:
        if self.centred:
            mean = support.mean(-2, keepdim=True)
            support, query = support - mean, query - mean
        return TaskFeatures(self.head.prepare(support), self.head.prepare(query), own)

    def _features(
        self, phi: Parameters, images: Tensor, normalise: ByGroup | Recording | Fixed | None = None
    ) -> Tensor:
        """(G, m, features) of images (G, m, C, H, W) uint8: each group normalised by itself."""
        groups = self._groups(images)
        if normalise is None:
            if self.moments is None and self._apart(images):
                return torch.stack([self._network(phi, group, ByGroup(Groups(1))) for group in images])
            normalise = ByGroup(groups) if self.moments is None else Fixed(groups, self.moments)
        return groups.split(self._network(phi, groups.join(images), normalise)).contiguous()

    def stored_last(self, device: torch.device) -> bool:
        """On a CPU, unless asked otherwise: 0.55 to 0.85 of the time for all networks and batch norms tried."""
        return device.type == "cpu" if self.channels_last is None else self.channels_last

    def _apart(self, images: Tensor) -> bool:
        """Whether groups pass the network one by one; a GPU, which one group does not fill, takes all at once."""
        return self.stored_last(images.device) and images.device.type == "cpu"

    def _groups(self, images: Tensor) -> Groups:
        return Groups(len(images), consecutive=self.stored_last(images.device))

    def _own(self, phi: Parameters) -> Parameters:
        return {name: tensor for name, tensor in phi.items() if name.startswith("head.")}

    def gather(self, phi: Parameters, batches: Iterable[Tasks]) -> FewShot:
        """This problem with bn="running" statistics: the mean of those of the support groups of these tasks.

        A copy that evaluates; the original trains on. The variance of a channel is over all images of all tasks.
        """
        of_groups: list[dict[str, Moments]] = []
        with torch.no_grad():
            for tasks in batches:
                recording = Recording(self._groups(tasks.support))
                self._features(phi, tasks.support, recording)
                of_groups.append(recording.moments)
        if not of_groups:
            raise ValueError("expected at least one batch of tasks to gather statistics from, got none")
        gathered = copy.copy(self)
        gathered.bn, gathered.moments = "running", {layer: _pooled(of_groups, layer) for layer in of_groups[0]}
        return gathered

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> FewShot:
        """A copy with the gathered statistics, where there are any, on `device` and in `dtype`."""
        moved = cast(FewShot, super().to(device, dtype))
        if self.moments is not None:
            moved.moments = {
                layer: Moments(*(tensor.to(device, dtype) for tensor in moments))
                for layer, moments in self.moments.items()
            }
        return moved

    # ---- the two levels, by the head

    def lower(self, features: TaskFeatures, theta: Tensor, tasks: Tasks) -> Tensor:
        """g_i, of the support images."""
        return self.head.lower(features.support, tasks.support_labels, theta, features.own)

    def upper(self, features: TaskFeatures, theta: Tensor, tasks: Tasks) -> Tensor:
        """f_i, of the query images."""
        return self.head.upper(features.query, tasks.query_labels, theta, features.own)

    def lower_gradient(self, features: TaskFeatures, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta g_i."""
        return self.head.lower_gradient(features.support, tasks.support_labels, theta, features.own)

    def lower_hvp(self, features: TaskFeatures, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """(d2g_i / dtheta2) v_i."""
        return self.head.lower_hvp(features.support, tasks.support_labels, theta, v, features.own)

    def lower_inverse_hvp(self, features: TaskFeatures, theta: Tensor, b: Tensor, tasks: Tasks) -> Tensor:
        """(d2g_i / dtheta2)^-1 b_i."""
        return self.head.lower_inverse_hvp(features.support, tasks.support_labels, theta, b, features.own)

    def lower_argmin(self, features: TaskFeatures, tasks: Tasks) -> Tensor:
        """theta_i*."""
        return self.head.lower_argmin(features.support, tasks.support_labels, features.own)

    def upper_gradient(self, features: TaskFeatures, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta f_i."""
        return self.head.upper_gradient(features.query, tasks.query_labels, theta, features.own)

    def has(self, closed_form: str) -> bool:
        """Whether the head has it, or a subclass of `FewShot` gives it."""
        if closed_form in CLOSED_FORMS and getattr(type(self), closed_form) is getattr(FewShot, closed_form):
            return closed_form in self.head.closed_forms
        return super().has(closed_form)

    # ---- what is reported

    def curvature(self, features: TaskFeatures, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """mu and L of each task's lower level at these features, (B,)."""
        return self.head.curvature(features.support, tasks.support_labels, features.own)

    def accuracy(self, features: TaskFeatures, theta: Tensor, tasks: Tasks) -> Tensor:
        """Share of the query images that the head puts in their class, (B,), float64."""
        logits = self.head.logits(features.query, theta, features.own)
        return (logits.argmax(-1) == tasks.query_labels).double().mean(-1)


def _pooled(of_groups: list[dict[str, Moments]], layer: str) -> Moments:
    """Mean and variance of a layer over all images of equally large groups."""
    mean, variance = (torch.cat(each) for each in zip(*(moments[layer] for moments in of_groups), strict=True))
    return Moments(mean.mean(0), variance.mean(0) + mean.var(0, correction=0))
