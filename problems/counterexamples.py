"""Problems that break one assumption each, or whose step size limit is arbitrarily small."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Parameters, Problem, Tasks, matvec
from problems.quadratic import Quadratic


def cancelling_modes(*, kappa: float, s: float, opposed: Literal["slow", "fast"], target: float = 1.0) -> Quadratic:
    """Two lower modes, eigenvalues 1 and kappa, that f weighs with opposite signs: almost nothing is left of phi.

    One task, p = 1, q = 2: A = diag(1, kappa), C = (1, kappa)', b = 0, so that theta* = (phi, phi); f =
    1/2 (u'theta - target)^2 with u = (-s, 1) where the slow mode is the opposed one and (1, -s) where the fast one is.
    Phi = 1/2 ((1 - s) phi - target)^2 and L_Phi = (1 - s)^2, although |J'Q| is (1 - s) sqrt(1 + s^2): what the method
    sees while theta lags differs from grad Phi by far more than grad Phi itself. docs/theory.md S2, Proposition 2c.
    Raises ValueError unless kappa > 1 and 0 <= s < 1.

    >>> round(cancelling_modes(kappa=10.0, s=0.5, opposed="slow").constants.L_Phi, 12)
    0.25
    """
    if not kappa > 1 or not 0 <= s < 1:
        raise ValueError(f"expected kappa > 1 and 0 <= s < 1, got {kappa} and {s}")
    if opposed not in ("slow", "fast"):
        raise ValueError(f'expected opposed "slow" or "fast", got {opposed!r}')
    u = np.array([-s, 1.0] if opposed == "slow" else [1.0, -s])
    return Quadratic(
        A=np.diag([1.0, kappa])[None],
        C=[[[1.0], [kappa]]],
        b=np.zeros((1, 2)),
        Q=np.outer(u, u)[None],
        u=(target * u / (u @ u))[None],
        R=[[[0.0]]],
        w=[[0.0]],
    )


def two_curvatures(h: float, s: float, *, tasks: int = 2) -> Quadratic:
    """Multiplicative noise alone: half of the tasks have the curvature h + s, the others h - s, all the optimum 0.

    p = q = 1, g_i = 1/2 (theta - phi)^2, f_i = 1/2 (h +- s) theta^2: phi' = (1 - beta H_B) phi with H_B the batch's
    mean curvature, of mean h and variance zeta_b s^2. The mean contracts for beta < 2 / h, the second moment only for
    beta < 2 h / (h^2 + zeta_b s^2). docs/theory.md S4, 4c. Raises ValueError unless h > 0 and tasks is even.

    >>> two_curvatures(1.0, 0.5).data["Q"].flatten().tolist()
    [1.5, 0.5]
    """
    if not h > 0 or tasks < 2 or tasks % 2:
        raise ValueError(f"expected h > 0 and an even number of tasks, got {h} and {tasks}")
    one, zero = np.ones((tasks, 1, 1)), np.zeros((tasks, 1))
    curvatures = np.resize([h + s, h - s], (tasks, 1, 1))
    return Quadratic(A=one, C=one, b=zero, Q=curvatures, u=zero, R=zero[..., None], w=zero)


class QuarticLower(Problem):
    """g = 1/4 sum_j (theta_j - phi_j)^4, f_i = 1/2 |theta - target_i|^2: the lower Hessian vanishes at theta* = phi.

    mu = 0, hence no constants. A lower step takes the error e to e - alpha e^3, so that e_k ~ (2 alpha k)^(-1/2) where
    strong convexity gives a power of varrho. The hypergradient itself is regular: Phi = mean_i 1/2 |phi - target_i|^2.
    A cold lower level starts at phi + 1. target has the shape (M, q). docs/theory.md S7f.
    """

    broadcasts_replicas = True

    @checked
    def __init__(self, target: Tensor):
        if target.dim() != 2 or 0 in target.shape:
            raise ValueError(f"expected target of shape (M, q), got {tuple(target.shape)}")
        self.data = {"target": target}
        self.q = target.shape[1]

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Zeros."""
        return {"phi": self.data["target"].new_zeros(self.q)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """phi + 1."""
        row = phi["phi"].unsqueeze(-2) + 1
        return row.expand(*torch.broadcast_shapes(row.shape[:-1], tasks.index.shape), self.q)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/4 sum (theta - phi)^4."""
        return 0.25 * (theta - features["phi"].unsqueeze(-2)).pow(4).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 |theta - target|^2."""
        return 0.5 * (theta - tasks.target).square().sum(-1)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """(theta - phi)^3."""
        return (theta - features["phi"].unsqueeze(-2)).pow(3)

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """3 (theta - phi)^2 v."""
        return 3 * (theta - features["phi"].unsqueeze(-2)).square() * v

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """theta - target."""
        return theta - tasks.target

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i 3 (theta - phi)^2 v."""
        return {"phi": self.lower_hvp(features, theta, v, tasks).mean(-2)}

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """phi for each task."""
        return self.theta0(phi, tasks) - 1

    def value(self, phi: Parameters) -> Tensor:
        """mean_i 1/2 |phi - target_i|^2."""
        return 0.5 * (phi["phi"].unsqueeze(-2) - self.data["target"]).square().sum(-1).mean(-1)

    def hypergradient(self, phi: Parameters) -> Parameters:
        """phi - mean target."""
        return {"phi": phi["phi"] - self.data["target"].mean(0)}


class SingularLower(Problem):
    """g = 1/2 (theta_1 - phi)^2 in two dimensions, f = 1/2 theta_1^2 + 1/2 (theta_2 - 1)^2: d2g/dtheta2 = diag(1, 0).

    theta_2 is free, so Phi is not defined, and H v = (theta_1, theta_2 - 1) has no solution unless theta_2 is 1. The
    lower level starts at (phi, 0), where it stays; there one CG step gives v_1 = (theta_1^2 + 1) / theta_1, without
    bound as theta_1 -> 0, and the second direction has p'Hp = 0. docs/theory.md S7f.
    """

    broadcasts_replicas = True
    q = 2

    def __init__(self) -> None:
        rows = {"curvature": [[1.0, 0.0]], "target": [[0.0, 1.0]]}
        self.data = {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}

    def phi0(self, rng: torch.Generator) -> Parameters:
        """One."""
        return {"phi": self.data["curvature"].new_ones(1)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """(phi, 0)."""
        row = torch.nn.functional.pad(phi["phi"], (0, 1)).unsqueeze(-2)
        return row.expand(*torch.broadcast_shapes(row.shape[:-1], tasks.index.shape), 2)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 (theta_1 - phi)^2."""
        return 0.5 * (theta[..., 0] - features["phi"]).square()

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 theta_1^2 + 1/2 (theta_2 - 1)^2."""
        return 0.5 * self.upper_gradient(features, theta, tasks).square().sum(-1)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """(theta_1 - phi, 0)."""
        return tasks.curvature * (theta - features["phi"].unsqueeze(-2))

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """(v_1, 0)."""
        return tasks.curvature * v

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """(theta_1, theta_2 - 1)."""
        return theta - tasks.target

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """v_1."""
        return {"phi": v[..., :1].mean(-2)}


class LassoLower(Problem):
    """g_i = 1/2 |theta - C_i phi|^2 + lasso |theta|_1,  f_i = 1/2 |theta - target_i|^2: a kink wherever theta_j = 0.

    g is 1-strongly convex; theta* = soft(C phi) = sign(C phi) max(|C phi| - lasso, 0), which does not move where
    |(C phi)_j| < lasso. With S_i the coordinates j that do, |(C phi)_j| > lasso, the derivative is

        grad Phi = mean_i C_i' 1_S (theta* - target)    where no |(C phi)_j| = lasso.

    d2g/dtheta2 = I beside the kinks tells nothing of S: even at theta* the implicit direction is mean_i C_i' (theta* -
    target), off by -mean_i C_i' 1_notS target. And no step size takes subgradient steps to a zero of theta*: they jump
    across it. Hence no constants, and `twice_differentiable` is False. At theta_j = 0 `lower_gradient` takes 0 of the
    subgradients [-lasso, lasso]. C has the shape (M, q, p), target (M, q). docs/theory.md S7f.
    Raises ValueError on other shapes, or unless lasso > 0.

    Source: Daubechies, Defrise, De Mol 2004 (the threshold); Bertrand et al. 2022, Implicit differentiation for fast
    hyperparameter selection in non-smooth convex learning (the derivative on the support).
    """

    broadcasts_replicas = True
    twice_differentiable = False

    @checked
    def __init__(self, C: Tensor, target: Tensor, *, lasso: float):
        if C.dim() != 3 or 0 in C.shape or target.shape != C.shape[:2]:
            raise ValueError(
                f"expected C of shape (M, q, p) and target (M, q), got {tuple(C.shape)} and {tuple(target.shape)}"
            )
        if not lasso > 0:
            raise ValueError(f"expected lasso > 0, got {lasso}")
        self.data = {"C": C, "target": target}
        self.q, self.p, self.lasso = C.shape[1], C.shape[2], lasso
        self.check()

    @classmethod
    @checked
    def random(cls, *, tasks: int, p: int, q: int, lasso: float, seed: int = 0) -> LassoLower:
        """C and target standard normal."""
        rng = torch.Generator().manual_seed(seed)
        C = torch.randn(tasks, q, p, generator=rng, dtype=torch.float64)
        return cls(C, torch.randn(tasks, q, generator=rng, dtype=torch.float64), lasso=lasso)

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Ones."""
        return {"phi": self.data["C"].new_ones(self.p)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """C phi, the minimiser without the lasso."""
        return matvec(tasks.C, phi["phi"].unsqueeze(-2))

    def embed(self, phi: Parameters, tasks: Tasks) -> dict[str, Tensor]:
        """C phi, (..., B, q)."""
        return {"centre": matvec(tasks.C, phi["phi"].unsqueeze(-2))}

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 |theta - C phi|^2 + lasso |theta|_1."""
        return (0.5 * (theta - features["centre"]).square() + self.lasso * theta.abs()).sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 |theta - target|^2."""
        return 0.5 * (theta - tasks.target).square().sum(-1)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """theta - C phi + lasso sign(theta)."""
        return theta - features["centre"] + self.lasso * theta.sign()

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """v, the derivative beside the kinks."""
        return v

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """theta - target."""
        return theta - tasks.target

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i C_i'v_i."""
        return {"phi": matvec(tasks.C.mT, v).mean(-2)}

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """soft(C phi)."""
        return self._soft(phi, tasks.C)

    def value(self, phi: Parameters) -> Tensor:
        """mean_i 1/2 |soft(C_i phi) - target_i|^2."""
        return 0.5 * (self._soft(phi, self.data["C"]) - self.data["target"]).square().sum(-1).mean(-1)

    def hypergradient(self, phi: Parameters) -> Parameters:
        """mean_i C_i' 1_S (theta* - target)."""
        star = self._soft(phi, self.data["C"])
        moves = (star - self.data["target"]) * (star != 0)
        return {"phi": torch.einsum("mqp,...mq->...p", self.data["C"], moves) / len(self.data["C"])}

    def _soft(self, phi: Parameters, C: Tensor) -> Tensor:
        return torch.nn.functional.softshrink(torch.einsum("...qp,...p->...q", C, phi["phi"].unsqueeze(-2)), self.lasso)


class HeavyTailed(Problem):
    """g = 1/2 (theta - phi)^2, f_i = 1/2 theta^2 + xi_i theta, xi_i symmetric Pareto: P(|xi| > x) = x^-index, x >= 1.

    A distribution of tasks without end: grad Phi = phi for index > 1 (the mean of xi is 0), but the variance of a task
    is infinite for index <= 2. At theta* the direction of a batch is phi plus the mean of its xi. docs/theory.md S7f.
    Raises ValueError unless index > 1.
    """

    broadcasts_replicas = True
    p = q = 1

    @checked
    def __init__(self, index: float):
        if not index > 1:
            raise ValueError(f"expected an index > 1, so that the noise has a mean, got {index}")
        self.index = index

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        """`size` new tasks. Raises ValueError where no size is given."""
        if size is None:
            raise ValueError("expected a batch size, got None: HeavyTailed draws tasks without end")
        signed = 1 - 2 * torch.rand(size, generator=rng, dtype=torch.float64, device=rng.device)  # in (-1, 1]
        sizes = signed.abs().clamp(min=torch.finfo(signed.dtype).eps) ** (-1 / self.index)
        noise = torch.where(signed < 0, -sizes, sizes)
        return Tasks(torch.arange(size, device=rng.device), noise=noise.unsqueeze(-1))

    def phi0(self, rng: torch.Generator) -> Parameters:
        """One."""
        return {"phi": torch.ones(1, dtype=torch.float64, device=rng.device)}

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """Zeros."""
        lead = torch.broadcast_shapes(tasks.index.shape, (*phi["phi"].shape[:-1], 1))
        return phi["phi"].new_zeros(*lead, 1)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 (theta - phi)^2."""
        return 0.5 * (theta - features["phi"].unsqueeze(-2)).square().sum(-1)

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """1/2 theta^2 + xi theta."""
        return (0.5 * theta.square() + tasks.noise * theta).sum(-1)

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """theta - phi."""
        return theta - features["phi"].unsqueeze(-2)

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """v."""
        return v

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """theta + xi."""
        return theta + tasks.noise

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i v."""
        return {"phi": v.mean(-2)}
