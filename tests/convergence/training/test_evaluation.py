"""Evaluation: the accuracy of fixed episodes, the same whatever was trained, held against plain loops."""

import math
from dataclasses import replace

import pytest
import torch

from convergence import Oracle
from convergence.methods import ClosedForm
from convergence.recipes import RECIPES
from convergence.training import evaluate
from convergence.training.evaluation import Evaluation, measure, ready
from problems.few_shot import EpisodeList
from tests.convergence.training.small import RECIPE, tiny, tiny_splits


def test_mean_and_interval():
    found = Evaluation(accuracies=torch.tensor([0.2, 0.4, 0.9], dtype=torch.float64), split="test", seed=0)
    assert found.episodes == 3
    assert found.accuracy == pytest.approx(0.5)
    assert found.ci95 == pytest.approx(1.96 * math.sqrt((0.09 + 0.01 + 0.16) / 2) / math.sqrt(3))
    assert math.isnan(Evaluation(accuracies=torch.ones(1), split="test", seed=0).ci95)


def test_prototypes_are_judged_as_the_nearest_class_mean():
    trained = tiny(2, RECIPES["protonet"])
    problem = trained.problem()
    expected = []
    for index in range(5):
        tasks = problem.episodes.draw([index])
        support, query, _ = problem.embed(trained.phi, tasks)
        means = torch.stack([support[0][tasks.support_labels[0] == c].mean(0) for c in range(3)])
        nearest = torch.cdist(query[0], means).argmin(-1)
        expected.append((nearest == tasks.query_labels[0]).double().mean())
    assert torch.allclose(evaluate(trained, episodes=5).accuracies, torch.stack(expected), atol=1e-6)


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_shares_of_float32_networks_carry_no_rounding_of_float32(name):
    found = evaluate(tiny(0, RECIPES[name]), episodes=8).accuracies
    assert found.dtype == torch.float64
    assert {round(6 * share) / 6 for share in found.tolist()} == set(found.tolist())  # of 3 x 2 query images


def test_episodes_depend_on_the_seed_of_the_evaluation_alone():
    one, other = tiny(1, seed=0), tiny(1, seed=1)
    drawn = [run.problem(seed=5).episodes.rows(range(4)) for run in (one, other)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != one.problem(seed=6).episodes.rows(range(4))).any()
    assert torch.equal(evaluate(one, episodes=4).accuracies, evaluate(one, episodes=6).accuracies[:4])


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_episodes_at_a_time_do_not_matter(chunk):
    trained = tiny(3)
    found, reference = evaluate(trained, episodes=5, chunk=chunk), evaluate(trained, episodes=5, chunk=3)
    assert torch.equal(found.accuracies, reference.accuracies)
    assert found.lower == pytest.approx(reference.lower, rel=1e-3)


def test_a_saved_list_is_judged_as_the_episodes_it_was_made_of():
    trained = tiny(1)
    listed = EpisodeList(tiny_splits()["test"], trained.problem(seed=5).episodes.listing(4))
    again = evaluate(trained, listed=listed)
    assert (again.episodes, again.seed, again.split) == (4, 5, "test")
    assert torch.equal(again.accuracies, evaluate(trained, episodes=4, seed=5).accuracies)
    other = replace(trained, plan=replace(trained.plan, way=2))
    with pytest.raises(ValueError, match="expected listed episodes of 2 classes, as in training, got 3"):
        evaluate(other, listed=listed)


def test_running_statistics_are_gathered_over_training_episodes_that_no_seed_changes():
    trained = tiny(2, bn="running")
    problem = trained.problem()
    with pytest.raises(ValueError, match='expected statistics gathered for bn="running"'):
        measure(problem, RECIPE.method, trained.phi, episodes=2)
    training = trained.plan.episodes(tiny_splits(), "train", seed=0)
    gathered = ready(problem, trained.phi, training, chunk=7)
    assert problem.moments is None
    alone = measure(gathered, RECIPE.method, trained.phi, episodes=4)
    assert torch.equal(alone.accuracies, evaluate(trained, episodes=4).accuracies)
    assert ready(tiny(1).problem(), trained.phi, training).bn == "task"


def one_ratio(trained, index):
    """|grad g| after the lower steps over that before, by automatic differentiation."""
    problem = trained.problem()
    tasks, oracle = problem.episodes.draw([index]), Oracle(problem)
    z = oracle.features(trained.phi, tasks)
    norms = []
    for theta in (problem.theta0(trained.phi, tasks), trained.recipe.method.adapt(oracle, z, trained.phi, tasks)):
        point = theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(problem.lower(z.value, point, tasks).sum(), point)
        norms.append(gradient.norm().item())
    return norms[1] / norms[0]


def test_the_lower_level_is_reported():
    lower = evaluate(tiny(1, RECIPE.varied(lower_steps=50)), episodes=3).lower
    assert lower["gradient_ratio"] < 1e-2
    assert lower["mu"] == pytest.approx(1.0)
    assert lower["L"] > lower["mu"]
    trained = tiny(1, RECIPE.varied(lower_steps=2))
    ratios = [one_ratio(trained, index) for index in range(5)]
    assert evaluate(trained, episodes=5).lower["gradient_ratio"] == pytest.approx(sorted(ratios)[2], rel=1e-4)
    untouched = evaluate(tiny(1, RECIPE.varied(lower_steps=0)), episodes=3).lower
    assert untouched["gradient_ratio"] == 1
    assert "mu" not in evaluate(tiny(1, RECIPES["maml"]), episodes=2).lower


def test_no_graph_is_kept():
    trained = tiny(1)
    trained.phi["block1.conv.weight"].requires_grad_()
    assert not evaluate(trained, episodes=2).accuracies.requires_grad


def test_wrong_arguments_are_named():
    trained = tiny(1)
    for wrong in ({"episodes": 0}, {"episodes": 2, "chunk": 0}):
        with pytest.raises(ValueError, match="an integer >= 1, got 0"):
            evaluate(trained, **wrong)
    with pytest.raises(TypeError, match="expected a method with adapt, which solves new tasks, got object"):
        measure(trained.problem(), object(), trained.phi, episodes=1)
    assert callable(ClosedForm().adapt)
