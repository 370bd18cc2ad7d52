"""What every registered method must satisfy; a method added to the catalogue is tested here without a new line."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from convergence import Checkpointed, Composed, FirstOrder, GradientDescent, Oracle, Unrolled, peak_bytes, run
from convergence.catalogue import METHODS
from convergence.declared import Declared
from convergence.needs import TWICE_DIFFERENTIABLE
from convergence.trees import tensors_of
from paper_checks.method_laws import LAWS
from problems import LassoLower, Noisy, Problem
from tests.convergence.methods.instances import (
    HEADS,
    QUADRATICS,
    SUMS,
    accepted,
    batch_of,
    declared_calls,
    has_lower_steps,
    meets,
    method,
)
from tests.independent import assert_near
from tests.twins import Endless

by_name = pytest.mark.parametrize("name", METHODS)
PROBLEMS = QUADRATICS | SUMS


def kinked() -> LassoLower:
    """theta_0 = phi, so that nothing but the kink is missing."""
    target = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return LassoLower(torch.eye(2, dtype=torch.float64).expand(3, 2, 2).clone(), target, lasso=0.3)


@by_name
def test_it_declares_itself(name):
    declared = METHODS[name].declared
    assert isinstance(declared, Declared)
    assert declared.estimates in LAWS
    assert all((declared.title, declared.source))
    assert (declared.bias == "") <= declared.exact  # only an exact method may leave nothing
    titles = [other.declared.title for other in METHODS.values()]
    assert titles.count(declared.title) == 1


# ---- cost


@by_name
@pytest.mark.parametrize(("K", "batch", "replicas"), [(0, None, None), (1, 1, None), (4, 3, None), (4, 2, 3)])
def test_the_declared_calls_are_those_counted(name, K, batch, replicas):
    made = method(name, lower_steps=K)
    problem = accepted(made, PROBLEMS)
    batch = batch_of(made, batch)
    result = run(problem, made, iterations=3, batch=batch, replicas=replicas, probes=())
    assert result.calls == declared_calls(made, batch or problem.tasks, 3)


def obeys(law: str, peak: Callable[[int], int]) -> bool:
    """Whether these bytes, as a function of K, are constant, or affine in sqrt K or in K and growing: to the byte."""
    steps = {"flat": (10, 20, 40), "root": (16, 64, 144), "linear": (16, 80, 144)}[law]
    few, some, many = (peak(K) for K in steps)
    return few == some == many if law == "flat" else many - some == some - few > 0


@pytest.mark.parametrize(
    ("law", "estimator"), [("flat", FirstOrder()), ("root", Checkpointed()), ("linear", Unrolled())], ids=str
)
def test_a_law_of_memory_is_not_believed_of_a_method_with_another(law, estimator):
    problem = HEADS["plain"]()

    def peak(K: int) -> int:
        return bytes_of_a_step(Composed(lower=GradientDescent(K, 0.1), estimator=estimator), problem)

    assert [other for other in ("flat", "root", "linear") if obeys(other, peak)] == [law]


def bytes_of_a_step(made, problem: Problem) -> int:
    oracle, phi = Oracle(problem), problem.phi0(torch.Generator().manual_seed(0))
    state, tasks = made.start(oracle, phi), oracle.pool
    return peak_bytes(lambda: made.step(oracle, phi, tasks, state))


@by_name
def test_the_memory_grows_with_the_lower_steps_as_declared(name):
    law = METHODS[name].declared.memory
    if not has_lower_steps(name):
        assert law == "flat"  # there is no K
        return
    problem = accepted(method(name), HEADS)
    assert obeys(law, lambda K: bytes_of_a_step(method(name, lower_steps=K), problem))


# ---- runs


@by_name
def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_sees_other_noise(name):
    made = method(name)
    problem = accepted(made, PROBLEMS)
    if not problem.has("draw"):
        problem = Noisy(problem, lower=0.3, upper=0.3, upper_phi=0.3, hessian=0.05)
    options = {"iterations": 4, "probes": (), "phi0": problem.phi0(torch.Generator().manual_seed(0))}
    first, again, other = (run(problem, made, seed=seed, **options) for seed in (3, 3, 4))
    assert all(torch.equal(first.phi[key], again.phi[key]) for key in first.phi)
    assert not all(torch.equal(first.phi[key], other.phi[key]) for key in first.phi)


@by_name
def test_replicas_together_equal_separate_runs(name):
    made = method(name)
    problem = accepted(made, PROBLEMS)
    options = {"iterations": 4, "batch": batch_of(made, 2), "probes": ()}
    together = run(problem, made, replicas=3, seed=5, **options)
    for r in range(3):
        alone = run(problem, made, seed=5 + r, **options)
        for key, tensor in alone.phi.items():
            assert_near(together.phi[key][r], tensor, within=1e-12)


@by_name
def test_a_step_leaves_what_it_is_given_as_it_was(name):
    made = method(name)
    problem = accepted(made, PROBLEMS)
    oracle, phi = Oracle(problem), problem.phi0(torch.Generator().manual_seed(0))
    state = made.start(oracle, phi)
    some = oracle.pool if batch_of(made, 2) is None else problem.select(torch.tensor([2, 0]))
    for batch in (oracle.pool, some, oracle.pool):
        given = [*phi.values(), *batch.tensors.values(), *tensors_of(state)]
        copies = [tensor.clone() for tensor in given]
        step = made.step(oracle, phi, batch, state)
        assert all(torch.equal(*pair) for pair in zip(given, copies, strict=True))
        made_here = [*step.phi.values(), *step.direction.values(), *tensors_of(step.state), step.theta, step.v]
        assert not any(tensor.requires_grad for tensor in [*given, *made_here])
        phi, state = step.phi, step.state


@by_name
def test_an_optimiser_may_take_the_upper_step(name):
    made, left = method(name), method(name, upper_step_size=None)
    problem = accepted(made, PROBLEMS)
    sgd = run(problem, left, iterations=3, probes=(), optimizer=lambda tensors: torch.optim.SGD(tensors, lr=0.05))
    own = run(problem, made, iterations=3, probes=())
    for key, tensor in own.phi.items():
        assert_near(sgd.phi[key], tensor, within=1e-13)


# ---- what it needs


def zoo() -> list[Problem]:
    return [make() for make in (*PROBLEMS.values(), kinked, Endless)]


@by_name
def test_a_problem_without_what_it_needs_is_refused_in_a_sentence_that_names_both(name):
    made = method(name, warm_start=False)  # where that is a choice, so that a pool is needed only if `needs` says so
    refused = set()
    for problem in zoo():
        batch = 2 if problem.tasks is None else batch_of(made, 2)
        lacking = [need for need in made.needs if not need.met(problem)]
        refused |= {need.what for need in lacking}
        if lacking:
            sentence = f"expected {lacking[0].what} for {type(made).__name__}, got {type(problem).__name__}, "
            with pytest.raises(ValueError, match=re.escape(sentence + lacking[0].lack)):
                run(problem, made, iterations=1, batch=batch, probes=())
        else:
            assert run(problem, made, iterations=2, batch=batch, probes=()).iterations == 2
    assert refused == {need.what for need in made.needs}


@by_name
def test_second_derivatives_are_not_taken_of_a_kink(name):
    made, problem = method(name), kinked()
    if TWICE_DIFFERENTIABLE in made.needs:
        with pytest.raises(ValueError, match=f"twice differentiable in theta for {type(made).__name__}, got LassoL"):
            run(problem, made, iterations=1)
    else:
        assert meets(made, problem)
        oracle, phi = Oracle(problem), {"phi": torch.tensor([1.0, -0.5], dtype=torch.float64)}
        step = made.step(oracle, phi, oracle.pool, made.start(oracle, phi))
        assert bool(torch.isfinite(step.direction["phi"]).all())
        assert oracle.calls["hvp"] == oracle.calls["cross_product"] == 0


# ---- where it ends


@by_name
def test_it_ends_at_a_zero_of_the_true_gradient_where_it_is_declared_exact_and_elsewhere_where_not(name):
    problem = accepted(method(name), PROBLEMS)
    # small for the coupling of theta, v and phi (docs/theory.md, Theorem 2), large enough for 1e-20 within the run
    made = method(name, upper_step_size=0.3 / problem.constants.L_Phi)
    options = {"iterations": 1001, "probe_every": 25, "raise_on_failure": False}
    result = run(problem, made, stop_at={"grad_norm_sq": 1e-20}, **options)
    reached = float(result.trace["grad_norm_sq"][-1])
    assert not result.status.failed
    assert (reached <= 1e-20) if METHODS[name].declared.exact else (reached > 1e-8)
