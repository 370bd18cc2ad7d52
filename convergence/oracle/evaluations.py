"""Evaluations of a problem over tasks and replicas: samples, counts, features, and derivatives of sums."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from convergence.arguments import shown
from convergence.oracle.parts import CALLS, Calls, Features
from convergence.streams import generator
from convergence.trees import map_tensors
from problems import Parameters, Problem, Tasks

_REACHES_NO_OBJECTIVE = (
    "expected phi to reach an objective of {}, got none that depends on it: "
    "where phi is only the start of theta, the implicit gradient is zero; add a proximal term"
)


class Evaluations:
    """What every derivative of a problem needs: its tasks and their samples, features of phi, counted calls."""

    def __init__(self, problem: Problem, *, replicas: int | None = None, seeds: Sequence[int] | None = None):
        self.problem = problem
        self.replicas = replicas
        self.calls: Calls = dict.fromkeys(CALLS, 0)
        self.examples: Calls = dict.fromkeys(CALLS, 0)
        # f_i of the batch, (..., B), from the last line of the last iteration; None where a closed form took it
        self.upper_values: Tensor | None = None
        self._map = replicas is not None and not problem.broadcasts_replicas
        self._pool: Tasks | None = None
        self.exact = not problem.has("draw")
        self._seeds = tuple(seeds) if seeds is not None else tuple(range(replicas or 1))
        self.begin(0)

    def begin(self, iteration: int) -> None:
        """What is sampled from here on belongs to this upper iteration."""
        self._iteration = iteration
        self._rngs: list[torch.Generator] | None = None

    @property
    def drew(self) -> bool:
        """Whether numbers were drawn since the iteration began."""
        return self._rngs is not None

    def sampled(self, make: Callable[[torch.Generator], Tensor]) -> Tensor:
        """make(rng) with the noise stream of each replica, stacked over the replicas where there are any."""
        found = [make(rng) for rng in self._noise]
        return found[0] if self.replicas is None else torch.stack(found)

    def draw(self, z: Features, tasks: Tasks) -> tuple[Features, Tasks]:
        """The same tasks with a fresh sample of their objectives, and the features there (with a graph, where z has
        one); what was given where the objectives are exact."""
        if self.exact:
            return z, tasks
        if self.replicas is not None and self.problem.has("draw_replicas"):
            return self._at(z, self.problem.draw_replicas(tasks, self._noise))
        return self._at(z, self._each(tasks, self._noise, self.problem.draw))

    def blocks(self, z: Features, tasks: Tasks, lower: Tensor, upper: Tensor) -> tuple[Features, Tasks]:
        """The same tasks with the given blocks of their finite sums, (..., B) each, and the features there."""
        return self._at(z, self.problem.select_blocks(tasks, lower, upper))

    def count(self, call: str, tasks: Tasks, *, times: int = 1) -> None:
        """Count so many calls on each of the tasks: by the oracle itself, or for products of a backward pass."""
        terms = self.problem.terms(tasks)
        self.calls[call] += times * len(tasks)
        self.examples[call] += times * len(tasks) * (terms.upper if call == "upper_gradient" else terms.lower)

    @property
    def pool(self) -> Tasks:
        """All tasks of a finite pool, in order; the same object each time."""
        if self._pool is None:
            if self.problem.tasks is None:
                raise ValueError(f"expected a finite pool of tasks, got {type(self.problem).__name__}, which has none")
            self._pool = self.problem.sample(None, torch.Generator())
        return self._pool

    def theta0(self, phi: Parameters, tasks: Tasks, *, keep_graph: bool = False) -> Tensor:
        """Where a cold lower level starts, (..., B, q). Not counted.

        `keep_graph` keeps its dependence on phi, the leaves `Features.phi`, for methods that unroll the lower steps.
        """
        with torch.set_grad_enabled(keep_graph):
            theta = self._over_replicas(self.problem.theta0, phi, tasks)
        theta = theta if keep_graph else theta.detach()
        lead = () if self.replicas is None else (self.replicas,)
        if theta.shape[-2:-1] != (len(tasks),):
            raise ValueError(f"expected theta0 of shape ({len(tasks)}, q), one row a task, got {tuple(theta.shape)}")
        return theta.expand(*lead, *theta.shape[-2:])

    def embed(self, phi: Parameters, tasks: Tasks, *, keep_graph: bool = False, recompute: bool = False) -> Features:
        """Features of phi for these tasks; their graph is kept for `hypergradient` alone. Not counted.

        Where the problem has a closed form of that last line no graph is kept, unless `keep_graph` asks for it
        (methods that unroll the lower steps do). With `recompute` none is kept either: the last line computes the
        features again, part by part (`Problem.embed_parts`).
        """
        if self.problem.has("surrogate_gradient") and not keep_graph:
            return self.features(phi, tasks)
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in phi.items()}
        if recompute:
            functions, join = self.problem.embed_parts()
            with torch.no_grad():
                pieces = tuple(self._over_replicas(part, phi, tasks) for part in functions)
                return Features(leaves, None, join(*pieces), pieces)
        with torch.enable_grad():
            graph = self._over_replicas(self.problem.embed, leaves, tasks)
        return Features(leaves, graph, map_tensors(Tensor.detach, graph))

    def features(self, phi: Parameters, tasks: Tasks) -> Features:
        """Features of phi without any graph, to evaluate the lower level alone. Not counted."""
        with torch.no_grad():
            value = self._over_replicas(self.problem.embed, phi, tasks)
        return Features(phi, value, value)

    def curvature(self, z: Features, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """mu_i and L_i at these features, (..., B) each, by the problem's closed form. Not counted."""
        with torch.no_grad():
            return self._over_replicas(self.problem.curvature, z.value, tasks)

    def of_pool(self, tasks: Tasks) -> Self:
        """The same oracle with these tasks as its pool; what is counted is counted by both."""
        own = copy.copy(self)
        own._pool = tasks
        return own

    # ---- samples of each replica

    @property
    def _noise(self) -> list[torch.Generator]:
        if self._rngs is None:
            self._rngs = [generator(seed, "noise", self._iteration) for seed in self._seeds]
        return self._rngs

    def _each(self, tasks: Tasks, extras: Sequence[Any], change: Callable[[Tasks, Any], Tasks]) -> Tasks:
        """change(tasks, extra) of each replica, stacked; what it leaves alone is not copied."""
        if self.replicas is None:
            return change(tasks, extras[0])
        own = tasks.index.dim() == 2
        lead = (self.replicas, *tasks.index.shape[-1:])
        index = tasks.index.expand(lead)
        rows = [
            Tasks(index[r], **{k: x[r] for k, x in tasks.tensors.items()}) if own else tasks for r in range(lead[0])
        ]
        changed = [change(row, extra) for row, extra in zip(rows, extras, strict=True)]
        tensors = {}
        for name, tensor in changed[0].tensors.items():
            if tensor is rows[0].tensors.get(name):
                whole = tasks.tensors[name]
                tensors[name] = whole if own else whole.expand(self.replicas, *whole.shape)
            else:
                tensors[name] = torch.stack([each.tensors[name] for each in changed])
        return Tasks(index, **tensors)

    def _at(self, z: Features, tasks: Tasks) -> tuple[Features, Tasks]:
        """Features for other samples of the tasks, from the same leaves phi, with a graph where they have one."""
        if z.graph is None:
            return self.embed(z.phi, tasks, recompute=True), tasks
        with torch.set_grad_enabled(any(tensor.requires_grad for tensor in z.phi.values())):
            graph = self._over_replicas(self.problem.embed, z.phi, tasks)
        return Features(z.phi, graph, map_tensors(Tensor.detach, graph)), tasks

    # ---- the derivatives themselves

    def _theta_gradient(self, values: Tensor, theta: Tensor, *, create_graph: bool) -> Tensor:
        gradient = None
        if values.requires_grad:
            with torch.enable_grad():  # also where the caller evaluates without a graph
                total = values.sum()
            (gradient,) = torch.autograd.grad(total, theta, create_graph=create_graph, allow_unused=True)
        if gradient is None:
            raise ValueError(
                f"expected the lower objective of {type(self.problem).__name__} to depend on theta, "
                "got one that does not (or a graph cut by detach)"
            )
        return gradient

    def _phi_gradient(
        self, values: Tensor, phi: Parameters, *, refusal: str | None = _REACHES_NO_OBJECTIVE
    ) -> Parameters:
        if not all(tensor.requires_grad for tensor in phi.values()):
            raise ValueError("expected features embedded with keep_graph=True, got features without a graph")
        total = values.mean(-1).sum()  # mean over the tasks; replicas do not interact
        return self._named(self._gradients(total, phi), phi, refusal=refusal)

    def _gradients(self, total: Tensor, phi: Parameters) -> list[Tensor | None]:
        if not total.requires_grad:
            return [None] * len(phi)
        return list(torch.autograd.grad(total, list(phi.values()), allow_unused=True))

    def _named(
        self, gradients: list[Tensor | None], phi: Parameters, *, refusal: str | None = _REACHES_NO_OBJECTIVE
    ) -> Parameters:
        """By name, with zeros for tensors that are not reached; where none is, ValueError if there is a refusal."""
        if refusal is not None and all(gradient is None for gradient in gradients):
            raise ValueError(refusal.format(type(self.problem).__name__))
        return {
            name: torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(phi.items(), gradients, strict=True)
        }

    def _values(self, objective: Callable[..., Tensor], features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        values = self._over_replicas(objective, features, theta, tasks)
        require_one_a_task(values, objective.__name__, theta)
        return values

    def _closed_form(self, name: str, like: Tensor, *arguments: Any) -> Tensor:
        """What the problem's closed form of this name gives, of the shape of `like`: no other is broadcast in silence.

        Raises ValueError.
        """
        found = self._over_replicas(getattr(self.problem, name), *arguments)
        if not isinstance(found, Tensor) or found.shape != like.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else shown(found)
            raise ValueError(
                f"expected {name} of {type(self.problem).__name__} of shape {tuple(like.shape)}, one row a task, "
                f"got {got}"
            )
        return found

    def _over_replicas(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments), the last of them the tasks; mapped over the replicas where it knows none."""
        if not self._map:
            return function(*arguments)
        *tensors, tasks = arguments
        own = 0 if tasks.index.dim() == 2 else None  # do the replicas see different tasks?
        mapped = torch.vmap(lambda each, index, data: function(*each, Tasks(index, **data)), in_dims=(0, own, own))
        return mapped(tensors, tasks.index, tasks.tensors)


def require_one_a_task(values: Any, what: str, theta: Tensor) -> None:
    """Raise TypeError or ValueError unless an objective returned one real number a task, in a tensor where theta is."""
    if not isinstance(values, Tensor):
        raise TypeError(f"expected {what} to return a tensor, one value a task, got {shown(values)}")
    if values.shape != theta.shape[:-1]:
        raise ValueError(
            f"expected {what} to return one value a task, shape {tuple(theta.shape[:-1])}, got {tuple(values.shape)}"
        )
    if not values.is_floating_point() or values.layout is not torch.strided:
        raise TypeError(f"expected {what} to return real floating-point numbers, got {values.dtype}, {values.layout}")
    if values.device != theta.device:
        raise ValueError(f"expected {what} to return values on {theta.device}, got some on {values.device}")
