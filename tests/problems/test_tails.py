import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from convergence import MemoryReduced, run
from problems import PowerTail, PowerWell
from tests.independent import assert_near

tails = st.builds(
    lambda a, c, omega: PowerTail([a], ripples=[c], frequencies=[omega]),
    st.floats(0.05, 5.0),
    st.floats(0.0, 0.95),
    st.floats(0.5, 20.0),
)
wells = st.builds(lambda m: PowerWell([m]), st.floats(2.1, 16.0))


def slope(problem, x: float) -> float:
    return float(problem.objective_gradient(torch.tensor([x], dtype=torch.float64)))


@given(st.one_of(tails, wells))
def test_the_smoothness_is_the_largest_slope_of_the_gradient(problem):
    # the curvature of a tail is largest at 1 or within the first period of its ripple, ln x <= 2 pi / omega
    period = 2 * np.pi / float(problem.frequencies[0]) if isinstance(problem, PowerTail) else 1.0
    sign = 1 if isinstance(problem, PowerTail) else -1
    x = torch.exp(sign * torch.linspace(-0.01, period, 200_001, dtype=torch.float64)).unsqueeze(-1)
    quotients = problem.objective_gradient(x).diff(dim=0) / x.diff(dim=0)
    # a mean over a cell of 1e-4 in ln x falls short of the largest curvature by the third derivative
    assert float(quotients.abs().max()) == pytest.approx(problem.smoothness, rel=5e-3)
    assert float(quotients.abs().max()) <= problem.smoothness * (1 + 1e-9)


@given(st.one_of(tails, wells), st.floats(-3.0, 30.0))
def test_the_objective_is_the_integral_of_its_gradient_beyond_the_kinks_too(problem, x):
    values = problem.objective(torch.tensor([[x], [1.0]], dtype=torch.float64))
    kinks = [point for point in (-1.0, 0.0, 1.0) if min(1.0, x) < point < max(1.0, x)]
    integral, _ = quad(lambda y: slope(problem, y), 1.0, x, points=kinks or None, limit=500, epsabs=1e-12)
    assert float(values[0] - values[1]) == pytest.approx(integral, abs=1e-9)


@given(st.one_of(tails, wells))
def test_no_gradient_is_steeper_than_said_and_that_at_one_is_as_steep(problem):
    x = torch.linspace(-5, 50, 20_001, dtype=torch.float64).unsqueeze(-1)
    assert float(problem.objective_gradient(x).abs().max()) == pytest.approx(problem.steepest, rel=1e-3)
    assert abs(slope(problem, 1.0)) == pytest.approx(problem.steepest, rel=1e-12)


def test_a_ripple_bends_the_function_both_ways_on_every_scale_and_leaves_it_falling():
    problem = PowerTail([0.5, 0.5], ripples=[0.0, 0.4], frequencies=[1.0, 8.0])  # 0.4 sqrt(1.5^2 + 8^2) > 1.5
    for scale in range(6):
        log = scale * 2 * np.pi / 8 + torch.linspace(0, 2 * np.pi / 8, 1000, dtype=torch.float64)
        slopes = problem.objective_gradient(log.exp().unsqueeze(-1).expand(-1, 2))
        assert bool((slopes < 0).all())
        assert bool((slopes[:, 0].diff() > 0).all())
        assert bool((slopes[:, 1].diff() > 0).any())
        assert bool((slopes[:, 1].diff() < 0).any())


def test_coordinates_evolve_as_if_alone():
    method = MemoryReduced(lower_steps=1, lower_step_size=1.0, cg_steps=1, upper_step_size=1.0)
    exponents, ripples, frequencies = [0.5, 2.0, 1.0], [0.0, 0.3, 0.5], [1.0, 5.0, 9.0]
    together = run(PowerTail(exponents, ripples=ripples, frequencies=frequencies), method, iterations=50).phi["phi"]
    for j, (a, c, omega) in enumerate(zip(exponents, ripples, frequencies, strict=True)):
        alone = run(PowerTail([a], ripples=[c], frequencies=[omega]), method, iterations=50).phi["phi"]
        assert_near(together[j : j + 1], alone, within=1e-12)


def test_the_same_problem_in_single_precision_keeps_its_exponents():
    problem = PowerTail([1.0], tasks=2).to(dtype=torch.float32)
    assert problem.objective_gradient(torch.ones(1)).dtype == torch.float32
    assert problem.phi0(torch.Generator())["phi"].dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PowerTail([0.0]), r"exponents > 0, got \[0.0\]"),
        (lambda: PowerTail([1.0], ripples=[1.0]), r"ripples in \[0, 1\), got \[1.0\]"),
        (lambda: PowerTail([1.0], ripples=[-0.1]), "ripples"),
        (lambda: PowerTail([1.0], ripples=[0.1, 0.2]), "got 1 exponents, 2 ripples, 1 frequencies"),
        (lambda: PowerTail([]), r"expected exponents a list of finite numbers, got \[\]"),
        (lambda: PowerWell([4.0, 2.0]), r"exponents > 2, got \[4.0, 2.0\]"),
    ],
)
def test_impossible_functions_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
