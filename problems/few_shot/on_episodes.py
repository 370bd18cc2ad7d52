"""What problems on episodes of images share: how tasks are drawn, and how a network is run on their images."""

from __future__ import annotations

import torch
from torch import Tensor

from problems.arguments import capable, shown, truth
from problems.base import Parameters, Problem, Tasks
from problems.few_shot.embeddings import Embedding
from problems.few_shot.episodes import INDICES, Source
from problems.few_shot.normalisation import Normalisation


class OnEpisodes(Problem):
    """A distribution of tasks without end: episodes, whose images a network maps to features.

    episodes        where tasks are drawn from
    embedding       `Conv4`, `ResNet12` or any `Embedding`
    autocast        run the network, and it alone, in this dtype (torch.bfloat16); None: in that of phi
    channels_last   store the images of the network with channels last; None: where that is the faster layout, which
                    is known of a subclass and a device (`stored_last`)

    Raises ValueError on another autocast (float16 would need its gradients scaled), and as `Embedding.size` does.
    """

    def __init__(
        self,
        episodes: Source,
        *,
        embedding: Embedding,
        autocast: torch.dtype | None = None,
        channels_last: bool | None = None,
    ):
        if autocast not in (None, torch.bfloat16):
            raise ValueError(f"expected autocast None or torch.bfloat16, got {shown(autocast)}")
        if channels_last is not None:
            truth("channels_last None,", channels_last)
        capable("embedding", embedding, "parameters", "size", "__call__")
        self.episodes, self.embedding = episodes, embedding
        self.autocast, self.channels_last = autocast, channels_last
        self.features = embedding.size(episodes.images.shape)

    def stored_last(self, device: torch.device) -> bool:
        """Whether the network stores its images with channels last on this device: not, unless asked for."""
        return bool(self.channels_last)

    def sample(self, size: int | None, rng: torch.Generator, part: slice = slice(None)) -> Tasks:
        """`size` episodes on the CPU, or that part of them; indices are drawn from `rng`, on whatever device it is.

        Raises ValueError on None (there is no pool), and on fewer than one.
        """
        if size is None:
            raise ValueError("expected a number of episodes, got None: they are drawn without end")
        if size < 1:
            raise ValueError(f"expected at least one episode, got {size}")
        return self.episodes.draw(torch.randint(INDICES, (size,), generator=rng, device=rng.device)[part])

    def _network(self, phi: Parameters, images: Tensor, normalise: Normalisation) -> Tensor:
        """Features (n, d), in the dtype of phi, of images (n, C, H, W) uint8. Raises TypeError on another type."""
        if images.dtype != torch.uint8:
            raise TypeError(f"expected the images of tasks as torch.uint8, got {images.dtype}")
        like = next(iter(phi.values()))
        if self.stored_last(images.device):  # while a number is a byte; under vmap there is no memory_format
            images = images.movedim(1, -1).contiguous().movedim(-1, 1)
        x = images.to(like.dtype).div_(255)  # in place of what `to` has copied
        with torch.autocast(like.device.type, self.autocast, enabled=self.autocast is not None):
            Z = self.embedding(phi, x, normalise)
        return Z.to(like.dtype)
