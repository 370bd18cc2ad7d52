"""Each head: its closed forms by torch.func, its curvature by dense Hessians, its minimiser, what it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jacrev

from convergence import MemoryReduced, Oracle
from problems import Parameters
from problems.few_shot import Head, PrototypeHead, RidgeHead, SoftmaxHead
from tests.independent import EPS, assert_near
from tests.problems.few_shot import independent
from tests.problems.few_shot.tiny import drawn, few_shot, start
from tests.strategies import normal, seeds


@dataclass(frozen=True, kw_only=True)
class Bare(Head):
    """Softmax regression without a single closed form."""

    way: int
    ridge: float = 0.1

    def inputs(self, features):
        return features + 1

    def prepare(self, Z):
        return F.pad(Z, (0, 1), value=1.0)

    def lower(self, Z, y, theta, own):
        return self.upper(Z, y, theta, own) + self.ridge / 2 * theta.square().sum(-1)

    def logits(self, Z, theta, own):
        return Z @ theta.unflatten(-1, (self.way, -1)).mT


class Case(NamedTuple):
    """A head, features Z (B, n, d) as it wants them, labels y, the features (B, n, d) before, theta, v, its tensors."""

    head: Head
    Z: Tensor
    y: Tensor
    raw: Tensor
    theta: Tensor
    v: Tensor
    own: Parameters

    def each(self, level: str, *, derivative=lambda function: function) -> Tensor:
        """`derivative` of g or f of each task, as a function of its theta, by the independent implementation."""
        kind = {SoftmaxHead: "softmax", RidgeHead: "ridge", PrototypeHead: "prototype"}[type(self.head)]
        penalties = {n: getattr(self.head, n) for n in ("ridge", "lasso")} if kind == "softmax" else {}
        objective = independent.objectives(kind, way=self.head.way, **penalties)[level == "upper"]
        rows = zip(self.raw, self.y, self.theta, strict=True)
        return torch.stack(
            [derivative(lambda own, Z=Z, y=y: objective(self.own, Z, y, own))(theta) for Z, y, theta in rows]
        )

    @property
    def hessians(self) -> Tensor:
        return self.each("lower", derivative=lambda g: jacrev(grad(g)))


@st.composite
def cases(draw, *, kinds=("softmax", "ridge", "prototype")) -> Case:
    """Heads of any size and penalty; labels in any order, at least one image of each class, not equally many."""
    way, B, d, seed = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(seeds)
    n = draw(st.integers(way, 3 * way))
    ridge, kind = draw(st.floats(0.05, 2.0)), draw(st.sampled_from(kinds))
    head: Head = {
        "softmax": lambda: SoftmaxHead(way=way, ridge=ridge, lasso=draw(st.sampled_from([0.0, 0.05]))),
        "ridge": lambda: RidgeHead(way=way, ridge=ridge, scale=draw(st.floats(0.5, 10.0))),
        "prototype": lambda: PrototypeHead(way=way),
    }[kind]()
    rng = torch.Generator().manual_seed(seed)
    rest = [torch.cat([torch.arange(way), torch.randint(way, (n - way,), generator=rng)]) for _ in range(B)]
    y = torch.stack([labels[torch.randperm(n, generator=rng)] for labels in rest])
    raw = normal(seed, B, n, d)
    own = {name: tensor.double() for name, tensor in head.parameters(d, rng).items()}
    theta, v = normal(seed + 1, B, way * head.inputs(d)), normal(seed + 2, B, way * head.inputs(d))
    return Case(head, head.prepare(raw), y, raw, theta, v, own)


@given(case=cases())
def test_closed_forms_are_the_derivatives_by_torch_func(case):
    head, Z, y, _, theta, v, own = case
    H, b = case.hessians, case.each("upper", derivative=grad)
    assert_near(head.lower(Z, y, theta, own), case.each("lower"), within=1e-12)
    if not isinstance(head, PrototypeHead):  # whose logits leave out what all classes share, but for the rounding
        assert_near(head.upper(Z, y, theta, own), case.each("upper"), within=1e-12)
    assert_near(head.upper(Z, y, theta, own), case.each("upper"), within=1e-11)
    assert_near(head.lower_gradient(Z, y, theta, own), case.each("lower", derivative=grad), within=1e-12)
    assert_near(head.upper_gradient(Z, y, theta, own), b, within=1e-11)
    assert_near(head.lower_hvp(Z, y, theta, v, own), (H @ v[..., None])[..., 0], within=1e-12)
    if "lower_inverse_hvp" in head.closed_forms:
        # kappa <= (2 + 15 * 5 / 2) / 0.05 < 1e4 in these sizes: eps kappa, and the cancellation of b / ridge
        assert_near(head.lower_inverse_hvp(Z, y, theta, b, own), torch.linalg.solve(H, b), within=1e-9)


@given(case=cases(kinds=("ridge", "prototype")))
def test_the_minimiser_has_no_slope_and_is_where_newton_ends(case):
    head, Z, y, _, theta, _, own = case
    found = head.lower_argmin(Z, y, own)
    assert_near(case._replace(theta=found).each("lower", derivative=grad), torch.zeros_like(theta), within=1e-11)
    kind = "ridge" if isinstance(head, RidgeHead) else "prototype"
    lower, _ = independent.objectives(kind, way=head.way)
    for i in range(len(Z)):
        newton = independent.minimiser(lambda own_theta, i=i: lower(own, case.raw[i], y[i], own_theta), theta[i])
        assert_near(found[i], newton, within=1e-9)


@given(case=cases())
def test_the_curvature_bounds_every_eigenvalue_of_the_hessian(case):
    mu, L = case.head.curvature(case.Z, case.y, case.own)
    for theta in (case.theta, torch.zeros_like(case.theta), 10 * case.theta):
        eigenvalues = torch.linalg.eigvalsh(case._replace(theta=theta).hessians)
        room = 100 * EPS * L.unsqueeze(-1)
        assert bool((eigenvalues >= mu.unsqueeze(-1) - room).all())
        assert bool((eigenvalues <= L.unsqueeze(-1) + room).all())


@given(case=cases(kinds=("ridge", "prototype")))
def test_the_curvature_is_attained_where_the_lower_level_is_quadratic(case):
    mu, L = case.head.curvature(case.Z, case.y, case.own)
    eigenvalues = torch.linalg.eigvalsh(case.hessians)
    assert_near(eigenvalues[:, -1], L, within=1e-12)
    if isinstance(case.head, PrototypeHead) or case.raw.shape[1] < case.raw.shape[2]:  # else Z'Z has no null space
        assert_near(eigenvalues[:, 0], mu, within=1e-12)


@given(case=cases(kinds=("softmax",)))
def test_the_curvature_of_two_classes_is_attained_at_even_odds_and_mu_along_what_all_classes_share(case):
    head, Z, y, _, theta, _, own = case
    mu, L = head.curvature(Z, y, own)
    eigenvalues = torch.linalg.eigvalsh(case._replace(theta=torch.zeros_like(theta)).hessians)
    # adding one vector to the weights of all classes changes no probability: mu = ridge is attained everywhere
    assert_near(eigenvalues[:, 0], mu, within=1e-12)
    # Boehning's 1/2 is reached by two classes at p = 1/2; of more classes J has 1/way at even odds
    largest = head.ridge + (L - head.ridge) * 2 / head.way
    assert_near(eigenvalues[:, -1], largest, within=1e-12)


@given(case=cases(), order=st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(case, order):
    head, Z, y, _, theta, v, own = case
    places = list(range(y.shape[1]))
    order.shuffle(places)
    for other in (head.lower, head.upper, head.lower_gradient, head.upper_gradient):
        assert_near(other(Z[:, places], y[:, places], theta, own), other(Z, y, theta, own), within=1e-12)
    assert_near(
        head.lower_hvp(Z[:, places], y[:, places], theta, v, own), head.lower_hvp(Z, y, theta, v, own), within=1e-12
    )


# ---- starts and tensors of phi


@pytest.mark.parametrize("head", [SoftmaxHead(way=3), RidgeHead(way=3), PrototypeHead(way=3)])
def test_theta_starts_at_zeros_unless_the_start_is_learned(head):
    like = torch.ones(1, dtype=torch.float64)
    start = head.start({}, like, 4)
    assert start.dtype == torch.float64
    assert torch.equal(start, torch.zeros(3 * head.inputs(4)).double())


def test_a_learned_start_is_a_tensor_of_phi():
    head = SoftmaxHead(way=3, learned_start=True)
    own = head.parameters(16, torch.Generator().manual_seed(0))
    assert own["head.start"].shape == (3 * 17,)
    assert 0.2 < float(own["head.start"].abs().max()) <= 1 / math.sqrt(16)
    assert head.start(own, own["head.start"], 16) is own["head.start"]
    again = head.parameters(16, torch.Generator().manual_seed(0))
    assert torch.equal(again["head.start"], own["head.start"])


def test_the_tensors_of_ridge_regression_start_where_they_are_told():
    own = RidgeHead(way=3, ridge=0.5, scale=4.0).parameters(16, torch.Generator())
    assert {name: float(tensor) for name, tensor in own.items()} == {
        "head.log_ridge": pytest.approx(math.log(0.5)),
        "head.scale": 4.0,
    }


def test_without_a_ridge_the_softmax_head_has_no_inverse_and_its_hessian_is_singular():
    head = SoftmaxHead(way=3, ridge=0.0)
    assert "lower_inverse_hvp" not in head.closed_forms
    Z, y = head.prepare(normal(0, 1, 6, 4)), torch.arange(6)[None] % 3
    mu, _ = head.curvature(Z, y, {})
    assert mu.tolist() == [0.0]
    case = Case(head, Z, y, Z[..., :-1], normal(1, 1, 15), normal(2, 1, 15), {})
    assert float(torch.linalg.eigvalsh(case.hessians)[0, 0]) == pytest.approx(0, abs=1e-14)


def test_features_that_are_not_finite_have_no_curvature_in_their_task_alone():
    for head in (SoftmaxHead(way=2), RidgeHead(way=2)):
        own, y = head.parameters(3, torch.Generator()), torch.arange(4).expand(3, 4) % 2
        raw = normal(0, 3, 4, 3)
        alone = head.curvature(head.prepare(raw), y, own)[1]
        raw[1, 2, 0] = math.inf
        L = head.curvature(head.prepare(raw), y, own)[1]
        assert bool(L[1].isnan())
        assert torch.equal(L[[0, 2]], alone[[0, 2]])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SoftmaxHead(way=0), "expected way an integer >= 2, got 0"),
        (lambda: RidgeHead(way=1), "expected way an integer >= 2, got 1"),
        (lambda: PrototypeHead(way=-3), "expected way an integer >= 2, got -3"),
        (lambda: SoftmaxHead(ridge=-0.1), "expected ridge a finite number >= 0, got -0.1"),
        (lambda: SoftmaxHead(lasso=math.inf), "expected lasso a finite number >= 0, got inf"),
        (lambda: SoftmaxHead(ridge=math.nan), "expected ridge a finite number >= 0, got nan"),
        (lambda: RidgeHead(ridge=0.0), "expected ridge a finite number > 0, got 0.0"),
        (lambda: RidgeHead(scale=-1.0), "expected scale a finite number > 0, got -1.0"),
    ],
)
def test_wrong_numbers_are_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_what_a_head_lacks_is_said():
    head, Z, y = SoftmaxHead(way=2), normal(0, 1, 4, 3), torch.arange(4)[None] % 2
    with pytest.raises(NotImplementedError, match="SoftmaxHead has no closed form lower_argmin"):
        head.lower_argmin(Z, y, {})
    bare: Head = Bare(way=2)
    assert not bare.closed_forms
    for name, arguments in {
        "lower_gradient": (Z, y, Z, {}),
        "lower_hvp": (Z, y, Z, Z, {}),
        "lower_inverse_hvp": (Z, y, Z, Z, {}),
        "lower_argmin": (Z, y, {}),
        "upper_gradient": (Z, y, Z, {}),
        "curvature": (Z, y, {}),
    }.items():
        with pytest.raises(NotImplementedError, match=f"Bare has no closed form {name}: expected it to override"):
            getattr(bare, name)(*arguments)


def test_a_head_without_its_two_levels_is_none():
    with pytest.raises(TypeError, match="abstract"):
        Head()


@pytest.mark.parametrize("recompute", [False, True])
def test_a_head_of_a_lower_level_and_logits_alone_has_the_hypergradient_of_one_with_closed_forms(recompute):
    method = MemoryReduced(lower_steps=20, lower_step_size=0.1, cg_steps=10, warm_start=False, recompute=recompute)
    found, expected = [], SoftmaxHead(way=3, ridge=0.4)
    for head in (Bare(way=3, ridge=0.4), expected):
        problem = few_shot(head)
        phi, oracle = start(problem), Oracle(problem)
        step = method.step(oracle, phi, drawn(problem), method.start(oracle, phi))
        assert not step.failure.any()
        found.append(step.direction)
        assert problem.has("lower_gradient") == problem.has("curvature") == (head is expected)
    assert max(float(tensor.abs().max()) for tensor in found[1].values()) > 1e-3
    for name, tensor in found[1].items():
        assert_near(found[0][name], tensor, within=1e-9)


def test_the_lower_step_size_must_be_given_where_a_head_has_no_curvature():
    problem = few_shot(Bare(way=3))
    method = MemoryReduced(lower_steps=1, cg_steps=1, warm_start=False)
    with pytest.raises(ValueError, match="lower_step_size"):
        method.lower_solver(Oracle(problem))
