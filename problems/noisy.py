"""`Noisy`: any problem with Gaussian noise of known variance in the derivatives of both levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from problems.arguments import checked
from problems.base import Parameters, Parts, Problem, Tasks, matvec
from problems.wrapper import Wrapper

_OF_LOWER = ("lower", "hessian", "cross")


class Features(NamedTuple):
    """The features of the problem inside, and vec(phi), one row for all tasks, (..., 1, p)."""

    inner: Any
    phi: Tensor


class Noisy(Wrapper):
    """On drawn tasks the objectives of the problem inside, each plus a random quadratic form of mean zero:

        g_i + <xi_i, theta> + 1/2 theta'Xi_i theta + theta'Z_i vec(phi),    f_i + <zeta_i, theta> + <eta_i, vec(phi)>,

    all Gaussian and independent, for each task and each draw, vec(phi) the tensors of phi one after the other. Hence
    the mean squared distance from the mean is

        of grad_theta g          lower^2 + hessian^2 |theta|^2 + cross^2 |phi|^2
        of grad_theta f          upper^2
        of grad_phi f            upper_phi^2
        of (d2g/dtheta2) v       hessian^2 |v|^2
        of (d2g/dtheta dphi) x   cross^2 |x|^2
        of (d2g/dphi dtheta) v   cross^2 p/q |v|^2

    lower, upper, upper_phi   |xi|, |zeta| and |eta| in the mean square
    hessian                   of the symmetric Xi: E|Xi v|^2 = hessian^2 |v|^2 for every v. A drawn lower level is
                              strongly convex no more where an eigenvalue of -Xi exceeds mu
    cross                     of Z (q, p): E|Z x|^2 = cross^2 |x|^2 for every x

    What is drawn travels as task tensors noise_lower, noise_upper (B, q), noise_upper_phi (B, p), noise_hessian
    (B, q, q), noise_cross (B, q, p), made only where the level is > 0. Undrawn tasks have none: there the problem is
    exactly the one inside. The derivatives are right on both: the closed forms of the problem inside plus the noise,
    so that a problem that broadcasts replicas goes on to. Of the noiseless problem alone are `constants`, `curvature`,
    `value`, `hypergradient` and `upper_solution`. `lower_solution` and `lower_argmin` refuse drawn tasks whose lower
    level holds noise; `has` denies `lower_inverse_hvp` where hessian > 0, so that systems are solved by products.

    Cost of a draw: as many normal numbers as the tensors hold; of a derivative: a product with each matrix drawn.
    Raises ValueError on levels that are negative or not finite, and on a problem whose tasks hold such noise already.

    >>> from problems import Quadratic
    >>> problem = Noisy(Quadratic.random(tasks=3, p=2, q=4, kappa=5.0), lower=0.5, hessian=0.1)
    >>> problem.draw(problem.sample(2, torch.Generator()), torch.Generator().manual_seed(0)).noise_hessian.shape
    torch.Size([2, 4, 4])
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        *,
        lower: float = 0.0,
        upper: float = 0.0,
        upper_phi: float = 0.0,
        hessian: float = 0.0,
        cross: float = 0.0,
    ):
        super().__init__(problem)
        self.levels = {"lower": lower, "upper": upper, "upper_phi": upper_phi, "hessian": hessian, "cross": cross}
        for level, size in self.levels.items():
            if not 0 <= size < math.inf:
                raise ValueError(f"expected a level {level} >= 0, got {size}")
        if any(self.levels.values()):
            self.blocks = None  # a sum with noise is no finite sum: its blocks alone do not tell the whole
        rng = torch.Generator()
        phi, task = problem.phi0(rng), problem.sample(1, rng)
        if taken := problem.draw(task, rng).tensors.keys() & {f"noise_{level}" for level in self.levels}:
            raise ValueError(
                f"expected {type(problem).__name__} without noise of its own, got tasks with {sorted(taken)}"
            )
        self._shapes = {name: tensor.shape for name, tensor in phi.items()}
        p = sum(shape.numel() for shape in self._shapes.values())
        q = int(problem.q) if hasattr(problem, "q") else problem.theta0(phi, task).shape[-1]
        self._sizes = {"lower": (q,), "upper": (q,), "upper_phi": (p,), "hessian": (q, q), "cross": (q, p)}

    def has(self, closed_form: str) -> bool:
        """Whether the problem inside overrides it and noise leaves it right; `draw` is given here."""
        if closed_form == "lower_inverse_hvp" and self.levels["hessian"]:
            return False
        if closed_form == "draw_replicas":
            return not super().has("draw")  # else the problem inside draws from the same generators
        return closed_form == "draw" or super().has(closed_form)

    def draw(self, tasks: Tasks, rng: torch.Generator) -> Tasks:
        """The same tasks with fresh noise in each; drawn in float64, whatever the tasks' dtype."""
        return self._with_noise(self.problem.draw(tasks, rng), lambda shape: _normal(shape, rng))

    def draw_replicas(self, tasks: Tasks, rngs: Sequence[torch.Generator]) -> Tasks:
        """`draw` with each generator, stacked; what all replicas share is not copied."""
        index = tasks.index.expand(len(rngs), *tasks.index.shape[-1:])
        more = index.shape[: index.dim() - tasks.index.dim()]
        wide = Tasks(index, **{name: x.expand(*more, *x.shape) for name, x in tasks.tensors.items()})
        return self._with_noise(wide, lambda shape: torch.stack([_normal(shape[1:], rng) for rng in rngs]))

    def _with_noise(self, tasks: Tasks, normal: Callable[[tuple[int, ...]], Tensor]) -> Tasks:
        """The tasks and their noise, made of the normal numbers of each level in turn."""
        dtype = next((x.dtype for x in tasks.tensors.values() if x.is_floating_point()), torch.get_default_dtype())
        noise: dict[str, Tensor] = {}
        for level, size in self._sizes.items():
            if not self.levels[level]:
                continue
            # E|noise|^2 = level^2 for vectors; for matrices a column has that mean square
            drawn = normal((*tasks.index.shape, *size)) / math.sqrt(size[0])
            if level == "hessian":  # row i of G + G' has the variances 2, and 4 on the diagonal: 2 (q + 1) in all
                drawn = (drawn + drawn.mT) * math.sqrt(size[0] / (2 * (size[0] + 1)))
            noise[f"noise_{level}"] = (self.levels[level] * drawn).to(tasks.index.device, dtype)
        return Tasks(tasks.index, **{**tasks.tensors, **noise})

    # ---- the two levels

    def embed(self, phi: Parameters, tasks: Tasks) -> Features:
        """The features of the problem inside, and vec(phi)."""
        return Features(self.problem.embed(phi, tasks), self._row(phi, tasks))

    def embed_parts(self) -> Parts:
        """The parts of the problem inside, and vec(phi)."""
        functions, join = self.problem.embed_parts()
        return Parts((*functions, self._row), lambda *pieces: Features(join(*pieces[:-1]), pieces[-1]))

    def lower(self, features: Features, theta: Tensor, tasks: Tasks) -> Tensor:
        """g_i + <xi, theta> + 1/2 theta'Xi theta + theta'Z vec(phi)."""
        noise = self._lower_noise(features, 0.5 * theta, tasks)
        return sum(((theta * slope).sum(-1) for slope in noise), start=self.problem.lower(features.inner, theta, tasks))

    def upper(self, features: Features, theta: Tensor, tasks: Tasks) -> Tensor:
        """f_i + <zeta, theta> + <eta, vec(phi)>."""
        value, noise = self.problem.upper(features.inner, theta, tasks), tasks.tensors
        if "noise_upper" in noise:
            value = value + (noise["noise_upper"] * theta).sum(-1)
        if "noise_upper_phi" in noise:
            value = value + (noise["noise_upper_phi"] * features.phi).sum(-1)
        return value

    # ---- closed forms, of the problem inside plus the noise

    def lower_gradient(self, features: Features, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta g_i + xi + Xi theta + Z vec(phi)."""
        return sum(
            self._lower_noise(features, theta, tasks), start=self.problem.lower_gradient(features.inner, theta, tasks)
        )

    def lower_hvp(self, features: Features, theta: Tensor, v: Tensor, tasks: Tasks) -> Tensor:
        """(d2g_i/dtheta2 + Xi) v."""
        product = self.problem.lower_hvp(features.inner, theta, v, tasks)
        return product + matvec(tasks.noise_hessian, v) if "noise_hessian" in tasks.tensors else product

    def upper_gradient(self, features: Features, theta: Tensor, tasks: Tasks) -> Tensor:
        """grad_theta f_i + zeta."""
        gradient = self.problem.upper_gradient(features.inner, theta, tasks)
        return gradient + tasks.noise_upper if "noise_upper" in tasks.tensors else gradient

    def surrogate_gradient(
        self, phi: Parameters, features: Features, theta: Tensor, v: Tensor, tasks: Tasks
    ) -> Parameters:
        """mean_i [ grad_phi f_i + eta - (d2g_i/dphi dtheta + Z') v ]."""
        gradient = self.problem.surrogate_gradient(phi, features.inner, theta, v, tasks)
        if "noise_upper_phi" in tasks.tensors:
            gradient = self._add(gradient, tasks.noise_upper_phi.mean(-2))
        if "noise_cross" in tasks.tensors:
            gradient = self._add(gradient, -matvec(tasks.noise_cross.mT, v).mean(-2))
        return gradient

    def lower_inverse_hvp(self, features: Features, theta: Tensor, b: Tensor, tasks: Tasks) -> Tensor:
        """(d2g_i/dtheta2)^-1 b. Raises ValueError on tasks with noise in that matrix."""
        _require_absent(("hessian",), "lower_inverse_hvp", tasks)
        return self.problem.lower_inverse_hvp(features.inner, theta, b, tasks)

    def curvature(self, features: Features, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """mu_i and L_i without the noise."""
        return self.problem.curvature(features.inner, tasks)

    def lower_argmin(self, features: Features, tasks: Tasks) -> Tensor:
        """theta_i* of the features. Raises ValueError on tasks with noise in the lower level."""
        _require_absent(_OF_LOWER, "lower_argmin", tasks)
        return self.problem.lower_argmin(features.inner, tasks)

    def lower_solution(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """theta_i*(phi). Raises ValueError on tasks with noise in the lower level."""
        _require_absent(_OF_LOWER, "lower_solution", tasks)
        return self.problem.lower_solution(phi, tasks)

    # ---- the noise

    def _lower_noise(self, features: Features, theta: Tensor, tasks: Tasks) -> Iterator[Tensor]:
        """xi, Xi theta and Z vec(phi), (..., B, q), those that the tasks hold."""
        noise = tasks.tensors
        if "noise_lower" in noise:
            yield noise["noise_lower"]
        if "noise_hessian" in noise:
            yield matvec(noise["noise_hessian"], theta)
        if "noise_cross" in noise:
            yield matvec(noise["noise_cross"], features.phi)

    def _row(self, phi: Parameters, tasks: Tasks) -> Tensor:
        """vec(phi), (..., 1, p)."""
        flat = [phi[name].reshape(*_lead(phi[name], shape), -1) for name, shape in self._shapes.items()]
        return torch.cat(flat, -1).unsqueeze(-2)

    def _add(self, gradient: Parameters, vector: Tensor) -> Parameters:
        """The gradient plus the vector (..., p), cut into the shapes of phi."""
        pieces = vector.split([shape.numel() for shape in self._shapes.values()], -1)
        named = zip(self._shapes.items(), pieces, strict=True)
        return {name: gradient[name] + piece.reshape(*piece.shape[:-1], *shape) for (name, shape), piece in named}


def _normal(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _lead(tensor: Tensor, shape: torch.Size) -> torch.Size:
    """The replica axes of a tensor of phi, `shape` without them."""
    return tensor.shape[: tensor.dim() - len(shape)]


def _require_absent(levels: tuple[str, ...], form: str, tasks: Tasks) -> None:
    if held := [name for level in levels if (name := f"noise_{level}") in tasks.tensors]:
        raise ValueError(f"expected undrawn tasks for {form}, which is of the noiseless problem, got tasks with {held}")
