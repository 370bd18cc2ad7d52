"""Error of the hypergradient: attained on the tight instance, known exactly on quadratics, else below its bound."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import below_bound, by_condition_number, dashed, describe, diagonal, legend, measured, panels
from figures.style import BLUE, FAMILIES, Evidence, Series, paper_style

ROUNDING = 1e-12  # of |grad Phi|: what the claim allows
NAMES = ("quadratic", "proximal", "logistic", "softmax")  # by the code in the evidence


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: error over K on the tight instance; b: the exact identity; c: measured / bound on random instances."""
    e = evidence
    figure, (tight, identity, ratio) = panels(1, 3, height=3.1)
    by_condition_number(tight, e["tight_kappa"], e["tight_K"], e["tight_error"], e["tight_law"])
    describe(tight, x="lower steps $K$", y=r"error $\|d - \nabla\Phi\|$", logarithmic="y")
    legend(tight, dashed(r"$D_0 \varrho^K / \mu$"))
    _identity(identity, evidence)
    _ratio(ratio, evidence)
    return figure


def _identity(axes: Axes, evidence: Evidence) -> None:
    d, law = evidence["identity_measured"], evidence["identity_predicted"]
    measured(axes, law.ravel(), d.ravel(), Series(BLUE, ".", f"{len(d)} random quadratics"))
    diagonal(axes, law)
    describe(axes, x="predicted entry of $d$", y="measured entry of $d$")
    legend(axes, dashed("exact identity"), columns=1)


def _ratio(axes: Axes, evidence: Evidence) -> None:
    excess = evidence["bound_error"] - ROUNDING * evidence["bound_gradient"]
    families = [FAMILIES[name] for name in NAMES]
    below_bound(axes, families, evidence["bound_family"], excess / evidence["bound"])
    legend(axes, dashed("bound"), columns=1)
