"""Problems whose step size limit is arbitrarily small."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems.counterexamples import cancelling_modes, two_curvatures
from tests.independent import Dense, assert_near
from tests.strategies import normal

modes = st.sampled_from(["slow", "fast"])


@given(kappa=st.floats(1.5, 100), s=st.floats(0, 0.99), opposed=modes, target=st.floats(-3, 3))
def test_cancelling_modes_leave_a_parabola_of_curvature_one_less_s_squared(kappa, s, opposed, target):
    problem = cancelling_modes(kappa=kappa, s=s, opposed=opposed, target=target)
    assert problem.constants.kappa == pytest.approx(kappa, rel=1e-12)
    assert problem.constants.L_Phi == pytest.approx((1 - s) ** 2, rel=1e-9)
    phi = normal(0, 1)
    found = problem.hypergradient({"phi": phi})["phi"]
    assert_near(found, (1 - s) * ((1 - s) * phi - target), within=1e-12)


@pytest.mark.parametrize("opposed", ["slow", "fast"])
def test_the_opposed_mode_is_the_one_that_lowers_the_upper_gradient(opposed):
    problem = cancelling_modes(kappa=10.0, s=0.9, opposed=opposed)
    dense = Dense(problem)
    slopes = dense.each(dense.upper_slope, torch.zeros(1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    # u'theta - c = 1 - s - 1 = -s at theta = (1, 1): the gradient is -s u
    expected = np.array([-0.9, 1.0] if opposed == "slow" else [1.0, -0.9])
    assert_near(slopes[0], torch.from_numpy(-0.9 * expected), within=1e-14)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kappa": 1.0}, "expected kappa > 1 and 0 <= s < 1, got 1.0 and 0.5"),
        ({"s": 1.0}, "expected kappa > 1 and 0 <= s < 1, got 10.0 and 1.0"),
        ({"opposed": "both"}, 'expected opposed "slow" or "fast", got \'both\''),
    ],
)
def test_impossible_modes_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        cancelling_modes(**({"kappa": 10.0, "s": 0.5, "opposed": "slow"} | change))


@pytest.mark.parametrize("tasks", [2, 6])
def test_two_curvatures_have_their_mean_and_variance_and_one_optimum(tasks):
    problem = two_curvatures(1.5, 0.4, tasks=tasks)
    curvatures = problem.data["Q"].flatten()
    assert float(curvatures.var(correction=0)) == pytest.approx(0.4**2)
    assert problem.constants.L_Phi == pytest.approx(1.5)
    assert problem.constants.sigma_sq == 0  # at the optimum that all tasks share
    assert float(problem.hypergradient({"phi": torch.ones(1, dtype=torch.float64)})["phi"]) == pytest.approx(1.5)


@pytest.mark.parametrize(("h", "tasks"), [(0.0, 2), (1.0, 3), (1.0, 0)])
def test_two_curvatures_refuses_what_has_no_balance(h, tasks):
    with pytest.raises(ValueError, match="even number of tasks"):
        two_curvatures(h, 0.5, tasks=tasks)
