"""The look of every figure: widths, sizes, colours and markers, and how a figure becomes files.

Nothing here changes matplotlib's settings on import: they hold inside `paper_style()` only.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite, log10
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy.typing as npt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from convergence.files import write_atomically

Array = npt.NDArray[Any]
Evidence = Mapping[str, Array]

COLUMN_WIDTH = 3.4  # inches; of two panels side by side, each has about this width, so that no text need shrink
FULL_WIDTH = 2 * COLUMN_WIDTH + 0.2  # both columns and the gap between them
EXACT = 1e-20  # a squared gradient norm that counts as zero, as in the claims
LABEL_SIZE = 9.0  # points at printed size
SMALL_SIZE = 8.0  # ticks, legends; nothing is smaller than 7

# Okabe and Ito's palette, told apart with any colour vision; its yellow is left out, too pale for thin lines
BLACK, GREY = "#000000", "#595959"  # a lighter grey is green to a deuteranope
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE = "#56B4E9", "#CC79A7"


def darker(colour: str) -> tuple[float, float, float]:
    """The shade in which the prediction of a series is drawn.

    >>> darker("#FF0000")
    (0.6, 0.0, 0.0)
    """
    red, green, blue = to_rgb(colour)
    return 0.6 * red, 0.6 * green, 0.6 * blue


class Series(NamedTuple):
    """How one series is drawn and called."""

    colour: str
    marker: str
    label: str


METHODS = {
    "memory_reduced": Series(BLUE, "o", "memory-reduced"),
    "unrolled": Series(VERMILION, "s", "unrolled"),
    # The catalogue: the colour says the family; a marker is shared by a dark and a light colour at most
    "aid_bio": Series(SKY, "P", "AID-BiO"),
    "imaml": Series(SKY, "v", "iMAML"),
    "itd_bio": Series(VERMILION, "s", "ITD-BiO"),
    "maml": Series(VERMILION, "x", "MAML"),
    "hf_maml": Series(VERMILION, "^", "HF-MAML"),
    "anil": Series(VERMILION, "D", "ANIL"),
    "boil": Series(VERMILION, "<", "BOIL"),
    "bsa": Series(PURPLE, "X", "BSA"),
    "stocbio": Series(PURPLE, "d", "stocBiO"),
    "ttsa": Series(PURPLE, ">", "TTSA"),
    "alset": Series(PURPLE, "p", "ALSET"),
    "soba": Series(GREEN, "*", "SOBA"),
    "stable": Series(GREEN, "h", "STABLE"),
    "saba": Series(ORANGE, "s", "SABA"),
    "srba": Series(ORANGE, "^", "SRBA"),
    "fomaml": Series(GREY, "+", "FOMAML"),
    "reptile": Series(GREY, "v", "Reptile"),
    "f2sa": Series(GREY, "P", "F2SA"),
}
METHOD_FAMILIES = {
    BLUE: "the paper's",
    BLACK: "one's own",
    SKY: "implicit, CG",
    PURPLE: "implicit, series",
    GREEN: "single loop",
    ORANGE: "variance reduced",
    VERMILION: "unrolled",
    GREY: "first order",
}
FAMILIES = {
    "huber": Series(BLUE, "o", "Huber"),
    "plateau": Series(GREEN, "s", "plateau"),
    "zigzag": Series(VERMILION, "^", "zigzag"),
    "quadratic": Series(PURPLE, "D", "quadratic"),
    "logistic": Series(ORANGE, "v", "logistic"),
    "proximal": Series(GREEN, "s", "proximal"),
    "softmax": Series(VERMILION, "^", "softmax"),
    "representation": Series(BLUE, "o", "representation"),
    "two_tensors": Series(GREEN, "s", r"quadratic, $\phi$ in two tensors"),
}
FEW_SHOT_COSTS = {
    "memory_reduced": METHODS["memory_reduced"],
    "recompute": Series(SKY, "v", "memory-reduced, low memory"),
    "anew": Series(BLACK, "x", "memory-reduced, features anew"),
    "itd_once": Series(GREEN, "^", "ITD-BiO, features once"),
    "itd_anew": Series(VERMILION, "s", "ITD-BiO as published"),
    "maml": Series(PURPLE, "D", "MAML"),
}
RECIPES = {
    "memory_reduced": METHODS["memory_reduced"],
    "itd_bio": Series(VERMILION, "s", "ITD-BiO"),
    "protonet": Series(GREEN, "^", "ProtoNet"),
    "anil": Series(ORANGE, "D", "ANIL"),
    "published": Series(SKY, "v", "memory-reduced, no ridge"),
    "r2d2": Series(PURPLE, "P", "R2D2"),
    "fo_anil": Series(GREY, "D", "first-order ANIL"),
    "fomaml": Series(GREY, "x", "first-order MAML"),
    "maml": Series(BLACK, "x", "MAML"),
}
BIASES = {
    "implicit": Series(BLUE, "o", "implicit"),
    "unrolled": Series(VERMILION, "s", "unrolled"),
    "truncated": Series(ORANGE, "v", "last 5 steps"),
    "heavy ball": Series(PURPLE, "D", "heavy ball"),
    "first order": Series(BLACK, "x", "first order"),
    "CG": Series(BLUE, "o", "CG"),
    "Neumann": Series(GREEN, "^", "Neumann"),
    "Richardson": Series(ORANGE, "v", "Richardson"),
    "forward gradient": Series(VERMILION, "s", "forward gradient"),
    "sampled Neumann": Series(GREEN, "^", "sampled Neumann"),
}
# The next ones are indexed by the code in the evidence
SAMPLINGS = (Series(VERMILION, "s", "without replacement"), Series(BLUE, "o", "i.i.d."))
TAILS = (Series(BLUE, "o", "$x^{-a}$"), Series(VERMILION, "^", "$x^{-a}$ rippled"), Series(GREEN, "s", "$|x|^m$"))
LOWER_STARTS = (r"$\theta_0 = 0$", r"$\theta_0 = \phi$")  # hollow, filled
# For the cells of one sweep, in order
CYCLE = ((SKY, "o"), (BLUE, "s"), (GREEN, "^"), (ORANGE, "D"), (VERMILION, "v"), (PURPLE, "P"))
# A condition number has the same colour in every figure
_CONDITION = {1: (BLACK, "o"), 4: (SKY, "v"), 10: (BLUE, "s"), 30: (PURPLE, "D"), 100: (VERMILION, "^")}
_CONDITION |= {1000: (GREEN, "P"), 10000: (ORANGE, "X")}

PARAMETERS: dict[Any, Any] = {
    "figure.dpi": 100,
    "font.family": "STIXGeneral",  # Times-like, and shipped with matplotlib: the same glyphs on every machine
    "mathtext.fontset": "stix",
    "font.size": LABEL_SIZE,
    "axes.labelsize": LABEL_SIZE,
    "axes.titlesize": LABEL_SIZE,
    "xtick.labelsize": SMALL_SIZE,
    "ytick.labelsize": SMALL_SIZE,
    "legend.fontsize": SMALL_SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's Type 3
    "svg.hashsalt": "memory-reduced-meta-learning",  # else the ids in an SVG are drawn at random
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Matplotlib's defaults and PARAMETERS, as a context or a decorator; a matplotlibrc has no say."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(PARAMETERS)
        yield


def method(name: str, title: str = "") -> Series:
    """How a method is drawn; one that is not of the catalogue is black, under its title or else its name.

    >>> method("soba").label, method("my_method"), method("my_method", "Mine").label
    ('SOBA', Series(colour='#000000', marker='*', label='my_method'), 'Mine')
    """
    return METHODS.get(str(name), Series(BLACK, "*", str(title) or str(name)))


def condition_number(kappa: float) -> Series:
    """Colour, marker and label of a condition number; one not in the table looks like the nearest that is."""
    colour, marker = _CONDITION[min(_CONDITION, key=lambda known: abs(log10(known) - log10(kappa)))]
    return Series(colour, marker, rf"$\kappa = {power_of_ten(kappa)}$")


def power_of_ten(value: float) -> str:
    """A number as mathematics: 20, 10^{4}, 10^{-20}.

    >>> power_of_ten(20.0), power_of_ten(1e4), power_of_ten(1e-20)
    ('20', '10^{4}', '10^{-20}')
    """
    exponent = round(log10(value))
    if abs(exponent) >= 3 and abs(value / 10.0**exponent - 1) < 1e-9:
        return f"10^{{{exponent}}}"
    return f"{value:g}"


def one_digit(value: float) -> str:
    """A number to one digit, as people write it.

    >>> one_digit(9.6), one_digit(0.0316), one_digit(1e-4), one_digit(5.2e-15)
    ('10', '0.03', '$10^{-4}$', '$5\\\\cdot10^{-15}$')
    """
    if not isfinite(value):
        return f"{value:g}"
    digit, exponent = f"{value:.0e}".split("e")
    if -3 <= int(exponent) <= 2:
        return f"{float(f'{digit}e{exponent}'):g}"
    factor = "" if digit == "1" else rf"{digit}\cdot"
    return rf"${factor}10^{{{int(exponent)}}}$"


def save(figure: Figure, directory: Path, name: str) -> list[Path]:
    """Write directory/name.png (200 dpi), .svg and .pdf, each whole or not at all; return their paths.

    The files carry no date: the same figure gives the same bytes. Raises OSError.
    """
    written = []
    for suffix in _METADATA:
        path = directory / f"{name}.{suffix}"
        write_atomically(path, _rendered(figure, suffix))
        figure.set_layout_engine("none")  # the layout, which takes longest, stays as the first format has it
        written.append(path)
    return written


def png(figure: Figure, dpi: float = 200) -> bytes:
    """The figure as the bytes of a PNG file."""
    return _rendered(figure, "png", dpi)


_METADATA: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def _rendered(figure: Figure, suffix: str, dpi: float = 200) -> bytes:
    content = io.BytesIO()
    with paper_style():
        figure.savefig(content, format=suffix, dpi=dpi, metadata=_METADATA[suffix])
    return content.getvalue()
