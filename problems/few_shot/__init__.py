"""Few-shot classification: images, episodes, embeddings and heads."""

from problems.few_shot.augmentation import Augmentation
from problems.few_shot.episodes import EpisodeList, Episodes
from problems.few_shot.image_set import ImageSet, Splits

__all__ = ["Augmentation", "EpisodeList", "Episodes", "ImageSet", "Splits"]
