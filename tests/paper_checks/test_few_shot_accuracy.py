"""The benchmarks are measured where the user's files are, and named where they are not."""

from dataclasses import replace

import numpy as np
import pytest

from convergence.recipes import RECIPES
from paper_checks import few_shot_accuracy as claim
from paper_checks.claim import Outcome, Setting
from paper_checks.few_shot_accuracy import Ascent, judge
from tests.problems.few_shot.readers.samples import images, write_pickle

NO_BARS = {"recipes": np.array([], str), "bar_recipe": np.array([], str)}
PUBLISHED = {"cifar-fs": 0.6912, "fc100": 0.4914, "mini-imagenet": 0.6587, "tiered-imagenet": 0.6799}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with FC100 of 6 classes a split; two iterations of a small network instead of the published ones."""
    for k, split in enumerate(("train", "val", "test")):
        content = {"data": images(6 * 20, 32, seed=k), "labels": np.repeat(np.arange(6), 20).tolist()}
        write_pickle(tmp_path / "data" / "fc100" / f"FC100_{split}.pickle", content)
    monkeypatch.setenv("MEMORY_REDUCED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEMORY_REDUCED_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(claim, "PROTOCOL", {"iterations": 2, "batch": 1, "validation_episodes": 2})
    small = replace(claim.BENCHMARKS["fc100"], channels=4)
    monkeypatch.setattr(claim, "BENCHMARKS", claim.BENCHMARKS | {"fc100": small})


def test_a_data_set_that_is_there_is_measured_and_the_others_are_named(data):
    said = []
    evidence = claim._benchmarks(Setting(report=said.append))
    assert evidence["found"].tolist() == ["fc100"]
    assert evidence["missing"].tolist() == ["cifar-fs", "mini-imagenet", "tiered-imagenet"]
    for recipe in ("memory_reduced", "published", "itd_bio", "anil", "maml"):
        accuracies = evidence[f"fc100_{recipe}"]
        assert len(accuracies) == 100
        assert 0.15 < accuracies.mean() < 0.25  # noise of five classes
        assert f"fc100, {recipe}, iteration 2" in said
    found = {c.quantity: c for c in judge(NO_BARS | evidence)}
    assert found["accuracy on fc100, published"].outcome is Outcome.VIOLATED
    assert found["accuracy on fc100, published"].predicted == pytest.approx(PUBLISHED["fc100"] - 0.03)
    assert found["accuracy on fc100, maml"].predicted == pytest.approx(0.4820 - 0.03)
    assert found["accuracy on cifar-fs"].outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("folder", [None, "", "nowhere"])
def test_without_any_data_every_benchmark_is_inconclusive_and_says_where_it_is_looked_for(folder, monkeypatch):
    monkeypatch.delenv("MEMORY_REDUCED_DATA", raising=False)
    if folder is not None:
        monkeypatch.setenv("MEMORY_REDUCED_DATA", folder)
    comparisons = judge(NO_BARS | claim._benchmarks(Setting()))
    assert {c.quantity.removeprefix("accuracy on "): c.predicted for c in comparisons} == PUBLISHED
    for comparison in comparisons:
        assert comparison.outcome is Outcome.INCONCLUSIVE
        assert "MEMORY_REDUCED_DATA" in comparison.reason


@pytest.mark.parametrize(("iterations", "change", "quantity"), [(250, -0.2, "memory_reduced"), (600, 0.04, "itd_bio")])
def test_a_mean_below_its_bar_and_a_better_competitor_are_violations(iterations, change, quantity):
    recipe, when, least = (np.array(column) for column in zip(*claim.BARS, strict=True))
    evidence = {"bar_recipe": recipe, "bar_iterations": when, "bar_least": least}
    for name in np.unique(recipe):
        evidence[f"{name}_tested"] = np.array([0, 250, 600])
        evidence[f"{name}_test"] = np.broadcast_to(np.array([0.25, 0.8, 0.8])[:, None, None], (3, 3, 5)).copy()
    assert {c.outcome for c in judge(evidence)} == {Outcome.HOLDS}
    evidence[f"{quantity}_test"][[0, 250, 600].index(iterations)] += change
    violated = [c for c in judge(evidence) if c.outcome is Outcome.VIOLATED]
    assert violated
    assert all(quantity in c.quantity and str(iterations) in c.quantity for c in violated)


def test_the_recipe_judged_is_the_methods_of_the_setting_with_the_numbers_of_the_recipe():
    recipe = claim._recipe(Setting(method=Ascent), "memory_reduced")
    assert isinstance(recipe.method, Ascent)
    assert claim._recipe(Setting(), "memory_reduced").method == RECIPES["memory_reduced"].method
    assert claim._recipe(Setting(method=Ascent), "anil") == RECIPES["anil"]
