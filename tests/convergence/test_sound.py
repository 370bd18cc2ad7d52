"""What `require_sound` promises: it sees what methods would take for other derivatives, once, and no right problem."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from convergence import MemoryReduced, run, sound
from convergence.sound import require_parameters, require_sound
from problems import Minibatch, Problem, ProxLogistic, Quadratic, Representation
from tests.fuzz.test_problems import Sound, of


def looked_at(problem: Problem, *, replicas: bool = False, **options: Any) -> None:
    require_sound(problem, problem.phi0(torch.Generator().manual_seed(0)), replicas=replicas, **options)


def broken(**members: Any) -> Problem:
    return type("Broken", (Sound,), members)()


def g(phi: torch.Tensor, theta: torch.Tensor, tasks: Any) -> torch.Tensor:
    return 0.5 * (theta - (tasks.A * phi).sum(-1) - tasks.x).square().sum(-1)


@pytest.mark.parametrize("replicas", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        Sound,
        lambda: Quadratic.random(tasks=3, p=2, q=2, kappa=100.0),
        lambda: Representation.random(tasks=3, d=3, rank=2, examples=4),
        lambda: Minibatch(ProxLogistic.random(tasks=1, q=2, examples=4), lower=2, upper=2),
    ],
)
def test_right_problems_pass(make, replicas):
    looked_at(make(), replicas=replicas)


WRONG = {
    "detach": (of(lambda p, t, k: g(p["phi"].detach(), t, k)), r"derivative of lower of Broken in phi\['phi'\]"),
    "item": (of(lambda p, t, k: g(p["phi"], t * 0 + t.detach(), k)), "derivative of lower of Broken in theta"),
    "no_grad": (of(torch.no_grad()(lambda p, t, k: g(p["phi"], t, k))), r"got 0 from autograd: is a graph cut"),
    "noise": (of(lambda p, t, k: g(p["phi"], t, k) + torch.randn(len(t))), "the same values for the same arguments"),
    "in place": (of(lambda p, t, k: g(p["phi"], t.mul_(0.5), k)), "to leave theta as it is"),
    "tasks that meet": (of(lambda p, t, k: g(p["phi"], t - t.mean(0), k)), "to give each task its own value"),
    "no values": (of(lambda p, t, k: torch.log(g(p["phi"], t, k) - 1e9)), "to have values at its start, got nan, nan"),
    "an exception": (of(lambda p, t, k: {}["a"]), "to return something, got KeyError: 'a' at test_sound.py"),
    "a number": (of(lambda p, t, k: 1.0), "to return a tensor, one value a task, got 1.0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_objectives_are_told_by_their_values(what):
    lower, said = WRONG[what]
    with pytest.raises((TypeError, ValueError), match=said):
        looked_at(broken(lower=lower))


def single(problem: Problem, **options: Any) -> None:
    moved = problem.to(dtype=torch.float32)
    phi = {name: x.float() for name, x in problem.phi0(torch.Generator().manual_seed(0)).items()}
    require_sound(moved, phi, replicas=False, **options)


def test_in_single_precision_a_cut_graph_is_found_as_well():
    single(Sound())
    with pytest.raises(ValueError, match=r"derivative of lower of Broken in phi\['phi'\]"):
        single(broken(lower=WRONG["detach"][0]))


class Bent(torch.autograd.Function):
    """x^2 / 2 whose second derivative is three times what it should be."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return 0.5 * x.square()

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return slope * (3 * x - 2 * x.detach())


WRONG_DERIVATIVES = {
    "second": (
        {"lower": lambda self, p, t, k: Bent.apply(t - (k.A * p["phi"]).sum(-1)).sum(-1)},
        "products",
    ),
    "lower_gradient": ({"lower_gradient": lambda self, p, t, k: 2 * t}, "lower gradients of Broken"),
    "upper_gradient": ({"upper_gradient": lambda self, p, t, k: 2 * t}, "upper gradients of Broken"),
    "lower_hvp": ({"lower_hvp": lambda self, p, t, v, k: 3 * v}, "products with lower Hessians of Broken"),
}


@pytest.mark.parametrize("what", WRONG_DERIVATIVES)
def test_second_derivatives_and_closed_forms_are_held_against_differences(what):
    members, said = WRONG_DERIVATIVES[what]
    with pytest.raises(ValueError, match=said):
        looked_at(broken(**members))


def test_what_torch_cannot_differentiate_twice_is_said_where_it_is_needed():
    def lower(self: Any, p: Any, t: torch.Tensor, k: Any) -> torch.Tensor:
        return torch.cdist(t.unsqueeze(-2), p["phi"].expand_as(t).unsqueeze(-2), p=1.5)[..., 0, 0]

    with pytest.raises(
        ValueError, match="expected second derivatives of lower of Broken to return something, got NotImpl"
    ):
        looked_at(broken(lower=lower))
    looked_at(broken(lower=lower), second=False)


def test_replicas_are_looked_at_where_there_are_some():
    problem = broken(broadcasts_replicas=True)  # whose model does not
    looked_at(problem)
    with pytest.raises(ValueError, match=r"expected .* Broken (with replicas|on replicas)|expected lower of Broken"):
        looked_at(problem, replicas=True)


def test_a_start_is_a_row_of_finite_numbers_for_each_task():
    for theta in (torch.zeros(2), torch.zeros(1, 2), torch.zeros(2, 0), torch.zeros(2, 2, dtype=torch.int64), None):
        with pytest.raises((TypeError, ValueError), match="expected theta0 of Broken"):
            looked_at(broken(theta0=lambda self, phi, tasks, theta=theta: theta))
    with pytest.raises(ValueError, match="expected finite values in theta0 of Broken"):
        looked_at(broken(theta0=lambda self, phi, tasks: torch.full((len(tasks), 2), torch.nan)))


def test_phi_is_a_dict_of_named_real_tensors():
    require_parameters("phi0", {"a": torch.ones(2), "b": torch.ones(())})
    for phi in (None, {}, [1.0], {3: torch.ones(1)}, {"a": 1.0}, {"a": torch.ones(1) + 0j}, {"a": torch.ones(1) > 0}):
        with pytest.raises(TypeError, match="phi0"):
            require_parameters("phi0", phi)
    with pytest.raises(ValueError, match="expected at least one number in phi0, got none"):
        require_parameters("phi0", {"a": torch.ones(0)})


class Counted(Sound):
    """Counts on its class what is asked of it: its own attributes stay what they are."""

    calls = 0

    def lower(self, *arguments: Any) -> torch.Tensor:
        Counted.calls += 1
        return super().lower(*arguments)


def test_a_problem_is_looked_at_once_and_anew_where_it_is_another():
    problem, calls = Counted(), []
    method = MemoryReduced(lower_steps=1, lower_step_size=1.0, cg_steps=1, upper_step_size=0.1)
    for change in (None, None, None, {"data": {name: 2 * x for name, x in problem.data.items()}}):
        if change is not None:
            problem.data = change["data"]
        Counted.calls = 0
        run(problem, method, iterations=0, probes=())
        calls.append(Counted.calls)
    first, *again, changed = calls
    assert first > 0
    assert again[-1] == 0  # attributes that are cached while it runs may be new once
    assert changed > 0


def test_a_problem_that_is_gone_is_forgotten():
    problem = Sound()
    looked_at(problem)
    before = len(sound._SOUND)
    del problem
    gc.collect()
    assert len(sound._SOUND) < before
