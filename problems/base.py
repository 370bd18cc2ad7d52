"""What a bilevel meta-learning problem is: `Problem`, a batch of `Tasks`, its exact `Constants`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from problems.arguments import is_finite, non_negative, shown
from problems.arrays import require_values

_SMALL = 2**14  # numbers in all matrices of a batch, up to which multiply and sum is the fastest product

Parameters = dict[str, Tensor]  # phi: named tensors, each with optional leading replica axes


class Tasks:
    """A batch of tasks: `index` of shape (..., B) and named tensors with the same leading axes.

    The tensors are read as attributes, `tasks.X`. Leading axes before B are replicas; where all replicas see
    the same tasks (every task of the pool, in order) the replica axis is absent and broadcasts.

    >>> tasks = Tasks(torch.arange(2), X=torch.ones(2, 3))
    >>> len(tasks), tuple(tasks.X.shape)
    (2, (2, 3))
    """

    __slots__ = ("index", "tensors")

    index: Tensor
    tensors: dict[str, Tensor]

    def __init__(self, index: Tensor, **tensors: Tensor):
        if reserved := {"tensors", "to"} & tensors.keys():
            raise ValueError(f"expected task tensors named otherwise than tensors, to; got {sorted(reserved)}")
        for name, tensor in tensors.items():
            if tensor.shape[: index.dim()] != index.shape:
                raise ValueError(
                    f"expected task tensor {name!r} with leading axes {tuple(index.shape)}, "
                    f"got shape {tuple(tensor.shape)}"
                )
        self.index = index
        self.tensors = tensors

    def __len__(self) -> int:
        return self.index.shape[-1]

    def __iter__(self) -> Iterator[Tasks]:
        """The single tasks of the batch, each a batch of one."""
        return (self[i : i + 1] for i in range(len(self)))

    def __getitem__(self, rows: slice | Tensor) -> Tasks:
        """The tasks of these rows (of a batch without replica axes)."""
        if self.index.dim() != 1:
            raise ValueError(f"expected tasks without replica axes, got index of shape {tuple(self.index.shape)}")
        return Tasks(self.index[rows], **{name: tensor[rows] for name, tensor in self.tensors.items()})

    def __getattr__(self, name: str) -> Tensor:
        if name in Tasks.__slots__:  # not set yet: while unpickling or copying
            raise AttributeError(name)
        try:
            return self.tensors[name]
        except KeyError:
            held = ", ".join(self.tensors) or "no tensors"
            raise AttributeError(f"tasks hold {held}; expected one of them, got {name!r}") from None

    def __repr__(self) -> str:
        shapes = "".join(f", {name}={tuple(tensor.shape)}" for name, tensor in self.tensors.items())
        return f"Tasks(index={tuple(self.index.shape)}{shapes})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tasks:
        """The same tasks on `device`, floating-point tensors in `dtype`."""
        moved = {name: _to(tensor, device, dtype) for name, tensor in self.tensors.items()}
        return Tasks(self.index.to(device), **moved)


class Terms(NamedTuple):
    """A count for the lower and one for the upper objective of a task: terms of a sum, or blocks it is cut into."""

    lower: int
    upper: int


class Examples(NamedTuple):
    """Names of the task tensors that hold the examples of each objective, one a row right after the task axis."""

    lower: tuple[str, ...]
    upper: tuple[str, ...]


class Parts(NamedTuple):
    """embed(phi, tasks) = join(*(compute(phi, tasks) for compute in functions)).

    An oracle that computes the features again for its last line holds the graph of one part at a time.
    """

    functions: tuple[Callable[[Parameters, Tasks], Any], ...]
    join: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Constants:
    """The constants of the theory, each exact or a proven bound over all tasks; None where not known, never guessed.

    Symbols as in docs/theory.md S0, with g the lower and f the upper objective of one task:

    mu, L        g(phi, .) is mu-strongly convex and L-smooth
    L_c          |d2g/dphi dtheta| <= L_c
    rho_1, rho_2 Lipschitz constants of d2g/dphi dtheta and of d2g/dtheta2 in (phi, theta)
    ell          Lipschitz constant of df/dtheta;  ell_1 of df/dphi in theta
    B            |df/dtheta| <= B
    Lambda       |D(phi, theta, v*(phi, theta)) - grad Phi(phi)| <= Lambda |theta - theta*(phi)|     (Lemma 1)
    tau          Lipschitz constant of theta*(phi);  nu of v*(phi, theta) = (d2g/dtheta2)^-1 df/dtheta
    L_Phi        Lipschitz constant of grad Phi
    sigma_sq     mean_i |grad Phi_i - grad Phi|^2 at the optimum of Phi
    """

    mu: float
    L: float
    L_c: float | None = None
    rho_1: float | None = None
    rho_2: float | None = None
    ell: float | None = None
    ell_1: float | None = None
    B: float | None = None
    Lambda: float | None = None
    tau: float | None = None
    nu: float | None = None
    L_Phi: float | None = None
    sigma_sq: float | None = None

    def __post_init__(self) -> None:
        if not (is_finite(self.mu) and is_finite(self.L) and 0 < self.mu <= self.L):
            raise ValueError(f"expected 0 < mu <= L < inf, got mu={shown(self.mu)}, L={shown(self.L)}")
        for name, value in vars(self).items():
            if value is not None:
                non_negative(name, value)

    @property
    def kappa(self) -> float:
        """Condition number L / mu of the lower level."""
        return self.L / self.mu

    @property
    def lower_step_size(self) -> float:
        """2 / (L + mu), the step size with the smallest contraction factor (kappa - 1) / (kappa + 1)."""
        return 2 / (self.L + self.mu)

    def lower_contraction(self, step_size: float) -> float:
        """varrho = max(|1 - alpha mu|, |1 - alpha L|): the factor by which a gradient step shrinks |theta - theta*|."""
        return max(abs(1 - step_size * self.mu), abs(1 - step_size * self.L))

    def cg_contraction(self, steps: int) -> float:
        """chi_N = 2 r^N / (1 + r^2N), r = (sqrt(kappa) - 1) / (sqrt(kappa) + 1): N CG steps in the energy norm."""
        r = (math.sqrt(self.kappa) - 1) / (math.sqrt(self.kappa) + 1)
        return 2 * r**steps / (1 + r ** (2 * steps))


class Problem:
    """min over phi of Phi(phi) = mean_i f_i(phi, theta_i*(phi)),  theta_i*(phi) = argmin_theta g_i(phi, theta).

    A subclass gives `data` (a finite pool: named tensors with leading axis M) or overrides `sample` (a
    distribution without end), and `phi0`, `lower`, `upper`; nothing else is needed. The size of theta is read
    from `theta0`, or from an attribute `q`. Shapes: theta and v are (..., B, q), row i is task i; `lower` and
    `upper` return (..., B), one value a task.

    Leading axes are replicas: independent runs in one batched computation. A problem that is written for
    tensors without replica axes needs to know nothing of them: the oracle maps it over the replicas
    (torch.vmap). One whose formulas broadcast over leading axes says so with `broadcasts_replicas = True`.

    What is random in the objectives themselves lives in the tasks: a stochastic oracle evaluates `lower` and `upper` on
    tasks freshly drawn (`draw`). Three attributes say more of them:

    examples              the task tensors that hold the examples, where each objective is a mean over examples
    blocks                into how many fixed blocks each of these means is cut (`Minibatch`); None: no such sum
    twice_differentiable  second derivatives of g in theta exist and tell how theta* moves; False where they do not
                          (a kink): methods that use them are refused

    Closed forms are used where a subclass overrides them, and held equal to automatic differentiation by
    `tests/problems/test_contract.py`.

    Source: Yang, Ma, Yu, Memory-Reduced Meta-Learning with Guaranteed Convergence, AAAI 2025, the bilevel problem.
    """

    data: dict[str, Tensor]
    q: int
    constants: Constants | None = None
    broadcasts_replicas: bool = False
    examples: Examples | None = None
    blocks: Terms | None = None
    twice_differentiable: bool = True

    # ---- the tasks

    @cached_property
    def tasks(self) -> int | None:
        """M, the number of tasks of the finite pool; None for a distribution without end."""
        if self.has("sample") and not getattr(self, "data", None):
            return None
        if not getattr(self, "data", None):
            raise ValueError(f"{type(self).__name__} has neither data nor a sample method: expected one of them")
        sizes = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in self.data.items()}
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise ValueError(f"expected data tensors with one common leading axis M >= 1, got sizes {sizes}")
        return next(iter(sizes.values()))

    def select(self, index: Tensor) -> Tasks:
        """The tasks of the pool at `index`, of shape (..., B)."""
        flat = index.flatten()
        return Tasks(
            index,
            **{  # index_select: four times faster than data[index] on a CPU
                name: tensor.index_select(0, flat).view(*index.shape, *tensor.shape[1:])
                for name, tensor in self.data.items()
            },
        )

    def sample(self, size: int | None, rng: torch.Generator) -> Tasks:
        """`size` different tasks drawn from the pool; None: all M tasks, in order.

        The driver draws pool batches itself (`convergence.streams`), as a function of (seed, iteration).
        Raises ValueError where size exceeds the pool.
        """
        count = self.tasks
        if count is None:
            raise ValueError(f"{type(self).__name__} has no pool of tasks: expected it to override sample")
        if size is None:
            some = next(iter(self.data.values()))
            return Tasks(torch.arange(count, device=some.device), **self.data)
        if not 1 <= size <= count:
            raise ValueError(f"expected a batch of 1 to {count} tasks without replacement, got {size}")
        index = torch.randperm(count, generator=rng, device=rng.device)[:size]
        return self.select(index.to(next(iter(self.data.values())).device))

    def draw(self, tasks: Tasks, rng: torch.Generator) -> Tasks:
        """The same tasks with a fresh sample of what their objectives average over; by default as they are, exact.

        Unbiased: on the tasks returned both objectives, and hence all their derivatives, have those of `tasks` as
        their mean. The samples of the two levels are independent, so that products of a derivative of each have too.
        The tasks have no replica axes; `rng` is a CPU generator, what is drawn lies where the tasks do.
        """
        return tasks

    def draw_replicas(self, tasks: Tasks, rngs: Sequence[torch.Generator]) -> Tasks:
        """`draw` with the generator of each replica, stacked; used when overridden, where it can be done at once."""
        raise self._no_closed_form("draw_replicas")

    def select_blocks(self, tasks: Tasks, lower: Tensor, upper: Tensor) -> Tasks:
        """The tasks with these of their blocks, (..., B) numbers below `blocks`. Raises ValueError without blocks."""
        raise ValueError(f"expected a finite sum cut into blocks (Minibatch), got {type(self).__name__}, which is none")

    def terms(self, tasks: Tasks) -> Terms:
        """How many terms the lower and the upper objective of one of these tasks average over; (1, 1): no sum."""
        if self.examples is None:
            return Terms(1, 1)
        axis = tasks.index.dim()
        return Terms(*(tasks.tensors[names[0]].shape[axis] for names in self.examples))

    # ---- the two levels

    def phi0(self, rng: torch.Generator) -> Parameters:
        """Where phi starts, drawn from `rng`."""
        raise NotImplementedError(f"{type(self).__name__} has no phi0: expected a dict of named tensors")

    def theta0(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """Where a cold lower level starts, (..., B, q): zeros; override it where phi is an initialisation."""
        if not hasattr(self, "q"):
            raise ValueError(
                f"{type(self).__name__} gives no size of theta: expected an attribute q or a theta0 method"
            )
        some = next(iter(phi.values()))
        return some.new_zeros(*tasks.index.shape, self.q)

    def embed(self, phi: Parameters, tasks: Tasks) -> Any:
        """Features: all that g and f see of phi, computed once an upper iteration; by default phi itself."""
        return phi

    def embed_parts(self) -> Parts:
        """The features in parts that do not need each other; by default all in one."""
        return Parts((self.embed,), lambda features: features)

    def lower(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """g_i(phi, theta_i), shape (..., B)."""
        raise NotImplementedError(f"{type(self).__name__} has no lower objective: expected a method lower")

    def upper(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """f_i(phi, theta_i), shape (..., B)."""
        raise NotImplementedError(f"{type(self).__name__} has no upper objective: expected a method upper")

    # ---- closed forms a subclass may give; used when overridden, see `has`

    def lower_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta g_i, (..., B, q)."""
        raise self._no_closed_form("lower_gradient")

    def lower_hvp(self, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """(d2 g_i / dtheta2) v_i, (..., B, q)."""
        raise self._no_closed_form("lower_hvp")

    def lower_inverse_hvp(self, features: Any, theta: Tensor, b: Tensor, tasks: Tasks) -> Tensor:
        """(d2 g_i / dtheta2)^-1 b_i, (..., B, q): what `Direct` solves."""
        raise self._no_closed_form("lower_inverse_hvp")

    def curvature(self, features: Any, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """mu_i and L_i, (..., B) each: every eigenvalue of d2 g_i / dtheta2 at these features lies between them.

        For problems whose moduli depend on phi, so that there are no `constants`: a lower step size of None is then
        2 / (L_i + mu_i), task by task.
        """
        raise self._no_closed_form("curvature")

    def lower_argmin(self, features: Any, tasks: Tasks) -> Tensor:
        """theta_i* as a differentiable function of the features, (..., B, q): what the method `ClosedForm` needs."""
        raise self._no_closed_form("lower_argmin")

    def upper_gradient(self, features: Any, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta f_i, (..., B, q)."""
        raise self._no_closed_form("upper_gradient")

    def surrogate_gradient(self, phi: Parameters, features: Any, theta: Tensor, v: Tensor, tasks: Tasks) -> Parameters:
        """mean_i [ grad_phi f_i - (d2 g_i / dphi dtheta) v_i ] at (theta, v), shapes of phi."""
        raise self._no_closed_form("surrogate_gradient")

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta_i*(phi), (..., B, q)."""
        raise self._no_closed_form("lower_solution")

    def value(self, phi: Parameters) -> Tensor:
        """Phi(phi) over all tasks, shape of the replica axes."""
        raise self._no_closed_form("value")

    def hypergradient(self, phi: Parameters) -> Parameters:
        """The exact grad Phi(phi) over all tasks, shapes of phi; must share no code with the methods above."""
        raise self._no_closed_form("hypergradient")

    def upper_solution(self) -> Parameters:
        """phi*, a minimiser of Phi."""
        raise self._no_closed_form("upper_solution")

    def has(self, closed_form: str) -> bool:
        """Whether this problem overrides the named closed form."""
        return getattr(type(self), closed_form) is not getattr(Problem, closed_form)

    def _no_closed_form(self, name: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no closed form {name}: expected it to override {name}")

    # ---- where it lives, and what it must not hold

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Problem:
        """A copy with every tensor on `device`, floating-point ones in `dtype`; the original is left alone."""
        moved = copy.copy(self)
        if hasattr(self, "data"):
            moved.data = {name: _to(tensor, device, dtype) for name, tensor in self.data.items()}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, _to(value, device, dtype))
        return moved

    def check(self) -> None:
        """Raise TypeError or ValueError where the data are not tensors of finite values."""
        data = getattr(self, "data", None) or {}
        if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
            raise TypeError(
                f"expected data of {type(self).__name__} a dict of named tensors, got {type(data).__name__}"
            )
        for name, tensor in data.items():
            if name in ("index", "tensors", "to"):
                raise ValueError(f"expected data named otherwise than index, tensors, to; got {name!r}")
            require_values(f"data {name!r}", tensor)
            if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
                count = int((~torch.isfinite(tensor)).sum())
                raise ValueError(f"expected finite values in data tensor {name!r}, got {count} that are not")


def _to(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


def map_parameters(function: Callable[..., Tensor], phi: Parameters, *others: Mapping[str, Tensor]) -> Parameters:
    """`function` applied to each named tensor of phi and its namesakes in `others`.

    >>> map_parameters(torch.add, {"a": torch.ones(1)}, {"a": torch.ones(1)})
    {'a': tensor([2.])}
    """
    return {name: function(tensor, *(other[name] for other in others)) for name, tensor in phi.items()}


def matvec(matrix: Tensor, vector: Tensor, *, symmetric: bool = False) -> Tensor:
    """matrix @ vector for each task: (..., B, m, n) and (..., B, n) give (..., B, m); matrices may lack replica axes.

    A few small matrices are multiplied and summed, which stays on one thread (a batched product wakes them all, and
    waits for them on a busy machine). Many are a row vector times the transpose, which a batched product does twice as
    fast as the column (256 x 8 matrices of 20 x 20: 126 against 276 us; multiply and sum: 217); those that all
    replicas share become one product for each task. Of `symmetric` matrices rows are added up rather than columns: a
    quarter faster, and twice as fast where it is compiled, as whole rows fill a processor's vectors.
    """
    if max(matrix.numel(), matrix.shape[-2] * vector.numel()) <= _SMALL:
        return (matrix * vector.unsqueeze(-1)).sum(-2) if symmetric else (matrix * vector.unsqueeze(-2)).sum(-1)
    if matrix.dim() <= vector.dim():
        return torch.einsum("...ij,...j->...i", matrix, vector)
    return (vector.unsqueeze(-2) @ (matrix if symmetric else matrix.mT)).squeeze(-2)
