"""The training curves show what the metrics say."""

import numpy as np
import pytest

from figures.style import png
from figures.training import draw, evidence


def metrics(count, every=5):
    rows = []
    for t in range(1, count + 1):
        row = {"iteration": t, "loss": 2 / t, "seconds": 0.5 * t}
        if t == 1:
            row["peak_bytes"] = 3 * 2**20
        if t % every == 0:
            row |= {"validation_accuracy": 0.2 + 0.01 * min(t, 12), "validation_ci95": 0.02}
        rows.append(row)
    return rows


def line(axes, label):
    (found,) = [each for each in axes.lines if str(each.get_label()).startswith(label)]
    return found


def test_loss_accuracy_interval_and_best_are_drawn():
    figure = draw(evidence(metrics(20), way=5, label="protonet on glyphs"))
    losses, accuracies = figure.axes
    assert np.allclose(line(losses, "of an iteration").get_xydata()[:, 1], 2 / np.arange(1, 21))
    mean = line(losses, "mean of the last 5").get_xydata()
    assert mean[0] == pytest.approx([5, np.mean(2 / np.arange(1, 6))])
    assert line(accuracies, "validation").get_xydata()[:, 1] == pytest.approx([25, 30, 32, 32])
    assert line(accuracies, "best: 32.0 % at 15").get_xydata()[0] == pytest.approx([15, 32])
    band = accuracies.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((23, 34))
    assert figure.get_suptitle() == "protonet on glyphs: 20 iterations, 10 s, peak 3.0 MiB"


@pytest.mark.parametrize(("count", "every"), [(1, 5), (3, 1), (4, 9)])
def test_short_runs_and_runs_without_validation_are_drawn(count, every):
    figure = draw(evidence(metrics(count, every), way=3))
    assert png(figure).startswith(b"\x89PNG")
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_chance_is_one_of_the_classes():
    _, accuracies = draw(evidence(metrics(10), way=4)).axes
    assert any(np.allclose(each.get_ydata(), 25) for each in accuracies.lines)
