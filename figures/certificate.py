"""The certificate beside the true error, and the oracle calls that it saves where the lower level starts cold."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, diagonal, key, legend, level, measured, panels
from figures.style import BLUE, FAMILIES, VERMILION, Evidence, Series, paper_style

TARGET = 1e-8
ADAPTIVE = Series(BLUE, "o", "certified")
FIXED = Series(VERMILION, "s", "best fixed $K, N$")


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: the true error over the certificate; b, c: |grad Phi|^2 over oracle calls, cold and warm."""
    figure, (scatter, cold, warm) = panels(1, 3, height=3.0)
    _instances(scatter, evidence)
    for axes, name in ((cold, "cold"), (warm, "warm")):
        _race(axes, evidence, name)
    return figure


def _instances(axes: Axes, evidence: Evidence) -> None:
    names = [str(name) for name in evidence["names"]]
    code = evidence["cells"][:, 0].astype(int)
    # Equal to rounding, where theta and v are exact: no point on logarithmic axes
    shown = evidence["error"] > 1e-9 * (1 + evidence["size"])
    for family, starts in GROUPS.items():
        own = shown & np.isin(code, [k for k, name in enumerate(names) if name.startswith(starts)])
        if own.any():
            factor = np.median(evidence["error"][own] / evidence["certified"][own])
            label = f"{family.label}, median {100 * factor:.0f} %"
            measured(axes, evidence["certified"][own], evidence["error"][own], family, label=label, size=3)
    describe(axes, x="certificate", y=r"error $\|d - \nabla\Phi\|$", logarithmic="xy")
    diagonal(axes, evidence["certified"][shown])
    legend(axes, dashed("certificate: 100 %"), columns=1)


GROUPS = {
    FAMILIES["quadratic"]: ("quadratic", "kappa", "proximal"),
    FAMILIES["logistic"]._replace(label="heads"): ("prox-",),
    FAMILIES["huber"]._replace(label="worst cases"): ("huber", "plateau", "zigzag", "power", "log"),
}


def _race(axes: Axes, evidence: Evidence, start: str) -> None:
    kappa = evidence["kappas"].max()
    for kind, series in (("adaptive", ADAPTIVE), ("fixed", FIXED)):
        spent, squares = (evidence[f"{start}_{kind}_{what}_{kappa:g}"] for what in ("spent", "squares"))
        axes.plot(spent, squares, color=series.colour, marker=series.marker, markerfacecolor="white")
    level(axes, TARGET)
    best = [f"{evidence[f'{start}_best_{letter}'][int(np.argmax(evidence['kappas']))]:g}" for letter in "KN"]
    describe(axes, x=f"oracle calls a task, {start} start", y=r"$\|\nabla\Phi\|^2$", logarithmic="y")
    fixed = FIXED._replace(label=f"best fixed: $K = {best[0]}, N = {best[1]}$")
    legend(axes, key(ADAPTIVE), key(fixed), dashed("target"), columns=1)
