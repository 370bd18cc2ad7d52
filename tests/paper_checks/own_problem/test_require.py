"""What is no problem is refused in one sentence that names it, before any claim."""

from __future__ import annotations

import pytest
import torch

from paper_checks.own_problem import require
from problems import LARGE, PROBLEMS, STOCHASTIC, Problem
from tests.paper_checks.own_problem.problems import Centre, Endless, SinglePrecision, TwoTensors, WithForms
from tests.strategies import normal


class NoData(Centre):
    def __init__(self):
        pass


class NotFinite(Centre):
    def __init__(self):
        super().__init__()
        self.data["train"][0, 0, 0] = float("nan")


class PhiNoDict(Centre):
    def phi0(self, rng):
        return torch.randn(3, generator=rng)


class PhiNotFinite(Centre):
    def phi0(self, rng):
        return {"centre": torch.full((3,), torch.inf)}


class NoSize(Centre):
    def __init__(self):
        super().__init__()
        self.theta0 = super().theta0

    def __getattribute__(self, name):
        if name == "q":
            raise AttributeError(name)
        return super().__getattribute__(name)


class FlatTheta(Centre):
    def theta0(self, phi, tasks):
        return torch.zeros(3)


class OneValue(Centre):
    def lower(self, features, theta, tasks):
        return super().lower(features, theta, tasks).mean()


class NaNValue(Centre):
    def upper(self, features, theta, tasks):
        return theta.sum(-1).log()


class NaNSlope(Centre):
    def lower(self, features, theta, tasks):
        return super().lower(features, theta, tasks) + theta.norm(dim=-1).sqrt()


class WrongShape(Centre):
    def lower(self, features, theta, tasks):
        return (tasks.train @ theta.unsqueeze(-1)).sum((-1, -2))


class Branches(Centre):
    def lower(self, features, theta, tasks):
        return super().lower(features, theta, tasks) * (2.0 if float(theta.sum()) > 0 else 1.0)


class NoLower(Problem):
    q = 1

    def __init__(self):
        self.data = {"x": normal(0, 2, 1)}

    def phi0(self, rng):
        return {"phi": torch.randn(1, generator=rng)}


class WrongForm(WithForms):
    def lower_gradient(self, features, theta, tasks):
        return super().lower_gradient(features, theta, tasks).sum(0)


class WrongName(Centre):
    def surrogate_gradient(self, phi, features, theta, v, tasks):
        return {"center": v.mean(0)}


REFUSED = [
    (NoData, "has neither data nor a sample method"),
    (NotFinite, "expected finite values in data tensor 'train'"),
    (PhiNoDict, "phi0 to return a dict of named tensors, got Tensor"),
    (PhiNotFinite, "phi0 to return finite tensors"),
    (NoSize, "expected a start of theta for NoSize"),
    (FlatTheta, r"of shape \(2, q\), one row a task, got \(3,\)"),
    (OneValue, r"expected OneValue.lower to return one value a task, shape \(2,\), got \(\)"),
    (NaNValue, "expected NaNValue.upper to be finite at phi_0 and theta_0"),
    (NaNSlope, "expected the derivative of NaNSlope.lower in theta to be finite"),
    (WrongShape, "expected WrongShape.lower to take features, theta of shape"),
    (Branches, "expected Branches.lower to be differentiated by torch.func, mapped over tasks by torch.vmap"),
    (NoLower, "expected NoLower.lower to take features.*has no lower objective"),
    (WrongForm, r"expected WrongForm.lower_gradient to return a tensor of shape \(2, 3\)"),
    (WrongName, "a dict of tensors with the shapes of phi"),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED)
def test_what_is_no_problem_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        require(make())
    assert make.__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [Centre, WithForms, TwoTensors, Endless, SinglePrecision])
def test_what_can_be_run_is_let_pass(make):
    require(make())


def test_so_is_every_problem_of_the_catalogue():
    for make in (PROBLEMS | LARGE | STOCHASTIC).values():
        require(make(0))
