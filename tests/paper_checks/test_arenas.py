"""What the comparison is held on: who is refused where, and what the curves are measured against."""

from __future__ import annotations

import pytest
import torch

from convergence.catalogue import METHODS
from paper_checks.arenas import digits, exact_arenas, without_weights
from paper_checks.claim import Setting
from problems import LearnedStart, map_parameters


@pytest.fixture(scope="module")
def exact():
    return {arena.name: arena for arena in exact_arenas(Setting())}


def test_on_the_representation_all_run_but_those_for_finite_sums_and_for_phi_that_is_the_start_alone(exact):
    refused = {name for name, make in METHODS.items() if exact["representation"].refusal(make)}
    assert refused == {"saba", "srba", "reptile"}
    assert "LearnedStart, whose theta_0 is another function of phi" in exact["representation"].refusal(
        METHODS["reptile"]
    )


@pytest.mark.parametrize("name", ["quadratic", "representation"])
def test_the_best_value_of_an_exact_arena_is_that_of_its_solution(exact, name):
    arena = exact[name]
    solution = arena.problem.upper_solution()
    assert float(arena.problem.value(solution)) == pytest.approx(arena.best, abs=1e-15)
    near = map_parameters(lambda x: x + 0.01, solution)
    assert float(arena.problem.value(near)) > arena.best + 1e-6


def test_the_lower_step_of_the_representation_is_safe_where_its_runs_are(exact):
    arena = exact["representation"]
    assert isinstance(arena.problem, LearnedStart)
    U = arena.problem.upper_solution()["U"] * 1.5  # |U|_2 = 1.5
    H = U.T @ arena.problem.data["S"] @ U + arena.problem.problem.prox * torch.eye(2, dtype=U.dtype)
    assert arena.step_size * float(torch.linalg.eigvalsh(H).max()) <= 1


def test_clean_labels_alone_teach_more_than_all():
    found = without_weights(digits(Setting()))
    assert found["clean"] > found["all"] + 0.05
