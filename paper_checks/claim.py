"""What a claim is: a statement, a run that measures, a judge that compares, and a control that must fail."""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import ModuleType
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import scipy  # whose submodules are imported when they are first used

from convergence import MemoryReduced, ReferenceFailed, RunFailed
from convergence.budget import TooLittleMemory
from convergence.files import NotWritten
from convergence.imported import RAISED, said
from convergence.rates import Mean, Slope, hotelling
from convergence.training import TrainingFailed
from paper_checks.cells import CellChanged, Cells
from problems import Problem

Array = npt.NDArray[Any]
Evidence = dict[str, Array]  # named arrays: all that judge and figure may look at
Scale = Literal["smoke", "paper"]
P = ParamSpec("P")
T = TypeVar("T")
ALGORITHM = ("lower_steps", "lower_step_size", "cg_steps", "upper_step_size", "warm_start")  # fields of the paper's
DECLARED = "declared"  # what a method says of itself
_OF_THE_MACHINE = (TooLittleMemory, NotWritten, CellChanged)  # and not of what is judged
_FAILURES = (RunFailed, ReferenceFailed, TrainingFailed)  # of a run, not of the code that runs it


class Outcome(StrEnum):
    """What a check says. INCONCLUSIVE: measured too coarsely to tell, never a polite VIOLATED."""

    HOLDS = "HOLDS"
    VIOLATED = "VIOLATED"
    INCONCLUSIVE = "INCONCLUSIVE"


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """VIOLATED over INCONCLUSIVE over HOLDS; INCONCLUSIVE where there is nothing to judge."""
    outcomes = list(outcomes)
    for outcome in (Outcome.VIOLATED, Outcome.INCONCLUSIVE):
        if outcome in outcomes:
            return outcome
    return Outcome.HOLDS if outcomes else Outcome.INCONCLUSIVE


def silent(what: str) -> None:
    """Hear nothing of what is being measured."""


@dataclass(frozen=True)
class Setting:
    """How a claim is run: `scale`, `seed`, `device`, and the `method` and `problem` under judgement.

    `memory` is a budget for every run of `convergence.run`, such as "2GiB".
    `method` is called with lower_steps, lower_step_size, cg_steps, upper_step_size, warm_start.
    `problem` makes the problem that the claims of `paper_checks.own_problem` judge; the others choose theirs.
    `report` hears what is being measured, see `track`; `cells` is where it is kept, see `kept`.
    """

    scale: Scale = "smoke"
    seed: int = 0
    device: str = "cpu"
    method: Callable[..., Any] = MemoryReduced
    problem: Callable[[], Problem] | None = None
    memory: str | None = None
    report: Callable[[str], None] = field(default=silent, repr=False, compare=False)
    cells: Cells | None = field(default=None, repr=False, compare=False)

    @property
    def own(self) -> Any:
        """The method, or what makes the problem, that somebody brought along; None where there is neither."""
        return self.problem if self.method is MemoryReduced else self.method

    def starting(self, warm: bool | Literal["theta"]) -> Callable[..., Any]:
        """What makes the method that is to start so.

        `warm_start="theta"` is no line of the pseudo-code: where the method under judgement is not derived from
        `MemoryReduced`, which knows it, the runs that need it are those of `MemoryReduced` itself.
        """
        knows = isinstance(self.method, type) and issubclass(self.method, MemoryReduced)
        return self.method if knows or isinstance(warm, bool) else MemoryReduced

    def pick(self, smoke: T, paper: T) -> T:
        """The value for this scale."""
        return smoke if self.scale == "smoke" else paper

    def track(self, cells: Sequence[T], what: str) -> Iterator[T]:
        """The cells one by one; before each, `report` hears which it is: a claim's progress."""
        for k, cell in enumerate(cells, 1):
            self.report(f"{what}, {k} of {len(cells)}")
            yield cell

    def kept(self, measure: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """measure(*arguments, **options): arrays, numbers and strings in dicts, lists and tuples.

        For what takes a minute at paper scale: a run that goes on does not measure it again, see `cells.Cells`.
        """
        if self.cells is None:
            return measure(*arguments, **options)
        return self.cells.kept(measure, *arguments, **options)

    def within(self, part: str) -> Setting:
        """The same for a part of a claim, which keeps what it measures apart from that of others."""
        return replace(self, cells=self.cells and self.cells.within(part))


def title_of(make: Any) -> str:
    """`module:Class` of a class or function, or what it says of itself."""
    name = getattr(make, "__qualname__", None)
    return str(make) if name is None else f"{make.__module__}:{name}"


@dataclass(frozen=True)
class Comparison:
    """One measured number beside its prediction; `cell` says where in the evidence the worst one was found."""

    quantity: str
    measured: float
    relation: str
    predicted: float
    outcome: Outcome
    reason: str
    interval: tuple[float, float] | None = None
    cell: str = ""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim: the worst of its comparisons, the headline being the first that decided it."""

    claim: str
    comparisons: tuple[Comparison, ...]
    control: tuple[Comparison, ...]
    seconds: float
    setting: Setting
    failure: str = ""  # why the run itself ended, where it did

    @property
    def control_outcome(self) -> Outcome:
        """Must be VIOLATED: a check that cannot fail proves nothing."""
        return worst(c.outcome for c in self.control)

    @property
    def outcome(self) -> Outcome:
        """HOLDS only where every comparison holds and the control was caught."""
        if self.failure:
            return Outcome.VIOLATED
        found = worst(c.outcome for c in self.comparisons)
        caught = self.control_outcome is Outcome.VIOLATED
        return found if found is not Outcome.HOLDS or caught else Outcome.INCONCLUSIVE

    @property
    def headline(self) -> Comparison | None:
        """The first comparison with the outcome of the whole, else the first."""
        deciding = [c for c in self.comparisons if c.outcome is self.outcome]
        return next(iter(deciding or self.comparisons), None)

    @property
    def reason(self) -> str:
        """One sentence."""
        if self.failure:
            return self.failure
        if not self.comparisons:
            return "nothing was compared"
        decided = worst(c.outcome for c in self.comparisons)
        if decided is not Outcome.HOLDS:
            return "; ".join(f"{c.quantity}: {c.reason}" for c in self.comparisons if c.outcome is decided)
        if self.outcome is not Outcome.HOLDS:
            return "the control was not caught: this check cannot fail, so that it holds says nothing"
        return f"all {len(self.comparisons)} comparisons hold; the control came out VIOLATED, as it must"

    def record(self) -> dict[str, Any]:
        """The entry of verdicts.json."""
        headline = self.headline
        return {
            "claim": self.claim,
            "outcome": self.outcome.value,
            "measured": _finite(headline.measured) if headline else None,
            "predicted": _finite(headline.predicted) if headline else None,
            "interval": _ends(headline.interval) if headline else None,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "scale": self.setting.scale,
            "device": self.setting.device,
            "seed": self.setting.seed,
            "method": title_of(self.setting.method),
            "problem": None if self.setting.problem is None else title_of(self.setting.problem),
            "control": self.control_outcome.value,
            "comparisons": [_record(c) for c in self.comparisons],
            "control_comparisons": [_record(c) for c in self.control],
        }


@dataclass(frozen=True)
class Claim:
    """A statement of the theory that one command accepts or rejects.

    `run` gathers evidence, `judge` turns it into comparisons and looks at nothing else, `control` gathers the
    evidence of a planted error, named by `planted`, on which `judge` must say VIOLATED.
    The sections of the module's docstring are the text of the claim: see `sections`.
    `asks` names the fields and attributes that a method of one's own must have to be judged by it, or says which
    methods alone are judged.
    """

    name: str
    title: str
    sections: Mapping[str, str]
    run: Callable[[Setting], Evidence] = field(repr=False)
    judge: Callable[[Evidence], list[Comparison]] = field(repr=False)
    control: Callable[[Setting], Evidence] = field(repr=False)
    planted: str = ""
    asks: tuple[str, ...] | str = ALGORITHM

    @classmethod
    def of(cls, module: ModuleType) -> Claim:
        """The claim that a module of this folder states: its docstring, run, judge, control, PLANTED, perhaps ASKS."""
        title, sections = parse(inspect.getdoc(module) or "")
        name = module.__name__.rpartition(".")[2]
        asks = getattr(module, "ASKS", ALGORITHM)
        return cls(name, title, sections, module.run, module.judge, module.control, module.PLANTED, asks)

    def verdict(self, setting: Setting) -> tuple[Verdict, Evidence]:
        """Run the claim and its control, judge both. A run that fails counts as VIOLATED, with its status.

        A method or a problem of somebody's own that raises anything else leaves the claim INCONCLUSIVE.
        """
        began = time.perf_counter()
        evidence: Evidence = {}
        comparisons: list[Comparison] = []
        failure = ""
        try:
            evidence = self.run(setting.within("run"))
            comparisons = self.judge(evidence)
        except _FAILURES as error:
            failure = f"the run ended with {error}"
        except RAISED as error:
            if setting.own is None or isinstance(error, _OF_THE_MACHINE):
                raise
            comparisons = [missing("the run", math.nan, f"could not be judged: it raised {said(error)}")]
        try:
            # Its errors are its own
            control = self.judge(self.control(replace(setting.within("control"), method=MemoryReduced)))
        except _FAILURES as error:
            control = [_compare("the control's run", math.nan, "finishes", 0.0, Outcome.VIOLATED, str(error))]
        except RAISED as error:
            if setting.problem is None or isinstance(error, _OF_THE_MACHINE):
                raise
            control = [missing("the control's run", math.nan, f"could not be judged: it raised {said(error)}")]
        seconds = time.perf_counter() - began
        return Verdict(self.name, tuple(comparisons), tuple(control), seconds, setting, failure), evidence


SECTIONS = ("Statement", "Hypotheses", "Predicted", "Measured", "Refuted by", "Source")


def parse(doc: str) -> tuple[str, dict[str, str]]:
    """The first line of a claim's docstring, and its sections `Statement.`, `Hypotheses.`, ... in order.

    Raises ValueError where a section is missing, so that no claim goes without its hypotheses.
    """
    title, _, body = doc.partition("\n")
    pieces = re.split(rf"^({'|'.join(SECTIONS)})\.\s+", body, flags=re.MULTILINE)
    sections = {name: " ".join(text.split()) for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}
    if missing := [name for name in SECTIONS if not sections.get(name)]:
        raise ValueError(f"expected a claim's docstring with the sections {', '.join(SECTIONS)}; missing {missing}")
    return title.rstrip("."), sections


# ---- comparisons: each takes one number or arrays of cells, and reports the worst cell


def equal(
    quantity: str,
    measured: npt.ArrayLike,
    predicted: npt.ArrayLike,
    *,
    relative: float = 0.0,
    absolute: float = 0.0,
    cells: Iterable[object] | None = None,
) -> Comparison:
    """|measured - predicted| <= relative |predicted| + absolute in every cell: the prediction is attained.

    With a trailing axis beyond `cells`' one, vectors are compared by norm.
    """
    measured, predicted = np.broadcast_arrays(np.asarray(measured, float), np.asarray(predicted, float))
    measured, predicted = np.atleast_1d(measured), np.atleast_1d(predicted)
    gap = np.abs(measured - predicted)
    if measured.ndim > 1:
        gap, measured, predicted = (np.linalg.norm(x, axis=-1) for x in (measured - predicted, measured, predicted))
    allowed = relative * np.abs(predicted) + absolute
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(allowed > 0, gap / allowed, np.where(gap > 0, np.inf, 0))
        excess = np.where(np.isfinite(gap), ratio, np.inf)
    k = int(np.argmax(excess))
    scale = abs(predicted[k]) if relative else 1.0
    kind = "relative" if relative else "absolute"
    size = gap[k] / scale if scale else gap[k]
    good = bool(excess[k] <= 1)
    limit = relative or absolute
    said = f"{'attained' if good else 'missed'}: {kind} difference {size:.1e}, allowed {limit:.0e}"
    relation = "=" if limit == 0 else f"= within {limit:.0e} {'relative' if relative else ''}".rstrip()
    return _compare(
        quantity, measured[k], relation, predicted[k], _holds(good), said, cell=_cell(cells, k, excess.size)
    )


def at_most(
    quantity: str, measured: npt.ArrayLike, bound: npt.ArrayLike, *, cells: Iterable[object] | None = None
) -> Comparison:
    """measured <= bound in every cell: consistent with a bound. The maximum is judged, never an average."""
    return _bounded(
        quantity, measured, "<=", bound, ("consistent with the bound, largest", "exceeds the bound, largest"), cells
    )


def at_least(
    quantity: str, measured: npt.ArrayLike, bound: npt.ArrayLike, *, cells: Iterable[object] | None = None
) -> Comparison:
    """measured >= bound in every cell."""
    return _bounded(quantity, measured, ">=", bound, ("reached, smallest", "falls short, smallest"), cells)


def _bounded(
    quantity: str,
    measured: npt.ArrayLike,
    relation: Literal["<=", ">="],
    bound: npt.ArrayLike,
    said: tuple[str, str],
    cells: Iterable[object] | None,
) -> Comparison:
    measured, bound = (x.ravel() for x in np.broadcast_arrays(np.asarray(measured, float), np.asarray(bound, float)))
    excess = measured - bound if relation == "<=" else bound - measured
    excess = np.where(np.isfinite(measured), excess, np.inf)
    k = int(np.argmax(excess))
    good = bool(excess[k] <= 0)
    reason = f"{said[0] if good else said[1]} of {measured.size}"
    return _compare(quantity, measured[k], relation, bound[k], _holds(good), reason, cell=_cell(cells, k, excess.size))


def mean_equals(
    quantity: str,
    measured: list[Mean],
    predicted: npt.ArrayLike,
    *,
    cells: Iterable[object] | None = None,
    limit: float = 4.0,
    precision: float = 0.02,
) -> Comparison:
    """|z| <= limit in every cell, where the standard error is <= precision of the prediction; else INCONCLUSIVE.

    |z| <= 4 keeps the chance that any of 150 right cells fails below 1 % (Bonferroni).
    """
    predicted = np.asarray(predicted, float)
    z = np.array([mean.z(value) for mean, value in zip(measured, predicted, strict=True)])
    coarse = np.array([mean.standard_error / value for mean, value in zip(measured, predicted, strict=True)])
    k = int(np.argmax(np.where(np.isfinite(z), np.abs(z), np.inf)))
    mean = measured[k]
    interval = (mean.value - limit * mean.standard_error, mean.value + limit * mean.standard_error)
    if not abs(z[k]) <= limit:
        outcome, said = Outcome.VIOLATED, f"misses the exact moment: z = {z[k]:+.1f}, allowed {limit:.0f}"
    elif not (coarse <= precision).all():
        outcome = Outcome.INCONCLUSIVE
        said = f"standard error {coarse.max():.1%} of the prediction, needed {precision:.0%}: more seeds or iterations"
    else:
        outcome = Outcome.HOLDS
        said = (
            f"attained: largest |z| = {abs(z[k]):.1f} of {z.size} cells, allowed {limit:.0f}; "
            f"standard errors <= {coarse.max():.1%}"
        )
    relation = f"= within {limit:.0f} standard errors"
    return _compare(quantity, mean.value, relation, predicted[k], outcome, said, interval, _cell(cells, k, z.size))


def mean_vector_equals(
    quantity: str,
    samples: npt.ArrayLike,
    predicted: npt.ArrayLike,
    *,
    cells: Iterable[object] | None = None,
    significance: float = 1e-6,
) -> Comparison:
    """Independent samples (cells, n, p) have the mean predicted, (p,): Hotelling's T^2 of each cell within its limit.

    VIOLATED where a right mean would come out this far off with a probability below `significance`, where the samples
    do not vary in all directions, and where one is not finite.
    """
    if not np.isfinite(samples).all():
        return _compare(quantity, math.nan, "<=", math.inf, Outcome.VIOLATED, "a sample is not finite")
    found = [hotelling(each, predicted, significance=significance) for each in np.asarray(samples, float)]
    k = int(np.argmax([each.statistic for each in found]))
    statistic, limit = found[k]
    good = statistic <= limit
    said = f"T^2 {'within' if good else 'beyond'} what a right mean exceeds with probability {significance:.0e}"
    if math.isinf(statistic):
        said = "singular covariance: the samples do not vary in all directions"
    return _compare(quantity, statistic, "<=", limit, _holds(good), said, cell=_cell(cells, k, len(found)))


def mean_at_least(
    quantity: str, samples: npt.ArrayLike, bound: float, *, confidence: float = 0.95, whole: bool = False
) -> Comparison:
    """The mean of independent samples (n,) reaches the bound; Student's interval of the mean is reported.

    With `whole` it is the interval that must lie above the bound: INCONCLUSIVE where it contains the bound.
    """
    samples = np.asarray(samples, float)
    mean = float(samples.mean())
    half = math.inf
    if len(samples) > 1:
        half = float(scipy.stats.t.ppf(0.5 + confidence / 2, len(samples) - 1) * scipy.stats.sem(samples))
    interval = (mean - half, mean + half)
    said = f"mean of {len(samples)}, {confidence:.1%} interval [{interval[0]:.4g}, {interval[1]:.4g}]"
    outcome = _holds(mean >= bound)
    if whole and interval[0] < bound <= interval[1]:
        outcome, said = Outcome.INCONCLUSIVE, f"{said}, which contains the bound: more samples"
    return _compare(quantity, mean, ">=", bound, outcome, said, interval)


def missing(quantity: str, predicted: float, reason: str) -> Comparison:
    """INCONCLUSIVE: nothing was measured, for a reason that says what would change that."""
    return _compare(quantity, math.nan, "=", predicted, Outcome.INCONCLUSIVE, reason)


def slope_is(quantity: str, slope: Slope, value: float, *, half_width: float) -> Comparison:
    """The slope's interval contains the value, and is no wider than asked; a wide one is INCONCLUSIVE."""
    interval = (slope.low, slope.high)
    if not slope.low <= value <= slope.high:
        outcome, said = Outcome.VIOLATED, f"the interval [{slope.low:.4f}, {slope.high:.4f}] excludes {value}"
    elif slope.half_width > half_width:
        outcome = Outcome.INCONCLUSIVE
        said = f"half-width {slope.half_width:.3f}, needed {half_width}: more seeds or iterations"
    else:
        outcome, said = (
            Outcome.HOLDS,
            f"the interval contains {value}; half-width {slope.half_width:.4f} <= {half_width}",
        )
    return _compare(quantity, slope.value, "= within its interval", value, outcome, said, interval)


def slope_at_most(quantity: str, slope: Slope, value: float, *, half_width: float) -> Comparison:
    """Not all of the slope's interval lies above the value: consistent with the bound; a wide one is INCONCLUSIVE."""
    interval = (slope.low, slope.high)
    if not slope.low <= value:
        outcome, said = Outcome.VIOLATED, f"the interval [{slope.low:.4f}, {slope.high:.4f}] lies above {value:.4g}"
    elif slope.half_width > half_width:
        outcome = Outcome.INCONCLUSIVE
        said = f"half-width {slope.half_width:.3f}, needed {half_width}: more seeds or iterations"
    else:
        outcome = Outcome.HOLDS
        said = f"consistent with {value:.4g}; half-width {slope.half_width:.4f} <= {half_width}"
    return _compare(quantity, slope.value, "<= within its interval", value, outcome, said, interval)


def _compare(
    quantity: str,
    measured: float,
    relation: str,
    predicted: float,
    outcome: Outcome,
    reason: str,
    interval: tuple[float, float] | None = None,
    cell: str = "",
) -> Comparison:
    return Comparison(quantity, float(measured), relation, float(predicted), outcome, reason, interval, cell)


def _holds(good: bool) -> Outcome:
    return Outcome.HOLDS if good else Outcome.VIOLATED


def _cell(cells: Iterable[object] | None, k: int, count: int) -> str:
    if cells is None:
        return "" if count == 1 else f"{k + 1} of {count}"
    return str(list(cells)[k])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _ends(interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if interval is None else [_finite(end) for end in interval]


def _record(comparison: Comparison) -> dict[str, Any]:
    return {
        "quantity": comparison.quantity,
        "measured": _finite(comparison.measured),
        "relation": comparison.relation,
        "predicted": _finite(comparison.predicted),
        "interval": _ends(comparison.interval),
        "outcome": comparison.outcome.value,
        "reason": comparison.reason,
        "cell": comparison.cell,
    }
