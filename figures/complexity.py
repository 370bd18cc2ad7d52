"""Upper iterations and oracle calls that reach a squared gradient norm of epsilon, and the calls as integers."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, diagonal, dotted, guide, legend, measured, panels, predicted
from figures.style import BLUE, FAMILIES, GREEN, VERMILION, Evidence, Series, paper_style


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: iterations over 1 / epsilon; b: oracle calls over 1 / epsilon; c: calls counted twice over what is stated."""
    figure, (iterations, calls, counts) = panels(1, 3, height=2.8)
    _iterations(iterations, evidence)
    _calls(calls, evidence)
    _counts(counts, evidence)
    return figure


def _iterations(axes: Axes, evidence: Evidence) -> None:
    e, huber, quadratic = evidence, FAMILIES["huber"], FAMILIES["quadratic"]
    measured(axes, 1 / e["huber_eps"], e["huber_hit"], huber)
    predicted(axes, 1 / e["huber_eps"], e["huber_law"], huber.colour)
    measured(axes, 1 / e["eps"], e["hit"], quadratic)
    predicted(axes, 1 / e["eps"], e["T_eps"], quadratic.colour)
    describe(axes, x=r"$1 / \epsilon$", y="upper iterations", logarithmic="xy")
    legend(axes, dashed("exact law", huber.colour), dashed(r"bound $T_\epsilon$", quadratic.colour))


def _calls(axes: Axes, evidence: Evidence) -> None:
    quadratic, x, calls = FAMILIES["quadratic"], 1 / evidence["eps"], evidence["calls_at_hit"]
    measured(axes, x, calls, quadratic)
    predicted(axes, x, calls / evidence["hit"] * evidence["T_eps"], quadratic.colour)
    ends = np.array([x.min(), x.max()])
    guide(axes, ends, np.exp(np.mean(np.log(calls) - np.log(x))) * ends)
    describe(axes, x=r"$1 / \epsilon$", y="oracle calls", logarithmic="xy")
    legend(axes, dashed(r"bound at $T_\epsilon$", quadratic.colour), dotted("slope 1"), columns=1)


def _counts(axes: Axes, evidence: Evidence) -> None:
    e = evidence
    measured(axes, e["declared"], e["counted"], Series(BLUE, "o", "by the oracle"))
    measured(axes, e["declared"][: len(e["evaluated"])], e["evaluated"], Series(VERMILION, "x", "by a quadratic"))
    measured(axes, e["graph_stated"], e["graph_evaluated"], Series(GREEN, "s", "by softmax heads"))
    diagonal(axes, np.append(e["declared"], e["graph_stated"]))
    describe(axes, x="stated calls", y="counted calls", counts="xy")
    legend(axes, dashed("as stated"), columns=1)
