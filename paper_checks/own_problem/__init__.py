"""The claims that can be stated of a problem of one's own: each judges that problem, under the name of the claim."""

from types import ModuleType

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


def lacks(name: str, problem: Problem) -> str:
    """Why this claim says nothing of the problem, in a sentence; "" where it judges it.

    Raises ValueError where the problem is none that can be run.
    """
    require(problem)
    return _LACKS[name](problem) if name in _LACKS else f"{name} is not stated of a problem of one's own"


__all__ = ["CLAIMS", "lacks"]
