"""Few-shot classification: images, episodes, embeddings and heads."""

from problems.few_shot.image_set import ImageSet, Splits

__all__ = ["ImageSet", "Splits"]
