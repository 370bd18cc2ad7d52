"""Small few-shot problems of random images, for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from problems.base import Parameters, Tasks
from problems.few_shot import Conv4, Embedding, Episodes, FewShot, Head, ImageSet, SoftmaxHead


def image_set(side: int = 16, *, classes: int = 6, each: int = 10, channels: int = 3, seed: int = 0) -> ImageSet:
    """Images of independent random pixels, as many of each class."""
    pixels = np.random.default_rng(seed).integers(0, 256, (classes * each, side, side, channels), dtype=np.uint8)
    return ImageSet(pixels, np.repeat(np.arange(classes), each), tuple(f"class {c}" for c in range(classes)))


def episodes(side: int = 16, *, way: int = 3, shot: int = 2, queries: int = 2, seed: int = 0) -> Episodes:
    return Episodes(images=image_set(side), split="train", way=way, shot=shot, queries=queries, seed=seed)


def few_shot(
    head: Head | None = None, *, embedding: Embedding | None = None, source: Episodes | None = None, **options: Any
) -> FewShot:
    """3-way 2-shot 2-query on 16 x 16 pixels with 4 channels, 4 features, a softmax head with a ridge of 0.1."""
    source = source or episodes()
    head = head or SoftmaxHead(way=source.way, ridge=0.1)
    return FewShot(source, embedding=embedding or Conv4(4), head=head, **options)


def drawn(problem: Any, count: int = 3, seed: int = 0) -> Tasks:
    return problem.sample(count, torch.Generator().manual_seed(seed))


def start(problem: Any, seed: int = 0, dtype: torch.dtype = torch.float64) -> Parameters:
    """phi of the problem, where biases and shifts are not zero either."""
    rng = torch.Generator().manual_seed(seed)
    phi = {name: tensor.to(dtype) for name, tensor in problem.phi0(rng).items()}
    for name, tensor in phi.items():
        if name.endswith("bias"):
            tensor += 0.1 * torch.randn(tensor.shape, generator=rng, dtype=dtype)
    return phi


class Counting:
    """An embedding that notes how many images each of its calls is given."""

    def __init__(self, embedding: Embedding):
        self.embedding = embedding
        self.images: list[int] = []

    def parameters(self, shape: Any, rng: torch.Generator) -> Parameters:
        return self.embedding.parameters(shape, rng)

    def size(self, shape: Any) -> int:
        return self.embedding.size(shape)

    def __call__(self, phi: Parameters, images: Tensor, normalise: Any) -> Tensor:
        self.images.append(len(images))
        return self.embedding(phi, images, normalise)


def singles(tasks: Tasks) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of each task the support images, their labels, the query images, their labels."""
    return zip(tasks.support, tasks.support_labels, tasks.query, tasks.query_labels, strict=True)
