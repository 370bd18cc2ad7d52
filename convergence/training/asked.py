"""A few-shot run by names and numbers, as a command line gives them and config.json keeps them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from convergence.command_line import named
from convergence.linear_solvers import ConjugateGradient, Direct
from convergence.recipes import RECIPES, Recipe
from convergence.training import data as data_sets
from problems.few_shot import EMBEDDINGS, Conv4, Embedding, ResNet12, Splits


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to train, where None leaves a thing as the recipe or the data set has it.

    data, root, size, classes, images_per_class   as `data_sets.images` takes them
    method                       of `RECIPES`
    embedding, channels          "conv4" or "resnet12", with so many channels (of ResNet12 in its first block)
    recompute_blocks       the blocks of the network keep their inputs alone
    threads                      of torch, in the process that trains; "auto" before they are measured
    lower_steps, lower_step_size, cg_steps, direct, low_memory   changes of the method
    ridge, lasso                 changes of the head
    """

    data: str
    method: str
    root: str | None = None
    size: int | None = None
    classes: tuple[int, int, int] | None = None
    images_per_class: int | None = None
    embedding: str = "conv4"
    channels: int = 32
    recompute_blocks: bool = False
    threads: int | Literal["auto"] | None = None
    lower_steps: int | None = None
    lower_step_size: float | None = None
    cg_steps: int | None = None
    direct: bool = False
    low_memory: bool = False
    ridge: float | None = None
    lasso: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, labels: Mapping[str, Any]) -> Asked:
        """What was asked for by these fields; those with a default may be left out.

        Raises ValueError on others: a run that was made from Python has labels of its own.
        """
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= labels.keys():
            raise ValueError(
                f"expected a run made by the command line, got one made from Python, with the labels {sorted(labels)}: "
                "use convergence.training.load and evaluate"
            )
        if others := labels.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"expected the labels of a run by name, got also {', '.join(sorted(others))}")
        classes = labels.get("classes")
        return cls(**{**labels, "classes": None if classes is None else tuple(classes)})

    def resumed(self, labels: Mapping[str, Any], given: Collection[str]) -> Asked:
        """What goes on with a run of these labels: what is not `given` is as they say.

        Raises ValueError where data or method are others.
        """
        held = Asked.from_json(labels)
        changes = {name: getattr(self, name) for name in given if getattr(self, name, "auto") != "auto"}
        for name in ("data", "method"):
            if changes.get(name, then := getattr(held, name)) != then:
                raise ValueError(f"expected --{name} {then}, as in the run to resume, got {changes[name]}")
        return replace(held, **changes)

    def splits(self, *, progress: bool = True) -> Splits:
        """The images; `progress` as `data_sets.images` takes it."""
        return data_sets.images(
            self.data,
            root=self.root,
            size=self.size,
            classes=self.classes,
            images_per_class=self.images_per_class,
            progress=progress,
        )

    def network(self) -> Embedding:
        """The network. Raises ValueError on an unknown one, or fewer than one channel."""
        named(EMBEDDINGS, self.embedding, "embedding")
        if self.channels < 1:
            raise ValueError(f"expected --channels of at least 1, got {self.channels}")
        if self.embedding == "conv4":
            return Conv4(self.channels, checkpointed=self.recompute_blocks)
        first = self.channels
        widths = (first, 5 * first // 2, 5 * first, 10 * first)
        return ResNet12(widths, checkpointed=self.recompute_blocks)

    def recipe(self, held: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe with what was changed. Raises ValueError where it has no such thing.

        held   config["recipe"] of a checkpoint (`described_run`): its numbers stand for those that the recipe has
               today, so that a run is evaluated and goes on as it was trained
        """
        recipe = named(RECIPES, self.method, "method")
        if held is not None:
            recipe = as_described(recipe, held)
        if self.direct and self.cg_steps is not None:
            raise ValueError(f"expected --direct or --cg-steps, got both (--cg-steps {self.cg_steps})")
        changes = _given(lower_steps=self.lower_steps, lower_step_size=self.lower_step_size, cg_steps=self.cg_steps)
        if self.low_memory:
            changes["recompute"] = True
        if self.direct:
            changes |= {"linear_solver": Direct(), "cg_steps": None}
        _require_fields(recipe.method, changes, self.method)
        solver = getattr(recipe.method, "linear_solver", None)
        if self.cg_steps is not None and isinstance(solver, ConjugateGradient):
            changes = changes | {"linear_solver": replace(solver, steps=self.cg_steps), "cg_steps": None}
        changed = recipe.varied(**changes)
        of_head = _given(ridge=self.ridge, lasso=self.lasso)
        if of_head:
            _require_fields(None if recipe.head is None else recipe.head(2), of_head, f"the head of {self.method}")
        return changed.with_head(**of_head) if of_head else changed


def as_described(recipe: Recipe, description: Mapping[str, Any]) -> Recipe:
    """The recipe with the numbers of its description, where they are of the same types of method, head and solver."""
    make, of_head = recipe.head, description.get("head")
    names = ("centred", "adapts", "prox", "breakdowns", "learning_rate")
    plain = {name: description[name] for name in names if name in description}
    head = make if make is None or of_head is None else lambda way: _as_described(make(way), {**of_head, "way": way})
    return replace(recipe, method=_as_described(recipe.method, description.get("method")), head=head, **plain)


_SOLVERS: dict[str, Any] = {"Direct": Direct(), "ConjugateGradient": ConjugateGradient(1)}


def _as_described(thing: Any, description: Any) -> Any:
    if not isinstance(description, Mapping):
        return description
    of_type = str(description.get("type"))
    if type(thing).__name__ != of_type:
        thing = _SOLVERS.get(of_type, thing)
    if type(thing).__name__ != of_type or not is_dataclass(thing) or isinstance(thing, type):
        return thing
    held = {field.name: description[field.name] for field in fields(thing) if field.name in description}
    return replace(thing, **{name: _as_described(getattr(thing, name), value) for name, value in held.items()})


_OPTIONS = {"recompute": "--low-memory", "linear_solver": "--direct"}  # the others are called as the field


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _require_fields(thing: Any, changes: Mapping[str, Any], name: str) -> None:
    has = [] if thing is None else [field.name for field in fields(thing)]
    for field in changes:
        if field not in has:
            option = _OPTIONS.get(field, f"--{field.replace('_', '-')}")
            raise ValueError(f"expected no {option}: {name} has {', '.join(has) or 'no fields'}, and no {field}")
