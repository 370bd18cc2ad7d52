"""The law that the claim predicts with, against quadrature and against the iteration written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from paper_checks.sublinear_tail import Law

laws = st.one_of(
    st.builds(Law, st.floats(0.05, 4.0), st.floats(0.2, 1.0)),
    st.builds(Law, st.floats(0.05, 4.0), st.floats(0.2, 1.0), st.floats(0.05, 0.9), st.floats(1.0, 15.0)),
    st.builds(Law, st.floats(-16.0, -2.5), st.floats(0.05, 0.5)),
)


@given(laws, st.floats(0.1, 2.0))
def test_time_is_the_integral_of_one_over_the_step(law, u):
    integral, _ = quad(lambda y: math.exp(math.copysign(y, law.a)) / law.step(np.array(y)), 0, u, limit=500)
    measured = law.time(np.array(u)) - law.time(np.array(0.0))
    assert measured == pytest.approx(integral, rel=1e-7)


@pytest.mark.parametrize("law", [Law(0.5, 0.6), Law(0.5, 0.15, 0.5, 8.0), Law(-4.0, 1 / 3), Law(-8.0, 1 / 7)])
def test_the_corrected_time_is_the_number_of_iterations_to_within_one(law):
    sign, x, squares = math.copysign(1.0, law.a), 1.0, []
    for _ in range(20_000):
        step = float(law.step(np.array(abs(math.log(x)))))
        squares.append(step**2)
        x += sign * step
    u = np.array([abs(math.log(x))])
    assert abs(law.corrected_time(u)[0] - 20_000) < 1
    assert abs(law.time(u)[0] - law.time(np.zeros(1))[0] - 20_000) > 2  # without the logarithm: off by more
    t = np.array([100, 1000, 19_999])
    expected = law.squares(t, corrected=True)
    assert np.all(np.abs(np.array(squares)[t] / expected - 1) < 40 / t)  # one iteration, at slopes up to 40 / t
