"""Problems of one's own that are broken in one place: refused in a sentence, or solved rightly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from convergence import MemoryReduced, run
from convergence.streams import generator
from problems import Parameters, Problem, Tasks
from tests.fuzz.ends import Case, Own, ends_well
from tests.fuzz.fuzzing import fuzz

M, P, Q = 3, 2, 2
RNG = np.random.default_rng(0)
ARRAYS = {"A": RNG.standard_normal((M, Q, P)), "x": RNG.standard_normal((M, Q)), "y": RNG.standard_normal((M, Q))}
START = np.array([0.3, -0.2])
STEP = 0.2


class Sound(Problem):
    """g_i = 1/2 |theta - A_i phi - x_i|^2, f_i = 1/2 |theta - y_i|^2 + 1/2 |phi|^2."""

    q = Q

    def __init__(self) -> None:
        self.data = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}

    def phi0(self, rng: torch.Generator) -> Parameters:
        return {"phi": torch.from_numpy(START.copy())}

    def lower(self, phi: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - self.model(phi, tasks) - tasks.x).square().sum(-1)

    def upper(self, phi: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        return 0.5 * (theta - tasks.y).square().sum(-1) + 0.5 * phi["phi"].square().sum(-1)

    def model(self, phi: Parameters, tasks: Tasks) -> Tensor:
        return (tasks.A * phi["phi"]).sum(-1)


def gradient(phi: np.ndarray) -> np.ndarray:
    """grad Phi in closed form, in numpy."""
    theta = ARRAYS["A"] @ phi + ARRAYS["x"]
    return phi + np.einsum("mij,mi->j", ARRAYS["A"], theta - ARRAYS["y"]) / M


def solved(
    steps: int, slope: Callable[[np.ndarray], np.ndarray] = gradient, start: np.ndarray = START
) -> Callable[[Any], bool]:
    """Whether phi is that of so many steps of gradient descent."""
    phi = start
    for _ in range(steps):
        phi = phi - STEP * slope(phi)
    return lambda result: result.phi["phi"].shape[-1:] == phi.shape and np.allclose(result.phi["phi"], phi, atol=1e-9)


METHOD = MemoryReduced(lower_steps=1, lower_step_size=1.0, cg_steps=2, upper_step_size=STEP)  # exact: the Hessian is 1
RUNS: dict[str, dict[str, Any]] = {
    "": {},
    "without probes": {"probes": ()},
    "replicas": {"replicas": 2},
    "batches": {"batch": M, "probes": ()},
    "cold": {
        "method": MemoryReduced(lower_steps=1, lower_step_size=1.0, cg_steps=2, upper_step_size=STEP, warm_start=False)
    },
}


def started(problem: Problem, *, method: Any = METHOD, **options: Any) -> Any:
    return run(problem, method, iterations=2, **options)


# ---- what an objective may return instead of its values

RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "a float": lambda x: 1.5,
    "None": lambda x: None,
    "numpy": lambda x: np.ones(x.shape),
    "a list": lambda x: [1.0] * M,
    "a tuple": lambda x: (x, x),
    "the item": lambda x: x.sum().item(),
    "one for all": lambda x: x.sum(),
    "the mean, for each": lambda x: x.mean().expand(x.shape),
    "one more axis": lambda x: x.unsqueeze(-1),
    "one more in front": lambda x: x.unsqueeze(0),
    "too few": lambda x: x[..., :-1],
    "one": lambda x: x[..., :1],
    "a square": lambda x: x.unsqueeze(-1).expand(*x.shape, Q),
    "empty": lambda x: x[..., :0],
    "complex": lambda x: x + 0j,
    "integers": lambda x: x.long(),
    "truths": lambda x: x > 0,
    "half": lambda x: x.half(),
    "a detached tensor": lambda x: x.detach(),
    "new numbers": lambda x: torch.tensor(x.tolist()) if not torch._C._functorch.is_batchedtensor(x) else x.detach(),
    "from numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "half detached": lambda x: 0.5 * x + 0.5 * x.detach(),
    "no gradient": lambda x: x.clone().detach().requires_grad_(),
    "noise": lambda x: x + torch.randn(x.shape, dtype=x.dtype),
    "scaled noise": lambda x: x * (1 + 1e-3 * torch.rand(())),
    "the cumulated": lambda x: x.cumsum(-1),
    "centred": lambda x: x - x.mean(),
    "on meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "its own exception": lambda x: (_ for _ in ()).throw(Own("of the problem")),
    "in place": lambda x: x.mul_(2),
}


def _returning(level: str, what: str, options: str) -> Case:
    change = RETURNS[what]

    class Broken(Sound):
        pass

    def objective(self: Sound, phi: Parameters, theta: Tensor, tasks: Tasks) -> Any:
        return change(getattr(Sound, level)(self, phi, theta, tasks))

    setattr(Broken, level, objective)
    doubled = what == "in place"

    def right(result: Any) -> bool:
        if not doubled:
            return False
        if level == "lower":  # a step of 1 is one of 2 / L there, which ends opposite: nothing to say but finite
            return bool(torch.isfinite(result.phi["phi"]).all())
        return solved(2, lambda phi: 2 * gradient(phi))(result)

    return Case(f"{level} returns {what}, {options}", lambda: started(Broken(), **RUNS[options]), right)


@fuzz(
    st.builds(
        _returning, st.sampled_from(["lower", "upper"]), st.sampled_from(sorted(RETURNS)), st.sampled_from(sorted(RUNS))
    ),
    distinct=70,
)
def test_objectives_that_return_something_else():
    """Shapes, types, constants, graphs cut, noise."""


# ---- what else may be wrong with a problem

CHANGES: dict[str, tuple[dict[str, Any], Callable[[Any], bool] | None]] = {}


def broken(what: str, right: Callable[[Any], bool] | None = None, **members: Any) -> None:
    """A problem with these members in place of its own, and whether a result is right (None: there is none)."""
    CHANGES[what] = (members, right)


def of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of (phi, theta, tasks) as a method."""
    return lambda self, *arguments: function(*arguments)


def _model(phi: Tensor, tasks: Tasks) -> Tensor:
    return (tasks.A * phi).sum(-1) + tasks.x


def _lower(x: Tensor, phi: Parameters, tasks: Tasks) -> Tensor:
    return 0.5 * (x - _model(phi["phi"], tasks)).square().sum(-1)


# the start, and sizes
for name, start in {
    "no dict": torch.ones(2),
    "an empty dict": {},
    "None": None,
    "a list": {"phi": [1.0, 2.0]},
    "numpy": {"phi": START},
    "not a number": {"phi": torch.tensor([0.0, torch.nan])},
    "infinite": {"phi": torch.tensor([0.0, torch.inf])},
    "complex": {"phi": torch.ones(2, dtype=torch.complex128)},
    "truths": {"phi": torch.ones(2, dtype=torch.bool)},
    "a number as name": {3: torch.ones(2)},
    "on meta": {"phi": torch.ones(2, device="meta")},
    "sparse": {"phi": torch.eye(2).to_sparse()},
    "of another size": {"phi": torch.ones(5)},
    "empty": {"phi": torch.ones(0)},
}.items():
    broken(f"phi0: {name}", phi0=lambda self, rng, start=start: start)
broken("phi0: integers", solved(2, start=np.ones(2)), phi0=lambda self, rng: {"phi": torch.ones(2, dtype=torch.int64)})
broken("phi0 requires grad", solved(2), phi0=lambda self, rng: {"phi": torch.tensor(START, requires_grad=True)})
broken(
    "phi0 expanded",
    solved(2, start=np.full(2, 0.3)),
    phi0=lambda self, rng: {"phi": torch.tensor(0.3, dtype=torch.float64).expand(2)},
)
broken("phi0 raises", phi0=lambda self, rng: (_ for _ in ()).throw(Own("of phi0")))
for size in (0, -1, 2.5, "2", None, True, 10**18, float("nan"), torch.tensor(2.0), [2], 3):
    broken(f"q = {size!r}", q=size)
for name, theta in {
    "no tensor": 0.0,
    "one row": torch.zeros(Q).double(),
    "one row too few": torch.zeros(M - 1, Q).double(),
    "no columns": torch.zeros(M, 0).double(),
    "an axis too many": torch.zeros(M, Q, 1).double(),
    "complex": torch.zeros(M, Q, dtype=torch.complex128),
    "integers": torch.zeros(M, Q, dtype=torch.int64),
    "on meta": torch.zeros(M, Q, device="meta"),
    "not a number": torch.full((M, Q), torch.nan).double(),
    "sparse": torch.zeros(M, Q).double().to_sparse(),
}.items():
    broken(f"theta0: {name}", theta0=lambda self, phi, tasks, theta=theta: theta)
broken(
    "theta0 wants grad", solved(2), theta0=lambda self, phi, tasks: torch.zeros(len(tasks), Q).double().requires_grad_()
)

# phi and theta reach, or do not reach, the objectives
broken(
    "phi reaches f alone",
    solved(2, lambda phi: phi),
    lower=of(lambda phi, theta, tasks: 0.5 * (theta - tasks.x).square().sum(-1)),
)
broken(
    "phi reaches neither",
    lower=of(lambda phi, theta, tasks: 0.5 * (theta - tasks.x).square().sum(-1)),
    upper=of(lambda phi, theta, tasks: 0.5 * (theta - tasks.y).square().sum(-1)),
)
broken(
    "phi reaches g alone",
    solved(2, lambda phi: gradient(phi) - phi),
    upper=of(lambda phi, theta, tasks: 0.5 * (theta - tasks.y).square().sum(-1)),
)
broken("g ignores theta", lower=of(lambda phi, theta, tasks: (tasks.A * phi["phi"]).sum((-1, -2))))
broken("g is zero", lower=of(lambda phi, theta, tasks: 0.0 * theta.sum(-1)))
broken("g is linear in theta", lower=of(lambda phi, theta, tasks: (theta * _model(phi["phi"], tasks)).sum(-1)))
broken(
    "f ignores theta",
    solved(2, lambda phi: phi),
    upper=of(lambda phi, theta, tasks: 0.5 * phi["phi"].square().sum() + 0.0 * tasks.y.sum(-1)),
)
broken("f ignores all", solved(0), upper=of(lambda phi, theta, tasks: tasks.y.sum(-1)))
broken("g is concave", lower=of(lambda phi, theta, tasks: -_lower(theta, phi, tasks)))
broken("g is a saddle", lower=of(lambda phi, theta, tasks: theta[..., 0] ** 2 - theta[..., 1] ** 2))
broken("g is unbounded below", lower=of(lambda phi, theta, tasks: -torch.exp(theta).sum(-1)))
broken(
    "g is flat at its minimum",
    lambda result: not result.trace,
    lower=of(lambda phi, theta, tasks: (theta - _model(phi["phi"], tasks)).pow(4).sum(-1)),
)
broken("g has a pole", lower=of(lambda phi, theta, tasks: (1 / (theta - theta)).sum(-1)))
broken("f has a pole", upper=of(lambda phi, theta, tasks: torch.log(-theta.square()).sum(-1)))
broken(
    "g overflows",
    solved(2, lambda phi: phi),
    lower=of(lambda phi, theta, tasks: torch.exp(1e4 * theta.square()).sum(-1)),
)

# graphs cut by mistake
CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": torch.Tensor.detach,
    "data": lambda x: x.data,
    "numpy": lambda x: torch.from_numpy(x.detach().numpy().copy()),
    "tensor()": lambda x: torch.tensor(x.tolist(), dtype=torch.float64),
    "round": torch.round,
    "half of it": lambda x: 0.5 * x + 0.5 * x.detach(),
    "one entry": lambda x: torch.stack([x[..., 0].detach(), x[..., 1]], -1),
}
for name, cut in CUTS.items():
    right = (lambda result: True) if name == "round" else None  # where it is flat its derivative is zero
    broken(f"g sees phi cut by {name}", right, lower=of(lambda p, t, k, cut=cut: _lower(t, {"phi": cut(p["phi"])}, k)))
    broken(f"g sees theta cut by {name}", right, lower=of(lambda p, t, k, cut=cut: _lower(0.5 * (t + cut(t)), p, k)))
    broken(
        f"f sees phi cut by {name}",
        right,
        upper=of(lambda p, t, k, cut=cut: 0.5 * ((t - k.y).square().sum(-1) + cut(p["phi"]).square().sum(-1))),
    )
    broken(
        f"f sees theta cut by {name}", right, upper=of(lambda p, t, k, cut=cut: 0.5 * (cut(t) - k.y).square().sum(-1))
    )
    broken(f"features cut by {name}", right, embed=of(lambda p, k, cut=cut: {"phi": cut(p["phi"])}))
broken("g without a graph", lower=of(torch.no_grad()(lambda phi, theta, tasks: _lower(theta, phi, tasks))))
broken("f without a graph", upper=of(torch.no_grad()(lambda phi, theta, tasks: (theta - tasks.y).square().sum(-1))))


# what changes between calls, or what it is given
class Counting:
    """Another value each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, phi: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        self.calls += 1
        return (1 + 0.01 * self.calls) * _lower(theta, phi, tasks)


def _in_place(tensor: str) -> Callable[..., Tensor]:
    def lower(phi: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        with torch.no_grad():
            {"phi": phi["phi"], "theta": theta, "data": tasks.x}[tensor].mul_(0.5)
        return _lower(theta, phi, tasks)

    return lower


broken("g counts its calls", lower=of(Counting()))
for name in ("phi", "theta", "data"):
    broken(f"g changes {name}", lower=of(_in_place(name)))
broken("g changes theta with a graph", lower=of(lambda phi, theta, tasks: _lower(theta.mul_(0.5), phi, tasks)))
broken("tasks meet in g", lower=of(lambda phi, theta, tasks: _lower(theta - theta.mean(-2, keepdim=True), phi, tasks)))
broken("tasks meet in f", upper=of(lambda phi, theta, tasks: (theta - theta.mean(-2, keepdim=True)).square().sum(-1)))
broken(
    "broadcasts no replicas, though it says so",
    broadcasts_replicas=True,
    right=solved(2),  # without replicas
)
broken("no lower", lower=Problem.lower)
broken("no upper", upper=Problem.upper)
broken("no phi0", phi0=Problem.phi0)
broken("lower is no method", lower=3)
broken("lower takes no tasks", lower=lambda self, phi, theta: theta.sum(-1))

# closed forms of other shapes, or none at all
for name in ("lower_gradient", "lower_hvp", "upper_gradient", "lower_inverse_hvp"):
    broken(
        f"{name}: one row for all",
        right=(lambda r: True) if "inverse" in name else None,
        **{name: lambda self, *a: torch.ones(Q).double()},
    )
    broken(f"{name}: None", right=(lambda r: True) if "inverse" in name else None, **{name: lambda self, *a: None})


def _changed(what: str, options: str) -> Case:
    members, right = CHANGES[what]
    return Case(f"{what}, {options}", lambda: started(type("Broken", (Sound,), members)(), **RUNS[options]), right)


@fuzz(st.builds(_changed, st.sampled_from(sorted(CHANGES)), st.sampled_from(sorted(RUNS))), distinct=110)
def test_problems_broken_elsewhere():
    """Starts, sizes, graphs, arguments changed, tasks that meet, levels that are no minimum."""


@pytest.mark.parametrize(
    "what",
    [
        "g sees phi cut by detach",
        "g sees theta cut by numpy",
        "f sees phi cut by data",
        "features cut by tensor()",
        "g without a graph",
        "g counts its calls",
        "g changes data",
        "tasks meet in g",
        "lower_gradient: one row for all",
        "lower_hvp: None",
        "phi reaches neither",
    ],
)
def test_the_worst_of_problems(what):
    """Always, whatever is drawn above: each was once a wrong number without a word."""
    ends_well(_changed(what, ""))


@pytest.mark.parametrize("options", RUNS)
@pytest.mark.parametrize("what", ["noise", "the item", "half detached", "the cumulated"])
@pytest.mark.parametrize("level", ["lower", "upper"])
def test_the_worst_of_objectives(level, what, options):
    """Likewise."""
    ends_well(_returning(level, what, options))


def test_long_seeds_have_streams_of_their_own():
    """Numpy reads words of 32 bits: 2^32 was [0, 1], the seed 0 of another purpose."""
    seeds = (0, 1, 2**32, 2**32 + 1, 2**33, 2**62)
    drawn = [
        tuple(torch.rand(2, generator=generator(seed, purpose, t)).tolist())
        for seed in seeds
        for purpose in ("start", "tasks", "noise")
        for t in (0, 1)
    ]
    assert len(set(drawn)) == len(drawn)
