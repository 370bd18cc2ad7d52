"""The Lyapunov function of Theorem 2 and Lemma 2 (docs/theory.md S2): its constants, and probes that measure it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad, jacrev, vmap

from convergence import Probe, Snapshot, reference
from paper_checks.quadratic_theory import QuadraticTheory
from problems import Constants, Parameters, Problem, Quadratic, Tasks

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lyapunov:
    """V = Phi - Phi* + beta (P a + Q b) falls by beta/2 |grad Phi|^2 in every step, for beta up to `largest_step`.

    a is the mean squared error of theta_i, b that of v_i in the energy norm. `drift` is the largest
    s = |phi_{t+1} - phi_t| + |theta_i^{t+1} - theta_i^t| for which that holds: infinite where rho_2 = 0.
    """

    P: float
    Q: float
    largest_step: float
    drift: float

    @classmethod
    def of(
        cls,
        constants: Constants,
        *,
        lower_steps: int,
        cg_steps: int,
        lower_step_size: float,
        exact_v: bool = False,
        theta_alone: bool = False,
    ) -> Lyapunov:
        """From the constants, for K, N >= 1. `exact_v`: N reaches the number of distinct eigenvalues, chi_N = 0.

        `theta_alone`: v*(phi, theta) does not depend on phi, neither by d2g/dtheta2 nor by df/dtheta, as on quadratics;
        it then moves by 2 tau a step on phi where it is 1 + 2 tau in general, and W is smaller.
        chi_hat = chi_N where d2g/dtheta2 is constant (rho_2 = 0), else (1 + chi_N) / 2 as in Lemma 2.
        """
        tau, nu, L_c, Lambda, L_Phi = (getattr(constants, name) for name in ("tau", "nu", "L_c", "Lambda", "L_Phi"))
        varrho_K = constants.lower_contraction(lower_step_size) ** lower_steps
        chi = 0.0 if exact_v else constants.cg_contraction(cg_steps)
        chi_hat = chi if constants.rho_2 == 0 else (1 + chi) / 2
        c_a = varrho_K**2 * tau**2 / (1 - varrho_K)
        c_b = chi**2 * constants.L * nu**2 / (1 - chi_hat)
        Q = L_c**2 / (constants.mu * (1 - chi_hat))
        P = (Lambda**2 + 8 * Q * c_b) / (1 - varrho_K)
        W = P * c_a + 2 * (2 * tau + (not theta_alone)) ** 2 * Q * c_b
        drift = constants.mu * (1 - chi) / (chi * constants.rho_2) if chi * constants.rho_2 else math.inf
        largest = min((1 / (2 * curvature) for curvature in (L_Phi, math.sqrt(W)) if curvature > 0), default=math.inf)
        return cls(P, Q, largest, drift)


@dataclass(frozen=True)
class Drift:
    """Lemma 2: s <= `allowed` in every step, for any K, N >= 1 and rho_2 > 0, where |grad_phi f| <= slope.

    It asks for beta <= `largest_step` and |theta^0 - theta*_0| <= allowed / 4, see `first_steps`. What its induction
    keeps in every step: an error of v of at most `v_error` in the energy norm, |d| <= `direction`, and an error of
    theta of at most allowed / 4.
    """

    allowed: float
    v_error: float
    direction: float
    largest_step: float

    @classmethod
    def of(
        cls, constants: Constants, *, lower_steps: int, cg_steps: int, lower_step_size: float, slope: float
    ) -> Drift:
        """s_bar, E_bar, D_bar and beta, v from 0: |v^0 - v*_0| <= |v*_0| <= B / sqrt(mu) in the energy norm."""
        c, tau = constants, constants.L_c / constants.mu
        varrho_K = c.lower_contraction(lower_step_size) ** lower_steps
        s_bar = Lyapunov.of(c, lower_steps=lower_steps, cg_steps=cg_steps, lower_step_size=lower_step_size).drift
        E_bar = max(c.B / math.sqrt(c.mu), 2 * math.sqrt(c.L) * c.nu * c.mu / c.rho_2)
        D_bar = slope + c.L_c * (c.B / c.mu + E_bar / math.sqrt(c.mu))
        return cls(s_bar, E_bar, D_bar, s_bar / (2 * D_bar * (1 + 2 * tau + 2 * varrho_K * tau / (1 - varrho_K))))

    def first_steps(self, constants: Constants, *, lower_step_size: float, distance: float) -> int:
        """The lower steps, once at the start, that bring |theta - theta*_0| from `distance` to allowed / 4."""
        varrho = constants.lower_contraction(lower_step_size)
        return max(math.ceil(math.log(4 * distance / self.allowed) / math.log(1 / varrho)), 0)


def potential(problem: Quadratic, beta: float, lyapunov: Lyapunov) -> Probe:
    """V_t as a probe of the step, by closed forms, for a quadratic on the device of the run."""
    pool = problem.sample(None, torch.Generator())
    H = torch.as_tensor(QuadraticTheory.of(problem).upper_form[0], device=pool.index.device)
    optimum, factor = problem.upper_solution()["phi"], torch.linalg.cholesky(pool.A)

    def measure(snapshot: Snapshot) -> Tensor:
        phi, theta, v = snapshot.phi["phi"], snapshot.step.theta, snapshot.step.v
        right = torch.stack((pool.C @ phi + pool.b, _product(pool.Q, theta - pool.u)), -1)
        optimal_theta, optimal_v = torch.cholesky_solve(right, factor).unbind(-1)
        a, e = (theta - optimal_theta).square().sum(-1).mean(), v - optimal_v
        b = (e * _product(pool.A, e)).sum(-1).mean()
        x = phi - optimum  # Phi - Phi* = 1/2 |x|^2_H: a difference of values would drown in rounding
        return 0.5 * x @ H @ x + beta * (lyapunov.P * a + lyapunov.Q * b)

    return Probe("V", measure, of_step=True)


def _product(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(M, q, q) times (M, q)."""
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def reference_potential(problem: Problem, optimum: float, beta: float, lyapunov: Lyapunov) -> Probe:
    """V_t of any problem: Phi and theta* by damped Newton, v* and the energy norm from dense Hessians (torch.func)."""

    def measure(snapshot: Snapshot) -> Tensor:
        a, b = (errors.mean() for errors in _squared_errors(problem, snapshot))
        return snapshot.reference().value - optimum + beta * (lyapunov.P * a + lyapunov.Q * b)

    return Probe("V", measure, of_step=True)


def error_probes(problem: Problem) -> tuple[Probe, Probe]:
    """max_i |theta_i - theta_i*| and max_i |v_i - v_i*| in the energy norm, as Lemma 2 bounds them."""

    def measure(which: int, snapshot: Snapshot) -> Tensor:
        return _squared_errors(problem, snapshot)[which].max().sqrt()

    return tuple(Probe(name, partial(measure, k), of_step=True) for k, name in enumerate(("theta_error", "v_error")))


def _squared_errors(problem: Problem, snapshot: Snapshot) -> tuple[Tensor, Tensor]:
    """Of theta_i, and of v_i in the energy norm at (phi, theta_i), each (M,)."""
    theta, v = snapshot.step.theta, snapshot.step.v
    H, slope = dense_system(problem, snapshot.phi, theta, snapshot.pool)
    e = v - torch.linalg.solve(H, slope)
    return (theta - snapshot.reference().theta).square().sum(-1), torch.einsum("mi,mij,mj->m", e, H, e)


def drift_probe() -> Probe:
    """max_i s_{i,t-1} = |phi_t - phi_{t-1}| + |theta_i^t - theta_i^{t-1}|, 0 at t = 0; a new one for every run."""
    last: list[tuple[Parameters, Tensor]] = []

    def measure(snapshot: Snapshot) -> Tensor:
        if snapshot.iteration == 0:
            last.clear()  # of a short run, by which a memory budget chose
        theta = snapshot.step.theta
        moved = torch.zeros((), dtype=theta.dtype, device=theta.device)
        if last:
            phi, old = last.pop()
            way = sum((snapshot.phi[name] - tensor).square().sum() for name, tensor in phi.items()) ** 0.5
            moved = way + (theta - old).norm(dim=-1).max()
        last.append((snapshot.phi, theta))
        return moved

    return Probe("drift", measure, of_step=True)


def dense_system(problem: Problem, phi: Parameters, theta: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
    """d2g_i/dtheta2 (B, q, q) and df_i/dtheta (B, q), task by task with torch.func."""

    def one(name: str, theta: Tensor, index: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        task = Tasks(index[None], **{key: tensor[None] for key, tensor in tensors.items()})
        return getattr(problem, name)(problem.embed(phi, task), theta[None], task)[0]

    each = (theta, tasks.index, tasks.tensors)
    H = vmap(jacrev(grad(partial(one, "lower"))))(*each)
    return H, vmap(grad(partial(one, "upper")))(*each)


def upper_minimum(problem: Problem, phi: Parameters, *, iterations: int = 500) -> float:
    """Phi* near phi, by BFGS on the reference's value and gradient. Raises ValueError where |grad Phi| stays > 1e-7.

    The value is then exact to |grad Phi|^2 over the curvature, far below rounding.
    """
    (name,) = phi
    pool = problem.sample(None, torch.Generator())
    near = None

    def objective(x: Array) -> tuple[float, Array]:
        nonlocal near  # theta* of the point before: where Newton starts
        exact = reference(problem, {name: torch.as_tensor(x).view_as(phi[name])}, pool, start=near)
        near = exact.theta
        return float(exact.value), exact.hypergradient[name].flatten().numpy()

    start = phi[name].detach().cpu().double().flatten().numpy()
    found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": iterations})
    if np.linalg.norm(found.jac) > 1e-7:
        raise ValueError(f"expected BFGS to reach |grad Phi| <= 1e-7, got {np.linalg.norm(found.jac):.1e}")
    return float(found.fun)
