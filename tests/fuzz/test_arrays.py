"""Arrays: those that `rates` fits, those of `Quadratic`, and tensors of a problem stored in unusual ways."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from convergence import rates, run
from problems import Quadratic
from tests.fuzz.ends import Case, ends_well
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.strategies import VALUES, Named, fits
from tests.fuzz.test_problems import ARRAYS, METHOD, Sound, solved

# ---- rates

X, ROWS = np.array([1.0, 2.0, 4.0, 8.0]), np.random.default_rng(0).uniform(1, 2, (8, 3))
RATES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "log_log_slope": (rates.log_log_slope, {"x": X, "y": 1 / X, "confidence": 0.9, "resamples": 20, "seed": 0}),
    "log_log_slope of seeds": (rates.log_log_slope, {"x": X, "y": ROWS[:4], "confidence": 0.9, "resamples": 20}),
    "burn_in": (rates.burn_in, {"spectral_radius": 0.5, "remainder": 1e-4}),
    "stationary_mean": (rates.stationary_mean, {"trace": ROWS, "discard": 2}),
    "hotelling": (rates.hotelling, {"samples": ROWS, "mean": np.zeros(3), "significance": 1e-6}),
    "is_stationary": (rates.is_stationary, {"trace": ROWS, "threshold": 3.0}),
    "hitting_time": (rates.hitting_time, {"values": [3.0, 1.0], "threshold": 2.0}),
    "running_average": (rates.running_average, {"values": [3.0, 1.0]}),
}
NO_ARRAY = [
    *(Named(f"{x!r}"[:40], x) for x in (None, "x", [], [[]], {}, [1, "a"], [[1], [1, 2]], 1j, [1j], object, [None])),
    *(Named(f"{np.shape(x)} of {np.ravel(x)[:1]}", x) for x in (np.empty((0, 3)), np.ones((1, 3)), np.ones((3, 0)))),
    Named("four axes", np.ones((8, 3, 2, 2))),
    Named("strings", np.array(["a", "b"])),
    Named("objects", np.array([{}, {}], dtype=object)),
    Named("a tensor with a graph", torch.ones(4, requires_grad=True)),
    Named("a tensor on meta", torch.ones(8, 3, device="meta")),
]
MAY_BE = {  # shapes that these take
    "log_log_slope": ("a tensor with a graph",),
    "log_log_slope of seeds": ("a tensor with a graph",),
    "hitting_time": ("[]", "a tensor with a graph"),
    "running_average": (
        "a tensor with a graph",
        "[]",
        "[[]]",
        "four axes",
        "(0, 3) of []",
        "(1, 3) of [1.]",
        "(3, 0) of []",
    ),
}
ODD = [  # of the right shape
    *(Named(f"one {x}", x) for x in (np.nan, np.inf, -np.inf)),
    *(Named(f"all {x}", x) for x in (-1.0, 0.0, 1.0, 1e100, 5e-324)),
]
NUMBERS = ("confidence", "resamples", "seed", "spectral_radius", "remainder", "discard", "significance", "threshold")
LEGAL: dict[str, Callable[[Any], bool]] = {  # of what is a number
    "confidence": lambda x: 0 < x < 1,
    "resamples": lambda x: 1 <= x <= 10**5,
    "seed": lambda x: 0 <= x < 2**63,
    "spectral_radius": lambda x: 0 <= x < 1,
    "remainder": lambda x: 0 < x < 1,
    "discard": lambda x: 0 <= x <= 6,
    "significance": lambda x: 0 < x < 1,
    "threshold": lambda x: True,
}


def _finite_or_none(found: Any) -> bool:
    """No NaN among what is found: a number that means nothing would be one."""
    values = found if isinstance(found, tuple) else (found,)
    return all(x is None or not np.isnan(np.asarray(x, dtype=np.float64)).any() for x in values)


def _number_case(name: str, value: Named) -> Case:
    function, valid = RATES[name]
    field = next(each for each in NUMBERS if each in valid)
    wanted = int if field in ("resamples", "seed", "discard") else float
    legal = fits(wanted, value.value) and LEGAL[field](value.value)
    return Case(
        f"{name}({field}={value.name})",
        lambda: function(**{**valid, field: value.value}),
        _finite_or_none if legal else None,
    )


@fuzz(
    st.builds(_number_case, st.sampled_from([n for n in RATES if n != "running_average"]), VALUES),
    distinct=40,
)
def test_numbers_of_rates():
    """What is no number, or out of its range."""


@pytest.mark.parametrize("name", RATES)
def test_arrays_of_rates(name):
    function, valid = RATES[name]
    arrays = [field for field in valid if field not in NUMBERS]
    for field in arrays:
        for value in NO_ARRAY:
            given = {**valid, field: value.value}
            right = _finite_or_none if value.name in MAY_BE.get(name, ()) else None
            ends_well(Case(f"{name}({field}={value.name})", lambda given=given: function(**given), right))
        for value in ODD:
            array = np.array(valid[field], dtype=np.float64)
            array = np.full_like(array, value.value) if value.name.startswith("all") else array
            if value.name.startswith("one"):
                array.flat[-1] = value.value
            given = {**valid, field: array}
            right = None if value.name.startswith("one") else _finite_or_none
            if name in ("hitting_time", "running_average"):  # traces of replicas that have stopped
                right = lambda found: True  # noqa: E731
            ends_well(Case(f"{name}({field}={value.name})", lambda given=given: function(**given), right))


# ---- the arrays of Quadratic

QUADRATIC = {name: x.numpy() for name, x in Quadratic.random(tasks=3, p=2, q=2, kappa=3.0).data.items()}


def _changed(name: str, how: str) -> Any:
    """The array, changed."""
    x = QUADRATIC[name].copy()
    if how == "asymmetric":
        x[0, 0, -1] += 1e-3
    elif how == "indefinite":
        x[1] -= 10 * np.eye(2)
    elif how == "singular":
        x[2] = 0.0
    elif how in ("nan", "inf", "-inf"):
        x.flat[-1] = float(how)
    elif how == "by its name":
        return name
    else:
        return SHAPES[how](x)
    return x


SHAPES: dict[str, Callable[[np.ndarray], Any]] = {
    "one task less": lambda x: x[:-1],
    "no tasks": lambda x: x[:0],
    "one axis less": lambda x: x[0],
    "one axis more": lambda x: x[None],
    "one column less": lambda x: x[..., :-1],
    "no columns": lambda x: x[..., :0],
    "one task for all": lambda x: x[:1],
    "complex": lambda x: x + 0j,
    "text": lambda x: x.astype(str),
    "objects": lambda x: x.astype(object) + None if x.size == 0 else np.array([{}]),
    "None": lambda x: None,
    "a number": lambda x: 1.0,
    "a list of lists of other lengths": lambda x: [[1.0], [1.0, 2.0]],
    "on meta": lambda x: torch.from_numpy(x).to("meta"),
    "sparse": lambda x: torch.from_numpy(x).to_sparse(),
    "truths": lambda x: x > 0,
    "a string": lambda x: "array",
}
HOWS = ("asymmetric", "indefinite", "singular", "nan", "inf", "-inf", "by its name", *SHAPES)


def _is_solved(made: Any) -> bool:
    """Where an array is another but may be: the hypergradient is what autograd finds through the lower solution."""
    phi = {"phi": torch.ones(2, dtype=torch.float64, requires_grad=True)}
    tasks = made.sample(None, torch.Generator())
    theta = made.lower_solution(phi, tasks)
    made.upper(made.embed(phi, tasks), theta, tasks).mean().backward()
    return bool(torch.allclose(phi["phi"].grad, made.hypergradient({"phi": torch.ones(2).double()})["phi"]))


def _quadratic(name: str, how: str) -> Case:
    square = name in ("A", "Q", "R")
    allowed = {"truths": not square, "indefinite": name != "A", "singular": name != "A"}
    if not square and how in ("asymmetric", "indefinite"):
        how = "nan"
    right = _is_solved if allowed.get(how) else None
    if how == "truths" and square:  # that may be symmetric and definite, or not
        right = lambda made: True  # noqa: E731
    return Case(f"Quadratic({name} {how})", lambda: Quadratic(**{**QUADRATIC, name: _changed(name, how)}), right)


@fuzz(st.builds(_quadratic, st.sampled_from(sorted(QUADRATIC)), st.sampled_from(HOWS)), distinct=70)
def test_arrays_of_quadratics():
    """Asymmetric, indefinite, of shapes that disagree, not finite, of other kinds."""


# ---- tensors stored in unusual ways

STORED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "that requires grad": lambda x: x.clone().requires_grad_(),
    "with a graph": lambda x: 1.0 * x.clone().requires_grad_(),
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "turned around": lambda x: x.flip(0).flip(0),
    "transposed twice": lambda x: x.mT.contiguous().mT if x.dim() > 1 else x,
    "from numpy": lambda x: torch.from_numpy(x.numpy().copy(order="F")),
    "an inference tensor": lambda x: _in_inference(x),
    "a parameter": lambda x: torch.nn.Parameter(x.clone()),
}


def _in_inference(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return x.clone()


OPTIONS: dict[str, dict[str, Any]] = {"": {}, "replicas": {"replicas": 2}, "batches": {"batch": 3}}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("how", STORED)
def test_data_stored_in_unusual_ways(how, options):
    problem = Sound()
    problem.data = {name: STORED[how](x) for name, x in problem.data.items()}
    ends_well(Case(f"data {how}, {options}", lambda: run(problem, METHOD, iterations=2, **OPTIONS[options]), solved(2)))
    assert all(x.grad is None for x in problem.data.values() if x.is_leaf)


def test_data_expanded_over_the_tasks():
    """One A for all: as copies of it."""
    expanded, copies = Sound(), Sound()
    expanded.data["A"] = expanded.data["A"][:1].expand(3, -1, -1)
    copies.data["A"] = expanded.data["A"].clone()
    right = run(copies, METHOD, iterations=2).phi["phi"]
    for options in OPTIONS.values():
        ends_well(
            Case(
                "expanded",
                lambda options=options: run(expanded, METHOD, iterations=2, **options),
                lambda result: bool(torch.allclose(result.phi["phi"], right)),
            )
        )
    np.testing.assert_array_equal(expanded.data["x"].numpy(), ARRAYS["x"])


def test_every_function_of_rates_is_fuzzed():
    functions = {
        name
        for name, x in vars(rates).items()
        if inspect.isfunction(x) and x.__module__ == rates.__name__ and name[0] != "_"
    }
    assert functions == {name.split()[0] for name in RATES}
