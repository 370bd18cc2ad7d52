"""`Minibatch`: finite sums seen through one block of examples a draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Problem, Tasks, Terms
from problems.wrapper import Wrapper

_NUMBERS = ("lower_block", "upper_block")


class Minibatch(Wrapper):
    """The n lower examples of each task cut into n / b fixed blocks, the m upper ones into m / c; a draw shows one.

    `draw` takes for each task one lower and one upper block, uniformly and independently: the example tensors keep
    the rows of their block alone, and int64 task tensors lower_block and upper_block, (..., B), say which. As the
    objectives are means over the examples, those of the blocks have the objectives of the whole as their mean.
    Undrawn tasks are whole: there the problem is the one inside. `constants` are those of the whole; single blocks may
    be less smooth. Closed forms are evaluated on the examples that the tasks hold.

    lower, upper   examples a block, b and c; None: all of them, in one block

    Raises ValueError where the problem names no examples, is in blocks already, a size does not divide, or a name
    does not fit: an example tensor without that axis, a task tensor called lower_block or upper_block.

    >>> from problems import ProxLogistic
    >>> problem = Minibatch(ProxLogistic.random(tasks=3, q=2, examples=20, seed=0), lower=5, upper=10)
    >>> tasks = problem.draw(problem.sample(None, torch.Generator()), torch.Generator().manual_seed(0))
    >>> problem.blocks, tuple(tasks.X.shape), tuple(tasks.lower_block.shape)
    (Terms(lower=4, upper=2), (3, 5, 2), (3,))
    """

    @checked
    def __init__(self, problem: Problem, *, lower: int | None = None, upper: int | None = None):
        super().__init__(problem)
        name = type(problem).__name__
        if problem.examples is None:
            raise ValueError(f"expected a problem that names its examples, so that they can be drawn, got {name}")
        if problem.blocks is not None:
            raise ValueError(f"expected a problem whose examples are whole, got {name}, which is in blocks already")
        one = problem.sample(1, torch.Generator())
        whole = problem.terms(one)
        for names, count in zip(problem.examples, whole, strict=True):
            for key in names:
                if one.tensors[key].shape[1:2] != (count,):
                    raise ValueError(
                        f"expected {key} of {name} with {count} examples after the task axis, "
                        f"got shape {tuple(one.tensors[key].shape)}"
                    )
        if taken := one.tensors.keys() & set(_NUMBERS):
            raise ValueError(f"expected task tensors of {name} named otherwise than {sorted(taken)}")
        self.sizes = Terms(_divisor("lower", lower, whole.lower), _divisor("upper", upper, whole.upper))
        self._counts = Terms(whole.lower // self.sizes.lower, whole.upper // self.sizes.upper)
        # With noise inside, blocks alone do not tell the whole: no finite sum for methods that keep tables of them
        self.blocks = None if super().has("draw") else self._counts

    def has(self, closed_form: str) -> bool:
        """Whether the problem inside overrides it; `draw` is given here."""
        if closed_form == "draw_replicas":
            return not super().has("draw")  # else the problem inside draws from the same generators
        return closed_form == "draw" or super().has(closed_form)

    def draw(self, tasks: Tasks, rng: torch.Generator) -> Tasks:
        """One lower and one upper block for each task. Raises ValueError on tasks that are drawn already."""
        return self.problem.draw(self.select_blocks(tasks, *self._numbers(tasks, rng)), rng)

    def draw_replicas(self, tasks: Tasks, rngs: Sequence[torch.Generator]) -> Tasks:
        """`draw` with each generator, stacked; all rows are taken at once."""
        lower, upper = map(torch.stack, zip(*(self._numbers(tasks, rng) for rng in rngs), strict=True))
        return self.select_blocks(tasks, lower, upper)

    def _numbers(self, tasks: Tasks, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        lower, upper = (torch.randint(count, tasks.index.shape[-1:], generator=rng) for count in self._counts)
        return lower, upper

    def select_blocks(self, tasks: Tasks, lower: Tensor, upper: Tensor) -> Tasks:
        """The tasks with these blocks of examples alone: numbers (..., B) of the shape of their index.

        Replica axes may come before it. What holds no examples is not copied. Raises ValueError on numbers out of
        range, of other shapes, or tasks that are drawn already.
        """
        assert self.examples is not None
        if "lower_block" in tasks.tensors:
            raise ValueError("expected tasks with all their examples, got tasks drawn already")
        shape = tasks.index.shape
        more = lower.shape[: lower.dim() - len(shape)]
        shared = tasks.tensors.keys() - {name for names in self.examples for name in names}
        tensors = {name: tasks.tensors[name] for name in shared}
        if more:
            tensors = {name: tensor.expand(*more, *tensor.shape) for name, tensor in tensors.items()}
        for level, names, count, block in zip(_NUMBERS, self.examples, self._counts, (lower, upper), strict=True):
            _require_numbers(level, block, (*more, *shape), count)
            tensors[level] = block.to(tasks.index)
            tensors |= {name: _rows(tasks.tensors[name], count, tensors[level], shape) for name in names}
        return Tasks(tasks.index.expand(lower.shape), **tensors)


def _rows(examples: Tensor, count: int, block: Tensor, lead: torch.Size) -> Tensor:
    """The block of this number of each task's examples, (*lead, n, *) to (..., *lead, n / count, *)."""
    single = examples.flatten(0, len(lead) - 1).unflatten(1, (count, -1)).flatten(0, 1)  # (tasks x blocks, b, *)
    first = count * torch.arange(lead.numel(), device=block.device).view(lead)
    return single.index_select(0, (first + block).flatten()).view(*block.shape, *single.shape[1:])


def _divisor(level: str, size: int | None, examples: int) -> int:
    if size is None:
        return examples
    if examples % size:
        raise ValueError(f"expected {level} a divisor of the {examples} examples of a task, got {size!r}")
    return size


def _require_numbers(level: str, block: Tensor, shape: tuple[int, ...], count: int) -> None:
    if block.shape != shape or not bool(((block >= 0) & (block < count)).all()):
        raise ValueError(f"expected {level} of shape {shape} from 0 to {count - 1}, got {block.tolist()}")
