"""The rate 1/T with the exact constants of its worst cases."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.marks import dashed, describe, dotted, groups, guide, key, measured, panels, predicted, shared_legend
from figures.style import BLACK, FAMILIES, Evidence, Series, condition_number, paper_style

NAMES = ("huber", "plateau", "zigzag")  # of the codes in evidence["family"]
SIZES = (6.0, 3.5, 1.0)  # of the markers, in points: one condition number inside the other, where they coincide


@paper_style()
def draw(evidence: Evidence) -> Figure:
    """a: the least |grad Phi|^2 / (L Delta) over T at h = 1; b: times T, so that the constants show; c: at h = 1/2."""
    figure, (rate, constant, half) = panels(1, 3, height=3.1)
    _families(rate, evidence, h=1.0, power=0)
    _families(constant, evidence, h=1.0, power=1)
    _families(half, evidence, h=0.5, power=1)
    families = [FAMILIES[NAMES[int(code)]] for code in np.unique(evidence["family"])]
    sizes = [
        key(Series(BLACK, "o", condition_number(kappa).label), size=SIZES[k])
        for k, kappa in enumerate(np.unique(evidence["kappa"]))
    ]
    lines = dashed("exact law of the family"), dotted(r"bound $2 \Delta / (\beta T)$")
    shared_legend(figure, *map(key, families), *sizes, *lines)
    return figure


def _families(axes: Axes, evidence: Evidence, *, h: float, power: int) -> None:
    """T^power min |grad Phi|^2 / (L Delta) at beta = h / L_Phi."""
    chosen = evidence["h"] == h
    T, least, law = (evidence[name][chosen] for name in ("T", "min", "law"))
    kappas = np.unique(evidence["kappa"])
    for (code, kappa), own in groups(evidence["family"][chosen], evidence["kappa"][chosen]):
        family = FAMILIES[NAMES[int(code)]]
        size = SIZES[int(np.searchsorted(kappas, kappa))]
        measured(axes, T[own], (T**power * least)[own], family, label="", size=size)
        predicted(axes, T[own], (T**power * law)[own], family.colour)
    horizons = np.unique(T)
    guide(axes, horizons, 2 / h * horizons ** (power - 1))
    quantity = r"T\, " * power + r"\min_{t<T} \|\nabla\Phi(\phi_t)\|^2 / (L_\Phi \Delta)"
    describe(axes, x="upper iterations $T$", y=f"${quantity}$", logarithmic="x" if power else "xy")
    axes.set_title(rf"$\beta = {h:g} / L_\Phi$")
