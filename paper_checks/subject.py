"""What is judged: the paper's algorithm on the claims' own problems, or a method or a problem of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from convergence import MemoryReduced
from convergence.catalogue import METHODS
from convergence.checkpoints import digest
from convergence.command_line import named
from convergence.declared import Declared
from convergence.imported import problem_of, source_digest
from paper_checks.claim import ALGORITHM, DECLARED, Claim, Setting
from paper_checks.method_laws import LAWS
from problems import Problem

# The fields that the claims on methods by name give values to; others need defaults
FIELDS = frozenset(ALGORITHM) | {
    "linear_step_size", "terms", "multiplier", "radius", "period", "averaging",
    "lower_decay", "upper_decay", "lower_growth", "multiplier_growth",
}  # fmt: skip


@dataclass(frozen=True)
class OwnProblem:
    """Makes the problem that `module:Class` names, in float64: `imported.problem_of(spec, seed)`."""

    spec: str
    seed: int

    def __call__(self) -> Problem:
        """Made anew, the same each time. Raises ValueError where there is no such problem, or it cannot be made."""
        return problem_of(self.spec, self.seed).to(dtype=torch.float64)

    def __str__(self) -> str:
        return self.spec

    def sha256(self) -> str:
        """Of its source, and of the data: what tells one problem of one's own from another."""
        problem = self()
        data = getattr(problem, "data", {})
        return digest({"source": source_digest(type(problem)), "spec": self.spec, "data": dict(data)})


def claims_on(setting: Setting) -> Mapping[str, Claim]:
    """The claims that there are on what is judged: those on a problem of one's own, or those on the paper's."""
    import paper_checks  # it imports this module's neighbours

    if setting.problem is None:
        return paper_checks.CLAIMS
    from paper_checks import own_problem

    return own_problem.CLAIMS


def applicable(setting: Setting, names: Sequence[str]) -> tuple[list[Claim], dict[str, str]]:
    """The claims of these names that judge what is judged, and of the others why they do not, by name.

    All claims where no names are given. Raises ValueError on a name that there is not, and where no claim is left.
    """
    there = claims_on(setting)
    everywhere = {**there, **claims_on(replace(setting, problem=None))}
    problem = None if setting.problem is None else setting.problem()
    chosen, apart = [], {}
    for name in names or everywhere:
        claim = there.get(name) or named(everywhere, name, "claim")
        sentence = _lacks_on(claim, problem)
        if not sentence and setting.method is not MemoryReduced:
            sentence = lacks(claim, setting.method)
        if sentence:
            apart[name] = sentence
        else:
            chosen.append(claim)
    if not chosen:
        raise ValueError(
            "expected a claim that judges this, got none:\n" + "\n".join(f"  {why}" for why in apart.values())
        )
    return chosen, apart


def _lacks_on(claim: Claim, problem: Problem | None) -> str:
    """Why a problem of one's own is outside a claim; "" where it is not, or there is none."""
    if problem is None:
        return ""
    from paper_checks import own_problem

    return own_problem.lacks(claim.name, problem)


def lacks(claim: Claim, method: Callable[..., Any]) -> str:
    """Why a method of one's own is outside a claim, in a sentence; "" where it is not."""
    name = getattr(method, "__name__", repr(method))
    if isinstance(claim.asks, str):
        return f"{claim.name} judges {claim.asks}, and no method of one's own"
    fields = inspect.signature(method).parameters
    takes_all = any(field.kind is field.VAR_KEYWORD for field in fields.values())
    if lost := [each for each in claim.asks if not (takes_all or each in fields or hasattr(method, each))]:
        return f"expected a method with {', '.join(claim.asks)} for {claim.name}, got {name} without {', '.join(lost)}"
    return _undeclared(claim, method, name) if DECLARED in claim.asks else ""


def _undeclared(claim: Claim, method: Any, name: str) -> str:
    """The same of a claim that builds methods from what they declare."""
    unknown = [
        field.name
        for field in inspect.signature(method).parameters.values()
        if field.default is field.empty and field.kind is not field.VAR_KEYWORD and field.name not in FIELDS
    ]
    if unknown:
        return (
            f"expected defaults of all fields but {', '.join(sorted(FIELDS))} for {claim.name}, "
            f"got {name}, whose {unknown[0]} has none"
        )
    if not isinstance(method.declared, Declared) or method.declared.estimates not in LAWS:
        return (
            f"expected declared, a convergence.Declared that estimates one of {', '.join(LAWS)}, for {claim.name}, "
            f"got {method.declared!r} of {name}"
        )
    return ""


def methods_on(setting: Setting) -> dict[str, Callable[..., Any]]:
    """The methods that the claims on methods by name judge: the catalogue's, and the one under judgement.

    One that takes the fields of memory_reduced stands in its place, another beside them, under its own name.
    """
    fields = inspect.signature(setting.method).parameters
    if all(name in fields for name in ALGORITHM):
        return METHODS | {"memory_reduced": setting.method}
    return METHODS | {setting.method.__name__: setting.method}
