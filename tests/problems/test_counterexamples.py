"""Problems whose step size limit is arbitrarily small, and problems that break one assumption each."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest
from torch.func import grad

from convergence import ConjugateGradient, Direct, Implicit, Oracle, Status
from problems import COUNTEREXAMPLES, HeavyTailed, LassoLower, Parameters, Problem, QuarticLower, Tasks
from problems.counterexamples import cancelling_modes, two_curvatures
from tests.independent import Dense, assert_near
from tests.strategies import normal, seeds

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


# ---- problems without a contract: what must hold all the same


def a_batch(name: str, seed: int = 0) -> tuple[Problem, Tasks]:
    problem = COUNTEREXAMPLES[name](seed)
    rng = torch.Generator().manual_seed(seed)
    return problem, problem.sample(None if problem.tasks else 4, rng)


def some_phi(problem: Problem, seed: int, *lead: int) -> Parameters:
    return {n: normal(seed, *lead, *like.shape) for n, like in problem.phi0(torch.Generator()).items()}


@pytest.mark.parametrize("name", COUNTEREXAMPLES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_closed_forms_equal_automatic_differentiation_of_single_tasks(name, seed):
    problem, tasks = a_batch(name, seed)
    dense, phi = Dense(problem, tasks), some_phi(problem, seed)
    theta, v = normal(seed + 1, 2, len(tasks), problem.q)
    x, z = dense.vector(phi), problem.embed(phi, tasks)
    crosses = (dense.each(dense.cross, x, theta).mT @ v[..., None])[..., 0]
    expected = {
        "lower_gradient": dense.each(dense.lower_slope, x, theta),
        "upper_gradient": dense.each(dense.upper_slope, x, theta),
        "lower_hvp": (dense.each(dense.hessian, x, theta) @ v[..., None])[..., 0],
        "surrogate_gradient": (dense.each(grad(dense.f), x, theta) - crosses).mean(0),
    }
    found = {
        "lower_gradient": problem.lower_gradient(z, theta, tasks),
        "upper_gradient": problem.upper_gradient(z, theta, tasks),
        "lower_hvp": problem.lower_hvp(z, theta, v, tasks),
        "surrogate_gradient": dense.vector(problem.surrogate_gradient(phi, z, theta, v, tasks)),
    }
    for form, tensor in found.items():
        assert_near(tensor, expected[form], within=1e-12)


@pytest.mark.parametrize("name", COUNTEREXAMPLES)
@pytest.mark.parametrize("form", ["theta0", "lower", "upper", "lower_gradient", "lower_hvp", "upper_gradient"])
def test_replicas_and_tasks_are_computed_each_for_itself(name, form):
    problem, tasks = a_batch(name)
    phi = some_phi(problem, 1, 3)
    theta, v = normal(2, 2, 3, len(tasks), problem.q)

    def call(phi: Parameters, theta: torch.Tensor, v: torch.Tensor, tasks: Tasks) -> torch.Tensor:
        if form == "theta0":
            return problem.theta0(phi, tasks)
        return getattr(problem, form)(problem.embed(phi, tasks), theta, *((v,) if form == "lower_hvp" else ()), tasks)

    together = call(phi, theta, v, tasks)
    for r in range(3):
        alone = {n: tensor[r] for n, tensor in phi.items()}
        for i, task in enumerate(tasks):
            single = call(alone, theta[r, i : i + 1], v[r, i : i + 1], task)
            assert_near(together[r, i : i + 1], single, within=1e-14)


def test_the_quartic_level_has_the_parabola_of_its_targets_for_phi():
    problem, tasks = a_batch("quartic-lower")
    phi = {"phi": normal(3, 3).requires_grad_()}
    star = problem.lower_solution(phi, tasks)
    value = problem.upper(problem.embed(phi, tasks), star, tasks).mean()
    (gradient,) = torch.autograd.grad(value, phi["phi"])
    assert_near(problem.value(phi).detach(), value.detach(), within=1e-14)
    assert_near(problem.hypergradient(phi)["phi"].detach(), gradient, within=1e-14)
    assert float(problem.lower_gradient(problem.embed(phi, tasks), star, tasks).abs().max().detach()) < 1e-40


def test_one_step_on_the_singular_system_is_unbounded_and_a_second_breaks_down():
    problem, tasks = a_batch("singular-lower")
    for phi in (1.0, 2.0**-10, 2.0**-20):
        at = {"phi": torch.tensor([phi], dtype=torch.float64)}
        theta, z = problem.theta0(at, tasks), problem.embed(at, tasks)

        def product(v, z=z, theta=theta):
            return problem.lower_hvp(z, theta, v, tasks)

        one, two = (ConjugateGradient(N).solve(product, problem.upper_gradient(z, theta, tasks)) for N in (1, 2))
        assert float(one.v[0, 0]) == pytest.approx((phi**2 + 1) / phi, rel=1e-12)
        assert not one.failure.any()
        assert int(two.failure) == Status.BREAKDOWN
        assert torch.equal(one.v, two.v)


@given(seeds, st.floats(0.1, 2.0))
def test_the_lasso_level_has_its_solution_at_the_threshold_and_its_gradient_on_the_support(seed, lasso):
    problem = LassoLower.random(tasks=3, p=2, q=4, lasso=lasso, seed=seed)
    tasks, phi = problem.sample(None, torch.Generator()), {"phi": normal(seed, 2)}
    star = problem.lower_solution(phi, tasks)
    # C phi - theta is a subgradient of lasso |theta|_1: at most lasso everywhere, lasso sign(theta) on the support
    dual = (tasks.C @ phi["phi"] - star).numpy()
    assert np.abs(dual).max() <= lasso * (1 + 1e-12)
    support = star.numpy() != 0
    np.testing.assert_allclose(dual[support], lasso * np.sign(star.numpy()[support]), rtol=1e-9)
    h = 1e-6
    assume(
        float(((tasks.C @ phi["phi"]).abs() - lasso).abs().min()) > 10 * h * float(tasks.C.abs().max())
    )  # no kink near
    along = normal(seed + 1, 2).sign()
    ends = [problem.value({"phi": phi["phi"] + s * h * along}) for s in (1, -1)]
    slope = float((ends[0] - ends[1]) / (2 * h))
    value = problem.value(phi)
    assert float(value) == pytest.approx(float(problem.upper(problem.embed(phi, tasks), star, tasks).mean()), rel=1e-12)
    # Phi is quadratic between kinks: what is left is the rounding of its values, some eps |Phi| / h
    assert float(problem.hypergradient(phi)["phi"] @ along) == pytest.approx(slope, abs=1e-8 * (1 + float(value)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_implicit_differentiation_of_the_lasso_level_is_off_by_the_targets_off_the_support(seed):
    problem, tasks = a_batch("lasso-lower", seed)
    phi, oracle = some_phi(problem, seed), Oracle(problem)
    star, z = problem.lower_solution(phi, tasks), oracle.embed(phi, tasks)
    off = star == 0
    assert 0 < int(off.sum()) < off.numel()
    found = Implicit(Direct()).at(oracle, z, star, tasks).direction["phi"]
    error = found - problem.hypergradient(phi)["phi"]
    assert_near(error, -torch.einsum("bqp,bq->p", tasks.C, tasks.target * off) / len(tasks), within=1e-12)
    assert float(error.norm()) > 0.1  # of a gradient of size 1


@pytest.mark.parametrize("alpha", [1.0, 0.1, 0.01])
def test_subgradient_steps_on_the_lasso_level_jump_across_its_zeros(alpha):
    problem, tasks = a_batch("lasso-lower")
    phi = some_phi(problem, 0)
    z, star = problem.embed(phi, tasks), problem.lower_solution(phi, tasks)
    theta = problem.theta0(phi, tasks)
    for _ in range(round(40 / alpha)):
        theta = theta - alpha * problem.lower_gradient(z, theta, tasks)
    off = star == 0
    assert_near(theta[~off], star[~off], within=1e-12)
    # one step across zero is alpha (lasso -+ C phi) long: it stays within, and never gets there
    distance = theta[off].abs()
    assert bool((distance > 0).all())
    assert bool((distance <= alpha * (problem.lasso + z["centre"][off].abs())).all())


def test_only_the_lasso_level_says_that_it_has_a_kink():
    assert [name for name, make in COUNTEREXAMPLES.items() if not make(0).twice_differentiable] == ["lasso-lower"]


@given(st.floats(1.1, 4.0), st.integers(0, 1000))
def test_heavy_tailed_noise_is_symmetric_pareto(index, seed):
    noise = HeavyTailed(index).sample(4000, torch.Generator().manual_seed(seed)).noise.flatten().numpy()
    assert np.abs(noise).min() >= 1
    # of 100 examples and two tests the smallest of 200 p-values: below 1e-7 with a chance of 2e-5
    assert kstest(np.abs(noise) ** -index, "uniform").pvalue > 1e-7
    assert binomtest(int((noise > 0).sum()), len(noise)).pvalue > 1e-7


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: HeavyTailed(1.0), "index > 1, so that the noise has a mean, got 1.0"),
        (lambda: HeavyTailed(1.5).sample(None, torch.Generator()), "expected a batch size, got None"),
        (lambda: LassoLower(torch.zeros(2, 3), torch.zeros(2, 3), lasso=1.0), r"C of shape \(M, q, p\) and target"),
        (lambda: LassoLower(torch.zeros(2, 3, 1), torch.zeros(2, 2), lasso=1.0), r"got \(2, 3, 1\) and \(2, 2\)"),
        (lambda: LassoLower(torch.zeros(2, 3, 1), torch.zeros(2, 3), lasso=0.0), "expected lasso > 0, got 0.0"),
        (lambda: QuarticLower(torch.zeros(3)), r"target of shape \(M, q\), got \(3,\)"),
    ],
)
def test_impossible_counterexamples_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
