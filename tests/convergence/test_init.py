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


FIRST = ("problems.few_shot", "convergence.recipes", "convergence.methods")
EACH_IN_A_PROCESS = """  # that has torch already, which takes longest
import importlib, os, sys, torch
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(name)
        importlib.import_module("convergence")
        slow = {"torch._dynamo", "scipy.stats"} & sys.modules.keys()  # seconds each
        assert not slow, f"{slow} are imported before they are needed"
        os._exit(0)
    if os.wait()[1] != 0:
        sys.exit(f"{name} cannot be imported first")
"""


def test_any_module_may_be_imported_first_and_none_brings_what_takes_long_to_import():
    done = subprocess.run([sys.executable, "-c", EACH_IN_A_PROCESS, *FIRST], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
