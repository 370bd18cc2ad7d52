"""Fields of every method, solver, estimator and recipe; methods of one's own that are none."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import convergence
from convergence import ConjugateGradient, Oracle, Step, run
from convergence.catalogue import METHODS
from problems import Parameters, Tasks, map_parameters
from tests.convergence.methods.instances import FIELDS
from tests.fuzz.ends import Case, Own, ends_well
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.strategies import replaced
from tests.fuzz.test_problems import STEP, M, Q, Sound, solved

PARTS = {
    "GradientDescent": {"steps": 2, "step_size": 0.1},
    "HeavyBall": {"steps": 2, "step_size": 0.1, "momentum": 0.5},
    "ConjugateGradient": {"steps": 2, "tolerance": 0.0},
    "Neumann": {"steps": 2, "step_size": 0.1},
    "Richardson": {"steps": 2, "step_size": 0.1},
    "RandomNeumann": {"terms": 2, "step_size": 0.1},
    "Unrolled": {"last": 2},
    "HessianFree": {"radius": 0.1},
    "Implicit": {"linear_solver": ConjugateGradient(2), "fresh_products": False},
}


def _valid(make: Any) -> dict[str, Any]:
    return {name: FIELDS[name] for name in inspect.signature(make).parameters if name in FIELDS and name != "size"}


@fuzz(st.sampled_from(sorted(METHODS)).flatmap(lambda n: replaced(n, METHODS[n], _valid(METHODS[n]))), distinct=100)
def test_fields_of_methods():
    """Each of the catalogue."""


@fuzz(st.sampled_from(sorted(PARTS)).flatmap(lambda n: replaced(n, getattr(convergence, n), PARTS[n])), distinct=40)
def test_fields_of_their_parts():
    """Solvers and estimators."""


# ---- methods of one's own


class Mine:
    """A right method, written out: exact theta and v, as the Hessian of `Sound` is the unit matrix."""

    def start(self, oracle: Oracle, phi: Parameters) -> Any:
        return {"steps": torch.zeros(next(iter(phi.values())).shape[:-1], dtype=torch.int64)}

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
        z = oracle.embed(phi, tasks)
        theta = oracle.theta0(phi, tasks)
        theta = theta - oracle.lower_gradient(z, theta, tasks)
        v = oracle.upper_gradient(z, theta, tasks)
        d = oracle.hypergradient(z, theta, v, tasks)
        failure = torch.zeros(theta.shape[:-1], dtype=torch.int32)
        state = {"steps": state["steps"] + 1} if isinstance(state, dict) else state
        return Step(map_parameters(lambda x, dx: x - STEP * dx, phi, d), state, d, theta, v, failure)

    def declared_calls(self, batch: int) -> dict[str, int]:
        return {"lower_gradient": batch, "hvp": 0, "cross_product": batch, "upper_gradient": batch}


RIGHT = solved(2)
METHODS_BROKEN: dict[str, tuple[Any, Callable[[Any], bool] | None]] = {}  # and whether a result is right


def mine(what: str, right: Callable[[Any], bool] | None = None, **members: Any) -> None:
    """`Mine` with these members in place of its own."""
    METHODS_BROKEN[what] = type("Mine", (Mine,), members)(), right


def _stepping(change: Callable[[Step], Any], *, late: bool = False) -> Callable[..., Any]:
    """A step that returns something else, from its second iteration on if `late`."""

    def step(self: Mine, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Any:
        found = Mine.step(self, oracle, phi, tasks, state)
        return found if late and not bool(state["steps"].any()) else change(found)

    return step


def _raises(*given: Any) -> Any:
    raise Own("of the method")


SOMETHING = {
    **{"None": None, "a number": 0.5, "a string": "expected", "numpy": torch.ones(Q).numpy(), "a list": [1.0, 2.0]},
    **{"a scalar": torch.tensor(0.5).double(), "empty": torch.ones(0).double(), "one": torch.ones(1).double()},
    **{"an axis more": torch.ones(1, 1, 1, Q).double(), "an axis more in front": torch.ones(1, 1, M, Q).double()},
    **{"wide": torch.ones(M, Q + 1).double(), "on meta": torch.ones(M, Q, device="meta").double()},
    **{"tasks too few": torch.ones(1, Q).double(), "complex": torch.ones(M, Q, dtype=torch.complex128)},
    **{"single": torch.ones(M, Q), "half": torch.ones(M, Q).half(), "truths": torch.ones(M, Q) > 0},
    **{"with a graph": torch.ones(M, Q, requires_grad=True).double(), "whole": torch.ones(M, Q, dtype=torch.int64)},
    **{"sparse": torch.eye(M, Q).double().to_sparse(), "not a number": torch.full((M, Q), torch.nan).double()},
}


def _as_phi(x: Any) -> Any:
    """A row of it where it has as many as there are tasks, so that its shape is that of phi where it can be."""
    return x[0] if isinstance(x, Tensor) and x.dim() == 2 and x.layout is torch.strided and len(x) == M else x


def _finite(result: Any) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in result.phi.values())


for late in (False, True):
    when = ", late" if late else ""
    for name, something in SOMETHING.items():
        row = _as_phi(something)
        here = RIGHT if name == "not a number" else None  # of what no later step sees
        mine(f"step returns {name}{when}", step=_stepping(lambda found, x=something: x, late=late))
        mine(f"phi is {name}{when}", step=_stepping(lambda found, x=row: found._replace(phi=x), late=late))
        mine(f"phi holds {name}{when}", step=_stepping(lambda s, x=row: s._replace(phi={"phi": x}), late=late))
        mine(
            f"d holds {name}{when}", here, step=_stepping(lambda s, x=row: s._replace(direction={"phi": x}), late=late)
        )
        mine(f"theta is {name}{when}", here, step=_stepping(lambda s, x=something: s._replace(theta=x), late=late))
        mine(f"v is {name}{when}", here, step=_stepping(lambda s, x=something: s._replace(v=x), late=late))
        mine(f"failure is {name}{when}", step=_stepping(lambda s, x=row: s._replace(failure=x), late=late))
    mine(f"step returns a tuple{when}", step=_stepping(tuple, late=late))
    mine(f"step returns a part{when}", step=_stepping(lambda found: found[:3], late=late))
    mine(f"phi loses its tensor{when}", step=_stepping(lambda found: found._replace(phi={}), late=late))
    mine(
        f"phi has one tensor more{when}",
        step=_stepping(lambda found: found._replace(phi=found.phi | {"more": torch.ones(1)}), late=late),
    )
    for code in (1, 2, 3, 4, 99):
        mine(
            f"failure is {code}{when}",
            step=_stepping(lambda s, code=code: s._replace(failure=torch.full_like(s.failure, code)), late=late),
        )

for name in ("start", "step"):
    for what, value in {
        **{"None": None, "a number": 3, "text": "step", "a function of nothing": lambda: None},
        **{"a function of itself": lambda self: None, "a function of five": lambda self, a, b, c, d, e: None},
    }.items():
        mine(f"{name} is {what}", **{name: value})
    mine(f"{name} raises", **{name: _raises})
for what, value in {
    **{"None": None, "a number": 3, "a function of nothing": lambda self: {}, "a function to None": lambda *_: None},
    **{"negative": lambda self, batch: {"hvp": -1}, "an exception": _raises},
}.items():
    mine(f"declared_calls is {what}", RIGHT, declared_calls=value)  # which a run does not ask for


def _in_place(self: Mine, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
    state["steps"].add_(1)
    found = Mine.step(self, oracle, phi, tasks, state)
    return found._replace(state=state)


def _phi_in_place(self: Mine, oracle: Oracle, phi: Parameters, tasks: Tasks, state: Any) -> Step:
    found = Mine.step(self, oracle, phi, tasks, state)
    for name, tensor in phi.items():
        tensor.copy_(found.phi[name])
    return found._replace(phi=phi)


mine("state is changed in place", RIGHT, step=_in_place)
mine("phi is changed in place", RIGHT, step=_phi_in_place)
mine("a state on meta", RIGHT, start=lambda self, oracle, phi: torch.ones(2, device="meta"))
for what, value in {"None": None, "a number": 3, "text": "state", "a list": [], "empty": torch.ones(0)}.items():
    mine(f"start returns {what}", RIGHT, start=lambda self, oracle, phi, value=value: value)
METHODS_BROKEN |= {
    "the class": (Mine, None),
    "no method": (3, None),
    "a string": ("memory_reduced", None),
    "None": (None, None),
    "a function": (Mine().step, None),
    "nothing in it": (SimpleNamespace(), None),
    "a start alone": (SimpleNamespace(start=Mine().start), None),
    "a step alone": (SimpleNamespace(step=Mine().step), None),
    "a namespace": (SimpleNamespace(start=Mine().start, step=Mine().step), RIGHT),
    "needs of another type": (type("Mine", (Mine,), {"needs": 3})(), None),
    "needs of no Need": (type("Mine", (Mine,), {"needs": ("POOL",)})(), None),
    "all_tasks of another type": (type("Mine", (Mine,), {"all_tasks": "no"})(), RIGHT),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "": {"probes": ()},
    "measured": {},
    "replicas": {"replicas": 2, "probes": ()},
    "batches": {"batch": M, "probes": ()},
}


def _own(what: str, options: str) -> Case:
    method, right = METHODS_BROKEN[what]
    return Case(f"{what}, {options}", lambda: run(SOUND, method, iterations=2, **OPTIONS[options]), right)


SOUND = Sound()  # looked at once


@fuzz(st.builds(_own, st.sampled_from(sorted(METHODS_BROKEN)), st.sampled_from(sorted(OPTIONS))), distinct=100)
def test_methods_of_ones_own():
    """Nothing to step with, steps that return something else, at once or later."""


@pytest.mark.parametrize(
    "what",
    [
        "step returns None",
        "phi holds single",
        "phi holds wide, late",
        "theta is tasks too few",
        "failure is 99, late",
        "a state on meta",
        "the class",
    ],
)
@pytest.mark.parametrize("options", OPTIONS)
def test_what_was_found_once(what, options):
    """Accepted, or a traceback of torch, before a step was looked at."""
    ends_well(_own(what, options))


def test_the_method_that_is_broken_is_right_before():
    for options in OPTIONS.values():
        assert RIGHT(run(SOUND, Mine(), iterations=2, **options))
