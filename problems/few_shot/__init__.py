"""Few-shot classification: images, episodes, embeddings and heads."""

from problems.few_shot.augmentation import Augmentation
from problems.few_shot.embeddings import EMBEDDINGS, Conv4, Embedding, ResNet12
from problems.few_shot.episodes import EpisodeList, Episodes, Source
from problems.few_shot.heads import Head, PrototypeHead, RidgeHead, SoftmaxHead
from problems.few_shot.image_set import ImageSet, Splits
from problems.few_shot.normalisation import SEMANTICS, Semantics
from problems.few_shot.problem import FewShot
from problems.few_shot.whole_network import Adapts, WholeNetwork

__all__ = [
    "EMBEDDINGS",
    "SEMANTICS",
    "Adapts",
    "Augmentation",
    "Conv4",
    "Embedding",
    "EpisodeList",
    "Episodes",
    "FewShot",
    "Head",
    "ImageSet",
    "PrototypeHead",
    "ResNet12",
    "RidgeHead",
    "Semantics",
    "SoftmaxHead",
    "Source",
    "Splits",
    "WholeNetwork",
]
