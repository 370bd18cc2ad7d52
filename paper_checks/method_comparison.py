"""Every method of the catalogue on the same problems, with the same budget: who is exact, and at which cost.

Statement.
    Under one count of oracle evaluations, memory-reduced meta-learning with a warm start attains the exact solution of
    problems with all tasks and exact objectives, with memory that is flat in K. So do the other methods that are
    declared exact; those that are not stop where their own formula says, whatever the budget. On real data its weights
    find the corrupted labels and what is learnt from them classifies better than what is learnt from all labels alike.
Hypotheses.
    All tasks in every iteration; quadratic levels, a shared linear representation whose heads have a learned start
    (both exact), logistic heads and hyper-cleaning of handwritten digits (finite sums seen through blocks of examples).
    One evaluation is the gradient, the product with the lower Hessian or the cross product of one example. Every method
    has the same K, as many products for v, the lower step 2 / (L + mu), and the upper step of one grid of multiples of
    1 / |d2 Phi(phi_0)| that has the smallest median |grad Phi|^2 after the budget, on seeds of its own. Multipliers,
    radii, periods and decays are the methods' defaults.
Predicted.
    |grad Phi|^2 <= 1e-20 for memory-reduced on both exact problems, and Phi <= 1e-20 where Phi* = 0; |grad Phi|^2 <=
    1e-8 of its start for all that are declared exact. The others settle at |grad Phi(phi~)|^2 with phi~ the zero of
    their declared law of the direction, which is affine in phi; where that law holds in expectation the mean of
    |grad Phi|^2 is at least that (Jensen). Peak bytes as declared: one integer for all K, or equal increments a lower
    step. Calls as declared, as integers.
Measured.
    |grad Phi|^2 and Phi by closed forms or damped Newton over 10 seeds or more, test accuracy and the area under the
    ROC curve of the weights along the runs, bytes of one iteration on logistic heads for four K; seconds of an
    iteration, which are shown and not judged.
Refuted by.
    One seed above its bound, a floor off its formula by 1e-6 (relative), a mean below it by four standard errors, one
    byte or one call off; digits: an area below 0.75 or 0.12 below the best method's, an accuracy not 0.05 above that of
    all labels alike or 0.1 below the best method's.
Source.
    docs/theory.md S11. The methods' sources are in docs/methods.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.optimize import root

from convergence import Oracle, peak_bytes
from convergence.declared import Declared
from convergence.needs import require
from convergence.oracle.parts import CALLS
from convergence.streams import generator
from paper_checks.arenas import arenas, digits, exact_arenas, without_weights
from paper_checks.centred_heads import CentredHeads
from paper_checks.claim import DECLARED, Array, Comparison, Evidence, Setting, at_least, at_most, equal
from paper_checks.contest import Arena, Make, iterations_for, race, trial, tuned
from paper_checks.method_laws import LAWS
from paper_checks.planted import ColdStart
from paper_checks.quadratic_theory import QuadraticTheory
from paper_checks.subject import methods_on
from problems import Quadratic

ASKS = (DECLARED,)
PLANTED = "theta and v started cold in every iteration of a method that is said to be warm"
OURS = "memory_reduced"
GRID = tuple(10.0 ** (k / 2) for k in range(-4, 3))  # of beta |d2 Phi(phi_0)|
MEMORY_K = (5, 10, 20, 40)
KNOWN = ("quadratic", "representation")  # arenas with exact objectives
EXACT, LEARNT = 1e-20, 0.05  # |grad Phi|^2 on those, and as a share of its start on the logistic heads
AUC = 0.75
CURVES = ("evaluations", "square", "gap", "auc", "accuracy")
RANDOM = "sampled_neumann"  # the law of a direction that is drawn: it holds in expectation


def run(setting: Setting) -> Evidence:
    """All methods on all problems."""
    problem = digits(setting)
    learnt = without_weights(problem)
    return _gather(setting, list(methods_on(setting)), arenas(setting)) | {
        f"cleaning_accuracy_{name}": np.array(accuracy) for name, accuracy in learnt.items()
    }


def control(setting: Setting) -> Evidence:
    """What the planted error changes: memory-reduced on the exact problems, and its memory."""
    return _gather(replace(setting, method=ColdStart), [OURS], exact_arenas(setting))


# ---- evidence


def _gather(setting: Setting, names: Sequence[str], fields: Sequence[Arena]) -> Evidence:
    makes = {name: _make(setting, name) for name in names}
    declared = {name: methods_on(setting)[name].declared for name in names}
    evidence: Evidence = {
        "methods": np.array(names),
        "titles": np.array([each.title for each in declared.values()]),
        "exact": np.array([each.exact for each in declared.values()]),
        "arenas": np.array([arena.name for arena in fields]),
        "grid": np.array(GRID),
        "auc_bound": np.array(AUC),
    }
    for arena in fields:
        evidence |= _contest(setting, arena, makes)
    return evidence | _floors(makes, declared, fields[0]) | _memory(setting, makes, declared)


def _make(setting: Setting, name: str) -> Make:
    """The constructor; of the paper's method that of the setting, warm."""
    if name != OURS:
        return methods_on(setting)[name]

    def ours(
        *, lower_steps: int, lower_step_size: float | None, cg_steps: int, upper_step_size: float | None
    ) -> object:
        return setting.method(
            lower_steps=lower_steps,
            lower_step_size=lower_step_size,
            cg_steps=cg_steps,
            upper_step_size=upper_step_size,
            warm_start=True,
        )

    return ours


def _contest(setting: Setting, arena: Arena, makes: dict[str, Make]) -> Evidence:
    """One row a method; a refused one has its sentence and no numbers."""
    tracked = setting.track(list(makes), f"methods on {arena.name}")
    cells = [setting.kept(_entry, setting, arena, makes[name]) for name in tracked]
    ran = [cell for cell in cells if "refused" not in cell]
    looks = max(len(cell["evaluations"]) for cell in ran)
    cells = [{name: _as_long(x, looks) if name in CURVES else x for name, x in cell.items()} for cell in cells]
    known = next(cell for cell in cells if "refused" not in cell)
    blank = {name: np.full_like(values, np.nan, dtype=float) for name, values in known.items()}
    rows = {name: np.stack([cell.get(name, blank[name]) for cell in cells]) for name in known}
    rows["gap"] -= min(0.0, float(np.nanmin(rows["gap"])))  # a run may find less than was known
    refused = np.array([str(cell.get("refused", "")) for cell in cells])
    bound = np.array(EXACT if arena.name in KNOWN else LEARNT * np.nanmedian(rows["square"][:, 0]))
    rounding = np.array(np.finfo(float).eps * abs(arena.best))
    rows |= {"refused": refused, "bound": bound, "rounding": rounding}
    return {f"{arena.name}_{name}": x for name, x in rows.items()}


def _as_long(values: Array, looks: int) -> Array:
    """A curve with fewer looks stays where it ends."""
    return np.concatenate([values, np.repeat(values[-1:], looks - len(values), axis=0)])


def _entry(setting: Setting, arena: Arena, make: Make) -> Evidence:
    if sentence := arena.refusal(make):
        return {"refused": np.array(sentence)}
    seeds, tuning_seeds = setting.pick((10, 4), (30, 10))
    evaluations, seconds = trial(arena, arena.build(make, min(GRID)), seed=setting.seed, device=setting.device)
    T = iterations_for(arena, evaluations)
    place, squares = tuned(arena, make, T, GRID, seed=setting.seed + 10_000, seeds=tuning_seeds, device=setting.device)
    found = race(arena, arena.build(make, GRID[place]), T, seed=setting.seed, replicas=seeds, device=setting.device)
    traces = {name: values for name, values in found.traces.items() if name not in ("grad_norm_sq", "value")}
    return {
        "evaluations": found.evaluations,
        "square": found.traces["grad_norm_sq"],
        "gap": found.traces["value"] - arena.best,
        **traces,
        "place": np.array(float(place)),
        "seconds": np.array(seconds),
        "iterations": np.array(float(found.result.iterations)),
        "counted": np.array([found.result.calls[name] for name in CALLS], float),
        "declared": np.array([found.declared[name] for name in CALLS], float),
        "tuning": squares[-2:],
    }


def _floors(makes: dict[str, Make], declared: dict[str, Declared], arena: Arena) -> Evidence:
    """|grad Phi|^2 and Phi - Phi* on the quadratic where the law that a method declares is zero; NaN where refused."""
    assert isinstance(arena.problem, Quadratic)
    theory, p = QuadraticTheory.of(arena.problem), arena.problem.p
    floors, gaps, random = [], [], []
    for name, make in makes.items():
        law = declared[name].estimates
        random.append(law == RANDOM)
        if arena.refusal(make):
            floors.append(math.nan)
            gaps.append(math.nan)
            continue
        limit = _limit(p, partial(LAWS[law], theory, method=arena.build(make, 1.0)))
        slope = theory.gradient(limit)
        floors.append(float(np.square(slope).sum()))
        gaps.append(float(slope @ np.linalg.solve(theory.upper_form[0], slope)) / 2)
    return {"floor": np.array(floors), "floor_gap": np.array(gaps), "random": np.array(random)}


def _limit(p: int, law: Callable[[Array], Array]) -> Array:
    """phi where the law is zero: affine laws at once, that of CG from there."""
    constant = law(np.zeros(p))
    matrix = np.stack([law(unit) - constant for unit in np.eye(p)], axis=1)
    return np.asarray(root(law, np.linalg.solve(matrix, -constant), tol=1e-14).x)


def _memory(setting: Setting, makes: dict[str, Make], declared: dict[str, Declared]) -> Evidence:
    """Peak bytes of an iteration on logistic heads over K, and the declared law; NaN where refused."""
    whole = CentredHeads.random(tasks=4, q=50, examples=30, seed=setting.seed)
    arena = Arena("heads", whole.to(setting.device), 1, 5, budget=0, points=2, scale=0.1, best=0.0)
    peaks = [
        [_peak(setting, replace(arena, lower_steps=K), makes[name]) for K in MEMORY_K]
        for name in setting.track(list(makes), "memory of methods")
    ]
    return {
        "memory_K": np.array(MEMORY_K),
        "memory_peak": np.array(peaks, float),
        "memory_law": np.array([each.memory for each in declared.values()]),
        "memory_cuda": np.array(setting.device.startswith("cuda")),
    }


def _peak(setting: Setting, arena: Arena, make: Make) -> float:
    """Of one iteration, after a first that fills the state and every cache."""
    method = arena.build(make, 1.0)
    try:
        require(method, arena.problem)
    except ValueError:
        return math.nan
    oracle = Oracle(arena.problem)
    phi = arena.problem.phi0(generator(setting.seed, "start"))
    state = method.step(oracle, phi, oracle.pool, method.start(oracle, phi)).state
    return peak_bytes(lambda: method.step(oracle, phi, oracle.pool, state), device=setting.device)


# ---- judgement


def judge(evidence: Evidence) -> list[Comparison]:
    """Exact ends, floors, calls, bytes, and what the weights of the digits are worth."""
    ours = evidence["methods"] == OURS
    quadratic = evidence["quadratic_square"]
    return [
        *(
            at_most(f"{name}: final |grad Phi|^2, memory-reduced", evidence[f"{name}_square"][ours, -1], EXACT)
            for name in KNOWN
        ),
        at_most("representation: final Phi - Phi*, memory-reduced", evidence["representation_gap"][ours, -1], EXACT),
        _exact_ends(evidence, quadratic),
        *_biased_ends(evidence),
        *_calls(evidence),
        *_bytes(evidence),
        *_logistic(evidence, ours),
        *_cleaning(evidence, ours),
    ]


def _exact_ends(e: Evidence, squares: Array) -> Comparison:
    own = e["exact"] & (e["quadratic_refused"] == "")
    ratio = (squares[own, -1] / squares[own, 0]).max(-1)
    return at_most("quadratic: final |grad Phi|^2 / first, declared exact", ratio, 1e-8, cells=e["titles"][own])


def _biased_ends(e: Evidence) -> list[Comparison]:
    """Those that settle, at any step of the grid, have settled at their floor."""
    biased = ~e["exact"] & (e["quadratic_refused"] == "")
    found = []
    settled, floors, cells = [], [], []
    for k in np.flatnonzero(biased & ~e["random"]):
        before, last = e["quadratic_tuning"][k].reshape(2, -1)
        finite = np.isfinite(before) & np.isfinite(last)
        still = finite & np.isclose(np.where(finite, last, 0), np.where(finite, before, 0), rtol=1e-8, atol=0)
        settled += last[still].tolist()
        floors += [e["floor"][k]] * int(still.sum())
        cells += [e["titles"][k]] * int(still.sum())
    if settled:
        found.append(
            equal("quadratic: |grad Phi|^2 where it settles, biased", settled, floors, relative=1e-6, cells=cells)
        )
        at_all = len(set(cells)) / (biased & ~e["random"]).sum()
        found.append(at_least("share of the biased methods that settle", at_all, 0.5))
    drawn = biased & e["random"]
    if drawn.any():
        last = e["quadratic_square"][drawn, -1]
        upper = last.mean(-1) + 4 * last.std(-1, ddof=1) / math.sqrt(last.shape[-1])
        found.append(
            at_least(
                "quadratic: mean |grad Phi|^2 + 4 s.e. / floor, drawn",
                upper / e["floor"][drawn],
                1.0,
                cells=e["titles"][drawn],
            )
        )
    return found


def _calls(e: Evidence) -> list[Comparison]:
    found = []
    for arena in e["arenas"]:
        ran = e[f"{arena}_refused"] == ""
        cells = [f"{title}, {call}" for title in e["titles"][ran] for call in CALLS]
        counted, declared = (e[f"{arena}_{name}"][ran].ravel() for name in ("counted", "declared"))
        found.append(equal(f"{arena}: oracle calls", counted, declared, cells=cells))
    return found


def _bytes(e: Evidence) -> list[Comparison]:
    """Flat: the same integer for all K. Linear: equal increments, which are more than none."""
    block = 512.0 if e["memory_cuda"] else 0.0  # the CUDA allocator rounds each tensor up to blocks
    measured = np.isfinite(e["memory_peak"]).all(-1)
    found = []
    if (flat := measured & (e["memory_law"] == "flat")).any():
        peak = e["memory_peak"][flat]
        cells = [f"{title}, K {K}" for title in e["titles"][flat] for K in e["memory_K"]]
        first = np.repeat(peak[:, :1], peak.shape[1], axis=1)
        found.append(equal("peak bytes for every K, declared flat", peak.ravel(), first.ravel(), cells=cells))
    if (linear := measured & (e["memory_law"] == "linear")).any():
        slopes = np.diff(e["memory_peak"][linear]) / np.diff(e["memory_K"])
        cells = e["titles"][linear].repeat(slopes.shape[1])
        first = np.repeat(slopes[:, :1], slopes.shape[1], axis=1)
        found += [
            equal(
                "bytes a lower step, declared linear", slopes.ravel(), first.ravel(), absolute=4 * block, cells=cells
            ),
            at_least("the least of them", slopes.min(), 8.0),
        ]
    return found


def _logistic(e: Evidence, ours: Array) -> list[Comparison]:
    """The median over the seeds: samples of fixed size leave a neighbourhood of the solution."""
    if "logistic" not in e["arenas"]:
        return []
    last = np.median(e["logistic_square"][ours, -1], axis=-1)
    return [at_most("logistic: final |grad Phi|^2, memory-reduced, median", last, e["logistic_bound"])]


def _cleaning(e: Evidence, ours: Array) -> list[Comparison]:
    """Medians over the seeds."""
    found: list[Comparison] = []
    if "cleaning" not in e["arenas"]:
        return found
    for name, least, behind in (("auc", AUC, 0.12), ("accuracy", float(e["cleaning_accuracy_all"]) + 0.05, 0.1)):
        medians = np.median(e[f"cleaning_{name}"][:, -1], axis=-1)
        best = float(np.nanmax(medians))
        found += [
            at_least(f"digits: {name}, memory-reduced", medians[ours], least),
            at_least(f"digits: {name}, memory-reduced, beside the best method's", medians[ours], best - behind),
        ]
    return found
