from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from convergence import ForwardGradient, ForwardMode, GradientDescent, HeavyBall, Oracle, Unrolled, peak_bytes
from problems import PROBLEMS, Problem, ProxLogistic
from tests.convergence.hypergradients.estimates import LOWER, estimated, flat, somewhere
from tests.independent import assert_near
from tests.strategies import normal
from tests.twins import UserRidge

SMALL = ProxLogistic.random(tasks=2, q=3, examples=8, seed=0)
SIGNS = torch.tensor(list(itertools.product((1, -1), repeat=3)))


class Given(Oracle):
    """An oracle whose draws are the directions given, in place of random bits."""

    def __init__(self, problem: Problem, directions: Tensor):
        super().__init__(problem)
        self.directions = directions

    def sampled(self, make):
        drawn = make(torch.Generator())
        assert drawn.shape == self.directions.shape
        assert bool((drawn.abs() == 1).all())
        self.drawn = drawn
        return self.directions


def along(directions: Tensor, problem: Problem = SMALL) -> Tensor:
    oracle, lower = Given(problem, directions), HeavyBall(4, 0.3, 0.5)
    return flat(
        estimated(problem, somewhere(problem, 1), ForwardGradient(len(directions)), lower, oracle=oracle)[0].direction
    )


def exact(problem: Problem = SMALL) -> Tensor:
    return flat(estimated(problem, somewhere(problem, 1), Unrolled(), HeavyBall(4, 0.3, 0.5))[0].direction)


# ---- random directions


def test_the_mean_over_all_directions_is_the_gradient_of_the_k_step_objective():
    assert_near(along(SIGNS), exact(), within=1e-13)
    assert_near(torch.stack([along(u[None]) for u in SIGNS]).mean(0), exact(), within=1e-13)


def test_a_single_direction_is_the_derivative_along_it():
    for u in SIGNS:
        assert_near(along(u[None]), torch.dot(exact(), u.double()) * u, within=1e-13)


@pytest.mark.parametrize("b", [1, 2])
def test_the_mean_square_is_the_formula_of_the_docstring(b):
    squares = [float(along(torch.stack(us)).square().sum()) for us in itertools.product(SIGNS, repeat=b)]
    expected = (1 + (3 - 1) / b) * float(exact().square().sum())
    assert sum(squares) / len(squares) == pytest.approx(expected, rel=1e-12)


def test_directions_are_drawn_for_each_replica_by_its_seed_and_iteration_and_have_independent_signs():
    R, phi = 400, somewhere(SMALL, 1)
    oracle = Oracle(SMALL, replicas=R, seeds=range(R))
    many = {name: tensor.expand(R, *tensor.shape) for name, tensor in phi.items()}
    lower = HeavyBall(4, 0.3, 0.5)
    found = flat(estimated(SMALL, many, ForwardGradient(1), lower, oracle=oracle)[0].direction, lead=1)
    u = found.sign() * found.sign()[:, :1]  # d = <g, u> u tells u up to its sign
    for j in (1, 2):
        assert abs(float(u[:, j].mean())) < 4 / math.sqrt(R)
    assert abs(float((u[:, 1] * u[:, 2]).mean())) < 4 / math.sqrt(R)
    z = (found.mean(0) - exact()) / (found.std(0) / math.sqrt(R))
    assert float(z.abs().max()) < 4
    again, _ = estimated(SMALL, phi, ForwardGradient(1), lower, oracle=Oracle(SMALL, seeds=[7]))
    assert_near(flat(again.direction), found[7], within=1e-13)
    later = Oracle(SMALL, seeds=[7])
    signs = set()
    for t in range(12):
        later.begin(t)
        d = flat(estimated(SMALL, phi, ForwardGradient(1), lower, oracle=later)[0].direction)
        signs.add(tuple((d.sign() * d.sign()[0]).tolist()))
    assert len(signs) > 1


def test_the_directions_of_an_estimate_are_drawn_apart():
    oracle = Given(SMALL, torch.ones(64, 3))
    estimated(SMALL, somewhere(SMALL, 1), ForwardGradient(64), GradientDescent(1, 0.1), oracle=oracle)
    assert len(torch.unique(oracle.drawn, dim=0)) == 8  # one of the 8 is left out with probability 8 (7/8)^64 < 2e-3


def test_the_memory_of_a_direction_does_not_hold_p_times_q_numbers():
    problem = ProxLogistic.random(tasks=2, q=60, examples=4, seed=0)  # p = q = 60
    phi, lower = somewhere(problem, 0), GradientDescent(3, 0.1)
    used = {
        name: peak_bytes(lambda e=estimator: estimated(problem, phi, e, lower))
        for name, estimator in {"one": ForwardGradient(1), "two": ForwardGradient(2), "all": ForwardMode()}.items()
    }
    assert used["all"] > 2 * 60 * 60 * 8
    assert used["one"] < used["two"] < used["all"] / 4
    assert used["one"] < 2 * 60 * 60 * 8


# ---- all directions


@pytest.mark.parametrize("kind", LOWER)
@pytest.mark.parametrize("problem", ["representation", "user-ridge"])
def test_every_named_tensor_of_phi_gets_its_own_entries_with_replicas_too(kind, problem):
    problem = UserRidge().to(dtype=torch.float64) if problem == "user-ridge" else PROBLEMS[problem](0)
    phi, lower = somewhere(problem, 0, 2), LOWER[kind](3, 0.1)
    found, _ = estimated(problem, phi, ForwardMode(), lower, seeds=(0, 1))
    expected, _ = estimated(problem, phi, Unrolled(), lower, seeds=(0, 1))
    for name, tensor in expected.direction.items():
        assert_near(found.direction[name], tensor, within=1e-12)


def test_the_size_of_phi_is_asked_for_where_calls_are_declared_and_held_against_phi():
    lower = GradientDescent(4, 0.1)
    assert ForwardMode(3).calls(lower) == {"lower_gradient": 4, "hvp": 12, "cross_product": 12, "upper_gradient": 1}
    with pytest.raises(ValueError, match=r"expected ForwardMode with the size of phi, .* got size=None"):
        ForwardMode().calls(lower)
    with pytest.raises(ValueError, match="expected a phi of 4 entries, which is ForwardMode's size, got 3"):
        estimated(SMALL, somewhere(SMALL, 0), ForwardMode(4), lower)
    # with replicas the entries of one of them
    estimated(SMALL, {"centre": normal(0, 2, 3)}, ForwardMode(3), lower, seeds=(0, 1))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ForwardMode(0), "expected size None or an integer >= 1, got 0"),
        (lambda: ForwardGradient(0), "expected directions an integer >= 1, got 0"),
        (lambda: ForwardGradient(1.5), "expected directions an integer >= 1, got 1.5"),
    ],
)
def test_wrong_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
