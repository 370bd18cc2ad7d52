"""Fields of every method, solver, estimator and recipe; methods of one's own that are none."""

from __future__ import annotations

import inspect
from typing import Any

from hypothesis import strategies as st

import convergence
from convergence import ConjugateGradient
from convergence.catalogue import METHODS
from tests.convergence.methods.instances import FIELDS
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.strategies import replaced

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
