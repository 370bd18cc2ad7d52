"""Regularisation selection: a ridge for each feature of a logistic regression, chosen by cross-validation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from problems.arguments import checked
from problems.base import Examples, Parameters, Tasks, matvec
from problems.bundled import bundled, other_shares, with_bias
from problems.newton import Dense, NewtonSolved

_LINEAR = 40.0  # from where log(1 + exp(x)) is x to rounding


class LogisticRegularisation(NewtonSolved):
    """g_i = mean_j log(1 + exp(-y_j x_j'theta)) + 1/2 sum_k exp(phi_k) theta_k^2,  f_i = validation loss + a pull.

    Arrays with leading axis M: X (M, n, d) and labels y = +-1 (M, n) for the lower level, X_val, y_val for the upper
    one. phi is {"log_ridge": (d,)}, q = d; it starts at log(ridge) in every entry. The pull
    pull/2 |phi - log(ridge)|^2 is part of f_i: without it Phi need not have a minimiser (a feature that does not help
    has exp(phi_k) -> infinity, one that separates the classes exp(phi_k) -> 0); with pull > 0 Phi is continuous and
    grows beyond all bounds, so it has one.

    No constants: mu = min exp(phi_k) and L move with phi. `curvature` gives them at the features, task by task, so
    that a lower step size of None is 2 / (L_i + mu_i).

    X_test, y_test   (N, d) and (N,) of +-1: then `test_accuracy`

    Source: Bengio, Gradient-Based Optimization of Hyperparameters, Neural Computation 2000; Pedregosa, Hyperparameter
    Optimization with Approximate Gradient, ICML 2016, section 5 (one ridge; here one for each feature).
    Raises ValueError on wrong shapes, labels other than +-1, values that are not finite, ridge <= 0 or pull < 0.
    """

    parameter = "log_ridge"
    examples = Examples(lower=("X", "y"), upper=("X_val", "y_val"))

    @checked
    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        X_val: Tensor,
        y_val: Tensor,
        *,
        ridge: float = 0.1,
        pull: float = 1e-3,
        X_test: Tensor | None = None,
        y_test: Tensor | None = None,
    ):
        for name, inputs, labels in (("X", X, y), ("X_val", X_val, y_val)):
            if inputs.dim() != 3 or 0 in inputs.shape or labels.shape != inputs.shape[:2]:
                raise ValueError(
                    f"expected {name} of shape (M, n, d) with labels (M, n), "
                    f"got {tuple(inputs.shape)} and {tuple(labels.shape)}"
                )
            if bool((labels.abs() != 1).any()):
                raise ValueError(f"expected labels of {name} to be -1 or +1")
        if X.shape[0] != X_val.shape[0] or X.shape[2] != X_val.shape[2]:
            raise ValueError(f"expected X and X_val to share M and d, got {tuple(X.shape)} and {tuple(X_val.shape)}")
        if not (0 < ridge < math.inf and 0 <= pull < math.inf):
            raise ValueError(f"expected ridge > 0 and pull >= 0, got {ridge} and {pull}")
        self.data = {"X": X, "y": y, "X_val": X_val, "y_val": y_val}
        self.q, self.ridge, self.pull = X.shape[2], ridge, pull
        self.X_test, self.y_test = X_test, y_test
        self.check()

    @classmethod
    @checked
    def breast_cancer(
        cls, *, tasks: int = 5, test: float = 0.2, ridge: float = 0.1, pull: float = 1e-3, seed: int = 0
    ) -> LogisticRegularisation:
        """scikit-learn's breast cancer data (569 tumours, 30 features), M folds of cross-validation drawn by the seed.

        The share `test` (and what does not divide by M) is kept apart to test on. Of the rest, task i trains on all
        shares but the i-th and validates on that one. Features are standardised by the mean and the deviation of all
        that is not kept apart; then the bias: d = 31. Raises ValueError where a set would be empty,
        ModuleNotFoundError without scikit-learn (the extra `data`).
        """
        inputs, labels = bundled("breast_cancer")
        share = int((1 - test) * len(labels)) // max(tasks, 1)
        if tasks < 2 or not 0 < test < 1 or share < 1:
            raise ValueError(f"expected tasks >= 2 and a test share that leaves them examples, got {tasks} and {test}")
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
        own, testing = order[: tasks * share], order[tasks * share :]
        inputs = with_bias((inputs - inputs[own].mean(0)) / inputs[own].std(0))
        signs = 2.0 * labels - 1
        rest, folds = own[other_shares(len(own), tasks)], own.unflatten(0, (tasks, -1))
        return cls(
            inputs[rest],
            signs.double()[rest],
            inputs[folds],
            signs.double()[folds],
            ridge=ridge,
            pull=pull,
            X_test=inputs[testing],
            y_test=signs.double()[testing],
        )

    # ---- how well it went

    def test_accuracy(self, phi: Parameters) -> Tensor:
        """Share of test examples that theta*(phi) classifies well, mean over tasks, (...). Cost: a Newton solve."""
        return self.accuracy(self.exact(phi).theta).mean(-1)

    def accuracy(self, theta: Tensor) -> Tensor:
        """Share of test examples that theta classifies well, (..., B). Raises ValueError without a test set."""
        if self.X_test is None or self.y_test is None:
            raise ValueError("expected a problem with a test set, got one without X_test and y_test")
        margins = (theta @ self.X_test.to(theta.dtype).mT) * self.y_test.to(theta.dtype)
        return (margins > 0).to(theta.dtype).mean(-1)

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """log(ridge) in every entry."""
        return {"log_ridge": self.data["X"].new_full((self.q,), math.log(self.ridge))}

    def embed(self, phi: Parameters, tasks: Tasks) -> dict[str, Tensor]:
        """exp(phi) and the pull, one row for all tasks."""
        log_ridge = phi["log_ridge"].unsqueeze(-2)
        return {"ridge": log_ridge.exp(), "offset": log_ridge - math.log(self.ridge)}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Training loss plus 1/2 sum_k exp(phi_k) theta_k^2."""
        return _loss(tasks.X, tasks.y, theta) + 0.5 * (features["ridge"] * theta.square()).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """Validation loss plus pull/2 |phi - log(ridge)|^2."""
        return _loss(tasks.X_val, tasks.y_val, theta) + 0.5 * self.pull * features["offset"].square().sum(-1)

    # ---- closed forms of the oracle's calls

    def curvature(self, features: Any, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """min exp(phi_k), and lambda_max(X'X / (4 n) + diag exp(phi)): no logistic loss bends by more than 1/4."""
        stiffest = tasks.X.mT @ tasks.X / (4 * tasks.X.shape[-2]) + torch.diag_embed(features["ridge"])
        finite = torch.isfinite(stiffest).all(-1).all(-1)  # of a run that diverges exp(phi) is not, and none has a step
        largest = torch.linalg.eigvalsh(torch.where(finite[..., None, None], stiffest, 0.0))[..., -1]
        largest = torch.where(finite, largest, math.inf)
        return features["ridge"].amin(-1).expand_as(largest), largest

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """- mean_j y_j sigmoid(-y_j x_j'theta) x_j + exp(phi) o theta."""
        return _slope(tasks.X, tasks.y, theta) + features["ridge"] * theta

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """mean_j s_j (1 - s_j) x_j x_j'v + exp(phi) o v,  s_j = sigmoid(x_j'theta)."""
        s = torch.sigmoid(matvec(tasks.X, theta))
        return matvec(tasks.X.mT, s * (1 - s) * matvec(tasks.X, v)) / s.shape[-1] + features["ridge"] * v

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """- mean_j y_j sigmoid(-y_j x_j'theta) x_j over the validation examples."""
        return _slope(tasks.X_val, tasks.y_val, theta)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """pull (phi - log(ridge)) - mean_i exp(phi) o theta_i o v_i."""
        return {"log_ridge": (self.pull * features["offset"] - features["ridge"] * theta * v).mean(-2)}

    # ---- exact solutions

    def dense(self, phi: Tensor, tasks: Tasks) -> DenseLogistic:
        """g and f with Hessians written out: no code shared with the calls above."""
        return DenseLogistic(phi, tasks, math.log(self.ridge), self.pull)


@dataclass(frozen=True)
class DenseLogistic(Dense):
    """The two levels of `LogisticRegularisation` at phi (..., d), from the rows y_j x_j."""

    phi: Tensor
    tasks: Tasks
    centre: float
    pull: float

    def lower(self, theta: Tensor) -> Tensor:
        """g_i."""
        values = torch.logaddexp(torch.zeros((), dtype=theta.dtype, device=theta.device), -self._margins(theta))
        return values.mean(-1) + (self._ridge * theta**2).sum(-1) / 2

    def lower_derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """A'(p - 1) / n + exp(phi) o theta, and A' diag(p (1 - p)) A / n + diag exp(phi); A_j = y_j x_j."""
        A, p = self._rows(self.tasks.X, self.tasks.y), 1 / (1 + (-self._margins(theta)).exp())
        n = A.shape[-2]
        slope = torch.einsum("...mn,...mnd->...md", p - 1, A) / n + self._ridge * theta
        H = A.mT @ ((p * (1 - p)).unsqueeze(-1) * A) / n
        return slope, H + torch.diag_embed(self._ridge)

    def upper(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """f_i and its gradient."""
        A = self._rows(self.tasks.X_val, self.tasks.y_val)
        margins = torch.einsum("...mnd,...md->...mn", A, theta)
        values = torch.logaddexp(torch.zeros((), dtype=theta.dtype, device=theta.device), -margins).mean(-1)
        values = values + (self.pull / 2 * ((self.phi - self.centre) ** 2).sum(-1)).unsqueeze(-1)
        p = 1 / (1 + (-margins).exp())
        return values, torch.einsum("...mn,...mnd->...md", p - 1, A) / A.shape[-2]

    def phi_gradient(self, theta: Tensor, v: Tensor) -> Tensor:
        """pull (phi - centre) - exp(phi) o mean_i theta_i o v_i."""
        return self.pull * (self.phi - self.centre) - self.phi.exp() * torch.einsum(
            "...md,...md->...d", theta, v
        ) / len(self.tasks)

    @property
    def _ridge(self) -> Tensor:
        return self.phi.exp().unsqueeze(-2)

    def _rows(self, X: Tensor, y: Tensor) -> Tensor:
        return X * y.unsqueeze(-1)

    def _margins(self, theta: Tensor) -> Tensor:
        return torch.einsum("...mnd,...md->...mn", self._rows(self.tasks.X, self.tasks.y), theta)


def _loss(X: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """mean_j log(1 + exp(-y_j x_j'theta))."""
    return softplus(-y * matvec(X, theta), threshold=_LINEAR).mean(-1)


def _slope(X: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """Its gradient in theta."""
    return -matvec(X.mT, y * torch.sigmoid(-y * matvec(X, theta))) / y.shape[-1]
