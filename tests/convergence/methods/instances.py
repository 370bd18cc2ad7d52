"""Any registered method with numbers for its fields, and problems that it accepts: no line for any one of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from convergence import Method
from convergence.catalogue import METHODS
from problems import LearnedStart, Minibatch, Parameters, Problem, ProxLogistic, Quadratic, Tasks

Problems = Mapping[str, Callable[[], Problem]]
# Given to every method that has such a field; a field of another name has a default, or gets a line here
FIELDS: dict[str, Any] = {
    "lower_steps": 2,
    "lower_step_size": 0.2,
    "cg_steps": 2,
    "upper_step_size": 0.05,
    "linear_step_size": 0.2,
    "terms": 3,
    "lower_decay": 0.0,  # constant steps: of these it is declared whether a method is exact
    "upper_decay": 0.0,
    "size": 4,  # q of the plain quadratic
}


def method(name: str, **changes: Any) -> Method:
    """The method of this name; of `changes`, too, those whose field it has."""
    has = inspect.signature(METHODS[name]).parameters
    return METHODS[name](**{field: value for field, value in (FIELDS | changes).items() if field in has})


def has_lower_steps(name: str) -> bool:
    """Whether it has a K."""
    return "lower_steps" in inspect.signature(METHODS[name]).parameters


def batch_of(of: Any, size: int | None) -> int | None:
    """The batch asked for; None, all tasks, for methods that take no other."""
    return None if getattr(of, "all_tasks", False) else size


def declared_calls(of: Any, batch: int, iterations: int) -> dict[str, int]:
    """The calls declared for the iterations 0, ..., T - 1 together."""
    varies = "iteration" in inspect.signature(of.declared_calls).parameters
    each = [of.declared_calls(batch, **({"iteration": t} if varies else {})) for t in range(iterations)]
    return {call: sum(calls[call] for calls in each) for call in each[0]}


class Initialised(ProxLogistic):
    """Logistic heads that start at the centre, as in MAML: a start that depends on phi, without closed forms."""

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        return phi["centre"].expand(len(tasks), self.q)


QUADRATICS: Problems = {
    "plain": lambda: Quadratic.random(tasks=4, p=3, q=4, kappa=3.0, seed=2),
    "initialisation": lambda: Quadratic.random(tasks=4, p=3, q=3, kappa=3.0, seed=2, initialisation=True),
    "shared": lambda: LearnedStart(Quadratic.random(tasks=4, p=2, q=3, kappa=3.0, seed=2)),
}
HEADS: Problems = {
    "plain": lambda: ProxLogistic.random(tasks=3, q=5, examples=8),
    "initialisation": lambda: Initialised.random(tasks=3, q=5, examples=8),
    "shared": lambda: LearnedStart(ProxLogistic.random(tasks=3, q=5, examples=8)),
}
SUMS: Problems = {"sum": lambda: Minibatch(ProxLogistic.random(tasks=4, q=2, examples=4), lower=2, upper=2)}


def meets(of: Any, problem: Problem) -> bool:
    """Whether the problem has all that the method needs."""
    return all(need.met(problem) for need in of.needs)


def accepted(of: Any, problems: Problems) -> Problem:
    """The first of these problems that has all that the method needs."""
    made = (make() for make in problems.values())
    found = next((problem for problem in made if meets(of, problem)), None)
    assert found is not None, f"none of {', '.join(problems)} has what {type(of).__name__} needs: add one that has"
    return found
