"""A step of every method keeps to the device of its tensors and waits for no value of them: shown without a GPU.

A fake accelerator has shapes, types and devices but no values. As on a GPU, an operation on tensors of two devices is
an error; so is whatever needs a value on the host (`.item()`, `bool(tensor)`), which on a GPU would wait for it.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from convergence import MemoryReduced, Oracle
from convergence.catalogue import METHODS
from problems import Quadratic
from problems.catalogue import LARGE, PROBLEMS, STOCHASTIC
from problems.few_shot import PrototypeHead, RidgeHead, SoftmaxHead
from tests.conftest import FAKE_DEVICE as DEVICE
from tests.convergence.methods.instances import batch_of, meets, method
from tests.problems.few_shot.tiny import few_shot

INSTANCES = {**PROBLEMS, **LARGE, **STOCHASTIC}


@pytest.fixture(autouse=True)
def _values_on_the_host_are_known(monkeypatch):
    """Blocks of finite sums are drawn on the host, where looking at them waits for nothing; here they are fake too."""
    monkeypatch.setattr("problems.minibatch._require_numbers", lambda *given: None)


class _Arriving(TorchFunctionMode):
    """A real tensor that is moved to the fake device becomes a fake one; of real values nothing is known there."""

    def __init__(self, fake):
        super().__init__()
        self.fake = fake

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and not isinstance(args[0], FakeTensor):
            args = (self.fake.from_tensor(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def step(problem, of, replicas):
    """A step on the fake device, on two tasks of the pool or on all."""
    _ = problem.constants  # known before it moves: numbers, not tensors
    start = problem.phi0(torch.Generator())
    with FakeTensorMode() as fake, _Arriving(fake):
        there = problem.to(DEVICE, torch.float64)
        lead = () if replicas is None else (replicas,)
        phi = {name: x.to(DEVICE, torch.float64).expand(*lead, *x.shape).clone() for name, x in start.items()}
        oracle = Oracle(there, replicas=replicas)
        state, size = of.start(oracle, phi), batch_of(of, 2)
        tasks = oracle.pool if size is None else there.select(torch.zeros(*lead, size, dtype=torch.int64).to(DEVICE))
        return of.step(oracle, phi, tasks, state)


@pytest.mark.parametrize("replicas", [None, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_every_method_stays_on_its_device_and_waits_for_no_value(name, replicas):
    seen = 0
    for make in INSTANCES.values():
        problem, of = make(0), method(name)
        if meets(of, problem):
            taken, seen = step(problem, of, replicas), seen + 1
            assert {x.device.type for x in (*taken.phi.values(), taken.theta, taken.v, taken.failure)} == {DEVICE}
    assert seen > 0


@pytest.mark.parametrize("head", [SoftmaxHead(way=3, ridge=0.1), RidgeHead(way=3), PrototypeHead(way=3)])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_few_shot_step_stays_there_too(head, recompute):
    problem = few_shot(head)
    start, drawn = problem.phi0(torch.Generator()), problem.sample(2, torch.Generator())
    of = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.1, warm_start=False, recompute=recompute)
    with FakeTensorMode() as fake, _Arriving(fake):
        phi = {name: x.to(DEVICE, torch.float64) for name, x in start.items()}
        there = Oracle(problem.to(DEVICE, torch.float64))
        taken = of.step(there, phi, drawn.to(DEVICE, torch.float64), of.start(there, phi))
    assert {x.device.type for x in (*taken.phi.values(), taken.theta, taken.v, taken.failure)} == {DEVICE}


class OnTheHost(Quadratic):
    """Its upper objective meets a tensor of the host."""

    def upper_gradient(self, features, theta, tasks):
        return super().upper_gradient(features, theta, tasks) + torch.ones(self.q, dtype=theta.dtype)


def test_a_tensor_left_on_the_host_is_seen():
    arrays = Quadratic.random(tasks=3, p=2, q=3, kappa=2.0).data
    with pytest.raises(RuntimeError, match="same device"):
        step(OnTheHost(**arrays), method("memory_reduced"), None)


def test_a_step_that_waits_for_a_value_is_seen():
    certified = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.1, accuracy=0.5)
    with pytest.raises(DataDependentOutputException):
        step(Quadratic.random(tasks=3, p=2, q=3, kappa=2.0), certified, None)
