"""Named few-shot methods: which lower level, which hypergradient, which learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from convergence.linear_solvers import ConjugateGradient
from convergence.memory_reduced import MemoryReduced
from convergence.method import Method
from convergence.methods import ANIL, BOIL, FOMAML, IMAML, MAML, ClosedForm, ITDBiO, Reptile
from problems.few_shot import (
    Adapts,
    Embedding,
    FewShot,
    Head,
    PrototypeHead,
    RidgeHead,
    Semantics,
    SoftmaxHead,
    Source,
    WholeNetwork,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A few-shot method by name.

    method          how phi learns; the upper step is left to Adam
    head            of the number of classes; None: the network adapts (`WholeNetwork`)
    centred         see `FewShot`
    adapts, prox    see `WholeNetwork`
    learning_rate   of Adam
    breakdowns      go on where CG meets p'Hp <= 0, with its last good iterate: what a code without a test does
    source          where it is published
    """

    method: Method
    head: Callable[[int], Head] | None
    centred: bool = False
    adapts: Adapts = "all"
    prox: float = 0.0
    learning_rate: float = 1e-3
    breakdowns: bool = False
    source: str

    def problem(
        self,
        episodes: Source,
        *,
        embedding: Embedding,
        bn: Semantics = "task",
        autocast: torch.dtype | None = None,
        channels_last: bool | None = None,
    ) -> FewShot | WholeNetwork:
        """The problem on these episodes.

        Raises ValueError on bn other than "task" where the network adapts, and beside `MemoryReduced` on a head
        whose start is learned, which it cannot, and on recompute with bn="support", which saves nothing.
        """
        if self.head is None:
            if bn != "task":
                raise ValueError(f'expected bn="task" where the network itself adapts, got {bn!r}')
            return WholeNetwork(
                episodes,
                embedding=embedding,
                adapts=self.adapts,
                prox=self.prox,
                autocast=autocast,
                channels_last=channels_last,
            )
        head = self.head(episodes.way)
        self._check(head, bn)
        return FewShot(
            episodes,
            embedding=embedding,
            head=head,
            centred=self.centred,
            bn=bn,
            autocast=autocast,
            channels_last=channels_last,
        )

    def varied(self, **changes: Any) -> Recipe:
        """The recipe with other fields of its method. Raises TypeError on fields that the method does not have."""
        method: Any = self.method
        return replace(self, method=_replaced(method, changes))

    def with_head(self, **changes: Any) -> Recipe:
        """The recipe with other fields of its head, as ridge=0.01.

        Raises TypeError on fields that the head does not have, and what the head raises on their values.
        """
        make: Any = self.head
        if make is None:
            raise TypeError(f"expected a recipe with a head for {', '.join(changes)}, got one whose network adapts")
        _replaced(make(2), changes)  # raises here, and not where the problem is made
        return replace(self, head=lambda way: replace(make(way), **changes))

    def _check(self, head: Head, bn: Semantics) -> None:
        if not isinstance(self.method, MemoryReduced):
            return
        if getattr(head, "learned_start", False):
            raise ValueError(
                "expected learned_start=False with MemoryReduced, whose gradient in head.start is zero, got True"
            )
        if self.method.recompute and bn == "support":
            raise ValueError(
                'expected bn "task" or "running" with recompute, which saves no memory where query images are '
                f"normalised by the statistics of support images, got {bn!r}"
            )


def _replaced(part: Any, changes: dict[str, Any]) -> Any:
    """The dataclass with other fields. Raises TypeError on those that it does not have."""
    if unknown := changes.keys() - (known := {field.name: None for field in fields(part) if field.init}).keys():
        raise TypeError(
            f"expected fields of {type(part).__name__}: {', '.join(known)}, got {', '.join(sorted(unknown))}"
        )
    return replace(part, **changes)


def _softmax(**options: Any) -> Callable[[int], Head]:
    return lambda way: SoftmaxHead(way=way, **options)


_MAML = Recipe(
    method=MAML(lower_steps=3, lower_step_size=0.5),
    head=None,
    source="Finn, Abbeel, Levine, ICML 2017",
)
_ANIL = Recipe(
    method=ANIL(lower_steps=10, lower_step_size=0.1),
    head=_softmax(ridge=0.0, learned_start=True),
    source="Raghu et al., ICLR 2020",
)

# Lower steps and step sizes of "published", ITD-BiO, ANIL and MAML are those of Yang, Ma, Yu (AAAI 2025) for CIFAR-FS
# and FC100. For mini- and tieredImageNet they have steps of 0.05 in Algorithm 1 and ITD-BiO, and five steps in ANIL.
# Differs: Adam's learning rate is 1e-3 in all; theirs is 1e-4 for CIFAR-FS and FC100 (MAML 1e-3), and 1e-3 for the two
# others (MAML 5e-3).
RECIPES: dict[str, Recipe] = {
    "memory_reduced": Recipe(
        method=MemoryReduced(lower_steps=20, cg_steps=10, warm_start=False),
        head=_softmax(ridge=1.0),
        centred=True,
        source="Yang, Ma, Yu, AAAI 2025, Algorithm 1. Differs from their experiments: ridge 1 (there 0), centred "
        "features (there not), lower steps of 2 / (L_i + mu) task by task (there 0.1), N = 10 CG steps (there 20)",
    ),
    "published": Recipe(
        method=MemoryReduced(
            lower_steps=20, lower_step_size=0.1, linear_solver=ConjugateGradient(20, tolerance=0.0), warm_start=False
        ),
        head=_softmax(ridge=0.0),
        breakdowns=True,
        source="Yang, Ma, Yu, AAAI 2025, as in their experiments on CIFAR-FS: no ridge, outside the theory. Differs: "
        "Adam's learning rate is 1e-3 (there 1e-4)",
    ),
    "itd_bio": Recipe(
        method=ITDBiO(lower_steps=20, lower_step_size=0.1),
        head=_softmax(ridge=0.0, lasso=1e-4),
        source="Ji, Yang, Liang, ICML 2021",
    ),
    "anil": _ANIL,
    "fo_anil": replace(_ANIL, method=FOMAML(lower_steps=10, lower_step_size=0.1)),
    "maml": _MAML,
    "fomaml": replace(_MAML, method=FOMAML(lower_steps=3, lower_step_size=0.5)),
    "boil": Recipe(
        method=BOIL(lower_steps=3, lower_step_size=0.5),
        head=None,
        adapts="body",
        source="Oh, Yoo, Kim, Yun, ICLR 2021. Differs: steps and learning rate are those of maml here",
    ),
    "reptile": Recipe(
        method=Reptile(lower_steps=8, lower_step_size=0.1),
        head=None,
        source="Nichol, Achiam, Schulman, 2018. Differs: lower steps on all support images (there Adam on minibatches)",
    ),
    "imaml": Recipe(
        method=IMAML(lower_steps=16, lower_step_size=0.05, cg_steps=5),
        head=None,
        prox=2.0,
        breakdowns=True,
        source="Rajeswaran, Finn, Kakade, Levine, NeurIPS 2019: K, N and lambda as there for 5-way Omniglot. A network "
        "is not convex even with lambda = 2: CG meets p'Hp <= 0 in most tasks, and goes on with its last good iterate",
    ),
    "protonet": Recipe(
        method=ClosedForm(), head=lambda way: PrototypeHead(way=way), source="Snell, Swersky, Zemel, NeurIPS 2017"
    ),
    "r2d2": Recipe(method=ClosedForm(), head=lambda way: RidgeHead(way=way), source="Bertinetto et al., ICLR 2019"),
}
