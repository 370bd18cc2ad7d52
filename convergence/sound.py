"""Are the objectives of a problem what methods take them for? Seen from their values alone, once before a run."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

import problems
from convergence.arguments import integer, shown
from convergence.imported import said
from convergence.oracle import Oracle
from convergence.oracle.evaluations import require_one_a_task
from convergence.streams import generator
from problems import Parameters, Problem, Tasks, map_parameters
from problems.arrays import require_values

_STEPS = (1e-4, 1e-6)  # of the differences, relative to 1 + |x|: a kink or a steep bend may spoil one of them
_WITHIN = 1e-2  # relative: what a graph cut by mistake loses is of the order of the derivative itself
_ROUNDING = 100.0  # roundings of a value that count as none
_OBJECTIVES = ("lower", "upper")
_OURS = (str(Path(__file__).parent), str(Path(problems.__file__).parent))
_SOUND: WeakValueDictionary[tuple[Any, ...], Problem] = WeakValueDictionary()  # by id: a problem may be unhashable


def require_parameters(what: str, phi: object) -> None:
    """Raise TypeError or ValueError unless it is a dict of named, dense tensors of real numbers, one entry at least."""
    if not isinstance(phi, dict) or not phi or not all(isinstance(name, str) for name in phi):
        raise TypeError(f"expected {what} to be a dict of named tensors, got {shown(phi)}")
    for name, tensor in phi.items():
        require_values(f"{what}, {name!r},", tensor)
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise TypeError(f"expected real numbers in {what}, {name!r}, got {tensor.dtype}")
    if not sum(tensor.numel() for tensor in phi.values()):
        raise ValueError(f"expected at least one number in {what}, got none")


def require_sound(
    problem: Problem, phi: Parameters, *, replicas: bool, second: bool = True, given: Problem | None = None
) -> None:
    """Raise TypeError or ValueError where methods would find other derivatives than those of the objectives.

    At phi (no replica axes), near theta0, on two tasks, the values of g and f are one real number a task; the same when
    they are asked for again, for each task alone and, with `replicas`, for several phi at once; they leave their
    arguments as they were; and, in float64, their derivatives by autograd and by the closed forms are those of
    differences, with `second` those of second order as well. So are found graphs cut by detach, `.item()` or numpy (the
    implicit gradient would be zero without a word), random numbers that belong into `Problem.draw`, and tasks or
    replicas that meet. In another dtype derivatives are looked at on a copy in float64, where the problem allows it.

    second  whether the method needs second derivatives of g
    given   what the problem is a copy of, on its device and in its dtype: it is remembered, and not looked at again

    Cost: about forty evaluations of each objective on two tasks, once for a problem with these attributes.
    """
    some, given = next(iter(phi.values())), problem if given is None else given
    second = second and problem.twice_differentiable
    key = (
        id(given),
        replicas,
        second,
        some.dtype,
        some.device,
        *((name, id(held)) for name, held in vars(given).items()),
    )
    if _SOUND.get(key) is given:
        return
    tasks = _two(problem).to(some.device, some.dtype)
    theta = _start(problem, phi, tasks)
    for name in _OBJECTIVES:
        _Objective(problem, name, tasks).require(phi, theta)
    _require_derivatives(problem, phi, theta, tasks, second=second)
    if replicas:
        _require_replicas(problem, phi, theta, tasks)
    _SOUND[key] = given


def _two(problem: Problem) -> Tasks:
    """Two tasks, or the one that there is."""
    rng = generator(0, "tasks")
    endless = problem.tasks is None
    drawn = problem.sample(2 if endless else None, rng)
    if not isinstance(drawn, Tasks):
        raise TypeError(f"expected sample of {type(problem).__name__} to return Tasks, got {shown(drawn)}")
    if endless and drawn.index.shape != (2,):
        raise ValueError(
            f"expected sample(2, rng) of {type(problem).__name__} to return 2 tasks, "
            f"got an index of shape {tuple(drawn.index.shape)}"
        )
    return drawn[:2]


def _start(problem: Problem, phi: Parameters, tasks: Tasks) -> Tensor:
    """theta0."""
    name = type(problem).__name__
    if hasattr(problem, "q"):
        integer(f"q of {name}", problem.q, least=1)
    theta = _asked(f"theta0 of {name}", problem.theta0, phi, tasks)
    if not isinstance(theta, Tensor):
        raise TypeError(f"expected theta0 of {name} to return a tensor, got {shown(theta)}")
    require_values(f"theta0 of {name}", theta)
    if theta.dim() != 2 or len(theta) != len(tasks) or theta.shape[1] == 0 or not theta.is_floating_point():
        raise ValueError(
            f"expected theta0 of {name} of shape ({len(tasks)}, q) with q >= 1, one row of real numbers a task, "
            f"got {tuple(theta.shape)} of {theta.dtype}"
        )
    if not bool(torch.isfinite(theta).all()):
        raise ValueError(f"expected finite values in theta0 of {name}, got some that are not")
    return theta.detach()


class _Objective:
    """g or f of these tasks as a function of phi and theta."""

    def __init__(self, problem: Problem, name: str, tasks: Tasks):
        self.problem, self.name, self.tasks = problem, name, tasks
        self.what = f"{name} of {type(problem).__name__}"

    def __call__(self, phi: Parameters, theta: Tensor, tasks: Tasks | None = None) -> Tensor:
        tasks = self.tasks if tasks is None else tasks
        features = _asked(f"embed of {type(self.problem).__name__}", self.problem.embed, phi, tasks)
        values = _asked(self.what, getattr(self.problem, self.name), features, theta, tasks)
        require_one_a_task(values, self.what, theta)
        return values

    def require(self, phi: Parameters, start: Tensor) -> None:
        """All that can be seen without a graph, then the derivatives.

        Beside the start, where a derivative may vanish or have a kink, unless the objective has no value there.
        """
        theta = _beside(start, 0.1)
        held = {**{f"phi[{name!r}]": x for name, x in phi.items()}, "theta": theta}
        held |= {f"tasks.{name}": x for name, x in self.tasks.tensors.items()}
        before = {name: x.detach().clone() for name, x in held.items()}
        with torch.no_grad():
            values = self(phi, theta)
            undefined = bool(torch.isnan(values).any())  # what overflows alone ends as NON_FINITE
            if not bool(torch.isfinite(values).all()):
                theta = held["theta"] = start.clone()
                before["theta"] = start.clone()
                values = self(phi, theta)
            if undefined and not bool(torch.isfinite(values).all()):
                raise ValueError(f"expected {self.what} to have values at its start, got {_listed(values)}")
            for name, tensor in held.items():
                if not torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(before[name])):
                    raise ValueError(f"expected {self.what} to leave {name} as it is, got it changed in place")
            if not _near(values, self(phi, theta)):
                raise ValueError(
                    f"expected {self.what} to give the same values for the same arguments, got others the second time: "
                    "what is random belongs into draw, so that all derivatives see one sample"
                )
            alone = torch.cat([self(phi, row, one) for row, one in zip(theta.split(1), self.tasks, strict=True)])
        if not _near(values, alone):
            raise ValueError(
                f"expected {self.what} to give each task its own value, got {_listed(values)} for tasks together and "
                f"{_listed(alone)} one by one"
            )

    def require_graph(self, phi: Parameters, start: Tensor) -> None:
        """The derivatives by autograd, in float64, against differences of values."""
        theta = _beside(start, 0.1)
        with torch.no_grad():
            values = self(phi, theta)
            if not bool(torch.isfinite(values).all()):
                theta, values = start, self(phi, start)
        in_phi = {name: x.detach().clone().requires_grad_() for name, x in phi.items()}
        in_theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            total = self(in_phi, in_theta).sum()
        leaves = [*in_phi.values(), in_theta]
        none: list[Tensor | None] = [None] * len(leaves)
        slopes = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else none
        size = float(values.detach().abs().sum())
        for (name, x), slope in zip({**phi, "": theta}.items(), slopes, strict=True):
            along = _normal(x) * (1 + x.abs())
            found = 0.0 if slope is None else float((slope * along).sum())

            def at(h: float, name: str = name, moved: Tensor = along) -> float:
                if not name:
                    return float(self(phi, theta + h * moved).detach().sum())
                return float(self({**phi, name: phi[name] + h * moved}, theta).detach().sum())

            if (expected := _refuted(found, at, size)) is not None:
                raise ValueError(
                    f"expected the derivative of {self.what} in {f'phi[{name!r}]' if name else 'theta'} to be that of "
                    f"its values, {expected:.6g} along a random direction, got {found:.6g} from autograd: is a graph "
                    "cut (detach, .item(), numpy, no_grad)?"
                )


def _require_derivatives(problem: Problem, phi: Parameters, theta: Tensor, tasks: Tasks, *, second: bool) -> None:
    """Raise ValueError where autograd or a closed form says other than differences, on a copy in float64."""
    if theta.dtype != torch.float64:
        try:
            problem, tasks = problem.to(dtype=torch.float64), tasks.to(dtype=torch.float64)
            phi, theta = map_parameters(lambda x: x.double(), phi), theta.double()
            with torch.no_grad():
                for name in _OBJECTIVES:
                    _Objective(problem, name, tasks)(phi, theta)
        except (TypeError, ValueError):  # a problem for its own dtype alone
            return
    for name in _OBJECTIVES:
        _Objective(problem, name, tasks).require_graph(phi, theta)
    _require_closed_forms(problem, phi, _beside(theta, 0.1), tasks, second=second)


def _require_closed_forms(problem: Problem, phi: Parameters, theta: Tensor, tasks: Tasks, *, second: bool) -> None:
    """Raise ValueError unless what methods ask the oracle for are derivatives of g and f, along random directions."""
    name, oracle = type(problem).__name__, Oracle(problem)
    along, v = _normal(theta) * (1 + theta.abs()), _normal(theta.flip(-1)).flip(-1)

    def gradient(which: str, phi: Parameters, theta: Tensor) -> Tensor:
        ask = getattr(oracle, f"{which}_gradient")
        return _asked(f"{which} gradients of {name}", ask, oracle.embed(phi, tasks), theta, tasks)

    def values(which: str, phi: Parameters, theta: Tensor) -> Tensor:
        return _Objective(problem, which, tasks)(phi, theta)

    def require(what: str, found: Tensor, at: Callable[[float], Tensor]) -> None:
        with torch.no_grad():
            size = float(at(0.0).abs())
        if (expected := _refuted(float(found), lambda h: float(at(h).detach()), size)) is not None:
            raise ValueError(
                f"expected {what} of {name} to be derivatives of its objectives, {expected:.6g} along random "
                f"directions, got {float(found):.6g}"
            )

    for which in _OBJECTIVES:

        def ahead(h: float, which: str = which) -> Tensor:
            return values(which, phi, theta + h * along).sum()

        require(f"{which} gradients", (gradient(which, phi, theta) * along).sum(), ahead)
    if not second:
        return
    product = _asked(
        f"second derivatives of lower of {name}",
        lambda: oracle.lower_hessian(oracle.embed(phi, tasks), theta, tasks)(along),
    )
    require(
        "products with lower Hessians",
        (product * v).sum(),
        lambda h: (gradient("lower", phi, theta + h * along) * v).sum(),
    )
    if not _reached(problem, phi, theta, tasks):
        return
    d = _asked(
        f"second derivatives of lower of {name}",
        lambda: oracle.hypergradient(oracle.embed(phi, tasks), theta, v, tasks),
    )

    for key, x in phi.items():
        moved = _normal(x) * (1 + x.abs())

        def at(h: float, key: str = key, x: Tensor = x, moved: Tensor = moved) -> Tensor:
            there = {**phi, key: x + h * moved}
            return (values("upper", there, theta) - (gradient("lower", there, theta) * v).sum(-1)).mean()

        require(f"the hypergradient in phi[{key!r}]", (d[key] * moved).sum(), at)


def _reached(problem: Problem, phi: Parameters, theta: Tensor, tasks: Tasks) -> bool:
    """Whether phi is more than the start of theta; where it is that alone, methods go through the lower steps."""
    leaves = {name: x.detach().requires_grad_() for name, x in phi.items()}
    with torch.enable_grad():
        values = [_Objective(problem, name, tasks)(leaves, theta) for name in _OBJECTIVES]
    return any(x.requires_grad for x in values)


def _refuted(found: float, at: Callable[[float], float], size: float) -> float | None:
    """A difference quotient that says that the derivative is another, None where one says that it is this."""
    quotient = None
    for h in _STEPS:
        with torch.no_grad():
            quotient = (at(h) - at(-h)) / (2 * h)
        rounding = _ROUNDING * torch.finfo(torch.float64).eps * size / h
        # not a number where the objective has none beside: that decides nothing
        if not abs(quotient - found) > _WITHIN * max(abs(quotient), abs(found)) + rounding:
            return None
    return quotient


def _require_replicas(problem: Problem, phi: Parameters, theta: Tensor, tasks: Tasks) -> None:
    """Raise ValueError unless first derivatives at two phi at once are those at each."""
    name = type(problem).__name__
    points = [(phi, theta), (map_parameters(lambda x: _beside(x, 0.1), phi), _beside(theta, 0.1))]
    single = [_slopes(Oracle(problem), *point, tasks) for point in points]
    many = ({key: torch.stack([each[key] for each, _ in points]) for key in phi}, torch.stack([x for _, x in points]))
    how = "for phi and theta with leading axes" if problem.broadcasts_replicas else "under torch.vmap"
    together = _asked(
        f"{name} with replicas, {how}", lambda: _slopes(Oracle(problem, replicas=len(points)), *many, tasks)
    )
    for key, slopes in together.items():
        if not _near(slopes, torch.stack([each[key] for each in single])):
            raise ValueError(f"expected the {key} of {name} on replicas to be those of each, got others")


def _slopes(oracle: Oracle, phi: Parameters, theta: Tensor, tasks: Tasks) -> Mapping[str, Tensor]:
    z = oracle.features(phi, tasks)
    _ = oracle.theta0(phi, tasks)
    return {
        "lower gradients": oracle.lower_gradient(z, theta, tasks),
        "upper gradients": oracle.upper_gradient(z, theta, tasks),
        "products with lower Hessians": oracle.lower_hessian(z, theta, tasks)(theta),
    }


def _asked(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), of a problem that may be the user's own; what it raises is one sentence.

    Raises ValueError from the exception; one of this package that says what was expected is passed on.
    """
    try:
        return function(*arguments)
    except Exception as error:
        if "expected" in str(error) and traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_OURS):
            raise
        raise ValueError(f"expected {what} to return something, got {said(error)}") from error


def _near(a: Tensor, b: Tensor) -> bool:
    """The same up to rounding, which batches of another size may change."""
    within = torch.finfo(a.dtype).eps ** 0.5
    return bool(torch.isclose(a, b, rtol=within, atol=within, equal_nan=True).all())


def _beside(x: Tensor, by: float) -> Tensor:
    return x + by * _normal(x) * (1 + x.abs())


def _normal(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=generator(0, "start"), dtype=torch.float64).to(like.device, like.dtype)


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:.6g}" for value in values.tolist())
