"""Named few-shot methods: which lower level, which hypergradient, which learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from convergence.linear_solvers import ConjugateGradient
from convergence.memory_reduced import MemoryReduced
from convergence.method import Method
from convergence.methods import ClosedForm, ITDBiO
from problems.few_shot import (
    Embedding,
    Episodes,
    FewShot,
    Head,
    PrototypeHead,
    RidgeHead,
    Semantics,
    SoftmaxHead,
    WholeNetwork,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A few-shot method by name.

    method          how phi learns; the upper step is left to Adam
    head            of the number of classes; None: all of the network adapts (`WholeNetwork`)
    centred         see `FewShot`
    learning_rate   of Adam
    breakdowns      go on where CG meets p'Hp <= 0, with its last good iterate: what a code without a test does
    source          where it is published
    """

    method: Method
    head: Callable[[int], Head] | None
    centred: bool = False
    learning_rate: float = 1e-3
    breakdowns: bool = False
    source: str

    def problem(
        self,
        episodes: Episodes,
        *,
        embedding: Embedding,
        bn: Semantics = "task",
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> FewShot | WholeNetwork:
        """The problem on these episodes. Raises ValueError on bn other than "task" where all of the network adapts."""
        if self.head is None:
            if bn != "task":
                raise ValueError(f'expected bn="task" where all of the network adapts, got {bn!r}')
            return WholeNetwork(episodes, embedding=embedding, autocast=autocast, channels_last=channels_last)
        return FewShot(
            episodes,
            embedding=embedding,
            head=self.head(episodes.way),
            centred=self.centred,
            bn=bn,
            autocast=autocast,
            channels_last=channels_last,
        )

    def varied(self, **changes: Any) -> Recipe:
        """The recipe with other fields of its method. Raises TypeError on fields that the method does not have."""
        method: Any = self.method
        return replace(self, method=replace(method, **changes))

    def with_head(self, **changes: Any) -> Recipe:
        """The recipe with other fields of its head, as ridge=0.01. Raises TypeError on fields that it does not have."""
        make: Any = self.head
        if make is None:
            raise TypeError(f"expected a recipe with a head for {', '.join(changes)}, got one that adapts all")
        return replace(self, head=lambda way: replace(make(way), **changes))


def _softmax(**options: Any) -> Callable[[int], Head]:
    return lambda way: SoftmaxHead(way=way, **options)


_MAML = Recipe(
    method=ITDBiO(lower_steps=3, lower_step_size=0.5),
    head=None,
    source="Finn, Abbeel, Levine, ICML 2017",
)
_ANIL = Recipe(
    method=ITDBiO(lower_steps=10, lower_step_size=0.1),
    head=_softmax(ridge=0.0, learned_start=True),
    source="Raghu et al., ICLR 2020",
)

RECIPES: dict[str, Recipe] = {
    "memory_reduced": Recipe(
        method=MemoryReduced(lower_steps=20, cg_steps=10, warm_start=False),
        head=_softmax(ridge=1.0),
        centred=True,
        source="Yang, Ma, Yu, AAAI 2025, Algorithm 1, with a ridge, lower steps of 2 / (L_i + mu)",
    ),
    "published": Recipe(
        method=MemoryReduced(
            lower_steps=20, lower_step_size=0.1, linear_solver=ConjugateGradient(20, tolerance=0.0), warm_start=False
        ),
        head=_softmax(ridge=0.0),
        breakdowns=True,
        source="Yang, Ma, Yu, AAAI 2025, as in their experiments: no ridge, outside the theory",
    ),
    "itd_bio": Recipe(
        method=ITDBiO(lower_steps=20, lower_step_size=0.1),
        head=_softmax(ridge=0.0, lasso=1e-4),
        source="Ji, Yang, Liang, ICML 2021",
    ),
    "anil": _ANIL,
    "fo_anil": replace(_ANIL, method=ITDBiO(lower_steps=10, lower_step_size=0.1, first_order=True)),
    "maml": _MAML,
    "fomaml": replace(_MAML, method=ITDBiO(lower_steps=3, lower_step_size=0.5, first_order=True)),
    "protonet": Recipe(
        method=ClosedForm(), head=lambda way: PrototypeHead(way=way), source="Snell, Swersky, Zemel, NeurIPS 2017"
    ),
    "r2d2": Recipe(method=ClosedForm(), head=lambda way: RidgeHead(way=way), source="Bertinetto et al., ICLR 2019"),
}
