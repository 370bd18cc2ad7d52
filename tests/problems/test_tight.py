from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import MemoryReduced, run
from problems import Huber, Plateau, Tight, Zigzag
from tests.independent import EPS, assert_near
from tests.strategies import normal

KINDS = {"huber": Huber, "plateau": Plateau, "zigzag": Zigzag}
kinds = st.sampled_from(list(KINDS.values()))
dyadic = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])  # so that the unstable orbit of Zigzag is exact
relative_steps = st.sampled_from([0.25, 0.5, 1.0])


def descend(problem: Tight) -> np.ndarray:
    """|h'(x_k)| along plain gradient descent with step h / smoothness, one number after the other."""
    x, slopes = problem.x0, []
    for _ in range(problem.horizon):
        slope = float(problem.profile_slope(torch.tensor([x], dtype=torch.float64)))
        slopes.append(abs(slope))
        x -= problem.relative_step / problem.smoothness * slope
    return np.array(slopes)


def exact_law(problem: Tight, smoothness: float, gap: float, h: float, steps: int) -> float:
    """min over T = N + 1 iterates of |grad Phi|^2, from the table of docs/theory.md S6."""
    if isinstance(problem, Huber):
        return 2 * smoothness * gap / (2 * steps * h + 1)
    if isinstance(problem, Zigzag):
        return 4 * smoothness * gap / (steps * (4 * h - h**2) + 2)
    omega = problem.omega
    return smoothness * gap / (steps * (h - (1 - 2 * omega) ** 2 * h**2 / 4) + 0.5 + omega * h)


@given(kind=kinds, horizon=st.integers(1, 300), smoothness=dyadic, gradient=dyadic, h=relative_steps)
def test_gradient_descent_keeps_the_same_gradient_for_the_whole_horizon(kind, horizon, smoothness, gradient, h):
    problem = kind(horizon=horizon, smoothness=smoothness, gradient=gradient, relative_step=h)
    # Huber and Plateau have it on an interval, Zigzag at the iterates, which dyadic numbers hit without rounding
    np.testing.assert_array_equal(descend(problem), gradient)


@given(kind=kinds, horizon=st.integers(1, 300), smoothness=dyadic, gradient=dyadic, h=relative_steps)
def test_the_law_of_the_worst_case_holds_with_its_constant(kind, horizon, smoothness, gradient, h):
    problem = kind(horizon=horizon, smoothness=smoothness, gradient=gradient, relative_step=h)
    expected = exact_law(problem, smoothness, problem.gap, h, horizon - 1)
    assert gradient**2 == pytest.approx(expected, rel=1e-12)
    assert problem.law * smoothness * problem.gap == pytest.approx(expected, rel=1e-12)


@given(kind=kinds, horizon=st.integers(1, 50), gap=st.floats(1e-3, 1e3))
def test_with_gap_gives_the_gap_asked_for(kind, horizon, gap):
    problem = kind.with_gap(gap, horizon=horizon, smoothness=2.0, relative_step=0.5)
    assert problem.gap == pytest.approx(gap, rel=1e-12)
    assert (
        float(problem.value(problem.phi0(torch.Generator())) - problem.value(problem.upper_solution())) == problem.gap
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_profile_is_the_integral_of_a_lipschitz_odd_slope(kind):
    problem = kind(horizon=6, smoothness=4.0, gradient=2.0, relative_step=0.5)
    x = torch.linspace(-problem.x0 - 1, problem.x0 + 1, 40001, dtype=torch.float64)
    slope, step = problem.profile_slope(x), float(x[1] - x[0])
    assert float(slope.diff().abs().max()) <= 4.0 * step * (1 + 1e-6)
    assert_near(problem.profile_slope(-x), -slope, within=100 * EPS)
    # the trapezoidal rule is exact but in the cells with a kink: an error of at most L step^2 in each of < 50
    integral = torch.cumulative_trapezoid(slope, x)
    assert_near(problem.profile(x[1:]) - problem.profile(x[0]), integral, within=200 * step**2)
    assert float(problem.profile(torch.zeros(1, dtype=torch.float64))) == 0
    assert bool((problem.profile(x) >= 0).all())


def test_only_the_huber_profile_is_convex():
    for kind in KINDS.values():
        problem = kind(horizon=6)
        x = torch.linspace(0, problem.x0, 2001, dtype=torch.float64)
        assert bool((problem.profile_slope(x).diff() >= -EPS).all()) == (kind is Huber)


@pytest.mark.parametrize("omega", [0.0, 0.05, 0.2])
def test_the_orbit_of_a_plateau_bears_an_error_up_to_its_half_width(omega):
    problem = Plateau(horizon=40, omega=omega)
    pushed = problem.x0 - 0.9 * omega * problem.gradient / problem.smoothness
    x, slopes = pushed, []
    for _ in range(problem.horizon):
        slopes.append(float(problem.profile_slope(torch.tensor([x], dtype=torch.float64))))
        x -= slopes[-1] / problem.smoothness
    np.testing.assert_allclose(slopes, problem.gradient, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_algorithm_is_gradient_descent_when_the_lower_level_is_perfectly_conditioned(kind):
    problem = kind(horizon=100, tasks=4, dimension=2)
    method = MemoryReduced(lower_steps=1, lower_step_size=1.0, cg_steps=1, upper_step_size=problem.upper_step_size)
    trace = run(problem, method, iterations=100).trace["grad_norm_sq"]
    np.testing.assert_allclose(trace.numpy(), problem.gradient**2, rtol=1e-12)
    assert float(run(problem, method, iterations=101).trace["grad_norm_sq"][-1]) < problem.gradient**2


@pytest.mark.parametrize("coupled", [False, True])
def test_the_two_levels_are_what_the_docstring_says(coupled):
    problem = Huber(horizon=5, kappa=100.0, dimension=3, coupled=coupled, tasks=4, seed=3)
    tasks, phi, theta = problem.sample(None, torch.Generator()), {"phi": normal(0, 3)}, normal(1, 4, 3)
    z = problem.embed(phi, tasks)
    for i, (A, slope) in enumerate(zip(tasks.A.numpy(), tasks.slope.numpy(), strict=True)):
        np.testing.assert_allclose(np.linalg.eigvalsh(A), [0.01, 0.1, 1.0], atol=1e-14)
        assert (np.count_nonzero(A - np.diag(np.diag(A))) > 0) == coupled
        gap = theta[i].numpy() - phi["phi"].numpy()
        assert float(problem.lower(z, theta, tasks)[i]) == pytest.approx(0.5 * gap @ A @ gap, rel=1e-12)
        x, edge = float(theta[i, 0]), problem.gradient / problem.smoothness
        huber = 0.5 * problem.smoothness * x**2 if abs(x) <= edge else problem.gradient * (abs(x) - edge / 2)
        assert float(problem.upper(z, theta, tasks)[i]) == pytest.approx(huber + slope @ theta[i].numpy(), abs=1e-12)
    assert torch.equal(tasks.slope.sum(0), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(problem.theta0(phi, tasks), phi["phi"].expand(4, 3))
    assert bool((tasks.slope.norm(dim=-1) == problem.gradient).all())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"horizon": 0}, "expected horizon an integer >= 1, got 0"),
        ({"smoothness": 0.0}, "expected smoothness > 0, gradient > 0 and 0 < relative_step <= 1, got 0.0, 1.0, 1.0"),
        ({"gradient": -1.0}, "expected smoothness > 0, gradient > 0"),
        ({"relative_step": 1.5}, "0 < relative_step <= 1, got 4.0, 1.0, 1.5"),
        ({"relative_step": math.nan}, "expected relative_step a finite number, got nan"),
        (
            {"kappa": 0.5, "dimension": 2},
            "expected kappa >= 1, and kappa = 1 in dimension 1, got kappa 0.5, dimension 2",
        ),
        ({"kappa": math.inf, "dimension": 2}, "expected kappa a finite number, got inf"),
        ({"kappa": 2.0}, "kappa = 1 in dimension 1, got kappa 2.0, dimension 1"),
        ({"tasks": 3}, r"one task or an even number \(slopes cancel in pairs\), got 3"),
        ({"tasks": 0}, "expected .*task.*, got 0"),
        ({"tasks": -2}, "expected .*task.*, got -2"),
        ({"dimension": 0}, "expected .*dimension.*, got.* 0"),
    ],
)
def test_impossible_instances_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Huber(**({"horizon": 3} | change))


@pytest.mark.parametrize("omega", [-0.1, 0.6, math.nan])
def test_a_plateau_wider_than_a_step_is_refused(omega):
    with pytest.raises(ValueError, match=f"expected (0 <= omega <= 1/2|omega a finite number), got {omega}"):
        Plateau(horizon=3, omega=omega)
