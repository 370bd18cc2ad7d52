from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convergence import Composed, GradientDescent, Implicit, Neumann, Oracle, RandomNeumann, Richardson, Status, run
from convergence.oracle import LowerHessian
from problems import Noisy, Quadratic
from tests.independent import assert_near
from tests.strategies import System, normal, seeds, systems

SERIES = [Richardson(3, 0.1), Neumann(3, 0.1), RandomNeumann(4, 0.1)]
EACH = pytest.mark.parametrize("solver", SERIES, ids=lambda solver: type(solver).__name__)


def counted(system: System, *, p: Tensor | None = None) -> tuple[LowerHessian, list[Tensor]]:
    """The product of the system, with draws that are p (None: by a generator of seed 0); and what it was given."""
    seen: list[Tensor] = []
    rng = torch.Generator().manual_seed(0)

    def product(v: Tensor) -> Tensor:
        seen.append(v)
        return system.product(v)

    return LowerHessian(product, sampled=lambda make: make(rng) if p is None else p), seen


def powers(system: System, step_size: float, exponent: int) -> np.ndarray:
    """(I - eta H)^exponent of each row, by its eigenvalues."""
    values, vectors = np.linalg.eigh(system.H.numpy())
    return (vectors * ((1 - step_size * values) ** exponent)[:, None]) @ vectors.swapaxes(-1, -2)


def exact(system: System) -> np.ndarray:
    return np.linalg.solve(system.H.numpy(), system.b.numpy()[..., None])


def step(system: System, share: float) -> float:
    """A part of the largest step that does not diverge, 2 / L."""
    return share * 2 / max(system.kappas)


steps, shares = st.integers(0, 8), st.floats(0.05, 0.99)


# ---- the laws


@given(system=systems(), steps=steps, share=shares, warm=st.booleans(), seed=seeds)
def test_the_error_of_richardson_is_a_power_of_the_step_matrix(system, steps, share, warm, seed):
    eta, start = step(system, share), normal(seed, *system.b.shape) if warm else None
    hessian, seen = counted(system)
    found = Richardson(steps, eta).solve(hessian, system.b, start)
    begin = np.zeros_like(exact(system)) if start is None else start.numpy()[..., None]
    error = powers(system, eta, steps) @ (begin - exact(system))
    assert_near(found.v, torch.from_numpy((exact(system) + error)[..., 0]), within=1e-12)
    assert len(seen) == Richardson(steps, eta).products(warm=warm) == (steps if warm else max(steps - 1, 0))
    assert not found.failure.any()
    # the residual of the iterate before, -H times its error
    if steps:
        before = system.H.numpy() @ powers(system, eta, steps - 1) @ (exact(system) - begin)
        assert_near(found.residual_norm, torch.from_numpy(np.linalg.norm(before[..., 0], axis=-1)), within=1e-11)
    elif not warm:
        assert_near(found.residual_norm, system.b.norm(dim=-1), within=1e-15)


@given(system=systems(), steps=steps, share=shares)
def test_a_neumann_series_is_cut_after_its_power_n(system, steps, share):
    eta = step(system, share)
    hessian, seen = counted(system)
    found = Neumann(steps, eta).solve(hessian, system.b)
    error = -powers(system, eta, steps + 1) @ exact(system)
    assert_near(found.v, torch.from_numpy((exact(system) + error)[..., 0]), within=1e-12)
    assert len(seen) == Neumann(steps, eta).products(warm=False) == Neumann(steps, eta).products(warm=True) == steps
    assert_near(found.v, Richardson(steps + 1, eta).solve(hessian, system.b).v, within=1e-12)
    last = (powers(system, eta, steps) @ system.b.numpy()[..., None])[..., 0]
    assert_near(found.residual_norm, torch.from_numpy(np.linalg.norm(last, axis=-1)), within=1e-12)
    assert not found.failure.any()


@given(system=systems(), terms=st.integers(1, 6), share=shares, data=st.data())
def test_a_random_term_is_its_power_times_the_number_of_terms_in_each_row(system, terms, share, data):
    eta, rows = step(system, share), len(system.b)
    drawn = data.draw(st.lists(st.integers(0, terms - 1), min_size=rows, max_size=rows))
    hessian, seen = counted(system, p=torch.tensor(drawn))
    found = RandomNeumann(terms, eta).solve(hessian, system.b)
    for row, p in enumerate(drawn):
        expected = eta * terms * powers(system, eta, p)[row] @ system.b[row].numpy()
        assert_near(found.v[row], torch.from_numpy(expected), within=1e-12)
    assert len(seen) == RandomNeumann(terms, eta).products(warm=False) == terms - 1
    assert bool(found.residual_norm.isnan().all())
    assert not found.failure.any()


@given(system=systems(), terms=st.integers(1, 6), share=shares)
def test_the_mean_over_all_random_terms_is_the_series(system, terms, share):
    eta = step(system, share)
    each = [
        RandomNeumann(terms, eta).solve(counted(system, p=torch.full(system.b.shape[:-1], p))[0], system.b).v
        for p in range(terms)
    ]
    series = Neumann(terms - 1, eta).solve(system.product, system.b).v
    assert_near(torch.stack(each).mean(0), series, within=1e-12)


def test_the_number_of_factors_is_uniform_and_drawn_for_each_task_and_replica():
    # H = I, b = 1, eta = 1 / 2: v = Q / 2^(p + 1) tells p
    terms, replicas, tasks = 5, 40, 50
    rng = torch.Generator().manual_seed(0)
    hessian = LowerHessian(lambda v: v, sampled=lambda make: torch.stack([make(rng) for _ in range(replicas)]))
    found = RandomNeumann(terms, 0.5).solve(hessian, torch.ones(replicas, tasks, 1, dtype=torch.float64)).v[..., 0]
    p = (terms / 2 / found).log2()
    assert_near(p, p.round(), within=1e-12)
    counts = torch.stack([(p == k).sum() for k in range(terms)]).double()
    expected = replicas * tasks / terms
    # chi^2 with 4 degrees of freedom: beyond 23.5 with probability 1e-4, once, as the seed is fixed
    assert float(((counts - expected).square() / expected).sum()) < 23.5
    assert len(torch.unique(p, dim=0)) > replicas / 2
    assert len(torch.unique(p, dim=1)) > 1


# ---- fresh products


@pytest.mark.parametrize("order", ["stocBiO", "reversed"])
def test_the_terms_of_a_series_of_fresh_products_are_those_of_stocbio(order):
    q, N, eta = 3, 3, 0.2
    H = [np.asarray(normal(k, q, q)) for k in range(N)]
    b, given = normal(9, 1, q), iter(H)
    found = Neumann(N, eta).solve(lambda v: v @ torch.from_numpy(next(given)).mT, b).v
    # v_Q = eta sum_{j=-1}^{Q-1} prod_{k=Q-j}^{Q} (I - eta H_k) v_0: sample Q is met first, by all terms
    samples = dict(zip(range(N, 0, -1), H, strict=True)) if order == "stocBiO" else dict(enumerate(H, start=1))
    total = np.zeros(q)
    for j in range(-1, N):
        factors = [np.eye(q) - eta * samples[k] for k in range(N - j, N + 1)]
        total += eta * np.linalg.multi_dot([np.eye(q), *factors, np.eye(q)]) @ b[0].numpy()
    if order == "stocBiO":
        assert_near(found[0], torch.from_numpy(total), within=1e-13)
    else:
        assert float((found[0] - torch.from_numpy(total)).abs().max()) > 1e-2


@pytest.mark.parametrize("solver", [Neumann(2, 0.2), RandomNeumann(3, 0.2), Richardson(3, 0.2)])
def test_with_fresh_products_the_mean_of_v_is_that_of_the_exact_series(solver):
    base = Quadratic.random(tasks=2, p=2, q=3, kappa=4.0)
    problem = Noisy(base, hessian=0.5)
    replicas, phi, theta = 3000, normal(0, 2), normal(1, 2, 3)
    oracle = Oracle(problem, replicas=replicas, seeds=range(replicas))
    z = oracle.embed({"phi": phi.expand(replicas, 2)}, oracle.pool)
    v = Implicit(solver, fresh_products=True).at(oracle, z, theta.expand(replicas, 2, 3), oracle.pool).v
    exact_oracle = Oracle(base)
    exact_z = exact_oracle.embed({"phi": phi}, exact_oracle.pool)
    b = exact_oracle.upper_gradient(exact_z, theta, exact_oracle.pool)
    expected = Neumann(2, 0.2).solve(exact_oracle.lower_hessian(exact_z, theta, exact_oracle.pool), b).v
    z_score = (v.mean(0) - expected) / (v.std(0) / math.sqrt(replicas))
    assert float(z_score.abs().max()) < 4.5  # six numbers, a fixed seed: 4e-5
    assert float((v.std(0) / expected.abs().max()).min()) > 1e-2  # there is noise to average


# ---- failures, cost, arguments


@EACH
def test_a_row_that_is_not_finite_fails_alone(solver):
    b = torch.tensor([[1.0, 1.0], [math.nan, 1.0], [math.inf, 0.0], [1.0, 2.0]], dtype=torch.float64)
    hessian = LowerHessian(lambda v: 2 * v, sampled=lambda make: torch.tensor([0, 1, 2, 3]))
    found = solver.solve(hessian, b)
    assert found.failure.tolist() == [0, Status.NON_FINITE, Status.NON_FINITE, 0]
    alone = solver.solve(LowerHessian(lambda v: 2 * v, sampled=lambda make: torch.tensor([0, 3])), b[[0, 3]])
    assert torch.equal(found.v[[0, 3]], alone.v)


@EACH
def test_a_step_that_is_too_long_overflows_into_a_status(solver):
    long = type(solver)(400, 10.0)
    hessian = LowerHessian(lambda v: 2 * v, sampled=lambda make: torch.tensor([399]))
    assert long.solve(hessian, torch.ones(1, 2, dtype=torch.float64)).failure.tolist() == [Status.NON_FINITE]


@EACH
def test_leading_axes_are_independent_systems_and_nothing_is_written_to(solver):
    H, b = normal(0, 2, 3, 4).square() + 1, normal(1, 2, 3, 4)
    p = torch.arange(6).view(2, 3) % 4
    together = solver.solve(LowerHessian(lambda v: H * v, sampled=lambda make: p), b)
    for r in range(2):
        alone = solver.solve(LowerHessian(lambda v, r=r: H[r] * v, sampled=lambda make, r=r: p[r]), b[r])
        assert torch.equal(together.v[r], alone.v)
    assert torch.equal(b, normal(1, 2, 3, 4))


@EACH
@pytest.mark.parametrize("replicas", [None, 3])
def test_the_calls_of_a_run_are_the_declared_ones_and_replicas_are_runs_of_their_own(solver, replicas):
    problem = Noisy(Quadratic.random(tasks=4, p=2, q=3, kappa=4.0), lower=0.1, hessian=0.1)
    method = Composed(
        lower=GradientDescent(2, 0.1), estimator=Implicit(solver, fresh_products=True), upper_step_size=0.1
    )
    together = run(problem, method, iterations=2, replicas=replicas, probes=())
    assert together.calls == {name: 2 * count for name, count in method.declared_calls(4).items()}
    if replicas is not None:
        for r, seed in itertools.product(range(replicas), range(replicas)):
            alone = run(problem, method, iterations=2, seed=seed, probes=())
            gap = float((together.phi["phi"][r] - alone.phi["phi"]).abs().max())
            assert gap < 1e-13 if r == seed else gap > 1e-3


def test_float32_stays_float32():
    for solver in SERIES:
        hessian = LowerHessian(lambda v: 2 * v, sampled=lambda make: torch.tensor([2]))
        assert solver.solve(hessian, torch.ones(1, 2)).v.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Richardson(-1, 0.1), "expected Richardson steps an integer >= 0, got -1"),
        (lambda: Neumann(2.5, 0.1), "expected Neumann steps an integer >= 0, got 2.5"),
        (lambda: RandomNeumann(0, 0.1), "expected terms an integer >= 1, got 0"),
        (lambda: Neumann(1, 0.0), "expected step_size a finite number > 0, got 0.0"),
        (lambda: Richardson(1, 0.1).solve(lambda v: v, torch.zeros(4, 3), torch.zeros(4, 2)), "expected v of shape"),
        (
            lambda: RandomNeumann(2, 0.1).solve(lambda v: v, torch.zeros(4, 3)),
            r"expected a hessian that draws random numbers for RandomNeumann \(LowerHessian\), got",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
