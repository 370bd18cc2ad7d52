"""Estimators of grad Phi_K, the gradient of the K-step objective, against closed forms, differences and each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import (
    Checkpointed,
    Composed,
    Displacement,
    FirstOrder,
    ForwardGradient,
    ForwardMode,
    GradientDescent,
    HeavyBall,
    HessianFree,
    Implicit,
    Neumann,
    Oracle,
    RandomNeumann,
    Reversed,
    Richardson,
    Status,
    Unrolled,
    peak_bytes,
    run,
)
from problems import PROBLEMS, STOCHASTIC, ProxLogistic, Quadratic
from problems.few_shot import Conv4, WholeNetwork
from tests.convergence.hypergradients.estimates import (
    LOWER,
    FromCentre,
    Jittered,
    estimated,
    flat,
    k_step_objective,
    quadratic_law,
    somewhere,
)
from tests.independent import Dense, assert_near
from tests.problems.few_shot.tiny import drawn, episodes, few_shot, start
from tests.strategies import normal, seeds
from tests.twins import Twin, UserRidge

THROUGH_STEPS = {
    "unrolled": Unrolled(),
    "checkpointed": Checkpointed(),
    "checkpointed-1": Checkpointed(1),
    "checkpointed-3": Checkpointed(3),
    "forward": ForwardMode(),
    "reversed": Reversed(),
    "hessian-free": HessianFree(1e-3),
}
OVER_ESTIMATORS = pytest.mark.parametrize("name", THROUGH_STEPS)
OVER_LOWER = pytest.mark.parametrize("kind", LOWER)


def follows(name: str, kind: str) -> bool:
    """Gradient steps without momentum cannot be undone."""
    return name != "reversed" or kind == "momentum"


@st.composite
def quadratics(draw) -> Quadratic:
    tasks, q = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    initialisation = draw(st.booleans())
    p = q if initialisation else draw(st.integers(1, 4))
    kappa = draw(st.floats(1, 30)) if q > 1 else 1.0
    return Quadratic.random(tasks=tasks, p=p, q=q, kappa=kappa, seed=draw(seeds), initialisation=initialisation)


# ---- what they estimate


@OVER_LOWER
@OVER_ESTIMATORS
@given(problem=quadratics(), steps=st.integers(0, 8), share=st.floats(0.05, 0.95), seed=seeds)
def test_on_a_quadratic_it_is_the_closed_form_of_k_steps(name, kind, problem, steps, share, seed):
    if not follows(name, kind):
        return
    lower, phi = LOWER[kind](steps, share * 2 / problem.constants.L), {"phi": normal(seed, problem.p)}
    found, _ = estimated(problem, phi, THROUGH_STEPS[name], lower)
    expected, theta = quadratic_law(problem, phi, lower)
    # differences of gradients: eps |grad g| / radius a product, at most 8 of them, each weighed by at most about 2
    within = 1e-10 if name == "hessian-free" else 1e-12
    assert_near(found.direction["phi"], torch.from_numpy(expected), within=within)
    assert_near(found.theta, torch.from_numpy(theta), within=1e-12)
    assert not found.failure.any()
    assert not found.v.any()
    assert not any(tensor.requires_grad for tensor in (found.theta, *found.direction.values()))


NONLINEAR = {
    "prox-logistic": lambda: ProxLogistic.random(tasks=3, q=3, examples=8, seed=1),
    "prox-logistic-from-phi": lambda: FromCentre.random(tasks=3, q=3, examples=8, seed=1),
    "prox-softmax": lambda: PROBLEMS["prox-softmax"](1),
    "representation": lambda: PROBLEMS["representation"](1),
    "user-ridge": lambda: UserRidge().to(dtype=torch.float64),
}


@OVER_LOWER
@pytest.mark.parametrize("problem", NONLINEAR)
def test_each_equals_central_differences_of_the_k_step_objective(problem, kind):
    problem = NONLINEAR[problem]()
    dense, phi, lower = Dense(problem), somewhere(problem, 3), LOWER[kind](5, 0.1)
    x = dense.vector(phi)
    step = 1e-5  # error of the order of step^2 and of eps / step
    differences = [
        (k_step_objective(dense, x + step * unit, lower) - k_step_objective(dense, x - step * unit, lower)) / (2 * step)
        for unit in torch.eye(len(x), dtype=x.dtype)
    ]
    found = {}
    for name, estimator in THROUGH_STEPS.items():
        if follows(name, kind):
            estimate, _ = estimated(problem, phi, estimator, lower)
            found[name] = flat(estimate.direction)
            assert_near(found[name], torch.stack(differences), within=1e-6 if name == "hessian-free" else 1e-9)
    for name, direction in found.items():
        assert_near(direction, found["unrolled"], within=1e-6 if name == "hessian-free" else 1e-12)
    if not isinstance(problem, UserRidge):  # whose phi reaches nothing but the steps
        biased, _ = estimated(problem, phi, FirstOrder(), lower)
        assert float((flat(biased.direction) - torch.stack(differences)).abs().max()) > 1e-3


@OVER_LOWER
@pytest.mark.parametrize("problem", [*PROBLEMS, *STOCHASTIC, "jittered"])
def test_all_agree_on_every_registered_problem_where_objectives_are_drawn_on_their_samples(problem, kind):
    problem = Jittered() if problem == "jittered" else (PROBLEMS | STOCHASTIC)[problem](1)
    phi, lower = somewhere(problem, 5), LOWER[kind](4, 0.05)
    expected, of_unrolling = estimated(problem, phi, Unrolled(), lower)
    for name, estimator in THROUGH_STEPS.items():
        if follows(name, kind):
            found, oracle = estimated(problem, phi, estimator, lower)
            within = 1e-6 if name == "hessian-free" else 1e-11
            assert_near(flat(found.direction), flat(expected.direction), within=within)
            assert_near(found.theta, expected.theta, within=1e-13)
            assert_near(oracle.upper_values, of_unrolling.upper_values, within=1e-12)  # the same sample of f
            if name in ("checkpointed", "reversed"):  # products at the samples count the examples of those
                assert oracle.examples["hvp"] == of_unrolling.examples["hvp"]


@pytest.mark.parametrize(
    "make", [few_shot, lambda: WholeNetwork(episodes(), embedding=Conv4(4))], ids=["head", "whole"]
)
def test_all_agree_on_networks_whose_features_or_start_are_what_the_steps_see_of_phi(make):
    problem = make()
    phi, tasks, lower = start(problem), drawn(problem, 2), HeavyBall(3, 0.1, 0.5)
    tasks = tasks.to(dtype=torch.float64)
    expected = flat(estimated(problem, phi, Unrolled(), lower, tasks=tasks)[0].direction)
    scale = float(expected.abs().max())
    # a radius within which no unit of the whole network reaches its kink
    for estimator in (Checkpointed(), Reversed(), HessianFree(1e-7)):
        found = flat(estimated(problem, phi, estimator, lower, tasks=tasks)[0].direction)
        assert float((found - expected).abs().max()) < (1e-6 if estimator == HessianFree(1e-7) else 1e-10) * scale
    # one direction: d = <grad Phi_K, u> u, whose signs tell u, up to the sign that cancels
    d = flat(estimated(problem, phi, ForwardGradient(1), lower, tasks=tasks)[0].direction)
    u = d.sign()
    assert_near(d, torch.dot(expected, u) * u, within=1e-10)


# ---- what they cost


EVERY = THROUGH_STEPS | {
    "truncated": Unrolled(2),
    "forward-gradient": ForwardGradient(3),
    "first-order": FirstOrder(),
    "displacement": Displacement(),
    "neumann": Implicit(Neumann(3, 0.1)),
    "richardson": Implicit(Richardson(3, 0.1)),
    "random-neumann": Implicit(RandomNeumann(3, 0.1)),
    "forward": ForwardMode(5),
}


@OVER_LOWER
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("replicas", [None, 2])
def test_the_calls_of_a_run_are_the_declared_ones(name, kind, replicas):
    problem = PROBLEMS["quadratic-initialisation"](0)
    for steps in (0, 1, 2, 5, 11):
        if not follows(name, kind) or (name == "truncated" and kind == "momentum"):
            continue
        method = Composed(lower=LOWER[kind](steps, 0.05), estimator=EVERY[name], upper_step_size=0.01)
        found = run(problem, method, iterations=2, batch=3, replicas=replicas, probes=()).calls
        assert found == {call: 2 * count for call, count in method.declared_calls(3).items()}


FLAT = {
    "reversed": Reversed(),
    "forward": ForwardMode(),
    "forward-gradient": ForwardGradient(3),
    "first-order": FirstOrder(),
    "displacement": Displacement(),
    "implicit": Implicit(Neumann(3, 0.1)),
}
HEADS = FromCentre.random(tasks=4, q=6, examples=9)  # made before, so that its tensors are in no measurement


@pytest.mark.parametrize("name", FLAT)
def test_the_peak_of_memory_does_not_depend_on_the_lower_steps(name):
    peaks = {
        peak_bytes(lambda k=k: estimated(HEADS, {"centre": normal(0, 6)}, FLAT[name], HeavyBall(k, 0.1, 0.9)))
        for k in (3, 4, 10, 40)
    }
    assert len(peaks) == 1
    assert peaks.pop() < peak_bytes(
        lambda: estimated(HEADS, {"centre": normal(0, 6)}, Unrolled(), HeavyBall(40, 0.1, 0.9))
    )


# ---- replicas, dtypes, failures


@pytest.mark.parametrize("name", [name for name in EVERY if name != "truncated"])
@pytest.mark.parametrize("problem", ["quadratic-initialisation", "prox-logistic-from-phi", "mapped", *STOCHASTIC])
def test_replicas_together_equal_runs_of_their_own(name, problem):
    problem = {
        "quadratic-initialisation": PROBLEMS["quadratic-initialisation"],
        "prox-logistic-from-phi": lambda seed: FromCentre.random(tasks=3, q=5, examples=8, seed=seed),
        "mapped": lambda seed: Twin(FromCentre.random(tasks=3, q=5, examples=8, seed=seed)),
        **STOCHASTIC,
    }[problem](0)
    estimator = ForwardMode() if name == "forward" else EVERY[name]
    if estimator.needs and not all(need.met(problem) for need in estimator.needs):
        return
    phi, lower, many = somewhere(problem, 0, 2), HeavyBall(3, 0.1, 0.5), (4, 9)
    together, oracle = estimated(problem, phi, estimator, lower, seeds=many)
    for r, seed in enumerate(many):
        own = {n: tensor[r] for n, tensor in phi.items()}
        alone, single = estimated(problem, own, estimator, lower, oracle=Oracle(problem, seeds=[seed]))
        # differences divide the rounding of another order of summation by the radius
        within = 1e-10 if name == "hessian-free" else 1e-12
        assert_near(flat(together.direction, lead=1)[r], flat(alone.direction), within=within)
        assert_near(together.theta[r], alone.theta, within=1e-13)
        assert torch.equal(together.failure[r], alone.failure)
        assert oracle.calls == single.calls


@OVER_ESTIMATORS
def test_float32_stays_float32_and_near_float64(name):
    problem, lower = PROBLEMS["prox-logistic"](0), HeavyBall(4, 0.1, 0.5)
    phi = somewhere(problem, 0)
    single = {n: tensor.float() for n, tensor in phi.items()}
    estimator = HessianFree(1e-2) if name == "hessian-free" else THROUGH_STEPS[name]
    found, _ = estimated(problem.to(dtype=torch.float32), single, estimator, lower)
    exact, _ = estimated(problem, phi, estimator, lower)
    assert {tensor.dtype for tensor in (found.theta, *found.direction.values())} == {torch.float32}
    within = 1e-3 if name == "hessian-free" else 1e-5  # eps / radius, eps 1e-7
    assert_near(flat(found.direction).double(), flat(exact.direction), within=within)


@OVER_ESTIMATORS
def test_lower_steps_that_overflow_fail_in_their_task_alone(name):
    data = dict(Quadratic.random(tasks=3, p=2, q=2, kappa=2.0, seed=0).data)
    data["A"] = data["A"] * torch.tensor([1.0, 1e80, 1.0], dtype=torch.float64)[:, None, None]
    found, _ = estimated(Quadratic(**data), {"phi": normal(0, 2)}, THROUGH_STEPS[name], HeavyBall(6, 0.1, 0.5))
    assert found.failure.tolist() == [0, Status.NON_FINITE, 0]


def test_a_lower_solver_whose_tasks_have_step_sizes_of_their_own_is_refused():
    problem = PROBLEMS["quadratic"](0)
    for name, estimator in THROUGH_STEPS.items():
        lower = HeavyBall(2, None, 0.5) if name == "reversed" else GradientDescent(2, None)
        with pytest.raises(ValueError, match="expected lower_step_size a number, got None"):
            estimated(problem, somewhere(problem, 0), estimator, lower)
