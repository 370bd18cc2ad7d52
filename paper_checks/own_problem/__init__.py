"""The claims that can be stated of a problem of one's own: each judges that problem, under the name of the claim."""

from types import ModuleType
from weakref import WeakValueDictionary

from paper_checks.claim import Claim
from paper_checks.own_problem import (
    algorithm_replay,
    batch_size_decay,
    cg_rate,
    complexity,
    contract,
    deterministic_exact,
    hypergradient_error,
    lyapunov_decrease,
    memory,
)
from paper_checks.own_problem.require import require
from problems import Problem

# One line makes a module a claim on an own problem; the order is that of the report.
MODULES: tuple[ModuleType, ...] = (
    contract,
    algorithm_replay,
    hypergradient_error,
    cg_rate,
    lyapunov_decrease,
    deterministic_exact,
    batch_size_decay,
    complexity,
    memory,
)
CLAIMS = {claim.name: claim for claim in map(Claim.of, MODULES)}
_LACKS = {name: module.lacks for name, module in zip(CLAIMS, MODULES, strict=True)}
# What the other claims judge: instances of their own, of which more is known than of a problem of one's own
OTHERS = {
    "certificate": "certified accuracies, against closed forms of quadratics and heads",
    "representation": "a shared linear representation, whose subspace of the optimum is known",
    "cold_start_floor": "floors of cold starts, which have a closed form on quadratics (see deterministic_exact)",
    "step_size_limit": "quadratics, whose limit of beta is a spectral radius",
    "itd_floor": "unrolled differentiation on quadratics, where its floor has a closed form",
    "growing_lower_steps": "quadratics and heads, at rates that their closed forms give",
    "sublinear_rate": "worst cases that attain c L_Phi Delta / T (lyapunov_decrease judges 2 V_0 / (beta T))",
    "worst_case_sdp": "the worst case over all problems, by semidefinite programmes",
    "sublinear_tail": "functions with tails of known powers",
    "stationary_moment": "quadratics, whose stationary moments solve a linear equation",
    "stale_warm_start": "quadratics, whose moments with stale theta solve a linear equation",
    "sample_complexity": "quadratics and heads, to an accuracy that their closed optima measure",
    "method_bias": "the bias of every method, which has a closed form on quadratics",
    "method_rates": "the rates of every method, on instances made for them",
    "method_comparison": "all methods side by side, on arenas of its own",
    "few_shot_cost": "few-shot networks on glyphs",
    "few_shot_assumption": "few-shot networks on glyphs",
    "few_shot_accuracy": "few-shot networks on glyphs",
    "counterexamples": "problems that break one assumption each",
}
_REQUIRED: WeakValueDictionary[int, Problem] = WeakValueDictionary()  # by id: a problem may be unhashable


def lacks(name: str, problem: Problem) -> str:
    """Why the claim of this name says nothing of the problem, in a sentence; "" where it judges it.

    Raises ValueError where the problem is none that can be run (`require`), and KeyError on a name that there is not.
    """
    if _REQUIRED.get(id(problem)) is not problem:
        require(problem)
        _REQUIRED[id(problem)] = problem
    if name in _LACKS:
        return _LACKS[name](problem)
    return f"{name} judges {OTHERS[name]}, and no problem of one's own"


__all__ = ["CLAIMS", "OTHERS", "lacks", "require"]
