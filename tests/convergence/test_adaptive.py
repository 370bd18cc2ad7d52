"""With an accuracy, K and N are what the certificate needs: no fewer, hardly more, and never above their limits."""

from dataclasses import replace

import pytest
import torch

from convergence import (
    Certified,
    ConjugateGradient,
    GradientDescent,
    MemoryReduced,
    Oracle,
    Status,
    certified_error,
    run,
)
from problems import PROBLEMS, Noisy, ProxLogistic, Quadratic
from tests.strategies import normal
from tests.twins import UserRidge

PROBES = ("grad_norm_sq", "direction_norm_sq", "direction_error_sq", "certified_direction_error")


def adaptive(accuracy, *, K=5000, N=500, beta, warm=True):
    return MemoryReduced(lower_steps=K, cg_steps=N, upper_step_size=beta, warm_start=warm, accuracy=accuracy)


@pytest.mark.parametrize("warm", [True, "theta", False])
@pytest.mark.parametrize("accuracy", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", ["quadratic", "proximal", "prox-logistic"])
def test_every_direction_is_certified_to_the_accuracy_asked_for(name, accuracy, warm):
    problem = PROBLEMS[name](1)
    method = adaptive(accuracy, beta=0.5 / problem.constants.L_Phi, warm=warm)
    trace = run(problem, method, iterations=12, probes=PROBES).trace
    size = trace["direction_norm_sq"].sqrt()
    assert (trace["certified_direction_error"] <= accuracy * size * (1 + 1e-9)).all()
    assert (trace["direction_error_sq"].sqrt() <= accuracy * size).all()
    assert (trace["certified_direction_error"] >= 1e-3 * accuracy * size).all()  # not solved to rounding


def test_a_tighter_accuracy_costs_more_and_the_error_follows_it():
    problem = Quadratic.random(tasks=4, p=5, q=12, kappa=100.0, seed=0)
    calls, worst = [], []
    for accuracy in (0.9, 0.1, 0.01):
        result = run(problem, adaptive(accuracy, beta=0.5), iterations=8, probes=PROBES)
        calls.append(sum(result.calls.values()))
        worst.append(float((result.trace["direction_error_sq"] / result.trace["direction_norm_sq"]).max()) ** 0.5)
    assert calls == sorted(calls)
    assert worst[0] > worst[1] > worst[2]
    assert worst[2] <= 0.01


def test_it_converges_exactly_where_a_fixed_cold_start_stops_at_a_floor():
    problem = Quadratic.random(tasks=4, p=3, q=5, kappa=10.0, seed=2)
    beta = 1 / problem.constants.L_Phi
    fixed = MemoryReduced(lower_steps=5, cg_steps=3, upper_step_size=beta, warm_start=False)
    floor = run(problem, fixed, iterations=60).trace["grad_norm_sq"][-1]
    exact = run(problem, adaptive(0.5, beta=beta, warm=False), iterations=60).trace["grad_norm_sq"][-1]
    assert floor > 1e-8
    assert exact < 1e-20


def test_the_limits_hold_and_the_run_goes_on_without_the_certificate():
    problem = Quadratic.random(tasks=3, p=3, q=6, kappa=100.0, seed=0)
    result = run(problem, adaptive(1e-6, K=2, N=3, beta=0.1, warm=False), iterations=5, probes=PROBES)
    assert result.status is Status.MAX_ITERATIONS
    assert result.calls["lower_gradient"] == 5 * 3 * 2  # T M K: the limit
    assert 5 * 3 * 1 <= result.calls["hvp"] <= 5 * 3 * (3 + 2)  # N, and a residual a pass
    assert (result.trace["certified_direction_error"] > 1e-6 * result.trace["direction_norm_sq"].sqrt()).any()


@pytest.mark.parametrize("warm", [True, False])
def test_constants_whose_two_splits_do_not_compare_are_certified_all_the_same(warm):
    problem = Quadratic.random(tasks=4, p=2, q=3, kappa=20.0, seed=0)
    c = problem.constants
    # Valid, though loose: one split is small in theta and large in v, the other the reverse
    vars(problem)["constants"] = replace(c, L_c=50 * c.L_c, ell=50 * c.ell, rho_2=1e-9)
    trace = run(problem, adaptive(0.5, beta=0.1, warm=warm), iterations=20, probes=PROBES).trace
    size = trace["direction_norm_sq"].sqrt()
    assert (trace["certified_direction_error"] <= 0.5 * size * (1 + 1e-9)).all()
    assert (trace["direction_error_sq"].sqrt() <= trace["certified_direction_error"]).all()


@pytest.mark.parametrize(("accuracy", "start", "descends"), [(0.49, 8.9, True), (0.8, 32.2, False)])
def test_at_beta_1_over_l_phi_descent_is_sure_below_one_half_and_not_above(accuracy, start, descends):
    one, zero = torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double()
    problem = Quadratic(one, one, zero, one, zero, 0 * one, zero, start=torch.tensor([[start]]).double())
    method = MemoryReduced(
        lower_steps=100, lower_step_size=0.5, cg_steps=9, upper_step_size=1.0, warm_start=False, accuracy=accuracy
    )
    values = run(problem, method, iterations=2, phi0={"phi": torch.ones(1)}, probes=("value",)).trace["value"]
    assert (values[1] <= values[0]) == descends


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_rounding_a_run_goes_on_without_the_certificate_and_without_burning_its_limits(dtype):
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=20.0, seed=0)
    method = adaptive(0.1, K=10**6, N=10**6, beta=1 / problem.constants.L_Phi, warm=False)
    result = run(problem, method, iterations=80, dtype=dtype)
    assert result.trace["grad_norm_sq"][-1] < 100 * torch.finfo(dtype).eps ** 2 * result.trace["grad_norm_sq"][0] * 1e4
    assert result.calls["lower_gradient"] + result.calls["hvp"] < 80 * 3 * 1500


class FewPasses(Oracle):
    """Gives up where an estimate goes on and on; a pass asks for one cross product."""

    def hypergradient(self, *arguments):
        assert self.calls["cross_product"] < 40 * len(self.pool), "40 passes without an end"
        return super().hypergradient(*arguments)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, None])
@pytest.mark.parametrize("name", ["quadratic", "proximal", "prox-logistic"])
def test_an_accuracy_just_below_what_a_frozen_cg_leaves_ends(name, tolerance):
    problem = PROBLEMS[name](1)
    phi = problem.phi0(torch.Generator().manual_seed(0))
    lower, linear = GradientDescent(10**5, problem.constants.lower_step_size), ConjugateGradient(10**4, tolerance)

    def reached(accuracy):
        oracle = FewPasses(problem)
        z, theta = oracle.embed(phi, oracle.pool), oracle.theta0(phi, oracle.pool)
        d, theta, v, _ = Certified(lower, linear, accuracy).estimate(oracle, z, theta, oracle.pool)
        size = sum(float(x.square().sum()) for x in d.values()) ** 0.5
        return float(certified_error(Oracle(problem), phi, oracle.pool, theta, v)) / size

    least = reached(1e-18)  # at rounding, or at the tolerance of CG
    for share in torch.arange(0.5, 1.2, 0.02).tolist():
        # A pass that misses by 1.5 leaves theta at most 2/3 of the error, so that v alone has at least 1/3
        assert reached(share * least) <= 3 * max(share, 1) * least


def test_a_run_on_batches_adapts_to_the_tasks_drawn():
    problem = ProxLogistic.random(tasks=8, q=4, examples=12, seed=0)
    method = adaptive(0.3, beta=0.5)
    result = run(problem, method, iterations=20, batch=2, probes=("direction_norm_sq", "certified_direction_error"))
    assert (result.trace["certified_direction_error"] <= 0.3 * result.trace["direction_norm_sq"].sqrt()).all()


def test_replicas_and_calls_that_are_not_known_beforehand_are_refused():
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=3.0, seed=0)
    with pytest.raises(ValueError, match=r"expected replicas=None with accuracy=0.5, got 2"):
        run(problem, adaptive(0.5, beta=0.1), iterations=1, replicas=2)
    with pytest.raises(ValueError, match=r"expected exact objectives with accuracy=0.5, got Noisy"):
        run(Noisy(problem, lower=0.1), adaptive(0.5, beta=0.1), iterations=1)
    with pytest.raises(ValueError, match=r"expected accuracy=None for calls that are known beforehand, got 0.5"):
        adaptive(0.5, beta=0.1).declared_calls(3)
    for wrong in (0.0, -1.0, float("nan"), "0.5", True):
        with pytest.raises(ValueError, match="expected accuracy a finite number > 0, got"):
            adaptive(wrong, beta=0.1)
    method = MemoryReduced(lower_steps=9, lower_step_size=0.1, cg_steps=9, upper_step_size=0.1, accuracy=0.5)
    with pytest.raises(ValueError, match="expected a problem with constants to certify with, got UserRidge"):
        run(UserRidge(), method, iterations=1, probes=())


def test_the_solvers_stop_where_they_are_told_to():
    problem = Quadratic.random(tasks=2, p=2, q=4, kappa=10.0, seed=0)
    oracle = Oracle(problem)
    phi = {"phi": normal(0, 2)}
    z, norms = oracle.embed(phi, oracle.pool), []

    def third(norm):
        norms.append(norm)
        return len(norms) == 3

    theta = GradientDescent(50, 0.1).solve(oracle, z, torch.zeros(2, 4).double(), oracle.pool, enough=third)
    assert torch.equal(theta, GradientDescent(3, 0.1).solve(oracle, z, torch.zeros(2, 4).double(), oracle.pool))
    assert oracle.calls["lower_gradient"] == 2 * (3 + 3)
    assert torch.equal(norms[0], oracle.lower_gradient(z, torch.zeros(2, 4).double(), oracle.pool).norm(dim=-1))
    norms.clear()
    b, product = normal(3, 2, 4), oracle.lower_hessian(z, theta, oracle.pool)
    told = ConjugateGradient(50).solve(product, b, enough=third)
    assert torch.equal(told.v, ConjugateGradient(2).solve(product, b).v)
    assert not told.failure.any()
    assert torch.equal(norms[0], b.norm(dim=-1))
