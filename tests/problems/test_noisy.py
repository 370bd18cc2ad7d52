"""Noise: mean, variance and independence as stated, closed forms on drawn tasks, and nothing of it on undrawn ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, kstest, norm
from torch import Tensor
from torch.func import grad

from convergence import SABA, ConjugateGradient, Direct, Oracle, run
from problems import Minibatch, Noisy, Parameters, Problem, ProxLogistic, Quadratic, Representation, Tasks
from tests.independent import EPS, Dense, assert_near
from tests.strategies import normal
from tests.twins import Endless, UserRidge

LEVELS = {"lower": 0.7, "upper": 1.3, "upper_phi": 0.4, "hessian": 0.9, "cross": 0.6}
RARE = 1e-7  # each p-value below it fails: under 100 of them in this file, so a false alarm once in 1e5 new seeds
INSIDE = {
    "broadcasts": lambda: Quadratic.random(tasks=4, p=2, q=3, kappa=5.0),
    "two-tensors": lambda: UserRidge().to(dtype=torch.float64),
    "mapped": lambda: ProxLogistic.random(tasks=4, q=3, examples=4),
    "matrix": lambda: Representation.random(tasks=4, d=3, rank=2, examples=5),
}


def some_phi(problem: Problem, seed: int, *lead: int) -> Parameters:
    return {n: normal(seed, *lead, *like.shape) for n, like in problem.phi0(torch.Generator()).items()}


def drawn(problem: Problem, seed: int) -> Tasks:
    return problem.draw(problem.sample(None, torch.Generator()), torch.Generator().manual_seed(seed))


def without_closed_forms(problem: Noisy) -> Noisy:
    """The same problem, all derivatives left to the oracle's automatic differentiation."""
    problem.has = lambda form: form in ("draw", "sample") and Noisy.has(problem, form)
    return problem


# ---- mean and variance of every derivative


N = 20_000


@pytest.fixture(scope="module")
def deviations() -> tuple[dict[str, Tensor], dict[str, float]]:
    """Of 20000 draws at one point, each a task: derivatives less those of the task undrawn; stated mean squares."""
    inside = Quadratic.random(tasks=1, p=3, q=4, kappa=5.0)
    problem = Noisy(inside, **LEVELS)
    one = inside.select(torch.zeros(N, dtype=torch.int64))
    tasks = problem.draw(one, torch.Generator().manual_seed(5))
    theta, v, x, direction = (normal(seed, size) for seed, size in ((1, 4), (2, 4), (3, 3), (4, 3)))
    here, exact = Dense(problem, tasks), Dense(inside, one)
    points = theta.expand(N, 4)

    def less(function) -> Tensor:
        return here.each(lambda *a: function(here, *a), x, points) - exact.each(
            lambda *a: function(exact, *a), x, points
        )

    found = {
        "g in theta": less(lambda d, *a: d.lower_slope(*a)),
        "f in theta": less(lambda d, *a: d.upper_slope(*a)),
        "f in phi": less(lambda d, *a: grad(d.f)(*a)),
        "Hessian times v": less(lambda d, *a: d.hessian(*a) @ v),
        "cross times x": less(lambda d, *a: d.cross(*a) @ direction),
        "cross' times v": less(lambda d, *a: d.cross(*a).T @ v),
    }
    sq = {name: level**2 for name, level in LEVELS.items()}
    slope = sq["lower"] + sq["hessian"] * float(theta @ theta) + sq["cross"] * float(x @ x)
    stated = {
        "g in theta": slope,
        "f in theta": sq["upper"],
        "f in phi": sq["upper_phi"],
        "Hessian times v": sq["hessian"] * float(v @ v),
        "cross times x": sq["cross"] * float(direction @ direction),
        "cross' times v": sq["cross"] * 3 / 4 * float(v @ v),
    }
    return found, stated


QUANTITIES = ["g in theta", "f in theta", "f in phi", "Hessian times v", "cross times x", "cross' times v"]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_derivative_is_unbiased(deviations, quantity):
    found = deviations[0][quantity]
    z = found.mean(0) / (found.std(0) / math.sqrt(N))
    assert min(2 * norm.sf(z.abs().numpy())) > RARE


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("wrong", [1.0, 1.1], ids=["stated", "control"])
def test_every_derivative_has_the_stated_variance(deviations, quantity, wrong):
    squares = deviations[0][quantity].square().sum(-1)
    z = (squares.mean() - wrong * deviations[1][quantity]) / (squares.std() / math.sqrt(N))
    # a tenth too much, of a mean known to about 0.7 %, is rejected
    assert (2 * norm.sf(abs(float(z))) > RARE) == (wrong == 1.0)


def test_noise_of_draws_and_of_tasks_is_independent(deviations):
    found = deviations[0]["g in theta"]
    first, second = found[: N // 2], found[N // 2 :]
    # correlations of n pairs are N(0, 1/n): all 16 of components of different tasks at once
    pairs = torch.corrcoef(torch.cat([first, second], -1).T)[:4, 4:]
    assert chi2.sf(float(pairs.square().sum()) * N / 2, 16) > RARE
    control = torch.corrcoef(torch.cat([first, first + second], -1).T)[:4, 4:]
    assert chi2.sf(float(control.square().sum()) * N / 2, 16) < RARE


def test_two_draws_of_one_generator_are_independent():
    problem = Noisy(Quadratic.random(tasks=500, p=3, q=4, kappa=5.0), **LEVELS)
    rng, whole = torch.Generator().manual_seed(0), problem.sample(None, torch.Generator())
    first, second = (problem.draw(whole, rng) for _ in range(2))
    for level in LEVELS:
        a, b = (x.tensors[f"noise_{level}"].flatten(1) for x in (first, second))
        if level == "hessian":  # each off-diagonal number once
            upper = torch.ones(4, 4).triu().flatten().bool()
            a, b = a[:, upper], b[:, upper]
        z = float((a * b).sum() / ((a.square() * b.square()).sum().sqrt()))
        assert 2 * norm.sf(abs(z)) > RARE
    again = problem.draw(first, torch.Generator().manual_seed(9))  # replaces the noise, does not add to it
    fresh = problem.draw(whole, torch.Generator().manual_seed(9))
    assert all(torch.equal(again.tensors[name], fresh.tensors[name]) for name in fresh.tensors)


def test_the_noise_of_the_hessian_is_symmetric_and_gaussian():
    problem = Noisy(Quadratic.random(tasks=2000, p=1, q=3, kappa=5.0), hessian=2.0)
    noise = drawn(problem, 0).noise_hessian
    assert torch.equal(noise, noise.mT)
    # s (G + G')/sqrt 2 with s^2 = hessian^2 / (q + 1): diagonal 2 s^2, beside it s^2
    s = 2.0 / math.sqrt(4)
    assert kstest(noise.diagonal(dim1=-2, dim2=-1).flatten(), norm(scale=math.sqrt(2) * s).cdf).pvalue > RARE
    assert kstest(noise[:, [0, 0, 1], [1, 2, 2]].flatten(), norm(scale=s).cdf).pvalue > RARE


# ---- the derivatives on drawn and on undrawn tasks


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("own", [False, True], ids=["undrawn", "drawn"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recompute"])
def test_the_oracle_gives_the_derivatives_of_lower_and_upper(name, own, recompute):
    problem = Noisy(INSIDE[name](), **LEVELS)
    tasks = drawn(problem, 3) if own else problem.sample(None, torch.Generator())
    dense, phi = Dense(problem, tasks), some_phi(problem, 0)
    theta, v = normal(1, 2, len(tasks), problem.q)
    x = dense.vector(phi)
    crosses = (dense.each(dense.cross, x, theta).mT @ v[..., None])[..., 0]
    expected = {
        "lower_gradient": dense.each(dense.lower_slope, x, theta),
        "upper_gradient": dense.each(dense.upper_slope, x, theta),
        "hvp": (dense.each(dense.hessian, x, theta) @ v[..., None])[..., 0],
        "direction": (dense.each(grad(dense.f), x, theta) - crosses).mean(0),
    }
    for variant in (problem, without_closed_forms(Noisy(INSIDE[name](), **LEVELS))):
        oracle = Oracle(variant)
        z = oracle.embed(phi, tasks, recompute=recompute)
        found = {
            "lower_gradient": oracle.lower_gradient(z, theta, tasks),
            "upper_gradient": oracle.upper_gradient(z, theta, tasks),
            "hvp": oracle.lower_hessian(z, theta, tasks)(v),
            "direction": dense.vector(oracle.hypergradient(z, theta, v, tasks)),
        }
        for form, tensor in found.items():
            assert_near(tensor, expected[form], within=1e-12)


@pytest.mark.parametrize("name", INSIDE)
def test_the_objectives_on_drawn_tasks_are_those_inside_plus_the_stated_form(name):
    inside = INSIDE[name]()
    problem = Noisy(inside, **LEVELS)
    tasks, whole, phi = drawn(problem, 3), inside.sample(None, torch.Generator()), some_phi(inside, 0)
    theta, flat = normal(1, len(tasks), problem.q), torch.cat([x.flatten() for x in phi.values()])
    quadratic = 0.5 * torch.einsum("bi,bij,bj->b", theta, tasks.noise_hessian, theta)
    mixed = torch.einsum("bi,bij,j->b", theta, tasks.noise_cross, flat)
    lower = (tasks.noise_lower * theta).sum(-1) + quadratic + mixed
    upper = (tasks.noise_upper * theta).sum(-1) + tasks.noise_upper_phi @ flat
    for level, added in (("lower", lower), ("upper", upper)):
        here = getattr(problem, level)(problem.embed(phi, tasks), theta, tasks)
        there = getattr(inside, level)(inside.embed(phi, whole), theta, whole)
        assert_near(here, there + added, within=100 * EPS)
        undrawn = getattr(problem, level)(problem.embed(phi, whole), theta, whole)
        assert torch.equal(undrawn, there)


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("own", [False, True], ids=["shared-tasks", "own-tasks"])
def test_replicas_are_computed_each_for_itself(name, own):
    problem = Noisy(INSIDE[name](), **LEVELS)
    each = [drawn(problem, r if own else 0) for r in range(3)]
    stacked = {n: torch.stack([tasks.tensors[n] for tasks in each]) for n in each[0].tensors}
    tasks = Tasks(torch.stack([tasks.index for tasks in each]), **stacked) if own else each[0]
    phi, (theta, v) = some_phi(problem, 0, 3), normal(1, 2, 3, len(each[0]), problem.q)

    def derivatives(oracle: Oracle, phi: Parameters, theta: Tensor, v: Tensor, tasks: Tasks) -> list[Tensor]:
        z = oracle.embed(phi, tasks)
        found = [oracle.lower_gradient(z, theta, tasks), oracle.upper_gradient(z, theta, tasks)]
        found.append(oracle.lower_hessian(z, theta, tasks)(v))
        return [*found, *oracle.hypergradient(z, theta, v, tasks).values()]

    for variant in (problem, without_closed_forms(Noisy(INSIDE[name](), **LEVELS))):
        together = derivatives(Oracle(variant, replicas=3), phi, theta, v, tasks)
        for r in range(3):
            alone = {n: tensor[r] for n, tensor in phi.items()}
            singles = derivatives(Oracle(variant), alone, theta[r], v[r], each[r])
            for whole, single in zip(together, singles, strict=True):
                assert_near(whole[r], single, within=1e-12)


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("index", [None, [[0, 2], [1, 1]]], ids=["pool", "own-tasks"])
def test_what_is_drawn_for_all_replicas_at_once_is_what_each_draws(name, index):
    problem = Noisy(INSIDE[name](), **LEVELS)
    assert problem.has("draw_replicas")
    tasks = problem.sample(None, torch.Generator()) if index is None else problem.select(torch.tensor(index))
    together = problem.draw_replicas(tasks, [torch.Generator().manual_seed(r) for r in (5, 6)])
    for r, seed in enumerate((5, 6)):
        alone = tasks if index is None else problem.select(torch.tensor(index[r]))
        single = problem.draw(alone, torch.Generator().manual_seed(seed))
        assert torch.equal(together.index[r], single.index)
        assert together.tensors.keys() == single.tensors.keys()
        assert all(torch.equal(together.tensors[key][r], single.tensors[key]) for key in single.tensors)


# ---- solutions


def test_systems_with_a_noisy_hessian_are_solved_with_its_noise():
    class Inverse(Quadratic):
        def lower_inverse_hvp(self, features, theta, b, tasks):
            return torch.linalg.solve(tasks.A, b)

    base = Quadratic.random(tasks=3, p=2, q=3, kappa=5.0)
    inside = Inverse(**base.data)
    noisy, quiet = Noisy(inside, hessian=0.2), Noisy(inside, lower=1.0, cross=1.0)
    assert quiet.has("lower_inverse_hvp")
    assert not noisy.has("lower_inverse_hvp")
    b, phi = normal(0, 3, 3), some_phi(inside, 0)
    for problem in (noisy, quiet):
        tasks = drawn(problem, 1)
        oracle = Oracle(problem)
        z = oracle.embed(phi, tasks)
        solution = Direct().solve(oracle.lower_hessian(z, b, tasks), b)
        H = tasks.A + tasks.tensors.get("noise_hessian", torch.zeros(3, 3, 3))
        assert_near(solution.v, torch.linalg.solve(H, b), within=1e-12)
    tasks = drawn(noisy, 1)
    with pytest.raises(ValueError, match=r"undrawn tasks for lower_inverse_hvp, .* got tasks with \['noise_hessian'\]"):
        noisy.lower_inverse_hvp(noisy.embed(phi, tasks), b, b, tasks)


@pytest.mark.parametrize("level", ["lower", "hessian", "cross"])
def test_a_lower_solution_without_the_noise_is_refused_on_tasks_that_hold_it(level):
    problem = Noisy(INSIDE["broadcasts"](), **{level: 1.0})
    phi, whole = some_phi(problem, 0), problem.sample(None, torch.Generator())
    assert torch.equal(problem.lower_solution(phi, whole), problem.problem.lower_solution(phi, whole))
    with pytest.raises(ValueError, match=rf"undrawn tasks for lower_solution, .* got tasks with \['noise_{level}'\]"):
        problem.lower_solution(phi, drawn(problem, 0))
    with pytest.raises(ValueError, match="undrawn tasks for lower_argmin"):
        problem.lower_argmin(problem.embed(phi, whole), drawn(problem, 0))
    upper = Noisy(INSIDE["broadcasts"](), upper=1.0, upper_phi=1.0)  # whose lower level is exact
    assert torch.equal(upper.lower_solution(phi, drawn(upper, 0)), problem.lower_solution(phi, whole))


def test_noise_of_the_upper_level_alone_leaves_a_hypergradient_unbiased():
    """theta* and v's system are exact, so that E d = grad Phi with Var d = (upper_phi^2 + E|J'zeta|^2) / M."""
    problem = Noisy(Quadratic.random(tasks=1, p=2, q=3, kappa=5.0), upper=0.5, upper_phi=0.3)
    phi, count = some_phi(problem, 0), 4000
    tasks = problem.draw(problem.select(torch.zeros(count, dtype=torch.int64)), torch.Generator().manual_seed(0))
    each = Tasks(tasks.index[:, None], **{n: x[:, None] for n, x in tasks.tensors.items()})
    oracle = Oracle(problem, replicas=count)
    runs = {n: x.expand(count, *x.shape) for n, x in phi.items()}
    z, theta = oracle.embed(runs, each), problem.lower_solution(runs, each)
    b = oracle.upper_gradient(z, theta, each)
    v = ConjugateGradient(3).solve(oracle.lower_hessian(z, theta, each), b).v
    error = oracle.hypergradient(z, theta, v, each)["phi"] - problem.hypergradient(phi)["phi"]
    z_score = error.mean(0) / (error.std(0) / math.sqrt(count))
    assert min(2 * norm.sf(z_score.abs().numpy())) > RARE
    J = torch.linalg.solve(problem.data["A"][0], problem.data["C"][0])
    stated = 0.3**2 + 0.5**2 / 3 * float(J.square().sum())
    squares = error.square().sum(-1)
    assert 2 * norm.sf(abs(float((squares.mean() - stated) / (squares.std() / math.sqrt(count))))) > RARE


# ---- what it wraps


def test_matrices_are_made_only_where_their_level_is_positive():
    assert drawn(Noisy(UserRidge(), lower=1.0), 0).tensors.keys() == {"X", "y", "noise_lower"}
    assert drawn(Noisy(UserRidge(), upper_phi=1.0), 0).noise_upper_phi.shape == (5, 4)
    assert drawn(Noisy(UserRidge()), 0).tensors.keys() == {"X", "y"}


def test_the_size_of_theta_is_read_from_theta0_where_no_q_names_it():
    class Start(Endless):
        def theta0(self, phi, tasks):
            return phi["x"].new_zeros(len(tasks), 2)

        @property
        def q(self):
            raise AttributeError("q")

    problem = Noisy(Start(), lower=1.0)
    assert problem.draw(problem.sample(3, torch.Generator()), torch.Generator()).noise_lower.shape == (3, 2)


@given(level=st.sampled_from(list(LEVELS)), size=st.sampled_from([-1.0, math.inf, math.nan]))
def test_impossible_levels_are_refused(level, size):
    with pytest.raises(ValueError, match=f"expected (a level {level} >= 0|{level} a finite number), got {size}"):
        Noisy(Endless(), **{level: size})


def test_noise_upon_the_same_noise_is_refused():
    with pytest.raises(ValueError, match=r"expected Noisy without noise of its own, got tasks with \['noise_lower'\]"):
        Noisy(Noisy(Endless(), lower=1.0), lower=1.0)


def test_noise_on_a_finite_sum_leaves_no_blocks_to_go_through():
    inner = Minibatch(ProxLogistic.random(tasks=2, q=3, examples=4), lower=2, upper=2)
    assert Noisy(inner).blocks == inner.blocks
    noisy = Noisy(inner, lower=0.1)
    assert noisy.blocks is None
    with pytest.raises(ValueError, match=r"finite sums .* for SABA, got Noisy"):
        run(noisy, SABA(lower_step_size=0.1, upper_step_size=0.1), iterations=1)
