"""Damped Newton on problems with a known answer; what it does where there is none; when it is computed anew."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from convergence import reference
from problems import HyperCleaning, Parameters, Tasks, newton
from problems.newton import Dense, Exact, NewtonSolved, minimiser
from tests.independent import assert_near
from tests.strategies import normal


@dataclass(frozen=True)
class LogCosh(Dense):
    """g = log cosh(theta - phi) + curvature/2 theta^2 in one dimension; f = theta.

    A full Newton step from afar overshoots ever more where the curvature is small.
    """

    phi: Tensor
    curvature: float = 0.01

    def lower(self, theta: Tensor) -> Tensor:
        gap = theta - self.phi.unsqueeze(-2)
        return (torch.logaddexp(gap, -gap) + self.curvature / 2 * theta**2).squeeze(-1)

    def lower_derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.tanh(theta - self.phi.unsqueeze(-2))
        return slope + self.curvature * theta, (1 - slope**2 + self.curvature).unsqueeze(-1)

    def upper(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        return theta.squeeze(-1), torch.ones_like(theta)

    def phi_gradient(self, theta: Tensor, v: Tensor) -> Tensor:
        return ((1 - torch.tanh(theta - self.phi.unsqueeze(-2)) ** 2) * v).mean(-2)


class Valley(NewtonSolved):
    """Two equal tasks of `LogCosh`; how often its reference was asked for, and from where."""

    parameter = "x"
    q = 1

    def __init__(self, curvature: float = 0.01):
        self.data = {"nothing": torch.zeros(2, 1, dtype=torch.float64)}
        self.curvature = curvature
        self.asked: list[Tensor] = []

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"x": torch.ones(1, dtype=torch.float64)}

    def dense(self, phi: Tensor, tasks: Tasks) -> LogCosh:
        self.asked.append(phi)
        return LogCosh(phi, self.curvature)


def bisected(phi: float, curvature: float) -> float:
    """The zero of tanh(theta - phi) + curvature theta, which increases in theta."""
    low, high = -100.0, 100.0
    while (middle := (low + high) / 2) not in (low, high):
        value = torch.tanh(torch.tensor(middle - phi, dtype=torch.float64)) + curvature * middle
        low, high = (low, middle) if value > 0 else (middle, high)
    return low


def test_the_minimiser_is_found_from_afar_where_full_steps_diverge():
    phi = torch.tensor([3.0], dtype=torch.float64)
    dense, start = LogCosh(phi), torch.tensor([[30.0], [-8.0], [3.0]], dtype=torch.float64)
    found = minimiser(dense, start)
    assert_near(found, torch.full_like(found, bisected(3.0, 0.01)), within=1e-14)
    theta = start
    for _ in range(30):  # control: the same without damping
        slope, H = dense.lower_derivatives(theta)
        theta = theta - (slope.unsqueeze(-1) / H).squeeze(-1)
    assert not bool(((theta - found).abs() < 1).all())


def test_only_the_rows_without_a_minimiser_are_not_numbers():
    class Mixed(LogCosh):  # the first row is concave, the last has no finite value
        def lower_derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
            slope, H = super().lower_derivatives(theta)
            sign = torch.tensor([-1.0, 1.0, float("nan")], dtype=torch.float64)
            return slope, H * sign.reshape(3, 1, 1)

    phi = torch.tensor([0.5], dtype=torch.float64)
    found = minimiser(Mixed(phi), torch.zeros(3, 1, dtype=torch.float64))
    assert found.isnan().flatten().tolist() == [True, False, True]
    assert float(found[1]) == pytest.approx(bisected(0.5, 0.01), abs=1e-14)


def test_a_lower_level_that_never_ends_is_not_a_number(monkeypatch):
    monkeypatch.setattr(newton, "_MAX_STEPS", 2)
    assert minimiser(LogCosh(torch.tensor([3.0], dtype=torch.float64)), torch.full((1, 1), 30.0).double()).isnan().all()
    problem = Valley()
    phi = {"x": torch.tensor([30.0], dtype=torch.float64)}
    with pytest.raises(ArithmeticError, match="a lower level of Valley that Newton solves to a residual of 1e-13"):
        problem.lower_solution(phi, problem.sample(None, torch.Generator()))
    assert problem.value(phi).isnan()
    assert problem.hypergradient(phi)["x"].isnan().all()


def test_a_replica_that_fails_leaves_the_others_and_is_well_again_later():
    problem = HyperCleaning.digits(train=12, validation=6, ridge=0.1, classes=3, pool=4)
    phi = {"weights": torch.stack([normal(0, 12), torch.full((12,), torch.nan, dtype=torch.float64)])}
    value = problem.value(phi)
    assert value.isnan().tolist() == [False, True]
    assert problem.hypergradient(phi)["weights"].isnan().all(-1).tolist() == [False, True]
    again = {"weights": torch.stack([normal(0, 12), normal(1, 12)])}
    for r in range(2):
        one = {"weights": again["weights"][r]}
        exact = reference(problem, one, problem.sample(None, torch.Generator()))
        assert_near(problem.value(again)[r], exact.value, within=1e-13)


def test_value_and_gradient_at_one_phi_are_computed_once_and_the_next_begins_where_they_ended(monkeypatch):
    problem, starts = Valley(), []
    monkeypatch.setattr(newton, "minimiser", lambda dense, start: (starts.append(start), minimiser(dense, start))[1])
    phi = {"x": torch.tensor([1.0], dtype=torch.float64)}
    exact = problem.exact(phi)
    assert problem.value(phi) == exact.value
    assert problem.hypergradient(phi)["x"] == exact.hypergradient
    assert len(starts) == 1
    assert not starts[0].any()
    problem.value({"x": torch.tensor([1.5], dtype=torch.float64)})
    assert torch.equal(starts[1].squeeze(0), exact.theta)
    phi["x"] += 1  # changed in place: the same tensor is another phi
    problem.value(phi)
    problem.value({"x": torch.ones(3, 1, dtype=torch.float64)})  # other replicas: from theta0
    assert len(starts) == 4
    assert not starts[3].any()


def test_what_is_kept_does_not_follow_to_another_dtype_and_is_in_float64_there():
    problem = HyperCleaning.digits(train=12, validation=6, ridge=0.1, classes=3, pool=4)
    phi = problem.phi0(torch.Generator())
    exact = problem.exact(phi)
    single = problem.to(dtype=torch.float32)
    assert single._last is None
    assert problem._last is exact
    found = single.hypergradient({"weights": phi["weights"].float()})["weights"]
    assert found.dtype == single.value({"weights": phi["weights"].float()}).dtype == torch.float32
    assert_near(found.double(), exact.hypergradient, within=1e-6)  # the data are rounded to float32
    assert isinstance(single._last, Exact)
    assert single._last.theta.dtype == torch.float64


def test_replicas_solved_in_blocks_are_those_solved_together(monkeypatch):
    phi = {"weights": normal(0, 2, 3, 12)}

    def make():
        return HyperCleaning.digits(train=12, validation=6, ridge=0.1, tasks=2, classes=3, pool=4)

    together = make().exact(phi)
    monkeypatch.setattr(newton, "_BLOCK", 4 * 2 * 15**2)  # four replicas at a time
    apart = make().exact(phi)
    assert together.theta.shape == (2, 3, 2, 15)
    for one, other in zip(together, apart, strict=True):
        assert_near(one, other, within=1e-14)
