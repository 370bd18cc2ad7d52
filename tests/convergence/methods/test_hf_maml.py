"""HF-MAML: MAML's direction on quadratics, the differences of its source, their error of second order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convergence import HFMAML, MAML, Oracle, run
from problems import Quadratic
from tests.convergence.methods.instances import HEADS, QUADRATICS
from tests.independent import Dense, assert_near
from tests.strategies import normal


@pytest.mark.parametrize("name", ["initialisation", "shared"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_on_quadratics_it_is_maml(name, steps):
    problem = QUADRATICS[name]()
    oracle, phi = Oracle(problem), {n: normal(1, *x.shape) for n, x in problem.phi0(torch.Generator()).items()}
    options = {"lower_steps": steps, "lower_step_size": 0.2}
    free = HFMAML(**options, radius=0.1).step(oracle, phi, oracle.pool, None)
    assert (oracle.calls["hvp"], oracle.calls["cross_product"]) == (0, 0)
    products = MAML(**options).step(oracle, phi, oracle.pool, None)
    assert_near(free.theta, products.theta, within=1e-14)
    for key, tensor in products.direction.items():
        assert_near(free.direction[key], tensor, within=1e-12)


def test_one_step_is_that_of_the_source():
    problem, alpha, radius = HEADS["initialisation"](), 0.3, 0.2
    oracle, dense, phi = Oracle(problem), Dense(problem), normal(0, 5)
    made = HFMAML(lower_steps=1, lower_step_size=alpha, radius=radius)
    step = made.step(oracle, {"centre": phi}, oracle.pool, None)
    start = phi.expand(3, 5)
    theta = start - alpha * dense.each(dense.lower_slope, phi, start)
    w = dense.each(dense.upper_slope, phi, theta)
    s = radius * w / w.norm(dim=-1, keepdim=True)
    ends = [dense.each(dense.lower_slope, phi, start + sign * s) for sign in (1, -1)]
    back = w - alpha * w.norm(dim=-1, keepdim=True) * (ends[0] - ends[1]) / (2 * radius)
    # the loss is seen through theta, the prox also through phi: + alpha lambda w; the regulariser of f directly
    expected = (back + alpha * problem.prox * w).mean(0) + problem.regulariser * phi
    assert_near(step.direction["centre"], expected, within=1e-12)


def test_its_error_is_of_second_order_in_the_radius():
    problem = HEADS["initialisation"]()
    oracle, phi = Oracle(problem), {"centre": normal(0, 5)}
    options = {"lower_steps": 3, "lower_step_size": 0.3}
    exact = MAML(**options).step(oracle, phi, oracle.pool, None).direction["centre"]
    errors = [
        float((HFMAML(**options, radius=r).step(oracle, phi, oracle.pool, None).direction["centre"] - exact).norm())
        for r in (4e-2, 2e-2, 1e-2)
    ]
    # the next term is of fourth order: a share of radius^2 of the first
    assert errors[0] / errors[1] == pytest.approx(4, rel=4e-3)
    assert errors[1] / errors[2] == pytest.approx(4, rel=1e-3)
    small = HFMAML(**options).step(oracle, phi, oracle.pool, None).direction["centre"]
    assert_near(small, exact, within=1e-9)  # radius^2 and eps / radius, some 1e-10 both


def test_it_ends_where_maml_does():
    problem = Quadratic.random(tasks=3, p=3, q=3, kappa=4.0, initialisation=True)
    options = {"lower_steps": 2, "upper_step_size": 0.4}
    ends = [run(problem, kind(**options), iterations=200, probes=()).phi["phi"] for kind in (HFMAML, MAML)]
    assert_near(ends[0], ends[1], within=1e-9)


@pytest.mark.parametrize("radius", [0.0, -1.0, np.inf])
def test_an_impossible_radius_is_refused(radius):
    with pytest.raises(ValueError, match=f"expected radius a finite number > 0, got {radius}"):
        HFMAML(lower_steps=1, radius=radius)
