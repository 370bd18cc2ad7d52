"""The bounds that `python -m paper_checks falsify` searches, by the claim that states them.

Not here: worst_case_sdp, whose dual solution proves its bound; claims that state equalities alone; Lemma 2, whose sup
over all phi no finite search covers; the accuracy of certified runs, which follows from the certificate (searched).
"""

from pathlib import Path

from paper_checks.bounds import batches, heads, profiles, runs, steps
from paper_checks.falsify import Bound

BOUNDS: dict[str, tuple[Bound, ...]] = {**steps.BOUNDS, **runs.BOUNDS, **profiles.BOUNDS, **batches.BOUNDS}
for claim, more in heads.BOUNDS.items():
    BOUNDS[claim] += more
# Claims that rest on the same theorem: a bound on a sum is one on a hitting time, a bound on an average one on samples
BOUNDS["deterministic_exact"] = BOUNDS["complexity"] = BOUNDS["lyapunov_decrease"]
BOUNDS["sample_complexity"] = BOUNDS["batch_size_decay"]

WORST = Path(__file__).parent.parent / "worst"  # the worst instances found so far, a file a claim


def worst_file(claim: str) -> Path:
    """Where the worst instances found for the bounds of this claim are kept."""
    stated_by = next(name for name, bounds in BOUNDS.items() if bounds is BOUNDS[claim])
    return WORST / f"{stated_by}.json"
