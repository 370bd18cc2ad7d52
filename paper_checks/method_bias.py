"""Every estimator of the hypergradient is off by what its formula says, and by no more.

Statement.
    On quadratic levels the direction d of every estimator has a closed form: implicit differentiation with a truncated
    solver of H v = grad_theta f, reverse and forward mode through K lower steps (whole, truncated to the last h, from
    checkpoints, by reversing a heavy-ball iteration, by differences of gradients), first order, the displacement of
    Reptile, the penalty of first-order value-function methods; forward gradients along random directions and randomly
    truncated Neumann series have it in expectation. The error |d - grad Phi| falls by the factor varrho with each lower
    step and with each term of a Neumann series or step of Richardson's iteration, like 1 / lambda with the multiplier
    of the penalty, and not at all where derivatives are dropped.
Hypotheses.
    Quadratic levels, all tasks, exact objectives; 0 < alpha, eta <= 1 / L for the factors, which then are those of the
    slowest mode; phi held fixed, for methods that carry theta over until it has settled.
Predicted.
    The formulas of docs/theory.md S10: d_i = R_i (phi - w_i) + C_i'v_i with v_i = p(A_i) Q_i (theta_i,K - u_i) for a
    polynomial p (Galerkin for CG), R_i (phi - w_i) + J_K'Q_i (theta_i,K - u_i) with J_K = (I - E_i) J_i + E_i G_i, and
    so on; varrho = 1 - 1 / kappa at alpha = eta = 1 / L.
Measured.
    One step of each estimator, composed with gradient descent or a heavy ball, over K and over N; the mean of
    independent draws for those that draw numbers; one step of every method of the catalogue that a quadratic problem
    can be given to, after phi was held for as long as its theta takes to settle.
Refuted by.
    A direction off its formula by 1e-9 (relative), a factor off by 1e-3, a mean that Hotelling's test rejects at 1e-6.
Source.
    docs/theory.md S10; Franceschi et al. 2017; Shaban et al. 2019; Grazzi et al. 2020; Lorraine et al. 2020; Shen et
    al. 2024; Ghadimi and Wang 2018; Kwon et al. 2023; Nichol et al. 2018; Fallah et al. 2020.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, NamedTuple

import numpy as np
import torch

from convergence import Composed, ConjugateGradient, FirstOrder, GradientDescent, Implicit, Oracle, Unrolled
from convergence.hypergradients import Checkpointed, ForwardGradient, ForwardMode, HessianFree, Reversed
from convergence.linear_solvers import Neumann, RandomNeumann, Richardson
from convergence.lower_solvers import HeavyBall
from convergence.trees import map_tensors
from paper_checks import method_laws as laws
from paper_checks.claim import DECLARED, Comparison, Evidence, Setting, at_least, equal, mean_vector_equals
from paper_checks.quadratic_theory import Array, QuadraticTheory
from paper_checks.subject import methods_on
from problems import Quadratic

ASKS = (DECLARED,)
PLANTED = "the first of the lower steps is left out of the unrolled derivative"

KAPPA, ALPHA = 10.0, 0.1  # 1 / L
MOMENTUM = 0.5
RADIUS = 1e-2  # of gradient differences, which are exact for quadratics
LAST = 5  # steps that truncated differentiation follows
SETTLED = 350  # iterations with phi held: varrho^350 = 1e-16
FIELDS = {
    "lower_steps": 4,
    "lower_step_size": ALPHA,
    "cg_steps": 2,
    "linear_step_size": ALPHA,
    "lower_decay": 0.0,
    "upper_step_size": 1e-3,
}


class Cell(NamedTuple):
    """One direction to measure: a method, the name of what it shows, its K (or N), and its law."""

    name: str
    count: int
    method: Any
    law: Array


def run(setting: Setting) -> Evidence:
    """Directions over K and over N, means of random ones, methods of the catalogue."""
    return _gather(setting, Unrolled())


def control(setting: Setting) -> Evidence:
    """The same with the planted error."""
    return _gather(setting, _FirstStepMissing())


class _FirstStepMissing(Unrolled):
    """Follows K - 1 of K steps, passed off as all of them."""

    def followed(self, lower: Any) -> int:
        """One too few."""
        return max(lower.steps - 1, 0)


def judge(evidence: Evidence) -> list[Comparison]:
    """Formulas attained, means not rejected, factors of the slowest mode."""
    e = evidence
    over = {kind: _cells(e, kind) for kind in ("K", "N", "methods")}
    return [
        *(
            equal(f"d, {what}", e[f"{kind}_d"], e[f"{kind}_law"], relative=1e-9, cells=over[kind])
            for kind, what in (("K", "over lower steps"), ("N", "over steps for v"), ("methods", "methods by name"))
        ),
        mean_vector_equals(
            "E d - its formula",
            e["random_d"] - e["random_law"][:, None],
            np.zeros(e["gradient"].shape),
            cells=e["random_names"],
        ),
        equal("factor of |d - grad Phi|", e["factor"], e["factor_law"], relative=1e-3, cells=e["factor_names"]),
        at_least("methods by name", len(e["methods_names"]) + len(e["random_names"]) - 2, 15),
    ]


def _cells(e: Evidence, kind: str) -> list[str]:
    return [f"{name}, {count}" for name, count in zip(e[f"{kind}_names"], e[f"{kind}_counts"], strict=True)]


def _gather(setting: Setting, unrolled: Unrolled) -> Evidence:
    problem, theory, phi = _instance(setting.seed)
    cells = _over_K(theory, phi, _counts(setting), unrolled)
    found = [_direction(setting, problem, cell.method, phi) for cell in setting.track(cells, "directions over K")]
    evidence = {"gradient": theory.gradient(phi), "kappa": np.array(KAPPA)} | _columns("K", cells, found)
    evidence |= _beside(setting)
    return evidence | _factors(evidence, theory.gradient(phi))


def _instance(seed: int) -> tuple[Quadratic, QuadraticTheory, Array]:
    problem = Quadratic.random(tasks=5, p=4, q=4, kappa=KAPPA, initialisation=True, seed=seed + 3)
    return problem, QuadraticTheory.of(problem), np.random.default_rng([seed, 5]).standard_normal(problem.p)


def _counts(setting: Setting) -> tuple[int, ...]:
    return setting.pick((0, 1, 2, 3, 5, 8, 12, 20, 40, 60, 80), (*range(13), 16, 20, 30, 40, 60, 80))


@functools.lru_cache(maxsize=1)
def _beside(setting: Setting) -> Evidence:
    """What the planted error leaves as it is: gathered once for the claim and its control."""
    problem, theory, phi = _instance(setting.seed)
    cells = _over_N(theory, phi, _counts(setting))
    found = [_direction(setting, problem, cell.method, phi) for cell in setting.track(cells, "directions over N")]
    names = _by_name(setting, problem, theory, phi)
    return _columns("N", cells, found) | names | _random(setting, problem, theory, phi)


def _columns(kind: str, cells: list[Cell], found: list[Array]) -> Evidence:
    return {
        f"{kind}_names": np.array([cell.name for cell in cells]),
        f"{kind}_counts": np.array([cell.count for cell in cells]),
        f"{kind}_d": np.stack(found),
        f"{kind}_law": np.stack([cell.law for cell in cells]),
    }


def _direction(setting: Setting, problem: Quadratic, method: Any, phi: Array, iterations: int = 1) -> Array:
    """d of the last of so many iterations at which phi is held, (p,)."""
    return _samples(setting, problem, method, phi, iterations, replicas=None)


def _samples(
    setting: Setting, problem: Quadratic, method: Any, phi: Array, iterations: int, *, replicas: int | None
) -> Array:
    """The same, drawn so many times in the last iteration, (R, p): those before it are taken once."""
    moved = problem.to(setting.device)
    oracle, at = Oracle(moved), {"phi": torch.as_tensor(phi, device=setting.device)}
    state = method.start(oracle, at)
    for t in range(iterations - 1):
        oracle.begin(t)
        state = method.step(oracle, at, oracle.pool, state).state
    if replicas is not None:
        oracle = Oracle(moved, replicas=replicas, seeds=range(setting.seed, setting.seed + replicas))
        at, state = map_tensors(lambda x: x.expand(replicas, *x.shape), (at, state))
    oracle.begin(iterations)
    return np.asarray(method.step(oracle, at, oracle.pool, state).direction["phi"].cpu().numpy())


# ---- the cells


def _over_K(theory: QuadraticTheory, phi: Array, steps: tuple[int, ...], unrolled: Unrolled) -> list[Cell]:
    """Estimators composed with K lower steps of size 1 / L."""
    exact = ConjugateGradient(2 * len(phi))
    found = []
    for K in steps:
        E = theory.contraction(K, ALPHA)
        v = np.linalg.solve(theory.A, laws.upper_slope(theory, laws.moved(theory, phi, E))[..., None])[..., 0]
        whole, theta = laws.unrolled(theory, phi, E), laws.moved(theory, phi, E)
        ball = laws.unrolled(theory, phi, laws.heavy_ball(theory, K, ALPHA, MOMENTUM))
        descent, rolling = GradientDescent(K, ALPHA), HeavyBall(K, ALPHA, MOMENTUM)
        found += [
            Cell("implicit", K, Composed(lower=descent, estimator=Implicit(exact)), laws.implicit(theory, phi, v)),
            Cell("unrolled", K, Composed(lower=descent, estimator=unrolled), whole),
            Cell("checkpointed", K, Composed(lower=descent, estimator=Checkpointed()), whole),
            Cell("forward mode", K, Composed(lower=descent, estimator=ForwardMode()), whole),
            Cell("Hessian-free", K, Composed(lower=descent, estimator=HessianFree(RADIUS)), whole),
            Cell("heavy ball", K, Composed(lower=rolling, estimator=Unrolled()), ball),
            Cell(
                "truncated",
                K,
                Composed(lower=descent, estimator=Unrolled(last=LAST)),
                laws.truncated(theory, phi, K, LAST, ALPHA),
            ),
            Cell(
                "first order",
                K,
                Composed(lower=descent, estimator=FirstOrder()),
                laws.through(theory, phi, theta, theory.gain),
            ),
        ]
        if K <= 20:  # reversing divides by gamma^K
            found.append(Cell("heavy ball, reversed", K, Composed(lower=rolling, estimator=Reversed()), ball))
    return found


def _over_N(theory: QuadraticTheory, phi: Array, steps: tuple[int, ...]) -> list[Cell]:
    """Linear solvers of N steps after K lower steps that leave theta at rounding."""
    theta = laws.moved(theory, phi, theory.contraction(400, ALPHA))
    b = laws.upper_slope(theory, theta)
    descent, found = GradientDescent(400, ALPHA), []
    for N in steps:
        solvers = (
            ("CG", ConjugateGradient(N), laws.krylov(theory, b, N)),
            ("Neumann", Neumann(N, ALPHA), laws.apply(laws.series(theory, N + 1, ALPHA), b)),
            ("Richardson", Richardson(N, ALPHA), laws.apply(laws.series(theory, N, ALPHA), b)),
        )
        found += [
            Cell(name, N, Composed(lower=descent, estimator=Implicit(solver)), laws.implicit(theory, phi, v))
            for name, solver, v in solvers
        ]
    return found


def _random(setting: Setting, problem: Quadratic, theory: QuadraticTheory, phi: Array) -> Evidence:
    """Independent directions of the estimators and methods that draw numbers, and what they are in the mean."""
    K, terms, count = 5, 8, setting.pick(4000, 40_000)
    E = theory.contraction(K, ALPHA)
    b = laws.upper_slope(theory, laws.moved(theory, phi, E))
    descent = GradientDescent(K, ALPHA)
    sampled = Implicit(RandomNeumann(terms, ALPHA), fresh_products=True)
    v = laws.apply(laws.series(theory, terms, ALPHA), b)
    cells = [
        Cell(
            "forward gradient", 1, Composed(lower=descent, estimator=ForwardGradient()), laws.unrolled(theory, phi, E)
        ),
        Cell("sampled Neumann", 1, Composed(lower=descent, estimator=sampled), laws.implicit(theory, phi, v)),
        *_named(setting, theory, problem, phi, sampled=True),
    ]
    found = [
        _samples(setting, problem, cell.method, phi, cell.count, replicas=count)
        for cell in setting.track(cells, "directions at random")
    ]
    return {
        "random_names": np.array([cell.name for cell in cells]),
        "random_d": np.stack(found),
        "random_law": np.stack([cell.law for cell in cells]),
    }


def _factors(e: Evidence, true: Array) -> Evidence:
    """By how much |d - grad Phi| falls with each lower step, or with each step for v, between the last two counts."""
    found = {}
    for kind, names in (
        ("K", ("implicit", "unrolled", "forward mode", "first order")),
        ("N", ("Neumann", "Richardson")),
    ):
        for name in names:
            own = e[f"{kind}_names"] == name
            (first, last), counts = np.linalg.norm(e[f"{kind}_d"][own][-2:] - true, axis=1), e[f"{kind}_counts"][own]
            found[name] = (last / first) ** (1 / (counts[-1] - counts[-2]))
    slowest = 1 - 1 / KAPPA
    return {
        "factor_names": np.array(list(found)),
        "factor": np.array(list(found.values())),
        "factor_law": np.array([1.0 if name == "first order" else slowest for name in found]),
    }


def _by_name(setting: Setting, problem: Quadratic, theory: QuadraticTheory, phi: Array) -> Evidence:
    """Every method of the catalogue that has what it needs in a quadratic problem, and whose formula is not a mean."""
    cells = _named(setting, theory, problem, phi, sampled=False)
    found = [
        _direction(setting, problem, cell.method, phi, cell.count) for cell in setting.track(cells, "methods by name")
    ]
    return _columns("methods", cells, found)


def _named(setting: Setting, theory: QuadraticTheory, problem: Quadratic, phi: Array, *, sampled: bool) -> list[Cell]:
    cells = []
    for name, make in methods_on(setting).items():
        has = inspect.signature(make).parameters
        method: Any = make(**{field: value for field, value in FIELDS.items() if field in has})
        known = all(need.met(problem) for need in getattr(method, "needs", ()))
        if known and method.declared.estimates.startswith("sampled") is sampled:
            law = laws.LAWS[method.declared.estimates](theory, phi, method)
            cells.append(Cell(name, SETTLED if method.declared.warm else 1, method, law))
    return cells
