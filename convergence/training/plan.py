"""All numbers and names that decide about a training run, beside the recipe, the network and the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from convergence.arguments import instance, integer, positive, shown, truth
from convergence.command_line import named
from convergence.driver import resolve_device
from convergence.optimisers import MakeOptimizer
from convergence.recipes import Recipe
from problems.few_shot import (
    SEMANTICS,
    Augmentation,
    Embedding,
    Episodes,
    FewShot,
    ImageSet,
    Semantics,
    Source,
    Splits,
    WholeNetwork,
)
from problems.few_shot.compiled import Compiled

FewShotProblem = FewShot | WholeNetwork
DTYPES = {"float32": torch.float32, "float64": torch.float64}
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
SCHEDULES = ("none", "cosine", "step")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, on which episodes and how to train. All fields are of JSON's types but `augmentation`.

    iterations          upper iterations T
    way, shot, queries  of training episodes; validation and test have `evaluation_queries` images of each class
    within_groups       all classes of an episode from one alphabet or superclass
    augmentation        of training episodes
    batch               tasks an iteration; `chunk` of them at a time, which bounds the memory (None: one on a CPU, all
                        on a GPU)
    learning_rate       None: that of the recipe
    optimizer           "adam", "adamw" or "sgd" of torch.optim
    schedule            of the learning rate: "none"; "cosine", to zero after T iterations; "step", times `decay` every
                        `decay_every` iterations (None: a third of T)
    bn                  over which images batch norm averages: "task", "support" or "running"
    dtype               "float32" or "float64"
    autocast            the network, and it alone, in bfloat16; with dtype "float32" only
    channels_last       images of the network stored with channels last; None: where that is faster, which is on a CPU
                        unless the network itself adapts
    compile             the network's forward and backward pass in training as programs of torch.compile, which takes
                        half a minute first; not where the network itself adapts
    resident            keep all images on the device, and gather episodes there; None: on a GPU, where they take no
                        more than a quarter of its free memory
    ahead               draw the tasks of the next iteration while this one is computed, in a thread of its own
    device              "cpu", "cuda", "cuda:1", ...
    seed                of the start and of the training episodes
    validate_every      iterations between validations on the episodes 0 .. `validation_episodes` - 1 of
                        `evaluation_seed`, which all training seeds share; the last iteration is always followed by one.
                        None: no validation, and the last phi counts as the best
    patience            end after so many validations in a row without a better accuracy; None: never
    checkpoint_every    iterations between checkpoints, where there is a folder to write them to

    Raises ValueError on numbers out of range and unknown names.
    """

    iterations: int
    way: int = 5
    shot: int = 5
    queries: int = 5
    evaluation_queries: int = 15
    within_groups: bool = False
    augmentation: Augmentation | None = None
    batch: int = 4
    chunk: int | None = None
    learning_rate: float | None = None
    optimizer: str = "adam"
    schedule: str = "none"
    decay_every: int | None = None
    decay: float = 0.1
    bn: Semantics = "task"
    dtype: str = "float32"
    autocast: bool = False
    channels_last: bool | None = None
    compile: bool = False
    resident: bool | None = None
    ahead: bool = True
    device: str = "cpu"
    seed: int = 0
    validate_every: int | None = 50
    validation_episodes: int = 100
    evaluation_seed: int = 0
    patience: int | None = None
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        for name in ("iterations", "seed", "evaluation_seed"):
            integer(name, getattr(self, name), least=0)
        integer("way", self.way, least=2)
        for name in ("shot", "queries", "evaluation_queries", "batch", "validation_episodes", "checkpoint_every"):
            integer(name, getattr(self, name), least=1)
        for name in ("chunk", "decay_every", "validate_every", "patience"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), least=1, otherwise="None or ")
        for name in ("within_groups", "autocast", "compile", "ahead"):
            truth(name, getattr(self, name))
        for name in ("channels_last", "resident"):
            if getattr(self, name) is not None:
                truth(f"{name} None,", getattr(self, name))
        if self.augmentation is not None:
            instance("augmentation", self.augmentation, Augmentation)
        positive("decay", self.decay)
        if self.learning_rate is not None:
            positive("learning_rate", self.learning_rate)
        if self.patience is not None and self.validate_every is None:
            raise ValueError(
                f"expected validate_every a number where there is a patience, got None and {self.patience}"
            )
        named(OPTIMIZERS, self.optimizer, "optimizer")
        named(DTYPES, self.dtype, "dtype")
        for name, known in {"schedule": SCHEDULES, "bn": SEMANTICS}.items():
            named(dict.fromkeys(known), getattr(self, name), name)
        if self.autocast and self.dtype != "float32":  # torch leaves float64 as it is
            raise ValueError(f"expected autocast with dtype float32 only, got {self.dtype}")
        resolve_device(self.device)

    # ---- what follows from it

    def episodes(self, splits: Splits, split: str, *, seed: int | None = None) -> Episodes:
        """Of this split: those to train on, or to judge by (with evaluation_queries, without augmentation).

        `seed` None: that of training for "train", else that of evaluation.
        """
        training = split == "train"
        own = self.seed if training else self.evaluation_seed
        return Episodes(
            images=splits[split],
            split=split,
            way=self.way,
            shot=self.shot,
            queries=self.queries if training else self.evaluation_queries,
            seed=own if seed is None else seed,
            within_groups=self.within_groups,
            augmentation=self.augmentation if training and seed is None else None,
            resident=self._residence(splits[split]),
        )

    def _residence(self, images: ImageSet) -> torch.device | None:
        """The device where the images are kept, by its number: a thread has a current GPU of its own."""
        device = torch.device(self.device)
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
            fits = 4 * images.images.nbytes <= torch.cuda.mem_get_info(device)[0]
        else:
            fits = False
        return device if self.resident or (self.resident is None and fits) else None

    def problem(self, recipe: Recipe, episodes: Source, embedding: Embedding) -> FewShotProblem:
        """The problem of the recipe on these episodes. Raises ValueError on compile where the network adapts."""
        if self.compile and recipe.head is None:
            raise ValueError("expected compile=False where the network itself adapts, by second derivatives, got True")
        return recipe.problem(
            episodes,
            embedding=Compiled(embedding) if self.compile else embedding,
            bn=self.bn,
            autocast=torch.bfloat16 if self.autocast else None,
            channels_last=self.channels_last,
        )

    @property
    def tasks_at_a_time(self) -> int:
        """`chunk`, or what it is by default."""
        default = self.batch if torch.device(self.device).type == "cuda" else 1
        return default if self.chunk is None else self.chunk

    def make_optimizer(self, recipe: Recipe) -> MakeOptimizer:
        """The optimiser, given the tensors of phi."""
        rate = recipe.learning_rate if self.learning_rate is None else self.learning_rate
        return partial(OPTIMIZERS[self.optimizer], lr=rate)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
        """The schedule of its learning rate."""
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, T_max=max(1, self.iterations))
        if self.schedule == "step":
            return StepLR(optimizer, step_size=self.decay_every or max(1, self.iterations // 3), gamma=self.decay)
        return None

    def validates_after(self, iteration: int) -> bool:
        """Whether the iteration of this number (from 1) is followed by a validation."""
        if self.validate_every is None:
            return False
        return iteration % self.validate_every == 0 or iteration == self.iterations

    # ---- as JSON

    def as_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields_: Mapping[str, Any]) -> Plan:
        """The plan of these fields; one that a run of an earlier release does not name has its default.

        Raises ValueError where `iterations` is missing, or one is unknown.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(fields_, Mapping) or "iterations" not in fields_ or not fields_.keys() <= known:
            held = sorted(map(str, fields_)) if isinstance(fields_, Mapping) else shown(fields_)
            raise ValueError(f"expected a plan of the fields {sorted(known)}, got {held}")
        turned, whole = fields_.get("augmentation"), {field.name for field in fields(Augmentation)}
        if turned is None:
            return cls(**fields_)
        if not isinstance(turned, Mapping) or not turned.keys() <= whole:
            raise ValueError(f"expected augmentation of the fields {sorted(whole)}, got {shown(turned)}")
        return cls(**{**fields_, "augmentation": Augmentation(**turned)})
