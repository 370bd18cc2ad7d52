"""A wrapper is the problem inside: in runs bit for bit, in what it has, when moved, copied and pickled."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

from convergence import MemoryReduced, run
from problems import LearnedStart, Minibatch, Noisy, Problem, ProxLogistic, Quadratic, Representation, Wrapper
from tests.twins import Endless, UserRidge

PROBLEMS = {
    "broadcasts": lambda: Quadratic.random(tasks=4, p=2, q=3, kappa=5.0, initialisation=False),
    "two-tensors": UserRidge,
    "endless": Endless,
    "mapped": lambda: ProxLogistic.random(tasks=4, q=3, examples=4),
    "matrix": lambda: Representation.random(tasks=4, d=3, rank=2, examples=5),
}
WRAPPERS = {
    "wrapper": Wrapper,
    "noisy": lambda problem: Noisy(problem, lower=1.0, upper=1.0, upper_phi=1.0, hessian=1.0, cross=1.0),
    "minibatch": lambda problem: Minibatch(problem, lower=2, upper=2),
    "learned-start": LearnedStart,
}
# No noise, all examples in one block, a start that implicit methods leave at zero
EXACT = {"wrapper": Wrapper, "noisy": Noisy, "minibatch": Minibatch, "learned-start": LearnedStart}
CASES = [(w, p) for w in WRAPPERS for p in PROBLEMS if w != "minibatch" or PROBLEMS[p]().examples]


@pytest.mark.parametrize(("wrapper", "name"), CASES)
@pytest.mark.parametrize(("batch", "replicas"), [(None, None), (2, None), (2, 3)], ids=["pool", "batch", "replicas"])
def test_a_run_on_a_wrapper_that_changes_nothing_is_the_run_inside_bit_for_bit(wrapper, name, batch, replicas):
    inside = PROBLEMS[name]()
    batch = 2 if inside.tasks is None else batch
    method = MemoryReduced(
        lower_steps=2, lower_step_size=0.1, cg_steps=2, upper_step_size=0.05, warm_start=inside.tasks is not None
    )
    options = {"iterations": 4, "batch": batch, "replicas": replicas, "seed": 3}
    bare, wrapped = (run(problem, method, **options) for problem in (inside, EXACT[wrapper](inside)))
    assert all(torch.equal(bare.phi[n], wrapped.phi[n]) for n in bare.phi)
    assert bare.trace.keys() == wrapped.trace.keys()
    assert all(torch.equal(bare.trace[probe], wrapped.trace[probe]) for probe in bare.trace)
    assert bare.calls == wrapped.calls


def test_every_method_of_a_problem_is_passed_on():
    """A method added to Problem must be added to Wrapper: what it inherits would be the default."""
    here = {name for name, _ in inspect.getmembers(Problem, inspect.isfunction) if not name.startswith("_")}
    assert here <= vars(Wrapper).keys()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_wrapper_has_what_the_problem_inside_has(name):
    inside = PROBLEMS[name]()
    wrapper = Wrapper(inside)
    methods = {name for name, _ in inspect.getmembers(Problem, inspect.isfunction) if not name.startswith("_")}
    assert {m for m in methods if wrapper.has(m)} == {m for m in methods if inside.has(m)}
    assert wrapper.constants == inside.constants
    assert (wrapper.tasks, wrapper.q) == (inside.tasks, inside.q)
    assert (wrapper.examples, wrapper.twice_differentiable) == (inside.examples, inside.twice_differentiable)


def test_a_closed_form_that_the_problem_inside_lacks_is_refused_in_its_name():
    with pytest.raises(NotImplementedError, match="UserRidge has no closed form lower_hvp"):
        Wrapper(UserRidge()).lower_hvp(
            None, torch.zeros(1), torch.zeros(1), Wrapper(UserRidge()).select(torch.arange(1))
        )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = Wrapper(UserRidge()).nothing


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda problem: pickle.loads(pickle.dumps(problem))])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_survives_copying_and_pickling(wrapper, clone):
    problem = WRAPPERS[wrapper](ProxLogistic.random(tasks=4, q=3, examples=4))
    again = clone(problem)
    assert type(again) is type(problem)
    tasks, others = (
        p.draw(p.sample(None, torch.Generator()), torch.Generator().manual_seed(0)) for p in (problem, again)
    )
    assert all(torch.equal(tasks.tensors[name], others.tensors[name]) for name in tasks.tensors)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_moved_wrapper_holds_the_moved_problem_and_leaves_the_original_alone(wrapper):
    problem = WRAPPERS[wrapper](ProxLogistic.random(tasks=4, q=3, examples=4))
    moved = problem.to(dtype=torch.float32)
    assert type(moved) is type(problem)
    assert (moved.data["X"].dtype, problem.data["X"].dtype) == (torch.float32, torch.float64)
    drawn = moved.draw(moved.sample(None, torch.Generator()), torch.Generator().manual_seed(0))
    assert {x.dtype for x in drawn.tensors.values()} <= {torch.float32, torch.int64}


def test_data_that_are_not_finite_are_refused_through_a_wrapper():
    inside = UserRidge()
    inside.data["y"][0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite values in data tensor 'y', got 1 that are not"):
        Wrapper(inside).check()
