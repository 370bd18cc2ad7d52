"""Minibatches: fixed blocks, drawn uniformly and independently, that together are the whole."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from torch.func import grad

from convergence import MemoryReduced, Oracle, run
from problems import Examples, Minibatch, Noisy, Problem, ProxLogistic, ProxSoftmax, Quadratic, Tasks, Terms
from tests.independent import EPS, Dense, assert_near
from tests.strategies import normal
from tests.twins import UserRidge

RARE = 1e-7  # each p-value below it fails: three of them in this file

HEADS = {
    "logistic": lambda: ProxLogistic.random(tasks=3, q=4, examples=6),
    "softmax": lambda: ProxSoftmax.random(tasks=3, classes=3, features=2, examples=6),
}


def whole(problem: Problem) -> Tasks:
    return problem.sample(None, torch.Generator())


def numbers(problem: Problem, lower: int, upper: int) -> tuple[Tensor, Tensor]:
    return torch.full((problem.tasks,), lower), torch.full((problem.tasks,), upper)


@pytest.mark.parametrize("name", HEADS)
@given(lower=st.sampled_from([1, 2, 3, 6, None]), upper=st.sampled_from([1, 2, 3, 6, None]))
def test_the_mean_over_all_blocks_is_the_whole_with_every_derivative(name, lower, upper):
    inside = HEADS[name]()
    problem = Minibatch(inside, lower=lower, upper=upper)
    assert problem.blocks == Terms(6 // (lower or 6), 6 // (upper or 6))
    exact, theta, v = Dense(inside), normal(1, 3, inside.q), normal(2, inside.q)
    x = normal(3, inside.q)

    def derivatives(dense: Dense) -> list[Tensor]:
        functions = (dense.g, dense.f, dense.lower_slope, dense.upper_slope, grad(dense.f), grad(dense.g))
        products = [lambda *a: dense.hessian(*a) @ v, lambda *a: dense.cross(*a).T @ v]
        return [dense.each(function, x, theta) for function in (*functions, *products)]

    parts = [
        derivatives(Dense(problem, problem.select_blocks(whole(problem), *numbers(problem, i, j))))
        for i, j in itertools.product(*map(range, problem.blocks))
    ]
    for each, together in zip(zip(*parts, strict=True), derivatives(exact), strict=True):
        assert_near(torch.stack(each).mean(0), together, within=100 * EPS)


def test_blocks_are_cut_in_order_and_each_task_shows_its_own():
    problem = Minibatch(HEADS["logistic"](), lower=2, upper=3)
    tasks = problem.select_blocks(whole(problem), torch.tensor([2, 0, 1]), torch.tensor([1, 1, 0]))
    data = problem.data
    assert torch.equal(tasks.X, torch.stack([data["X"][0, 4:6], data["X"][1, 0:2], data["X"][2, 2:4]]))
    assert torch.equal(tasks.y, torch.stack([data["y"][0, 4:6], data["y"][1, 0:2], data["y"][2, 2:4]]))
    assert torch.equal(tasks.X_val, torch.stack([data["X_val"][0, 3:], data["X_val"][1, 3:], data["X_val"][2, :3]]))
    assert torch.equal(tasks.y_val, torch.stack([data["y_val"][0, 3:], data["y_val"][1, 3:], data["y_val"][2, :3]]))
    assert (tasks.lower_block.tolist(), tasks.upper_block.tolist()) == ([2, 0, 1], [1, 1, 0])
    assert (tasks.lower_block.dtype, tasks.index.tolist()) == (torch.int64, [0, 1, 2])
    assert problem.terms(tasks) == (2, 3)
    assert problem.terms(whole(problem)) == (6, 6)


def test_blocks_of_tasks_with_a_replica_axis_are_those_of_each_replica():
    problem = Minibatch(HEADS["logistic"](), lower=2, upper=3)
    index, lower, upper = (torch.tensor(rows) for rows in ([[0, 2], [1, 1]], [[2, 1], [0, 1]], [[0, 1], [1, 1]]))
    together = problem.select_blocks(problem.select(index), lower, upper)
    assert problem.terms(together) == (2, 3)
    for r in range(2):
        alone = problem.select_blocks(problem.select(index[r]), lower[r], upper[r])
        assert all(torch.equal(together.tensors[name][r], alone.tensors[name]) for name in alone.tensors)


def test_a_tensor_that_holds_no_examples_is_left_as_it_is():
    class Weighted(UserRidge):
        examples = Examples(lower=("X", "y"), upper=("X", "y"))

        def __init__(self):
            super().__init__()
            self.data["weight"] = normal(0, 5, 8)

    tasks = whole(problem := Minibatch(Weighted(), lower=4))
    assert problem.select_blocks(tasks, *numbers(problem, 1, 0)).weight is tasks.weight


# ---- how they are drawn


@pytest.fixture(scope="module")
def drawn() -> Tasks:
    """6000 draws of one task: 3 lower and 2 upper blocks."""
    problem = Minibatch(HEADS["logistic"](), lower=2, upper=3)
    return problem.draw(problem.select(torch.zeros(6000, dtype=torch.int64)), torch.Generator().manual_seed(0))


def test_pairs_of_blocks_are_uniform_hence_independent(drawn):
    cells = torch.bincount(drawn.lower_block + 3 * drawn.upper_block, minlength=6)
    assert chisquare(cells.numpy()).pvalue > RARE
    control = torch.bincount(drawn.lower_block + 3 * (drawn.lower_block % 2), minlength=6)  # one decides the other
    assert chisquare(control.numpy()).pvalue < RARE


def test_blocks_of_different_tasks_are_independent(drawn):
    cells = torch.bincount(drawn.lower_block[:3000] + 3 * drawn.lower_block[3000:], minlength=9)
    assert chisquare(cells.numpy()).pvalue > RARE


def test_draws_with_one_generator_differ_and_hold_the_blocks_they_name():
    problem = Minibatch(HEADS["softmax"](), lower=1, upper=1)
    rng = torch.Generator().manual_seed(1)
    many = [problem.draw(whole(problem), rng) for _ in range(20)]
    assert len({tuple(tasks.lower_block.tolist()) for tasks in many}) > 10  # of 216, all equally likely
    for tasks in many:
        named = problem.select_blocks(whole(problem), tasks.lower_block, tasks.upper_block)
        assert all(torch.equal(named.tensors[name], tasks.tensors[name]) for name in tasks.tensors)


@pytest.mark.parametrize("noise", [None, 0.5])
@pytest.mark.parametrize("index", [None, [[0, 2], [1, 1]]])
def test_what_is_drawn_for_all_replicas_at_once_is_what_each_draws(noise, index):
    inside = HEADS["logistic"]()
    inside.data["weight"] = normal(0, 3, 2)  # a task tensor that holds no examples
    blocks = Minibatch(inside, lower=2, upper=3)
    problem = blocks if noise is None else Noisy(blocks, lower=noise)
    assert problem.has("draw_replicas") == (noise is None)  # noise is drawn one replica after the other
    tasks = whole(problem) if index is None else problem.select(torch.tensor(index))
    oracle = Oracle(problem, replicas=2, seeds=(5, 6))
    _, together = oracle.draw(oracle.features(stacked_start(problem), tasks), tasks)
    for r, seed in enumerate((5, 6)):
        alone = tasks if index is None else problem.select(torch.tensor(index[r]))
        single = Oracle(problem, seeds=(seed,))
        _, alone = single.draw(single.features(problem.phi0(torch.Generator()), alone), alone)
        assert torch.equal(together.index[r], alone.index)
        assert together.tensors.keys() == alone.tensors.keys()
        assert all(torch.equal(together.tensors[name][r], alone.tensors[name]) for name in alone.tensors)


def stacked_start(problem: Problem) -> dict[str, Tensor]:
    return {name: x.expand(2, *x.shape) for name, x in problem.phi0(torch.Generator()).items()}


def test_replicas_of_a_run_draw_their_own_blocks_and_are_separate_runs():
    problem = Minibatch(HEADS["logistic"](), lower=2, upper=3)
    method = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.1)
    together = run(problem, method, iterations=5, replicas=2, seed=4)
    for r in range(2):
        alone = run(problem, method, iterations=5, seed=4 + r)
        assert_near(together.phi["centre"][r], alone.phi["centre"], within=1e-12)
    assert not torch.equal(run(problem.problem, method, iterations=5, seed=4).phi["centre"], together.phi["centre"][0])


def test_noise_and_minibatches_go_with_each_other_in_either_order():
    inside = HEADS["logistic"]()
    for problem in (
        Noisy(Minibatch(inside, lower=2, upper=3), lower=1.0),
        Minibatch(Noisy(inside, lower=1.0), lower=2, upper=3),
    ):
        assert problem.blocks is None  # not of a sum alone
        tasks = problem.draw(whole(problem), torch.Generator().manual_seed(0))
        assert problem.terms(tasks) == (2, 3)
        phi, theta = {"centre": normal(0, 4)}, normal(1, 3, 4)
        block = Minibatch(inside, lower=2, upper=3).select_blocks(whole(inside), tasks.lower_block, tasks.upper_block)
        oracle, exact = Oracle(problem), Oracle(inside)
        found = oracle.lower_gradient(oracle.embed(phi, tasks), theta, tasks)
        expected = exact.lower_gradient(exact.embed(phi, block), theta, block) + tasks.noise_lower
        assert_near(found, expected, within=100 * EPS)


# ---- what is refused


class Misnamed(UserRidge):
    examples = Examples(lower=("X", "flat"), upper=("y",))

    def __init__(self):
        super().__init__()
        self.data["flat"] = torch.zeros(5)


class Taken(UserRidge):
    examples = Examples(lower=("X",), upper=("y",))

    def __init__(self):
        super().__init__()
        self.data["upper_block"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Minibatch(Quadratic.random(tasks=1, p=1, q=1, kappa=1.0)), "names its examples, .* got Quadratic"),
        (
            lambda: Minibatch(Minibatch(HEADS["logistic"]())),
            "expected a problem whose examples are whole, got Minibatch",
        ),
        (lambda: Minibatch(HEADS["logistic"](), lower=4), "lower a divisor of the 6 examples of a task, got 4"),
        (lambda: Minibatch(HEADS["logistic"](), upper=0), "expected upper an integer >= 1, got 0"),
        (lambda: Minibatch(HEADS["logistic"](), upper=12), "upper a divisor of the 6 examples of a task, got 12"),
        (lambda: Minibatch(HEADS["logistic"](), upper=2.0), "expected upper an integer >= 1, got 2.0"),
        (lambda: Minibatch(Misnamed()), r"expected flat of Misnamed with 8 examples .*, got shape \(1,\)"),
        (lambda: Minibatch(Taken()), r"task tensors of Taken named otherwise than \['upper_block'\]"),
    ],
)
def test_what_cannot_be_cut_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_blocks_that_there_are_not_and_tasks_that_show_one_already_are_refused():
    problem = Minibatch(HEADS["logistic"](), lower=2, upper=3)
    tasks = whole(problem)
    for lower, upper, sentence in [
        ([3, 0, 0], [0, 0, 0], r"lower_block of shape \(3,\) from 0 to 2, got \[3, 0, 0\]"),
        ([0, 0, 0], [0, -1, 0], r"upper_block of shape \(3,\) from 0 to 1, got \[0, -1, 0\]"),
        ([0, 0], [0, 0, 0], r"lower_block of shape \(3,\) from 0 to 2, got \[0, 0\]"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            problem.select_blocks(tasks, torch.tensor(lower), torch.tensor(upper))
    with pytest.raises(ValueError, match="expected tasks with all their examples, got tasks drawn already"):
        problem.draw(problem.draw(tasks, torch.Generator()), torch.Generator())
