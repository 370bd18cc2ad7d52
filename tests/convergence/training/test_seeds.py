"""Runs over several seeds: how they are asked for, found and summarised."""

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import t

from convergence.training.seeds import folders, given, interval95, summary, table


@pytest.mark.parametrize(
    ("first", "more", "seeds"),
    [("0", ["1", "2"], [0, 1, 2]), ("3,1", [], [3, 1]), ("4", [], [4]), (None, [], None)],
)
def test_seeds_are_read_in_order(first, more, seeds):
    assert given(first, more) == seeds


@pytest.mark.parametrize(("first", "more"), [("0", ["0"]), ("a", []), ("0", ["-1"]), ("", []), (None, ["1"])])
def test_other_words_are_refused(first, more):
    with pytest.raises(ValueError, match="expected "):
        given(first, more)


def test_folders_are_in_the_order_of_the_seeds(tmp_path):
    for name in ("seed-10", "seed-2", "seed-x", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-3").touch()
    assert [path.name for path in folders(tmp_path)] == ["seed-2", "seed-10"]


def test_the_interval_is_student_s():
    values = [0.7, 0.74, 0.75, 0.69]
    mean, spread, half = interval95(values)
    low, high = t.interval(0.95, 3, loc=np.mean(values), scale=np.std(values, ddof=1) / 2)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert spread == pytest.approx(np.std(values, ddof=1))
    assert interval95([0.5]) == (0.5, None, None)


def test_a_summary_keeps_what_the_runs_share():
    records = {
        f"seed-{seed}": {"accuracy": accuracy, "ci95": 0.1, "episodes": 9, "seed": 0, "training_seed": seed}
        for seed, accuracy in enumerate((0.5, 0.7))
    }
    found = summary(records)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["ci95"] == pytest.approx(interval95([0.5, 0.7])[2])
    assert (found["episodes"], found["seed"]) == (9, 0)
    assert "training_seed" not in found
    assert found["accuracies"] == {"seed-0": 0.5, "seed-1": 0.7}
    assert found["runs"] == 2
    alone = summary({"seed-0": records["seed-0"]})
    assert (alone["runs"], alone["spread"], alone["ci95"]) == (1, None, None)


def test_the_table_names_every_seed_mean_and_spread():
    console = Console(width=80, record=True, quiet=True)
    console.quiet = False
    with console.capture() as captured:
        console.print(table({0: 0.7, 4: 0.72, 9: 0.74}, "best validation"))
    text = captured.get()
    assert "70.00" in text
    assert "72.00 ± 4.97" in text
    assert "spread" in text
    assert "2.00" in text
    with console.capture() as captured:
        console.print(table({0: 0.7}, "test"))
    assert "spread" not in captured.get()
