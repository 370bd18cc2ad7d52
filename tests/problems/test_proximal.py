from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import MemoryReduced, reference, run
from problems import Proximal
from tests.independent import Dense, assert_near
from tests.strategies import normal, seeds


def arrays(**change):
    """Well-formed arguments: two tasks, q = 3."""
    S = np.stack([np.diag([1.0, 2.0, 3.0]), np.diag([0.0, 1.0, 4.0])])
    return {"S": S, "m": np.ones((2, 3)), "Q": S, "u": np.zeros((2, 3))} | change


@given(tasks=st.integers(1, 4), q=st.integers(2, 5), prox=st.floats(0.1, 10), matched=st.booleans(), seed=seeds)
def test_the_derivatives_are_those_of_the_losses_as_they_are_written_down(tasks, q, prox, matched, seed):
    rng = np.random.default_rng(seed)
    root, other = rng.standard_normal((2, tasks, q, q))
    S = root @ np.swapaxes(root, 1, 2)
    Q = S if matched else other @ np.swapaxes(other, 1, 2)
    m, u = rng.standard_normal((2, tasks, q))
    problem = Proximal((S + np.swapaxes(S, 1, 2)) / 2, m, (Q + np.swapaxes(Q, 1, 2)) / 2, u, prox=prox)
    dense = Dense(problem)
    x, theta = normal(seed, q), normal(seed + 1, tasks, q)
    away, gap = theta.numpy() - m, theta.numpy() - x.numpy()
    slope = np.einsum("mij,mj->mi", S, away) + prox * gap
    assert_near(dense.each(dense.lower_slope, x, theta), torch.from_numpy(slope), within=1e-12)
    pull = prox * torch.eye(q, dtype=torch.float64).expand(tasks, q, q)
    assert_near(dense.each(dense.cross, x, theta), -pull, within=1e-12)
    validation = np.einsum("mij,mj->mi", Q, theta.numpy() - u)
    assert_near(dense.each(dense.upper_slope, x, theta), torch.from_numpy(validation), within=1e-12)


@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("prox", [0.3, 2.0])
def test_the_facts_of_the_family(matched, prox):
    problem = Proximal.random(tasks=4, q=5, spectrum=(0.2, 8.0), prox=prox, matched=matched, seed=3)
    pool, phi = problem.sample(None, torch.Generator()), {"phi": normal(0, 5)}
    A, Q = pool.A, pool.Q
    S = A - prox * torch.eye(5, dtype=torch.float64)
    constants = problem.constants
    assert constants.mu == pytest.approx(prox + 0.2, rel=1e-12)
    assert pytest.approx(prox + 8.0, rel=1e-12) == constants.L
    assert constants.L_c == pytest.approx(prox, rel=1e-12)
    assert constants.tau == pytest.approx(prox / (prox + 0.2), rel=1e-12)
    inverse = torch.linalg.inv(A)
    hessians = prox**2 * inverse @ Q @ inverse
    along = normal(1, 5)
    slope = problem.hypergradient({"phi": phi["phi"] + along})["phi"] - problem.hypergradient(phi)["phi"]
    assert_near(slope, hessians.mean(0) @ along, within=1e-12)
    s = torch.from_numpy(np.geomspace(0.2, 8.0, 5))
    exact = (s * prox**2 / (s + prox) ** 2).sort().values
    if matched:
        assert_near(torch.linalg.eigvalsh(hessians), exact.expand(4, 5), within=1e-12)
        assert constants.L_Phi <= prox / 4
    # a cold start lies where phi is, and this far from theta*: A^-1 S (phi - m), with S m = b
    start, star = problem.theta0(phi, pool), problem.lower_solution(phi, pool)
    assert torch.equal(start, phi["phi"].expand(4, 5))
    expected = (inverse @ ((S @ phi["phi"]) - pool.b).unsqueeze(-1)).squeeze(-1)
    assert_near(start - star, expected, within=1e-12)
    assert_near(reference(problem, phi, pool).theta, star, within=1e-11)


def test_it_moves_copies_and_converges_as_the_quadratic_it_is():
    problem = Proximal.random(tasks=5, q=3, spectrum=(0.5, 4.0), prox=1.0, seed=0)
    single = problem.to(dtype=torch.float32)
    assert isinstance(single, Proximal)
    assert single.prox == 1.0
    assert single.hypergradient({"phi": torch.ones(3)})["phi"].dtype == torch.float32
    copy.deepcopy(problem).check()
    method = MemoryReduced(lower_steps=5, cg_steps=3, upper_step_size=1 / problem.constants.L_Phi)
    assert float(run(problem, method, iterations=300).trace["grad_norm_sq"][-1]) < 1e-25


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prox": 0.0}, "expected prox > 0, got 0.0"),
        ({"S": np.eye(3)}, r"expected S of shape \(M, q, q\) with m \(M, q\), got \(3, 3\) and \(2, 3\)"),
        ({"m": np.ones((2, 4))}, r"got \(2, 3, 3\) and \(2, 4\)"),
        ({"S": -arrays()["S"]}, "expected S positive semidefinite, got smallest eigenvalue -4"),
        ({"Q": np.ones((2, 3))}, r"expected Q of shape \(2, 3, 3\), got \(2, 3\)"),
        ({"u": np.full((2, 3), np.nan)}, "expected finite values in data tensor 'u'"),
    ],
)
def test_malformed_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Proximal(**arrays(**change))


@pytest.mark.parametrize("options", [{"spectrum": (0.0, 1.0)}, {"spectrum": (2.0, 1.0)}, {"q": 1}])
def test_a_random_instance_refuses_an_impossible_spectrum(options):
    with pytest.raises(ValueError, match="expected a spectrum 0 < low <= high"):
        Proximal.random(**({"tasks": 2, "q": 3} | options))
