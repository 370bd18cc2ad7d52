"""Data hyper-cleaning: a weight for each training example, chosen so that what is learnt from them validates well."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from problems.arguments import checked
from problems.arrays import largest_eigenvalue
from problems.base import Constants, Examples, Parameters, Tasks
from problems.bundled import bundled, other_shares, with_bias
from problems.newton import Dense, NewtonSolved

_SIDE = 8  # of an image of scikit-learn's digits, whose brightest pixel is 16
_STEEPEST = 1 / (6 * math.sqrt(3))  # max |sigmoid''|


class HyperCleaning(NewtonSolved):
    """g_i = 1/n sum_j sigmoid(phi_j) CE(W x_j, y_j) + ridge/2 |W|^2,  f_i = 1/m sum_j CE(W x_j, y_j) on validation.

    Arrays with leading axis M: inputs X (M, n, d), labels y (M, n) and row (M, n), the number of each example among
    all training examples, under which its weight stands in phi, for the lower level; X_val (M, m, d), y_val (M, m) for
    the upper one. Labels are integers from 0 to classes - 1. phi is {"weights": (P,)}, from zeros: every weight is
    1/2. theta is W, (classes, d), row after row. A bias is a column of ones in X; the ridge holds it too. Phi > 0, but
    weights of 0 and 1 lie at infinity: a minimiser need not exist.

    corrupted        (P,), which training labels are wrong, where that is known: then `detection_auc`
    X_test, y_test   (N, d) and (N,): then `test_accuracy`

    Source: Franceschi, Donini, Frasconi, Pontil, Forward and Reverse Gradient-Based Hyperparameter Optimization, ICML
    2017, section 6.1 (there weights in [0, 1] with a bounded sum); sigmoid weights as in Shaban, Cheng, Hatch, Boots,
    Truncated Back-propagation for Bilevel Optimization, AISTATS 2019.
    Raises ValueError on wrong shapes, unknown labels, an example twice in one task, values that are not finite, or
    ridge <= 0.
    """

    parameter = "weights"
    examples = Examples(lower=("X", "y", "row"), upper=("X_val", "y_val"))

    @checked
    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        row: Tensor,
        X_val: Tensor,
        y_val: Tensor,
        *,
        classes: int,
        ridge: float,
        corrupted: Tensor | None = None,
        X_test: Tensor | None = None,
        y_test: Tensor | None = None,
    ):
        for name, inputs, labels in (("X", X, y), ("X_val", X_val, y_val)):
            if inputs.dim() != 3 or 0 in inputs.shape or labels.shape != inputs.shape[:2]:
                raise ValueError(
                    f"expected {name} of shape (M, n, d) with labels (M, n), "
                    f"got {tuple(inputs.shape)} and {tuple(labels.shape)}"
                )
            if labels.dtype != torch.int64 or bool(((labels < 0) | (labels >= classes)).any()):
                raise ValueError(f"expected labels of {name} to be int64 from 0 to {classes - 1}")
        if X.shape[0] != X_val.shape[0] or X.shape[2] != X_val.shape[2]:
            raise ValueError(f"expected X and X_val to share M and d, got {tuple(X.shape)} and {tuple(X_val.shape)}")
        if row.shape != y.shape or row.dtype != torch.int64 or bool((row < 0).any()):
            raise ValueError(f"expected row of shape {tuple(y.shape)}, int64 >= 0, got {tuple(row.shape)}, {row.dtype}")
        if bool((row.sort(-1).values.diff(dim=-1) == 0).any()):
            raise ValueError("expected the examples of a task to differ in their row, got a row twice")
        if not 0 < ridge < math.inf:
            raise ValueError(f"expected ridge > 0, got {ridge}")
        self.data = {"X": X, "y": y, "row": row, "X_val": X_val, "y_val": y_val}
        self.classes, self.ridge = classes, ridge
        self.q, self.weights = classes * X.shape[2], int(row.max()) + 1
        if corrupted is not None and (corrupted.shape != (self.weights,) or corrupted.dtype != torch.bool):
            raise ValueError(
                f"expected corrupted of shape ({self.weights},), bool, got {tuple(corrupted.shape)}, {corrupted.dtype}"
            )
        self.corrupted, self.X_test, self.y_test = corrupted, X_test, y_test
        self.check()

    @classmethod
    @checked
    def digits(
        cls,
        *,
        train: int,
        validation: int,
        corrupted: float = 0.4,
        ridge: float = 0.003,
        tasks: int = 1,
        classes: int = 10,
        pool: int = 1,
        seed: int = 0,
    ) -> HyperCleaning:
        """scikit-learn's handwritten digits, drawn and corrupted by the seed.

        corrupted   share of the training labels that are replaced by another label, drawn uniformly
        tasks       M folds: task i trains on all shares of the training set but the i-th, and validates on the i-th
                    share of the validation set; with one task both are whole
        classes     the first so many digits; what is neither for training nor for validation is the test set
        pool        images of 8 x 8 pixels in [0, 1], averaged over blocks of pool x pixel pool; then the bias

        q = classes ((8 / pool)^2 + 1): 650, or 170 with pool=2. Raises ValueError where there are too few images or
        they do not divide into shares, ModuleNotFoundError without scikit-learn (the extra `data`).
        """
        if not 2 <= classes <= 10 or pool not in (1, 2, 4, 8) or not 0 <= corrupted <= 1:
            raise ValueError(
                "expected 2 to 10 classes, pool 1, 2, 4 or 8 and a share of corrupted labels, "
                f"got {classes}, {pool} and {corrupted}"
            )
        images, labels = bundled("digits")
        images, labels = images[labels < classes] / 16, labels[labels < classes]
        if min(train, validation) < 1 or train + validation >= len(labels):
            raise ValueError(
                f"expected training and validation examples that leave some of {len(labels)} to test on, "
                f"got {train} and {validation}"
            )
        if tasks < 1 or train % tasks or validation % tasks:
            raise ValueError(f"expected {train} and {validation} examples to divide into {tasks} equal shares")
        inputs = with_bias(avg_pool2d(images.view(-1, 1, _SIDE, _SIDE), pool).flatten(1))
        rng = np.random.default_rng(seed)
        order = torch.from_numpy(rng.permutation(len(labels)))
        own, validating, testing = order.split([train, validation, len(labels) - train - validation])
        wrong = torch.zeros(train, dtype=torch.bool)
        wrong[torch.from_numpy(rng.permutation(train))[: round(corrupted * train)]] = True
        shift = torch.from_numpy(rng.integers(1, classes, train))
        noisy = torch.where(wrong, (labels[own] + shift) % classes, labels[own])
        row = torch.arange(train).unsqueeze(0) if tasks == 1 else other_shares(train, tasks)
        return cls(
            inputs[own][row],
            noisy[row],
            row,
            inputs[validating].unflatten(0, (tasks, -1)),
            labels[validating].unflatten(0, (tasks, -1)),
            classes=classes,
            ridge=ridge,
            corrupted=wrong,
            X_test=inputs[testing],
            y_test=labels[testing],
        )

    # ---- how well it went

    def detection_auc(self, phi: Parameters) -> Tensor:
        """Area under the ROC curve of -phi as a detector of corrupted labels, (...); 1/2 where all weights are equal.

        The share of pairs of a corrupted and a clean example in which the corrupted one weighs less, ties counted half
        (the Mann-Whitney statistic). Raises ValueError where it is not known which labels are corrupted, or all or
        none of them are.
        """
        if self.corrupted is None or not 0 < int(self.corrupted.sum()) < self.weights:
            raise ValueError("expected a problem with corrupted and clean labels, known apart, got one without")
        suspicion = -phi["weights"].detach()
        ranks = torch.as_tensor(scipy.stats.rankdata(suspicion.cpu().numpy(), axis=-1), device=suspicion.device)
        count = int(self.corrupted.sum())
        above = ranks[..., self.corrupted].sum(-1) - count * (count + 1) / 2
        return above / (count * (self.weights - count))

    def test_accuracy(self, phi: Parameters) -> Tensor:
        """Share of test examples that theta*(phi) classifies well, mean over tasks, (...). Cost: a Newton solve."""
        return self.accuracy(self.exact(phi).theta).mean(-1)

    def accuracy(self, theta: Tensor) -> Tensor:
        """Share of test examples that theta classifies well, (..., B). Raises ValueError without a test set."""
        if self.X_test is None or self.y_test is None:
            raise ValueError("expected a problem with a test set, got one without X_test and y_test")
        logits = _logits(self.X_test.to(theta.dtype), self._matrix(theta))
        return (logits.argmax(-1) == self.y_test).to(theta.dtype).mean(-1)

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Zeros: every weight is 1/2."""
        like = self.data["X"]
        return {"weights": like.new_zeros(self.weights)}

    def embed(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """sigmoid(phi_j) of each task's own training examples, (..., B, n)."""
        weights, row = torch.sigmoid(phi["weights"]), tasks.row.flatten(-2)
        lead = torch.broadcast_shapes(weights.shape[:-1], row.shape[:-1])
        found = weights.expand(*lead, -1).gather(-1, row.expand(*lead, -1))
        return found.unflatten(-1, tasks.row.shape[-2:])

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/n sum_j sigmoid(phi_j) CE(W x_j, y_j) + ridge/2 |W|^2."""
        losses = _cross_entropy(_logits(tasks.X, self._matrix(theta)), tasks.y)
        return (features * losses).mean(-1) + 0.5 * self.ridge * theta.square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/m sum_j CE(W x_j, y_j)."""
        return _cross_entropy(_logits(tasks.X_val, self._matrix(theta)), tasks.y_val).mean(-1)

    # ---- closed forms of the oracle's four calls

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/n sum_j sigmoid(phi_j) (p_j - e_yj) x_j' + ridge W, p_j = softmax(W x_j)."""
        residual = features.unsqueeze(-1) * self._residual(tasks.X, tasks.y, theta)
        return _outer_mean(residual, tasks.X) + self.ridge * theta

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """1/n sum_j sigmoid(phi_j) (p_j o z_j - p_j p_j'z_j) x_j' + ridge V,  z_j = V x_j."""
        p = _logits(tasks.X, self._matrix(theta)).softmax(-1)
        z = _logits(tasks.X, self._matrix(v))
        change = p * (z - (p * z).sum(-1, keepdim=True))
        return _outer_mean(features.unsqueeze(-1) * change, tasks.X) + self.ridge * v

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/m sum_j (p_j - e_yj) x_j'."""
        return _outer_mean(self._residual(tasks.X_val, tasks.y_val, theta), tasks.X_val)

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """- mean_i 1/n sigmoid'(phi_j) <p_j - e_yj, V x_j>, added up over the tasks in which example j is."""
        along = (self._residual(tasks.X, tasks.y, theta) * _logits(tasks.X, self._matrix(v))).sum(-1)
        each = (features * (1 - features) * along / along.shape[-1]).flatten(-2)
        total = torch.zeros_like(phi["weights"]).expand(*each.shape[:-1], -1)
        total = total.scatter_add(-1, tasks.row.flatten(-2).expand_as(each), each)
        return {"weights": -total / len(tasks)}

    def _matrix(self, theta: Tensor) -> Tensor:
        return theta.unflatten(-1, (self.classes, -1))

    def _residual(self, X: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """p_j - e_yj, (..., B, n, classes)."""
        label = y.unsqueeze(-1) == torch.arange(self.classes, device=y.device)
        return _logits(X, self._matrix(theta)).softmax(-1) - label.to(theta.dtype)

    # ---- exact solutions

    def dense(self, phi: Tensor, tasks: Tasks) -> DenseSoftmax:
        """g and f with Jacobians of single examples and Hessians written out: no code shared with the calls above."""
        return DenseSoftmax(phi, tasks, self.classes, self.ridge)

    @cached_property
    def constants(self) -> Constants:  # type: ignore[override]  # bounds from the data
        """Proven bounds (docs/theory.md S7h), not always attained; those of blocks of examples may be larger."""
        X, X_val = self.data["X"].double(), self.data["X_val"].double()
        n, norms = X.shape[1], X.norm(dim=-1, keepdim=True)
        S, r, mu = largest_eigenvalue(X, X), float(norms.max()), self.ridge
        t = 2 * math.sqrt(2) * _STEEPEST * largest_eigenvalue(norms * X, X)  # thirds: along U, U, U
        m, w = r * math.sqrt(S / n) / 8, math.sqrt(2) * r * _STEEPEST / n  # u, U, U'; u, u', U
        L_c = math.sqrt(2 * S / n) / 4
        ell = largest_eigenvalue(X_val, X_val) / 2
        B = math.sqrt(2) * float(X_val.norm(dim=-1).mean(-1).max())
        tau = L_c / mu
        along_theta, along_phi = ell / mu + B * t / mu**2, B * m / mu**2  # of v*: in theta, in phi
        return Constants(
            mu=mu,
            L=mu + S / 2,
            L_c=L_c,
            rho_1=math.hypot(w, m),
            rho_2=math.hypot(m, t),
            ell=ell,
            ell_1=0.0,
            B=B,
            Lambda=L_c * along_theta + B * m / mu,
            tau=tau,
            nu=max(along_theta, along_phi),
            L_Phi=L_c * (along_phi + along_theta * tau) + B / mu * (w + m * tau),
        )


@dataclass(frozen=True)
class DenseSoftmax(Dense):
    """The two levels of `HyperCleaning` at phi (..., P), from the Jacobian of every example's loss, (..., n, q)."""

    phi: Tensor
    tasks: Tasks
    classes: int
    ridge: float

    def lower(self, theta: Tensor) -> Tensor:
        """g_i."""
        losses, _ = self._losses(self.tasks.X, self.tasks.y, theta)
        return (self._weights * losses).mean(-1) + self.ridge / 2 * (theta * theta).sum(-1)

    def lower_derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """J'w / n + ridge theta, and [blockdiag_k X' diag(w p_k) X - G' diag(w) G] / n + ridge I, G_j = p_j (x) x_j."""
        X, w, n = self.tasks.X, self._weights.unsqueeze(-1), self.tasks.X.shape[-2]
        _, p = self._losses(X, self.tasks.y, theta)
        slope = (self._jacobian(X, self.tasks.y, p) * w).sum(-2) / n + self.ridge * theta
        G = _kronecker(p, X)
        H = -(G.mT @ (w * G))
        own = X.mT.unsqueeze(-3) @ ((w * p).mT.unsqueeze(-1) * X.unsqueeze(-3))  # (..., classes, d, d)
        blocks = H.unflatten(-1, (self.classes, -1)).unflatten(-3, (self.classes, -1))
        blocks.diagonal(dim1=-4, dim2=-2).add_(own.movedim(-3, -1))
        H = H / n
        H.diagonal(dim1=-2, dim2=-1).add_(self.ridge)
        return slope, H

    def upper(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """f_i and its gradient."""
        losses, p = self._losses(self.tasks.X_val, self.tasks.y_val, theta)
        return losses.mean(-1), self._jacobian(self.tasks.X_val, self.tasks.y_val, p).mean(-2)

    def phi_gradient(self, theta: Tensor, v: Tensor) -> Tensor:
        """- mean_i w_j (1 - w_j) J_j v / n in its place."""
        _, p = self._losses(self.tasks.X, self.tasks.y, theta)
        J, n = self._jacobian(self.tasks.X, self.tasks.y, p), self.tasks.X.shape[-2]
        each = (J @ v.unsqueeze(-1)).squeeze(-1) * self._weights / (1 + self._examples.exp()) / n
        gradient = torch.zeros_like(self.phi)
        for i, rows in enumerate(self.tasks.row):  # a row once a task, so that nothing is lost
            gradient[..., rows] -= each[..., i, :] / len(self.tasks)
        return gradient

    @property
    def _examples(self) -> Tensor:
        row = self.tasks.row
        row = row if row.dim() > self.phi.dim() else row.expand(*self.phi.shape[:-1], *row.shape)
        return torch.take_along_dim(self.phi.unsqueeze(-2), row, -1)

    @property
    def _weights(self) -> Tensor:
        return 1 / (1 + (-self._examples).exp())

    def _losses(self, X: Tensor, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Every example's cross-entropy (..., B, n) and probabilities (..., B, n, classes)."""
        log_p = (X @ theta.unflatten(-1, (self.classes, -1)).mT).log_softmax(-1)
        chosen = y.expand(log_p.shape[:-1]).unsqueeze(-1)
        return -log_p.gather(-1, chosen).squeeze(-1), log_p.exp()

    def _jacobian(self, X: Tensor, y: Tensor, p: Tensor) -> Tensor:
        """(p_j - e_yj) (x) x_j, (..., B, n, q)."""
        labels = torch.nn.functional.one_hot(y, self.classes)
        return _kronecker(p - labels, X)


def _kronecker(left: Tensor, X: Tensor) -> Tensor:
    """left_j (x) x_j, (..., n, c d)."""
    return (left.unsqueeze(-1) * X.unsqueeze(-2)).flatten(-2)


def _logits(X: Tensor, W: Tensor) -> Tensor:
    """W x_j, (..., n, classes); inputs that all replicas share are one product a task."""
    return torch.einsum("...nd,...cd->...nc", X, W)


def _outer_mean(left: Tensor, X: Tensor) -> Tensor:
    """1/n sum_j left_j x_j', row after row, (..., c d)."""
    return torch.einsum("...nc,...nd->...cd", left, X).flatten(-2) / X.shape[-2]


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """log sum_k exp z_jk - z_jy, (..., n)."""
    chosen = y.expand(logits.shape[:-1]).unsqueeze(-1)
    return logits.logsumexp(-1) - logits.gather(-1, chosen).squeeze(-1)
