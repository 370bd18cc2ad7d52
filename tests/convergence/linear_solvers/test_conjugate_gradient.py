from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from convergence import ConjugateGradient, LinearSolution, Oracle, Status, peak_bytes
from convergence.linear_solvers import Direct
from problems import PROBLEMS, Constants
from problems.few_shot import PrototypeHead, RidgeHead, SoftmaxHead
from tests.independent import EPS, assert_near
from tests.strategies import System, normal, seeds, systems


def exact(system: System) -> Tensor:
    return torch.linalg.solve(system.H, system.b)


def energy(system: System, error: Tensor) -> Tensor:
    """|error|_H of each row."""
    return (error * system.product(error)).sum(-1).sqrt()


def diagonal(*rows: list[float]) -> tuple[Tensor, object]:
    """The eigenvalues of each row, and the product with these diagonal matrices."""
    eigenvalues = torch.tensor(rows, dtype=torch.float64)
    return eigenvalues, lambda v: eigenvalues * v


# ---- what it converges to, and how fast


@given(system=systems())
def test_q_steps_solve_the_system_exactly(system):
    q = system.b.shape[-1]
    solution = ConjugateGradient(q).solve(system.product, system.b)
    # kappa <= 100 and q <= 6 steps: orthogonality is lost to about kappa eps per step
    assert_near(solution.v, exact(system), within=1e-9)
    assert not solution.failure.any()


@given(data=st.data(), seed=seeds)
def test_as_many_steps_as_there_are_distinct_eigenvalues_solve_the_system(data, seed):
    distinct = data.draw(st.integers(1, 3))
    eigenvalues = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)[torch.arange(8) % distinct].expand(2, 8)
    b = normal(seed, 2, 8)
    assert_near(ConjugateGradient(distinct).solve(lambda v: eigenvalues * v, b).v, b / eigenvalues, within=1e-11)
    if distinct > 1:
        early = ConjugateGradient(distinct - 1).solve(lambda v: eigenvalues * v, b).v
        assert float((early - b / eigenvalues).abs().max()) > 1e-6


@given(system=systems(max_log_kappa=4), warm=st.booleans(), seed=seeds)
def test_the_energy_norm_of_the_error_falls_with_every_step_and_stays_within_its_bound(system, warm, seed):
    start = normal(seed, *system.b.shape) if warm else None
    v_star = exact(system)
    iterates = [ConjugateGradient(steps).solve(system.product, system.b, start).v for steps in range(9)]
    errors = [energy(system, v - v_star) for v in iterates]
    # rounding: v and the reference itself are known to kappa eps, in the energy norm at most sqrt(L) times that
    floor = torch.tensor([100 * EPS * kappa * math.sqrt(kappa) for kappa in system.kappas]) * (1 + v_star.norm(dim=-1))
    for steps in range(1, 9):
        assert bool((errors[steps] <= errors[steps - 1] * (1 + 1e-9) + floor).all())
        for row, kappa in enumerate(system.kappas):
            bound = Constants(mu=1.0, L=kappa).cg_contraction(steps) * errors[0][row]
            assert errors[steps][row] <= bound * (1 + 1e-6) + floor[row]


@pytest.mark.parametrize("kappa", [2.0, 10.0, 100.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_the_bound_is_attained_on_a_chebyshev_spectrum(kappa, steps):
    # Greenbaum 1979, docs/theory.md S1: here |e_N|_H = chi_N |e_0|_H, so that a forgotten step is seen
    j = torch.arange(steps + 1, dtype=torch.float64)
    eigenvalues = (kappa + 1) / 2 + (kappa - 1) / 2 * torch.cos(j * math.pi / steps)
    b = torch.ones(1, steps + 1, dtype=torch.float64)
    b[0, [0, -1]] = 1 / math.sqrt(2)
    system = System(torch.diag(eigenvalues)[None], b, (kappa,))
    error = ConjugateGradient(steps).solve(system.product, b).v - exact(system)
    ratio = float(energy(system, error) / energy(system, exact(system)))
    # the error is a difference of numbers kappa times larger, chi_N >= 1e-5 here
    assert ratio == pytest.approx(Constants(mu=1.0, L=kappa).cg_contraction(steps), rel=1e-8)


@given(system=systems(), warm=st.booleans(), seed=seeds)
def test_every_step_agrees_with_scipy(system, warm, seed):
    start = normal(seed, *system.b.shape) if warm else torch.zeros_like(system.b)
    for steps in range(1, system.b.shape[-1] + 1):
        v = ConjugateGradient(steps).solve(system.product, system.b, start if warm else None).v
        by_scipy = [
            scipy.sparse.linalg.cg(H, b, x0=x0, rtol=0, atol=1e-14, maxiter=steps)[0]
            for H, b, x0 in zip(system.H.numpy(), system.b.numpy(), start.numpy(), strict=True)
        ]
        # both are within rounding of exact arithmetic, which kappa <= 100 amplifies over at most 6 steps
        assert_near(v, torch.from_numpy(np.stack(by_scipy)), within=1e-9)


@given(system=systems(max_log_kappa=3), steps=st.integers(0, 6))
def test_a_batch_of_mixed_conditioning_equals_its_rows_solved_alone(system, steps):
    together = ConjugateGradient(steps).solve(system.product, system.b)
    for row in range(len(system.b)):
        alone = System(system.H[[row]], system.b[[row]], system.kappas)
        single = ConjugateGradient(steps).solve(alone.product, alone.b)
        assert_near(together.v[[row]], single.v, within=1e-9)  # sums may be taken in another order
        assert torch.equal(together.failure[[row]], single.failure)


@given(system=systems(), steps=st.integers(0, 6), shape=st.sampled_from([(1,), (2, 1), (3,)]))
def test_leading_axes_are_independent_systems(system, steps, shape):
    expected = ConjugateGradient(steps).solve(system.product, system.b)
    b = system.b.expand(*shape, *system.b.shape)
    many = ConjugateGradient(steps).solve(system.product, b)
    for found, single in zip(many, expected, strict=True):
        assert_near(found.double(), single.double().expand(*shape, *single.shape), within=1e-9)


@given(system=systems(), steps=st.integers(0, 6), exponent=st.integers(-100, 100))
def test_scaling_the_right_hand_side_scales_the_solution(system, steps, exponent):
    scale = 2.0**exponent  # a power of two: no rounding
    scaled = ConjugateGradient(steps).solve(system.product, scale * system.b)
    assert torch.equal(scaled.v, scale * ConjugateGradient(steps).solve(system.product, system.b).v)


def test_float32_is_solved_to_its_own_rounding_unit():
    H = torch.tensor([[[2.0, 1.0], [1.0, 3.0]]])
    v = ConjugateGradient(5).solve(lambda v: (H @ v[..., None])[..., 0], torch.tensor([[1.0, 0.0]])).v
    assert v.dtype == torch.float32
    assert_near(
        v.double(), torch.tensor([[0.6, -0.2]], dtype=torch.float64), within=10 * torch.finfo(torch.float32).eps
    )


# ---- frozen rows


@given(
    system=systems(),
    tolerance=st.sampled_from([1e-2, 1e-4, 1e-7, 1e-10]),
    more=st.integers(1, 5),
    off=st.sampled_from([None, 1e-3, 1.0, 1e3]),
    seed=seeds,
)
def test_a_row_within_its_tolerance_is_unchanged_to_the_bit_by_further_steps(system, tolerance, more, off, seed):
    q = system.b.shape[-1]
    start = None if off is None else exact(system) + off * normal(seed, *system.b.shape)
    first = system.b if start is None else system.b - system.product(start)
    limit = tolerance * torch.maximum(system.b.norm(dim=-1), first.norm(dim=-1))
    frozen = torch.zeros(len(system.b), dtype=torch.bool)
    for steps in range(1, q + 2):
        now = ConjugateGradient(steps, tolerance).solve(system.product, system.b, start)
        later = ConjugateGradient(steps + more, tolerance).solve(system.product, system.b, start)
        frozen = now.residual_norm <= limit * (1 - 1e-9)
        assert torch.equal(now.v[frozen], later.v[frozen])
        assert torch.equal(now.residual_norm[frozen], later.residual_norm[frozen])
        assert not later.failure.any()
        # and a row short of its tolerance does move, unless it is within rounding of it
        moving = (now.residual_norm > limit * (1 + 1e-9)) & (now.residual_norm > 1e-12 * first.norm(dim=-1))
        assert bool((now.v[moving] != later.v[moving]).any(-1).all())
    assert bool(frozen.all())  # after q + 1 steps at the latest, so that the claim is not an empty one


@given(system=systems(), steps=st.integers(1, 5), seed=seeds)
def test_a_start_within_the_tolerance_of_the_right_hand_side_is_returned_to_the_bit(system, steps, seed):
    residual = normal(seed, *system.b.shape)
    residual *= 1e-4 * system.b.norm(dim=-1, keepdim=True) / residual.norm(dim=-1, keepdim=True)
    start = torch.linalg.solve(system.H, system.b - residual)
    assert torch.equal(ConjugateGradient(steps, 1e-3).solve(system.product, system.b, start).v, start)


@given(system=systems(max_log_kappa=1))
def test_without_a_tolerance_a_row_stops_at_the_rounding_unit_and_never_breaks_down(system):
    solution = ConjugateGradient(200).solve(system.product, system.b)
    assert not solution.failure.any()
    assert bool((solution.residual_norm <= EPS * system.b.norm(dim=-1)).all())


def test_a_zero_right_hand_side_gives_zero_without_failure_beside_a_row_that_works():
    _, product = diagonal([1.0, 4.0], [1.0, 4.0])
    b = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    for steps in range(4):
        solution = ConjugateGradient(steps).solve(product, b)
        assert torch.equal(solution.v[0], torch.zeros(2, dtype=torch.float64))
        assert solution.failure.tolist() == [0, 0]
    assert_near(solution.v[1], torch.tensor([1.0, 0.25], dtype=torch.float64), within=10 * EPS)


@given(system=systems(), seed=seeds)
def test_a_zero_right_hand_side_draws_any_start_to_zero(system, seed):
    start = normal(seed, *system.b.shape)
    solution = ConjugateGradient(10).solve(system.product, torch.zeros_like(system.b), start)
    assert_near(solution.v, torch.zeros_like(system.b), within=1e-11)
    assert not solution.failure.any()


@given(system=systems(), steps=st.integers(0, 8))
def test_a_start_at_the_solution_stays_there(system, steps):
    v_star = exact(system)
    solution = ConjugateGradient(steps).solve(system.product, system.b, v_star)
    assert_near(solution.v, v_star, within=1e-12)  # the solve above is right to kappa eps
    assert not solution.failure.any()


# ---- failures, row by row


def broken_between_sound_rows(middle: list[float], b: list[float], steps: int) -> LinearSolution:
    """Three diagonal systems; only the one in the middle is out of order, the others are asserted right."""
    eigenvalues, product = diagonal([1.0, 2.0, 3.0], middle, [4.0, 5.0, 6.0])
    right = torch.tensor([[1.0, 1.0, 1.0], b, [1.0, -1.0, 1.0]], dtype=torch.float64)
    solution = ConjugateGradient(steps).solve(product, right)
    sound = [0, 2]
    assert solution.failure[sound].tolist() == [0, 0]
    if steps >= 3:
        assert_near(solution.v[sound], (right / eigenvalues)[sound], within=1e-12)
    return solution


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize(
    ("middle", "b"),
    [
        pytest.param([-1.0, -2.0, -3.0], [1.0, 2.0, 3.0], id="negative-definite"),
        pytest.param([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], id="zero"),
        pytest.param([1.0, -2.0, 3.0], [1.0, 5.0, 1.0], id="indefinite"),
    ],
)
def test_an_indefinite_hessian_breaks_down_in_its_row_alone(middle, b, steps):
    solution = broken_between_sound_rows(middle, b, steps)
    assert solution.failure[1] == Status.BREAKDOWN
    assert torch.equal(solution.v[1], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("steps", [2, 3, 10])
def test_a_breakdown_keeps_the_last_good_iterate(steps):
    # p'Hp = 3 - 1 > 0 in the first step, after which the direction of negative curvature prevails
    middle, b = [3.0, -1.0, 1.0], [1.0, 1.0, 0.0]
    good = broken_between_sound_rows(middle, b, steps=1)
    assert good.failure[1] == 0
    assert good.v[1].tolist() == [1.0, 1.0, 0.0]  # rr / p'Hp = 2 / 2 along b
    solution = broken_between_sound_rows(middle, b, steps)
    assert solution.failure[1] == Status.BREAKDOWN
    assert torch.equal(solution.v[1], good.v[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("steps", [0, 1, 3, 10])
def test_a_right_hand_side_that_is_not_finite_fails_in_its_row_alone(bad, steps):
    solution = broken_between_sound_rows([1.0, 2.0, 3.0], [1.0, bad, 1.0], steps)
    assert solution.failure[1] == Status.NON_FINITE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_product_that_is_not_finite_fails_in_its_row_alone(bad, steps):
    solution = broken_between_sound_rows([1.0, bad, 3.0], [1.0, 1.0, 1.0], steps)
    assert solution.failure[1] == Status.NON_FINITE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_right_hand_side_whose_square_overflows_is_solved_or_said_to_fail(dtype, share):
    b = torch.full((1, 2), torch.finfo(dtype).max ** share, dtype=dtype)
    solution = ConjugateGradient(3).solve(lambda v: 2 * v, b)
    right = bool(((2 * solution.v - b).abs() <= 1e-3 * b).all())
    assert right or solution.failure.tolist() == [Status.NON_FINITE]


@pytest.mark.parametrize("exponent", [-100, -140, -150, -154, -158, -160, -162, -170, -300, -320])
def test_a_right_hand_side_whose_square_underflows_is_no_breakdown(exponent):
    _, product = diagonal([1e-3, 1.0])
    b = torch.full((1, 2), 10.0**exponent, dtype=torch.float64)
    solution = ConjugateGradient(3).solve(product, b)
    assert solution.failure.tolist() == [0]
    solved = bool(((product(solution.v) - b).abs() <= 1e-10 * b).all())
    assert solved or (exponent < -140 and not solution.v.any())


def test_too_few_steps_are_no_failure():
    system = System(torch.diag(torch.logspace(0, 4, 6, dtype=torch.float64))[None], normal(0, 1, 6), (1e4,))
    solution = ConjugateGradient(2).solve(system.product, system.b)
    assert solution.failure.tolist() == [0]
    assert float(solution.residual_norm) > 1e-3


# ---- cost, residual, arguments


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_it_costs_one_product_a_step_and_one_more_for_the_residual_of_a_given_start(steps, warm):
    products = []

    def product(v: Tensor) -> Tensor:
        products.append(v)
        return 2 * v

    b = normal(0, 2, 3)
    solution = ConjugateGradient(steps).solve(product, b, torch.ones_like(b) if warm else None)
    assert len(products) == (steps + 1 if warm and steps else steps)
    if steps == 0:
        assert torch.equal(solution.v, torch.ones_like(b) if warm else torch.zeros_like(b))


@given(system=systems(), steps=st.integers(0, 4), warm=st.booleans(), seed=seeds)
def test_the_residual_norm_is_that_of_the_solution_returned(system, steps, warm, seed):
    assume(steps > 0 or not warm)  # no product is spent for N = 0: there the norm is not that of a given start
    start = normal(seed, *system.b.shape) if warm else None
    solution = ConjugateGradient(steps).solve(system.product, system.b, start)
    true = (system.b - system.product(solution.v)).norm(dim=-1)
    # the residual of the recurrence leaves the true one by rounding of |H| |v| <= 100 |v|
    assert_near(solution.residual_norm, true, within=1e-11 * (1 + float(solution.v.norm())))


def test_neither_the_start_nor_the_right_hand_side_is_written_to():
    b, start = normal(0, 2, 3), normal(1, 2, 3)
    ConjugateGradient(3).solve(lambda v: 2 * v, b, start)
    assert torch.equal(b, normal(0, 2, 3))
    assert torch.equal(start, normal(1, 2, 3))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="expected CG steps an integer >= 0, got -1"):
        ConjugateGradient(-1)
    for tolerance in (-1e-3, math.nan):
        with pytest.raises(ValueError, match=f"expected CG tolerance a finite number >= 0, got {tolerance}"):
            ConjugateGradient(3, tolerance)
    with pytest.raises(ValueError, match=r"expected v of shape \(4, 10\), got \(4, 9\)"):
        ConjugateGradient(3).solve(lambda v: v, torch.zeros(4, 10), torch.zeros(4, 9))


# ---- direct


class Hessian(NamedTuple):
    """A product and, as `Oracle.lower_hessian` has it where the problem does, its inverse; counts the products."""

    system: System
    inverse: Any
    products: list[Tensor]

    def __call__(self, v: Tensor) -> Tensor:
        self.products.append(v)
        return self.system.product(v)


def hessian(system: System, *, closed_form: bool) -> Hessian:
    inverse = (lambda b: torch.linalg.solve(system.H, b)) if closed_form else None
    return Hessian(system, inverse, [])


@given(system=systems(), closed_form=st.booleans(), warm=st.booleans())
def test_a_direct_solve_is_exact_and_equals_converged_cg(system, closed_form, warm):
    product = hessian(system, closed_form=closed_form)
    start = normal(0, *system.b.shape) if warm else None
    found = Direct().solve(product, system.b, start)
    q = system.b.shape[-1]
    assert not found.failure.any()
    assert len(product.products) == (2 if closed_form else q)
    assert_near(found.v, exact(system), within=1e-11)
    assert_near(found.v, ConjugateGradient(3 * q).solve(system.product, system.b).v, within=1e-10)
    assert_near(found.residual_norm, torch.zeros_like(found.residual_norm), within=1e-12)


@pytest.mark.parametrize("name", ["quadratic", "prox-softmax", "prox-logistic", "representation"])
def test_direct_equals_converged_cg_on_problems_whose_hessian_is_assembled(name):
    problem = PROBLEMS[name](0)
    oracle, like = Oracle(problem), problem.phi0(torch.Generator())
    z = oracle.embed({n: normal(1, *tensor.shape) for n, tensor in like.items()}, oracle.pool)
    theta = normal(2, len(oracle.pool), problem.q)
    b = oracle.upper_gradient(z, theta, oracle.pool)
    H = oracle.lower_hessian(z, theta, oracle.pool)
    assert H.inverse is None
    found, converged = Direct().solve(H, b), ConjugateGradient(5 * problem.q).solve(H, b)
    assert oracle.calls["hvp"] == (problem.q + 5 * problem.q) * len(oracle.pool)
    assert_near(found.v, converged.v, within=1e-10)


@given(seed=seeds, way=st.integers(2, 4), shot=st.integers(1, 4), d=st.integers(1, 6), data=st.data())
def test_direct_equals_converged_cg_on_every_head(seed, way, shot, d, data):
    head = data.draw(
        st.sampled_from([SoftmaxHead(way=way, ridge=0.2), RidgeHead(way=way, ridge=0.5), PrototypeHead(way=way)])
    )
    own = {name: tensor.double() for name, tensor in head.parameters(d, torch.Generator()).items()}
    Z, y = head.prepare(normal(seed, 3, way * shot, d)), torch.arange(way).repeat(shot).expand(3, -1)
    theta, b = (normal(seed + k, 3, way * head.inputs(d)) for k in (1, 2))

    def product(v: Tensor) -> Tensor:
        return head.lower_hvp(Z, y, theta, v, own)

    product.inverse = lambda b: head.lower_inverse_hvp(Z, y, theta, b, own)
    by_cg = ConjugateGradient(4 * way * (d + 1)).solve(product, b)
    assembled, closed = Direct().solve(lambda v: product(v), b), Direct().solve(product, b)
    assert not (by_cg.failure + assembled.failure + closed.failure).any()
    for found in (assembled, closed):
        assert_near(found.v, by_cg.v, within=1e-10)
        assert_near(found.residual_norm, torch.zeros(3, dtype=torch.float64), within=1e-11)


@pytest.mark.parametrize("shape", [(2, 3, 2), (1, 1, 2)])
def test_direct_solves_systems_over_leading_axes(shape):
    eigenvalues = 1 + normal(0, *shape).square()
    b = normal(1, *shape)
    assert_near(Direct().solve(lambda v: eigenvalues * v, b).v, b / eigenvalues, within=1e-13)


@pytest.mark.parametrize(
    ("middle", "code"),
    [
        ([1.0, -1.0], Status.BREAKDOWN),
        ([1.0, 0.0], Status.BREAKDOWN),
        ([-1.0, -2.0], Status.BREAKDOWN),
        ([1.0, math.nan], Status.NON_FINITE),
        ([math.nan, math.nan], Status.NON_FINITE),
        ([math.inf, 1.0], Status.NON_FINITE),
    ],
)
def test_a_row_without_a_positive_definite_hessian_fails_alone(middle, code):
    _, product = diagonal([1.0, 2.0], middle, [2.0, 4.0])
    found = Direct().solve(product, torch.ones(3, 2, dtype=torch.float64))
    assert found.failure.tolist() == [0, code, 0]
    assert_near(found.v[[0, 2]], torch.tensor([[1.0, 0.5], [0.5, 0.25]], dtype=torch.float64), within=4 * EPS)
    if code == Status.BREAKDOWN:
        assert not found.v[1].any()


HEADS_WITH_A_RIDGE = pytest.mark.parametrize("head", [SoftmaxHead, RidgeHead])


def closed_form_residual(kind, dtype: torch.dtype, ridge: float) -> tuple[LinearSolution, Tensor, float, float]:
    """A direct solve of 4 tasks (5-way 5-shot, 64 features) by the closed form of a head; |b|; |b - H v| / |b| of the
    closed form alone, at worst; kappa."""
    head = kind(way=5, ridge=ridge)
    rng = torch.Generator().manual_seed(1)
    Z, y = head.prepare(0.3 * torch.randn(4, 25, 64, generator=rng).relu().to(dtype)), torch.arange(5).repeat(5)
    y, own = y.expand(4, -1), {name: tensor.to(dtype) for name, tensor in head.parameters(64, rng).items()}
    theta, b = (scale * torch.randn(4, 5 * head.inputs(64), generator=rng).to(dtype) for scale in (0.1, 1.0))

    def product(v: Tensor) -> Tensor:
        return head.lower_hvp(Z, y, theta, v, own)

    product.inverse = lambda r: head.lower_inverse_hvp(Z, y, theta, r, own)
    size = b.norm(dim=-1)
    alone = float(((b - product(product.inverse(b))).norm(dim=-1) / size).max())
    mu, L = head.curvature(Z, y, own)
    return Direct().solve(product, b), size, alone, float((L / mu).max())


@HEADS_WITH_A_RIDGE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ridge", [1.0, 1e-2, 1e-4])
def test_refinement_takes_the_closed_form_to_the_rounding_of_its_residual(head, dtype, ridge):
    found, size, alone, kappa = closed_form_residual(head, dtype, ridge)
    # a residual is known to eps |H| |v| <= eps kappa |b|; sums of 64 roundings of random signs stay below a third of it
    bound = torch.finfo(dtype).eps * (1 + 0.3 * kappa)
    assert bool((found.residual_norm <= bound * size).all())
    assert not found.failure.any()
    if ridge < 1:
        assert float((found.residual_norm / size).max()) < 0.5 * alone


@HEADS_WITH_A_RIDGE
def test_a_direct_solve_that_is_not_accurate_is_a_breakdown(head):
    ridges, dtype = (1e-5, 1e-7, 1e-9), torch.float32
    for ridge in ridges:
        found, size, alone, kappa = closed_form_residual(head, dtype, ridge)
        assert kappa > torch.finfo(dtype).eps ** -0.5
        assert alone > 1e-3
        accurate = found.residual_norm <= torch.finfo(dtype).eps ** 0.5 * size
        assert torch.equal(found.failure == 0, accurate)
        assert bool((found.failure[~accurate] == Status.BREAKDOWN).all())
        if ridge <= 1e-7:
            assert not accurate.any()
    exact, _, _, _ = closed_form_residual(head, torch.float64, 1e-9)
    assert not exact.failure.any()


@pytest.mark.parametrize("wrong", [0.5, 1e-3, 1e-7])
def test_an_inverse_that_is_off_in_one_row_is_refined_or_said_to_fail(wrong):
    # an inverse off by a share rho leaves the residual rho |b|, and rho^2 |b| after the refinement
    eigenvalues = torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=torch.float64)
    share = torch.tensor([[0.0], [wrong]], dtype=torch.float64)
    system = System(torch.diag_embed(eigenvalues), torch.ones(2, 2, dtype=torch.float64), (2.0, 2.0))
    found = Direct().solve(Hessian(system, lambda b: (1 - share) * b / eigenvalues, []), system.b)
    assert_near(found.residual_norm, wrong**2 * share[:, 0].sign() * system.b.norm(dim=-1), within=4 * EPS)
    assert found.failure.tolist() == [0, 0 if wrong**2 <= EPS**0.5 else Status.BREAKDOWN]


@pytest.mark.parametrize("closed_form", [False, True])
def test_a_zero_right_hand_side_is_solved_directly_without_failure(closed_form):
    system = System(torch.diag_embed(torch.tensor([[1.0, 2.0]])), torch.zeros(1, 2), (2.0,))
    found = Direct().solve(hessian(system, closed_form=closed_form), system.b)
    assert not found.v.any()
    assert not found.failure.any()


@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_right_hand_side_that_is_not_finite_fails_a_direct_solve_in_its_row_alone(closed_form, bad):
    system = System(torch.eye(2).double().expand(3, 2, 2), torch.ones(3, 2, dtype=torch.float64), (1.0,) * 3)
    system.b[1, 0] = bad
    found = Direct().solve(hessian(system, closed_form=closed_form), system.b)
    assert found.failure.tolist() == [0, Status.NON_FINITE, 0]
    assert bool((found.v[[0, 2]] == 1).all())


def test_the_products_of_a_direct_solve_are_not_known_beforehand():
    with pytest.raises(ValueError, match="expected a solver whose HVPs are known beforehand, got Direct"):
        Direct().products(warm=False)
    assert (ConjugateGradient(4).products(warm=True), ConjugateGradient(4).products(warm=False)) == (5, 4)
    assert ConjugateGradient(0).products(warm=True) == 0


# ---- wide rows, whose inner products are taken one by one


@pytest.mark.parametrize("lead", [(1,), (3,), (2, 2)])
def test_wide_rows_are_solved_as_narrow_ones_are(lead):
    q = 2**13 + 5
    eigenvalues = torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64)[torch.arange(q) % 3]
    b = normal(0, *lead, q)
    solution = ConjugateGradient(3).solve(lambda v: eigenvalues * v, b)
    assert_near(solution.v, b / eigenvalues, within=1e-12)  # three distinct eigenvalues, kappa = 7
    assert not solution.failure.any()
    early = ConjugateGradient(2).solve(lambda v: eigenvalues * v, b, normal(1, *lead, q))
    narrow = written_out(eigenvalues, b, normal(1, *lead, q), steps=2)
    assert_near(early.v, narrow, within=1e-12)


def written_out(eigenvalues: Tensor, b: Tensor, start: Tensor, *, steps: int) -> Tensor:
    """The method as Hestenes and Stiefel wrote it, a row at a time, in numpy."""
    rows = []
    for right, v in zip(b.reshape(-1, b.shape[-1]).numpy(), start.reshape(-1, b.shape[-1]).numpy(), strict=True):
        H = eigenvalues.numpy()
        r = right - H * v
        p = r
        for _ in range(steps):
            a = (r @ r) / (p @ (H * p))
            v, following = v + a * p, r - a * (H * p)
            p, r = following + (following @ following) / (r @ r) * p, following
        rows.append(torch.from_numpy(v))
    return torch.stack(rows).view_as(b)


@pytest.mark.parametrize("rows", [1, 4])
def test_wide_rows_take_four_vectors_each(rows):
    """v, r, p and H p, whatever N is; b is the caller's. The products of entries in <p, H p> would be a fifth."""
    q = 2**13
    eigenvalues, b = torch.linspace(1, 2, q, dtype=torch.float64), normal(0, rows, q)
    peaks = {peak_bytes(lambda N=N: ConjugateGradient(N).solve(lambda v: eigenvalues * v, b)) for N in (2, 9)}
    assert max(peaks) <= 4 * rows * q * 8 + 2000  # and a few numbers for each row
