"""The figure of the throughput shows what was measured, and the law that was fitted to it."""

import numpy as np
import pytest

from figures.style import png
from figures.throughput import PROBLEMS, Law, draw, fit

REPLICAS = np.array([1, 4, 16, 64, 256, 1024, 4096])
CHUNKS = np.maximum(1, REPLICAS // 200)
LAW = Law(overhead=4e-4, cost=2e-5)


def evidence(names=("quadratic",), noise=0.0):
    spread = np.linspace(1 - noise, 1 + noise, 5)
    found = {"cache": np.array(2**24)}
    for name in names:
        seconds = LAW.seconds(REPLICAS, CHUNKS)[:, None] * spread
        slower = np.where(CHUNKS > 1, 1.5, 1.0)[:, None]
        found |= {
            f"{name}_replicas": REPLICAS,
            f"{name}_batch": np.array(8),
            f"{name}_chunks": CHUNKS,
            f"{name}_bytes": 9e4 * REPLICAS,
            f"{name}_seconds": seconds,
            f"{name}_seconds_at_once": slower * seconds,
        }
    return found


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_overhead_cost_and_knee_are_those_of_the_medians(noise):
    found = evidence(noise=noise)
    law = fit(REPLICAS, CHUNKS, found["quadratic_seconds"])
    assert law == pytest.approx(LAW, rel=1e-9)
    assert law.knee == pytest.approx(20)


def test_half_of_the_time_of_a_knee_of_replicas_is_overhead():
    assert LAW.seconds(np.array(LAW.knee), np.array(1)) == pytest.approx(2 * LAW.overhead)


def test_measured_rates_lie_on_their_law_and_chunks_on_their_gain():
    rates, ratios = draw(evidence()).axes
    markers = [line for line in rates.lines if line.get_marker() == "o"]
    laws = [line for line in rates.lines if line.is_dashed()]
    assert markers[0].get_xydata() == pytest.approx(laws[0].get_xydata())
    assert markers[0].get_ydata() == pytest.approx(8 * REPLICAS / LAW.seconds(REPLICAS, CHUNKS))
    gains = [line for line in ratios.lines if line.get_marker() == "o"]
    assert gains[0].get_xdata() == pytest.approx(9e4 * REPLICAS[CHUNKS > 1] / 2**20)
    assert gains[0].get_ydata() == pytest.approx(np.full((CHUNKS > 1).sum(), 1.5))
    labels = [text.get_text() for text in rates.get_legend().get_texts()]
    assert "p 10, q 20: knee at 20" in labels


def test_all_problems_are_drawn_with_names_and_units():
    figure = draw(evidence(names=PROBLEMS, noise=0.1))
    assert png(figure).startswith(b"\x89PNG")
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_runs_that_were_never_cut_leave_the_second_panel_empty():
    found = evidence()
    found["quadratic_chunks"] = np.ones_like(CHUNKS)
    _, ratios = draw(found).axes
    assert not [line for line in ratios.lines if line.get_marker() == "o"]
