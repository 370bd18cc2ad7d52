"""Numbers and formulas as people read them."""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape


def number(value: float) -> str:
    """A number as people read it: 5 significant digits, integers whole.

    >>> number(-0.99999999), number(1e-31), number(18684.0), number(float("nan"))
    ('-1', '1e-31', '18684', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.5g}"


# Plain text of docstrings -> symbols; whole words only, in this order.
SYMBOLS = {
    "chi_hat": "χ̂",
    "grad": "∇", "sqrt": "√", "sum": "∑", "alpha": "α", "beta": "β", "gamma": "γ", "Delta": "Δ", "eps": "ε",
    "zeta": "ζ", "theta": "θ", "kappa": "κ", "Lambda": "Λ", "mu": "μ", "sigma": "σ", "tau": "τ", "phi": "φ",
    "Phi": "Φ", "varrho": "ϱ", "chi": "χ", "rho": "ρ", "nu": "ν", "ell": "ℓ", "omega": "ω", "xi": "ξ", "delta": "δ",
    "epsilon": "ε",
}  # fmt: skip


def mathematics(text: str) -> Markup:
    """Text with its formulas in symbols, subscripts and superscripts, as HTML.

    >>> str(mathematics("|grad Phi(phi_t)|^2 <= 2 V_0 / (beta T)"))
    '|∇Φ(φ<sub>t</sub>)|<sup>2</sup> ≤ 2 V<sub>0</sub> / (β T)'
    """
    for word, symbol in SYMBOLS.items():
        text = re.sub(rf"(?<![A-Za-z]){word}(?![A-Za-z])", symbol, text)
    text = text.replace("∇ ", "∇").replace("√ ", "√").replace("<=", "≤").replace(">=", "≥").replace("+-", "±")
    index = r"(?:\{([^}]*)\}|(\w+))"
    html = re.sub(rf"(?<![A-Za-z])([^\W\d_]|[∇∑|]|min|max|mean)_{index}", _lowered, str(escape(text)))
    return Markup(re.sub(rf"\^{index}", lambda found: f"<sup>{found[1] or found[2]}</sup>", html))


def _lowered(found: re.Match[str]) -> str:
    return f"{found[1]}<sub>{found[2] or found[3]}</sub>"
