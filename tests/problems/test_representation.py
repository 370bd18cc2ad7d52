import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from convergence import reference
from problems import Representation
from tests.independent import assert_near
from tests.strategies import normal, orthogonal, seeds


@st.composite
def representations(draw) -> Representation:
    d = draw(st.integers(2, 6))
    return Representation.random(
        tasks=draw(st.integers(1, 4)),
        d=d,
        rank=draw(st.integers(1, d)),
        examples=draw(st.integers(1, 8)),
        prox=draw(st.floats(0.1, 3.0)),
        seed=draw(seeds),
    )


def pool(problem: Representation):
    return problem.sample(None, torch.Generator())


@given(representations(), seeds)
def test_every_rotation_of_the_optimum_is_optimal_and_a_scaled_one_is_not(problem, seed):
    optimum = problem.upper_solution()["U"]
    turned = {"U": optimum @ orthogonal(seed, size=problem.q)}
    assert float(problem.value(turned)) < 1e-28
    assert float(problem.hypergradient(turned)["U"].norm()) < 1e-13
    assert float(problem.value({"U": 1.5 * optimum})) > 1e-10  # the ridge sees the scale


@given(representations(), seeds)
def test_the_dual_closed_forms_see_the_range_and_scale_of_u_alone(problem, seed):
    U, turn = normal(seed, problem.d, problem.q), orthogonal(seed + 1, size=problem.q)
    here, there = ({"U": V} for V in (U, U @ turn))
    assert_near(problem.value(here), problem.value(there), within=1e-12)
    assert_near(problem.hypergradient(here)["U"] @ turn, problem.hypergradient(there)["U"], within=1e-11)


@given(representations(), seeds)
def test_the_distance_is_the_sine_of_the_largest_angle(problem, seed):
    U = normal(seed, problem.d, problem.q)
    angle = subspace_angles(U.numpy(), problem.optimum.numpy()).max()
    assert_near(problem.subspace_distance({"U": U}), torch.tensor(angle).sin(), within=1e-12)
    stretched = problem.optimum @ (normal(seed, problem.q, problem.q) + 9 * torch.eye(problem.q, dtype=torch.float64))
    assert float(problem.subspace_distance({"U": stretched})) < 1e-13


@given(representations(), st.floats(0.1, 3.0), seeds)
def test_the_lower_smoothness_bounds_every_hessian_below_that_norm(problem, norm, seed):
    U = normal(seed, problem.d, problem.q)
    U = U * (norm / torch.linalg.matrix_norm(U, 2))
    hessians = problem.embed({"U": U}, pool(problem))["hessian"]
    eigenvalues = torch.linalg.eigvalsh(hessians)
    assert float(eigenvalues.max()) <= problem.lower_smoothness(norm) * (1 + 1e-12)
    assert float(eigenvalues.min()) >= problem.prox * (1 - 1e-12)


def test_the_optimum_moves_with_the_problem():
    problem = Representation.random(tasks=3, d=4, rank=2, examples=6).to(dtype=torch.float32)
    assert problem.upper_solution()["U"].dtype == torch.float32
    assert float(problem.subspace_distance(problem.upper_solution())) < 1e-6


def test_where_u_has_run_off_closed_forms_are_not_finite_in_that_replica_alone():
    problem = Representation(torch.eye(3).double().expand(2, 3, 3), normal(0, 2, 3), normal(1, 2, 3), rank=1)
    U = torch.ones(3, 3, 1, dtype=torch.float64)
    U[1] *= 2.0**40  # U U' + I is U U' to rounding: singular
    U[2] *= torch.inf
    gradient, theta = problem.hypergradient({"U": U})["U"], problem.lower_solution({"U": U}, pool(problem))
    for found in (problem.value({"U": U}), gradient.sum((-2, -1)), theta.sum((-2, -1))):
        assert torch.isfinite(found).tolist() == [True, False, False]


def test_unshrunken_targets_leave_no_optimum_and_a_value_that_falls_as_u_grows():
    problem = Representation.random(tasks=5, d=4, rank=2, examples=50, shrunken=False, seed=3)
    with pytest.raises(ValueError, match=r"known optimum \(shrunken targets\), got one without"):
        problem.upper_solution()
    U = Representation.random(tasks=5, d=4, rank=2, examples=50, seed=3).optimum
    values = [float(problem.value({"U": scale * U})) for scale in (1, 3, 10, 30, 100)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1e-6
    assert values[-1] == pytest.approx(float(reference(problem, {"U": 100 * U}, pool(problem)).value), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"S": torch.zeros(2, 3, 4)}, r"S of shape \(M, d, d\), .* got \(2, 3, 4\)"),
        ({"c": torch.zeros(2, 4)}, r"and \(2, 4\)"),
        ({"a": torch.zeros(3)}, "expected S of shape"),
        ({"rank": 4}, "a rank of 1 to d = 3, got 4"),
        ({"rank": 0}, "got 0"),
        ({"prox": 0.0}, "prox > 0, got 0.0"),
        ({"optimum": torch.zeros(3, 1)}, r"optimum of shape \(3, 2\), got \(3, 1\)"),
        ({"a": torch.full((2, 3), torch.nan)}, "finite"),
    ],
)
def test_impossible_instances_are_refused(change, sentence):
    right = {"S": torch.eye(3).repeat(2, 1, 1), "a": torch.ones(2, 3), "c": torch.ones(2, 3), "rank": 2} | change
    with pytest.raises(ValueError, match=sentence):
        Representation(**right)
