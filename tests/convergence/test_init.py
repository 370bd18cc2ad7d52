from __future__ import annotations

import subprocess
import sys

import pytest

import convergence

PARTS = {
    "Direct": "linear_solvers",
    "LinearSolver": "linear_solvers",
    "ClosedForm": "methods.closed_form",
    "FirstOrder": "hypergradients",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "direction_in_chunks": "chunks",
}


@pytest.mark.parametrize("name", PARTS)
def test_the_parts_of_a_method_are_named_at_the_top(name):
    assert name in convergence.__all__
    assert getattr(convergence, name) is getattr(sys.modules[f"convergence.{PARTS[name]}"], name)


@pytest.mark.parametrize("first", ["problems.few_shot", "convergence.recipes", "convergence.methods"])
def test_any_module_may_be_imported_first(first):
    done = subprocess.run([sys.executable, "-c", f"import {first}, convergence"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
