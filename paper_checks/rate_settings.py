"""Step sizes with which published methods attain their rates, and what their runs are measured with.

`SCHEDULES` holds the step sizes of the theorems behind `Declared.noisy_rate`, as functions of the number T of upper
iterations; constants that a theorem leaves open are those of the problem.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from convergence.method import Method
from convergence.needs import require
from convergence.probes import Snapshot
from convergence.rates import Slope, log_log_slope
from paper_checks.quadratic_theory import Array
from problems import Constants, Problem, ProxLogistic, Tasks, Terms, Wrapper

Values = dict[str, Any]  # field of a method -> its value


def build(make: Callable[..., Method], values: Values) -> Method:
    """The method with those of the values that it has a field for."""
    has = inspect.signature(make).parameters
    return make(**{field: value for field, value in values.items() if field in has})


def accepts(method: Method, problem: Problem) -> bool:
    """Whether the problem has all that the method needs."""
    try:
        require(method, problem)
    except ValueError:
        return False
    return True


class OneTerm(Wrapper):
    """The problem inside as a finite sum of one term a level: methods with tables see the whole in each draw."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.blocks = Terms(1, 1)

    def select_blocks(self, tasks: Tasks, lower: Tensor, upper: Tensor) -> Tasks:
        """The tasks as they are."""
        return tasks


# ---- step sizes of the theorems


class Schedule(NamedTuple):
    """`values(T, constants)`: the fields of a method for T upper iterations; `source` names the theorem.

    `attained`: on a strongly convex quadratic with additive noise the mean of E |grad Phi|^2 has the declared exponent
    exactly, in the start's part, a / (beta T), and in the noise's, c beta (docs/theory.md S10).
    """

    values: Callable[[int, Constants], Values]
    attained: bool
    source: str


def terms_for(T: int, c: Constants) -> int:
    """Q with (1 - eta mu)^Q <= T^-1/2 at eta = 2 / (L + mu): the squared bias of the series is below 1 / T."""
    return max(1, math.ceil(math.log(T) / (2 * -math.log(c.lower_contraction(c.lower_step_size)))))


def _one_timescale(T: int, c: Constants) -> Values:
    """All steps of the order of T^-1/2; averages as fast."""
    s = T**-0.5
    lower = s * c.lower_step_size
    sizes = {"upper_step_size": s / _smoothness(c), "lower_step_size": lower, "linear_step_size": lower}
    return {**sizes, "averaging": s}


def _alternating(T: int, c: Constants) -> Values:
    """Both steps of the order of T^-1/2, one lower step; the step of the series is constant."""
    values = _one_timescale(T, c) | {"lower_steps": 1, "terms": terms_for(T, c)}
    return values | {"linear_step_size": c.lower_step_size}


def _two_timescales(T: int, c: Constants) -> Values:
    """Upper T^-3/5, lower T^-2/5, constant in t."""
    upper, lower = T**-0.6 / _smoothness(c), T**-0.4 * c.lower_step_size
    constant = {"upper_decay": 0.0, "lower_decay": 0.0, "linear_step_size": c.lower_step_size}
    return {"upper_step_size": upper, "lower_step_size": lower, "terms": terms_for(T, c), **constant}


def _growing(T: int, c: Constants) -> Values:
    """K = ceil(sqrt(T) / 2) lower steps from the cold start of the size log T / (2 mu K).

    They leave T^-1/2 of the start's error, and a variance of the order of log T / sqrt T.
    """
    K = math.ceil(math.sqrt(T) / 2)
    lower = min(math.log(T) / (2 * c.mu * K), c.lower_step_size)
    return _alternating(T, c) | {"lower_steps": K, "lower_step_size": lower}


def _penalty(T: int, c: Constants) -> Values:
    """Decaying: upper t^-5/7, lower t^-4/7, multiplier t^1/7, whatever T."""
    assert c.ell is not None
    decays = {"upper_decay": 5 / 7, "lower_decay": 4 / 7, "multiplier_growth": 1 / 7}
    sizes = {"upper_step_size": 1 / _smoothness(c), "lower_step_size": c.lower_step_size}
    return {**decays, **sizes, "lower_steps": 1, "multiplier": 4 * c.ell / c.mu}


def _smoothness(c: Constants) -> float:
    assert c.L_Phi is not None
    return c.L_Phi


SCHEDULES = {
    "soba": Schedule(_one_timescale, True, "Dagréou et al. 2022, Theorem 1, constant steps of order T^-1/2"),
    "stable": Schedule(_one_timescale, True, "Chen, Sun, Xiao, Yin 2022, Theorem 1, steps and tau of order T^-1/2"),
    "alset": Schedule(_alternating, True, "Chen, Sun, Yin 2021, Theorem 1, both steps of order T^-1/2"),
    "bsa": Schedule(_growing, True, "Ghadimi, Wang 2018, beta of order T^-1/2, of order T^1/2 lower steps"),
    "ttsa": Schedule(_two_timescales, False, "Hong et al. 2023, Theorem 2, T^-3/5 and T^-2/5"),
    "f2sa": Schedule(_penalty, False, "Kwon et al. 2023, Corollary for noise in both levels, 5/7, 4/7 and 1/7"),
}


def schedule_of(name: str, make: Any) -> Schedule | None:
    """The step sizes of a method with noise: those here, else those that a class of one's own says itself.

    The latter as a function `schedule(T, constants)` that returns the fields for T upper iterations.
    """
    own = getattr(make, "schedule", None)
    return SCHEDULES.get(name) or (None if own is None else Schedule(own, False, "the method's own"))


# ---- slopes


def settled_slope(x: Array, y: Array, *, within: float) -> Slope:
    """The exponent -1 of y = c / x, where c is settled: y is (n,), or (n, seeds), see `log_log_slope`.

    Values of x where c = x y is not within this share of that of the last one are dropped (docs/theory.md S9). Those
    kept agree up to a factor of 1 + within, which moves the slope sum_k w_k log y_k by at most log(1 + within) times
    the sum of its positive weights: the interval (that over seeds, where there are any) is as much wider to both sides.
    It is infinite where only the last one is kept.

    >>> round(settled_slope(np.array([1.0, 10.0, 100.0]), np.array([3.0, 0.2, 0.02]), within=0.01).value, 12)
    -1.0
    """
    c = x * (y if y.ndim == 1 else y.mean(1))
    kept = np.abs(c / c[-1] - 1) <= within
    if kept.sum() < 2:
        return Slope(math.nan, -math.inf, math.inf, float(c[-1]))
    fitted = log_log_slope(x[kept], y[kept])
    centred = np.log(x[kept]) - np.log(x[kept]).mean()
    reach = math.log1p(within) * float(centred[centred > 0].sum() / np.square(centred).sum())
    return fitted._replace(low=fitted.low - reach, high=fitted.high + reach)


# ---- the true gradient of logistic heads, of all replicas at once


def logistic_probe(problem: ProxLogistic) -> Callable[[Snapshot], Tensor]:
    """|grad Phi|^2 of each replica, by `logistic_gradient`, from the last theta* on; phi is {"centre": (R, q)}."""
    arrays = {name: tensor.double().cpu().numpy() for name, tensor in problem.data.items()}
    last: list[Array | None] = [None]

    def logistic_grad_norm_sq(snapshot: Snapshot) -> Tensor:
        phi = snapshot.phi["centre"]
        gradient, last[0] = logistic_gradient(
            arrays, phi.double().cpu().numpy(), problem.prox, problem.regulariser, last[0]
        )
        return torch.as_tensor(np.square(gradient).sum(-1), dtype=phi.dtype, device=phi.device)

    return logistic_grad_norm_sq


def logistic_gradient(
    arrays: dict[str, Array], phi: Array, prox: float, regulariser: float, start: Array | None = None
) -> tuple[Array, Array]:
    """grad Phi, (R, q), and theta*, (R, M, q), of `ProxLogistic` at phi (R, q), by Newton to a residual of 1e-13.

    With s = sigmoid(-y x'theta): grad_theta g = -mean_j s_j y_j x_j + prox (theta - phi), H = mean_j s_j (1 - s_j) x_j
    x_j' + prox I, grad Phi = mean_i prox H_i^-1 grad f_i + regulariser phi. Raises ArithmeticError where Newton's
    steps do not get there: they are not damped.
    """
    X, y, q = arrays["X"], arrays["y"], phi.shape[-1]
    theta = np.broadcast_to(phi[:, None, :], (len(phi), len(X), q)).copy() if start is None else start
    for _ in range(50):
        slope, H = _logistic(X, y, theta)
        slope, H = slope + prox * (theta - phi[:, None, :]), H + prox * np.eye(q)
        if np.linalg.norm(slope, axis=-1).max() <= 1e-13:
            upper, _ = _logistic(arrays["X_val"], arrays["y_val"], theta)
            v = np.linalg.solve(H, upper[..., None])[..., 0]
            return (prox * v).mean(1) + regulariser * phi, theta
        theta = theta - np.linalg.solve(H, slope[..., None])[..., 0]
    raise ArithmeticError("expected Newton's method to reach a residual of 1e-13 in 50 steps")


def _logistic(X: Array, y: Array, theta: Array) -> tuple[Array, Array]:
    """Gradient and Hessian of the mean loss: theta (R, M, q), X (M, n, q), y (M, n)."""
    s = expit(-y * np.einsum("mnq,rmq->rmn", X, theta))
    gradient = -np.einsum("rmn,mnq->rmq", s * y, X) / X.shape[1]
    return gradient, np.einsum("rmn,mnq,mnk->rmqk", s * (1 - s), X, X) / X.shape[1]
