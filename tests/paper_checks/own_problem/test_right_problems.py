"""A right problem refutes no claim, however it is curved, scaled or degenerate; nor is a wrong method excused by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paper_checks.claim import Outcome, worst
from paper_checks.own_problem import (
    CLAIMS,
    algorithm_replay,
    batch_size_decay,
    hypergradient_error,
    lyapunov_decrease,
)
from paper_checks.own_problem.lower_level import solved
from paper_checks.own_problem.single_tasks import SingleTasks
from paper_checks.own_problem.some_tasks import judged, points
from tests.paper_checks.own_problem.problems import Centred, IllConditioned, Linear, Quartic, Spring, Stretched
from tests.paper_checks.own_problem.problems import setting_of as of


def outcome(name, make):
    return worst(each.outcome for each in CLAIMS[name].judge(CLAIMS[name].run(of(make))))


def test_phi_of_numbers_without_axes_is_replayed(monkeypatch):
    monkeypatch.setattr(algorithm_replay, "affordable", lambda *_, **__: 2)
    assert outcome("algorithm_replay", Spring) is Outcome.HOLDS


def test_one_eigenvalue_leaves_the_control_of_cg_something_to_be_wrong_about():
    verdict, _ = CLAIMS["cg_rate"].verdict(of(Linear))
    assert verdict.outcome is Outcome.HOLDS, verdict.reason


def test_rounding_of_cg_is_not_taken_for_an_error():
    setting = of(IllConditioned)
    problem = judged(setting, 3)
    (phi,) = points(problem, 0, 1)
    exact = solved(problem, phi)
    single = SingleTasks(problem, problem.sample(None, torch.Generator()), phi)
    found = hypergradient_error._identity(setting, problem, single, exact)
    off, own = found["identity_gap"] > 1e-8, found["identity_rounding"] <= 1e-9
    assert off.any()  # without the look at rounding this would be a wrong method
    assert not (off & own).any()
    assert own.sum() >= 3


def test_an_implicit_part_of_zero_is_said_and_nothing_else_suffers():
    found = hypergradient_error.judge(hypergradient_error.run(of(Stretched)))
    assert [each.quantity for each in found if each.outcome is not Outcome.HOLDS] == [
        "|implicit part of grad Phi|, so that it counts"
    ]
    assert worst(each.outcome for each in found) is Outcome.INCONCLUSIVE


def test_lower_steps_descend_where_curvature_grows_with_theta():
    problem = judged(of(Quartic), 5)
    alpha = algorithm_replay.lower_step_size(of(Quartic), problem)
    assert alpha < 1 / (2 * 4.2)  # of L at theta_0
    (phi,) = points(problem, 0, 1)
    assert algorithm_replay._descends(problem, phi, alpha)
    assert not algorithm_replay._descends(problem, phi, 1 / (2 * 4.2))


def test_phi_that_does_not_move_leaves_nothing_to_replay():
    (phi,) = points(judged(of(Centred), 1), 0, 1)
    still = np.zeros((1, 5, 3, 2)) + phi["centre"].numpy()
    found = algorithm_replay.judge(
        {"allowed": np.array(1e-10), "few_cells": np.array(["all"]), "few_phi": still, "few_law": still}
    )
    assert worst(each.outcome for each in found) is Outcome.INCONCLUSIVE
    moved = algorithm_replay.judge(
        {"allowed": np.array(1e-10), "few_cells": np.array(["all"]), "few_phi": still + 1e-3, "few_law": still}
    )
    assert worst(each.outcome for each in moved) is Outcome.VIOLATED


@pytest.mark.parametrize(("sigma", "expected"), [(1.0, Outcome.VIOLATED), (1e-4, Outcome.VIOLATED), (1e-6, None)])
def test_a_wrong_decay_is_seen_however_small_the_variance_is_beside_the_gradient(sigma, expected):
    """The law of i.i.d. batches of two of five tasks where they are said to differ: 1/2 for 3/8."""
    rng = np.random.default_rng(0)
    evidence = {
        "cells": np.array([[2, 0]]), "bias": np.zeros(1),
        "sigma_sq": np.array(sigma**2), "gradient_norm": np.array(1.0),
        "mean_square": np.array([sigma**2 / 2]), "law": np.array([sigma**2 * 3 / 8]),
        "stream": rng.standard_normal((2, 500, 1)), "stream_mean": np.zeros(1), "stream_b": np.array(2),
    }  # fmt: skip
    assert worst(each.outcome for each in batch_size_decay.judge(evidence)) is (expected or Outcome.INCONCLUSIVE)


def test_an_optimum_that_was_missed_is_made_good_and_a_start_at_it_is_said():
    V, squares = np.array([1.0, 0.5, -0.5]), np.array([1.0, 1.0, 0.9])
    evidence = {
        "steps": np.array([[1, 1]]), "minimum": np.array(0.0), "V_0": V, "grad_norm_sq_0": squares,
        "beta": np.array([1.0]), "drift": np.zeros(1), "allowed_drift": np.array([np.inf]),
    }  # fmt: skip
    assert worst(each.outcome for each in lyapunov_decrease.judge(evidence)) is Outcome.HOLDS
    (found,) = lyapunov_decrease.judge(evidence | {"V_0": 0 * V, "grad_norm_sq_0": 0 * squares})
    assert found.outcome is Outcome.INCONCLUSIVE
