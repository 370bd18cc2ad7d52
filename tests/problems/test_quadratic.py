from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems import Quadratic
from tests.independent import EPS, assert_near
from tests.strategies import normal, quadratics, seeds

M, Q_SIZE, P_SIZE = 2, 3, 2


def arrays() -> dict[str, np.ndarray]:
    """Well-formed arguments: M = 2 tasks, q = 3, p = 2."""
    rng = np.random.default_rng(0)

    def eye(n):
        return np.tile(np.eye(n), (M, 1, 1))

    return {
        "A": eye(Q_SIZE) * 2,
        "C": rng.standard_normal((M, Q_SIZE, P_SIZE)),
        "b": rng.standard_normal((M, Q_SIZE)),
        "Q": eye(Q_SIZE),
        "u": rng.standard_normal((M, Q_SIZE)),
        "R": eye(P_SIZE),
        "w": rng.standard_normal((M, P_SIZE)),
    }


def in_numpy(problem: Quadratic, phi: np.ndarray) -> dict[str, np.ndarray]:
    """theta*, Phi and grad Phi by the definition: a loop over tasks, theta* = A^-1 (C phi + b), chain rule."""
    total, slope, stars = 0.0, np.zeros(problem.p), []
    data = {name: tensor.numpy() for name, tensor in problem.data.items()}
    for A, C, b, Q, u, R, w in zip(*(data[name] for name in "ACbQuRw"), strict=True):
        theta = np.linalg.inv(A) @ (C @ phi + b)
        total += 0.5 * (theta - u) @ Q @ (theta - u) + 0.5 * (phi - w) @ R @ (phi - w)
        slope += R @ (phi - w) + (np.linalg.inv(A) @ C).T @ Q @ (theta - u)
        stars.append(theta)
    count = problem.tasks
    return {"value": np.array(total / count), "hypergradient": slope / count, "lower_solution": np.stack(stars)}


# ---- closed forms


@given(problem=quadratics(), seed=seeds)
def test_the_exact_solutions_equal_a_loop_over_tasks_in_numpy(problem, seed):
    phi = normal(seed, problem.p)
    expected = {name: torch.from_numpy(array) for name, array in in_numpy(problem, phi.numpy()).items()}
    named, tasks = {"phi": phi}, problem.sample(None, torch.Generator())
    # kappa <= 30, products of at most 5 x 5 matrices: a few hundred roundings
    assert_near(problem.value(named), expected["value"], within=1e-12)
    assert_near(problem.hypergradient(named)["phi"], expected["hypergradient"], within=1e-12)
    assert_near(problem.lower_solution(named, tasks), expected["lower_solution"], within=1e-12)


@pytest.mark.parametrize("q", [32, 33, 40])
def test_matrices_small_and_large_are_multiplied_alike(q):
    problem = Quadratic.random(tasks=2, p=q, q=q, kappa=5.0, seed=1)
    tasks, theta = problem.sample(None, torch.Generator()), normal(0, 2, q)
    z = problem.embed({"phi": normal(1, q)}, tasks)
    by_hand = np.stack([A @ x for A, x in zip(tasks.A.numpy(), theta.numpy(), strict=True)])
    assert_near(problem.lower_hvp(z, theta, theta, tasks), torch.from_numpy(by_hand), within=100 * EPS)
    linear = np.stack([C @ normal(1, q).numpy() + b for C, b in zip(tasks.C.numpy(), tasks.b.numpy(), strict=True)])
    assert_near(z["linear"], torch.from_numpy(linear), within=100 * EPS)


@given(problem=quadratics())
def test_the_upper_spectrum_brackets_the_curvature_of_the_value(problem):
    low, high = problem.upper_spectrum
    assert high == pytest.approx(problem.constants.L_Phi, rel=1e-12)
    d = normal(3, problem.p)

    def at(t):
        return problem.value({"phi": t * d})

    curvature = float(at(1.0) - 2 * at(0.0) + at(-1.0)) / float(d @ d)
    assert low - 1e-9 <= curvature <= high + 1e-9


def test_an_upper_objective_without_a_unique_optimum_says_so():
    given_arrays = arrays() | {"R": np.zeros((M, P_SIZE, P_SIZE)), "C": np.zeros((M, Q_SIZE, P_SIZE))}
    with pytest.raises(ValueError, match="H_Phi positive definite for a unique optimum, got eigenvalue 0"):
        Quadratic(**given_arrays).upper_solution()


def test_a_problem_in_another_dtype_computes_its_closed_forms_there():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=5.0, seed=0)
    phi = {"phi": normal(0, 2)}
    exact = problem.hypergradient(phi)["phi"]  # fills the cache before the move
    moved = problem.to(dtype=torch.float32)
    single = moved.hypergradient({"phi": phi["phi"].float()})["phi"]
    assert single.dtype == torch.float32
    assert_near(single.double(), exact, within=100 * torch.finfo(torch.float32).eps)
    assert problem.hypergradient(phi)["phi"].dtype == torch.float64


# ---- random instances


@given(
    tasks=st.integers(1, 4),
    p=st.integers(1, 5),
    q=st.integers(2, 6),
    kappa=st.floats(1, 1e4),
    coupling=st.floats(0.1, 10),
    equal=st.booleans(),
    seed=seeds,
)
def test_a_random_instance_has_the_spectra_asked_for(tasks, p, q, kappa, coupling, equal, seed):
    problem = Quadratic.random(
        tasks=tasks, p=p, q=q, kappa=kappa, coupling=coupling, equal_hessians=equal, upper_curvature=(1, 2), seed=seed
    )
    data = {name: tensor.numpy() for name, tensor in problem.data.items()}
    for A, C, R in zip(data["A"], data["C"], data["R"], strict=True):
        np.testing.assert_allclose(np.linalg.eigvalsh(A), np.geomspace(1, kappa, q), rtol=0, atol=1e-13 * kappa)
        assert np.linalg.norm(C, 2) == pytest.approx(coupling, rel=1e-12)
        np.testing.assert_allclose(np.linalg.eigvalsh(R), np.linspace(1, 2, p), atol=1e-13)
    assert problem.constants.kappa == pytest.approx(kappa, rel=1e-10)
    alike = {name: bool((data[name] == data[name][0]).all()) for name in "ACQRbuw"}
    assert all(alike[name] for name in "ACQR") or not (equal or tasks == 1)
    assert alike["C"] == (equal or tasks == 1)  # A, Q, R may be alike by their size: (1, 1), or kappa = 1
    assert not any(alike[name] for name in "buw") or tasks == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tasks": 0}, "expected tasks an integer >= 1, got 0"),
        ({"p": 1.5}, "expected p an integer >= 1, got 1.5"),
        ({"q": -1}, "expected q an integer >= 1, got -1"),
        ({"kappa": 0.5}, "expected kappa a finite number >= 1, got 0.5"),
        ({"kappa": math.inf}, "expected kappa a finite number, got inf"),
        ({"kappa": math.nan}, "expected kappa a finite number, got nan"),
        ({"q": 1}, r"expected kappa = 1 for q = 1 \(one eigenvalue\), got kappa = 3.0"),
        ({"initialisation": True}, "expected p = q where phi is the initialisation of theta, got p = 2, q = 4"),
    ],
)
def test_a_random_instance_refuses_impossible_sizes(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Quadratic.random(**({"tasks": 2, "p": 2, "q": 4, "kappa": 3.0} | change))


# ---- where theta starts


def test_theta_starts_at_zero_by_default_at_phi_as_initialisation_and_else_at_start_plus_gain_phi():
    phi = {"phi": normal(0, P_SIZE)}
    gain, start = normal(1, M, Q_SIZE, P_SIZE), normal(2, M, Q_SIZE)
    for options, expected in (
        ({}, torch.zeros(M, Q_SIZE)),
        ({"start": start}, start),
        ({"gain": gain}, gain @ phi["phi"]),
        ({"start": start, "gain": gain}, start + gain @ phi["phi"]),
    ):
        problem = Quadratic(**arrays(), **options)
        theta = problem.theta0(phi, problem.sample(None, torch.Generator()))
        assert_near(theta, expected.double(), within=10 * EPS)
    problem = Quadratic.random(tasks=3, p=4, q=4, kappa=2.0, initialisation=True)
    phi = {"phi": normal(0, 4)}
    theta = problem.theta0(phi, problem.sample(None, torch.Generator()))
    assert torch.equal(theta, phi["phi"].expand(3, 4))


# ---- arguments


def test_arrays_may_be_numpy_torch_or_nested_lists():
    base = arrays()
    expected = Quadratic(**base).data
    for convert in (torch.as_tensor, np.ndarray.tolist):
        for name, tensor in Quadratic(**{name: convert(array) for name, array in base.items()}).data.items():
            assert torch.equal(tensor, expected[name])


def test_integers_become_float64_and_float32_stays():
    base = arrays()
    assert Quadratic(**(base | {"b": np.ones((M, Q_SIZE), dtype=int)})).data["b"].dtype == torch.float64
    assert (
        Quadratic(**{name: array.astype(np.float32) for name, array in base.items()}).data["A"].dtype == torch.float32
    )


def not_finite(name: str) -> np.ndarray:
    array = arrays()[name]
    array.flat[0] = math.nan
    return array


def asymmetric(name: str) -> np.ndarray:
    array = arrays()[name]
    array[1, 0, 1] = 1e-6
    return array


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        *(
            ({name: arrays()[name][:, :-1]}, ValueError, rf"expected {name} of shape \(2, .*\), got \(2, ")
            for name in "AbQuRw"
        ),
        *(
            ({name: arrays()[name][:1]}, ValueError, rf"expected {name} of shape \(2, .*\), got \(1, ")
            for name in "AbQuRw"
        ),
        ({"C": np.zeros((M, Q_SIZE))}, ValueError, r"expected C of shape \(M, q, p\) with M, q, p >= 1, got \(2, 3\)"),
        (
            {"C": np.zeros((M, Q_SIZE, 0))},
            ValueError,
            r"expected C of shape \(M, q, p\) with M, q, p >= 1, got \(2, 3, 0\)",
        ),
        ({"start": np.zeros(3)}, ValueError, r"expected start of shape \(2, 3\), got \(3,\)"),
        ({"gain": np.zeros((2, 3))}, ValueError, r"expected gain of shape \(2, 3, 2\), got \(2, 3\)"),
        *(
            ({name: not_finite(name)}, ValueError, f"finite values in data tensor '{name}', got 1")
            for name in "ACbQuRw"
        ),
        *(({name: asymmetric(name)}, ValueError, rf"expected {name} symmetric, got .* up to 1e-06") for name in "AQR"),
        ({"A": -arrays()["A"]}, ValueError, "expected A positive definite, got smallest eigenvalue -2"),
        ({"A": np.zeros((M, Q_SIZE, Q_SIZE))}, ValueError, "expected A positive definite, got smallest eigenvalue 0"),
        ({"b": [["x"] * 3] * 2}, TypeError, "expected b an array of numbers, got list"),
        ({"b": [[1.0, 2.0, 3.0], [1.0]]}, TypeError, "expected b an array of numbers, got list"),
        ({"b": arrays()["b"] * 1j}, TypeError, "expected b an array of real numbers, got torch.complex128"),
    ],
)
def test_malformed_arrays_are_refused_by_name(change, error, sentence):
    with pytest.raises(error, match=sentence):
        Quadratic(**(arrays() | change))


def test_rounding_of_a_symmetric_matrix_is_no_asymmetry():
    base = arrays()
    base["A"][0, 0, 1] += 4 * EPS
    assert Quadratic(**base).tasks == M


def test_arrays_of_several_precisions_take_the_widest():
    base = Quadratic.random(tasks=2, p=2, q=3, kappa=2.0)
    mixed = Quadratic(**{name: x.float() if name in "Ab" else x for name, x in base.data.items()})
    assert {x.dtype for x in mixed.data.values()} == {torch.float64}
    assert bool(torch.isfinite(mixed.upper_solution()["phi"]).all())
