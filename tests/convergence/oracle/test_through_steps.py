from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev

from convergence import Oracle
from problems import PROBLEMS, STOCHASTIC, Problem
from tests.independent import Dense, assert_near
from tests.strategies import normal
from tests.twins import UserRidge


class Labelled(Problem):
    """Features that are no phi: nested, one for all tasks and one a task, integers among them. theta_0 sees phi."""

    q = 2

    def __init__(self):
        self.data = {"c": normal(0, 3, 2)}

    def phi0(self, rng):
        return {"x": torch.ones(2, dtype=torch.float64), "y": torch.ones((), dtype=torch.float64)}

    def theta0(self, phi, tasks):
        return phi["x"].sin() * tasks.c

    def embed(self, phi, tasks):
        columns = torch.arange(2, device=tasks.index.device)
        return {"own": phi["x"] * tasks.c, "rest": [phi["y"].exp(), columns], "fixed": torch.ones_like(tasks.c)}

    def lower(self, z, theta, tasks):
        scale, columns = z["rest"]
        shifted = theta - z["own"][..., columns] * z["fixed"]
        return (scale * shifted.square() + shifted.cosh()).sum(-1)

    def upper(self, z, theta, tasks):
        return (theta.sin() * z["own"]).sum(-1) + z["rest"][0] * theta.square().sum(-1)


MAKE = {
    name: lambda name=name: PROBLEMS[name](1) for name in ("quadratic-initialisation", "prox-softmax", "representation")
}
MAKE |= {"user-ridge": lambda: UserRidge().to(dtype=torch.float64), "labelled": Labelled}
OVER_PROBLEMS = pytest.mark.parametrize("name", MAKE)


class Case:
    """A problem at a point, and the same by torch.func: theta, a row w for each task, P directions in phi and theta."""

    def __init__(self, problem: Problem, *lead: int, directions: int = 3):
        self.problem, self.oracle = problem, Oracle(problem, replicas=lead[0] if lead else None)
        self.tasks = self.oracle.pool
        like = problem.phi0(torch.Generator())
        M, q = len(self.tasks), problem.q
        self.phi = {name: normal(k, *lead, *tensor.shape) for k, (name, tensor) in enumerate(like.items())}
        self.theta, self.w = normal(11, *lead, M, q), normal(12, *lead, M, q)
        self.theta_tangents = normal(13, directions, *lead, M, q)
        self.phi_tangents = {n: normal(20 + k, directions, *x.shape) for k, (n, x) in enumerate(self.phi.items())}
        self.z = self.oracle.embed(self.phi, self.tasks, keep_graph=True)
        self.start = self.oracle.theta0(self.z.phi, self.tasks, keep_graph=True)

    def replica(self, r: int | None) -> tuple[Dense, Tensor, Tensor, Tensor]:
        """The dense problem, x, theta and w of one replica."""
        dense = Dense(self.problem)
        if r is None:
            return dense, dense.vector(self.phi), self.theta, self.w
        return dense, dense.vector({n: x[r] for n, x in self.phi.items()}), self.theta[r], self.w[r]


@OVER_PROBLEMS
@pytest.mark.parametrize("lead", [(), (2,)], ids=["single", "replicas"])
def test_the_adjoint_of_a_gradient_step_is_the_dense_one(name, lead):
    case = Case(MAKE[name](), *lead)
    M = len(case.tasks)
    Hw, slopes = case.oracle.adjoint(case.z, case.theta, case.w, case.tasks)
    assert case.oracle.calls == {"lower_gradient": 0, "hvp": M, "cross_product": M, "upper_gradient": 0}
    assert not any(slope.requires_grad for slope in (Hw, *slopes))
    nothing = torch.zeros_like(case.w)
    along = case.oracle.collect(case.z, case.theta, [(case.z, slopes)], case.start, nothing, case.tasks)
    for r in range(*lead) if lead else [None]:
        dense, x, theta, w = case.replica(r)
        of_this = (lambda tensor: tensor) if r is None else (lambda tensor, r=r: tensor[r])
        assert_near(of_this(Hw), (dense.each(dense.hessian, x, theta) @ w[..., None])[..., 0], within=1e-13)
        crosses = dense.each(grad(dense.f), x, theta) + (dense.each(dense.cross, x, theta).mT @ w[..., None])[..., 0]
        assert_near(dense.vector({n: of_this(tensor) for n, tensor in along.items()}), crosses.mean(0), within=1e-12)


@OVER_PROBLEMS
def test_differences_of_gradients_are_off_by_the_square_of_the_radius(name):
    case = Case(MAKE[name]())
    M = len(case.tasks)
    exact = case.oracle.adjoint(case.z, case.theta, case.w, case.tasks)
    case.oracle.calls = dict.fromkeys(case.oracle.calls, 0)
    errors = []
    for radius in (2e-2, 1e-2):
        Hw, slopes = case.oracle.finite_adjoint(case.z, case.theta, case.w, case.tasks, radius=radius)
        errors.append(
            max(float((a - b).abs().max()) for a, b in zip((Hw, *slopes), (exact[0], *exact[1]), strict=True))
        )
    assert case.oracle.calls == {"lower_gradient": 2 * 2 * M, "hvp": 0, "cross_product": 0, "upper_gradient": 0}
    if name in ("quadratic-initialisation", "user-ridge"):
        assert max(errors) < 1e-11  # g quadratic in theta: nothing but rounding, eps / radius times |grad g|
    elif name == "representation":  # quadratic in theta as well; its cross derivative is a square of theta, even: exact
        assert max(errors) < 1e-11
    else:
        assert errors[0] > 1e-8
        assert errors[0] / errors[1] == pytest.approx(4, rel=2e-3)  # the next term is radius^2 smaller


def test_the_points_of_the_differences_are_as_far_apart_whatever_the_size_of_w():
    case = Case(PROBLEMS["prox-logistic"](0))
    rows = torch.arange(len(case.tasks), dtype=torch.float64)
    scale = (10.0 ** (rows - 2)).unsqueeze(-1)
    plain, _ = case.oracle.finite_adjoint(case.z, case.theta, case.w, case.tasks, radius=1e-2)
    scaled, _ = case.oracle.finite_adjoint(case.z, case.theta, scale * case.w, case.tasks, radius=1e-2)
    assert_near(scaled / scale, plain, within=1e-12)
    nothing, slopes = case.oracle.finite_adjoint(case.z, case.theta, 0 * case.w, case.tasks, radius=1e-2)
    assert not nothing.any()
    assert not any(slope.any() for slope in slopes)


@OVER_PROBLEMS
def test_collecting_adds_the_slope_of_f_of_the_features_and_of_the_start(name):
    case = Case(MAKE[name]())
    dense, x, theta, w = case.replica(None)
    M = len(case.tasks)
    _, slopes = case.oracle.adjoint(case.z, theta, w, case.tasks)
    case.oracle.calls = dict.fromkeys(case.oracle.calls, 0)
    found = case.oracle.collect(case.z, theta, [(case.z, slopes), (case.z, slopes)], case.start, w, case.tasks)
    assert not any(case.oracle.calls.values())

    def whole(own: Tensor) -> Tensor:
        lower = (dense.each(dense.lower_slope, own, theta) * w).sum()
        start = (case.problem.theta0(dense.named(own), dense.tasks) * w).sum()
        return dense.each(dense.f, own, theta).mean() + (2 * lower + start) / M

    assert_near(dense.vector(found), grad(whole)(x), within=1e-12)
    assert_near(case.oracle.upper_values, dense.each(dense.f, x, theta), within=1e-13)


@OVER_PROBLEMS
@pytest.mark.parametrize("lead", [(), (2,)], ids=["single", "replicas"])
def test_tangents_of_features_start_gradient_and_f_are_those_of_torch_func(name, lead):
    case = Case(MAKE[name](), *lead)
    P, M = 3, len(case.tasks)
    z_tangents, start_tangents = case.oracle.feature_tangents(case.z, case.start, case.phi_tangents)
    assert not any(case.oracle.calls.values())
    lower = case.oracle.lower_tangents(case.z, case.theta, z_tangents, case.theta_tangents, case.tasks)
    assert case.oracle.calls == {"lower_gradient": 0, "hvp": P * M, "cross_product": P * M, "upper_gradient": 0}
    upper = case.oracle.upper_tangents(case.z, case.theta, z_tangents, case.theta_tangents, case.tasks)
    assert case.oracle.calls["upper_gradient"] == M
    assert lower.shape == start_tangents.shape == (P, *lead, M, case.problem.q)
    assert upper.shape == (P, *lead)
    for r in range(*lead) if lead else [None]:
        dense, x, theta, _ = case.replica(r)
        of_this = (lambda tensor: tensor) if r is None else (lambda tensor, r=r: tensor[r])
        for j in range(P):
            u = dense.vector({n: of_this(t[j]) for n, t in case.phi_tangents.items()})
            moved = of_this(case.theta_tangents[j])

            def starts(own, dense=dense):
                return case.problem.theta0(dense.named(own), dense.tasks)

            along = (
                dense.each(dense.hessian, x, theta) @ moved[..., None] + dense.each(dense.cross, x, theta) @ u[:, None]
            )
            slope = dense.each(grad(dense.f), x, theta) @ u + (dense.each(dense.upper_slope, x, theta) * moved).sum(-1)
            assert_near(of_this(start_tangents[j]), jacrev(starts)(x) @ u, within=1e-12)
            assert_near(of_this(lower[j]), along[..., 0], within=1e-12)
            assert_near(of_this(upper[j]), slope.mean(), within=1e-12)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_slopes_at_several_samples_of_the_features_are_all_taken_to_phi(name):
    case = Case(STOCHASTIC[name](0))
    zero = torch.zeros_like(case.theta)
    samples = [case.oracle.draw(case.z, case.tasks) for _ in range(3)]
    pulled = [(z, case.oracle.adjoint(z, case.theta, case.w, tasks)[1]) for z, tasks in samples]
    found = case.oracle.collect(case.z, case.theta, pulled, case.start, zero, case.tasks)
    expected = torch.zeros(())
    for _, tasks in samples:
        dense = Dense(case.problem, tasks)
        x = dense.vector(case.phi)
        expected = expected + (dense.each(dense.cross, x, case.theta).mT @ case.w[..., None])[..., 0].mean(0)
    dense = Dense(case.problem)
    expected = expected + dense.each(grad(dense.f), dense.vector(case.phi), case.theta).mean(0)
    assert_near(dense.vector(found), expected, within=1e-12)


def test_features_without_a_graph_are_refused_where_a_sweep_ends():
    case = Case(PROBLEMS["prox-logistic"](0))
    bare = case.oracle.features(case.phi, case.tasks)
    _, slopes = case.oracle.adjoint(bare, case.theta, case.w, case.tasks)
    with pytest.raises(ValueError, match="expected features embedded with keep_graph=True, got features without"):
        case.oracle.collect(bare, case.theta, [(bare, slopes)], case.theta, case.w, case.tasks)


def test_a_lower_level_linear_in_theta_that_does_not_see_phi_has_no_adjoint():
    class Flat(UserRidge):
        def lower(self, phi, theta, tasks):
            return theta.sum(-1)

        def upper(self, phi, theta, tasks):
            return phi["centre"].sum() * theta.sum(-1)

    case = Case(Flat().to(dtype=torch.float64))
    Hw, slopes = case.oracle.adjoint(case.z, case.theta, case.w, case.tasks)
    z_tangents, _ = case.oracle.feature_tangents(case.z, case.start, case.phi_tangents)
    moved = case.oracle.lower_tangents(case.z, case.theta, z_tangents, case.theta_tangents, case.tasks)
    finite, _ = case.oracle.finite_adjoint(case.z, case.theta, case.w, case.tasks, radius=0.1)
    assert not any(tensor.any() for tensor in (Hw, *slopes, moved, finite))
