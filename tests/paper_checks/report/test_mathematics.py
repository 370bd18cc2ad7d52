"""What is a formula and what is not, in every notation that the docstrings use; every claim comes out whole."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_checks import CLAIMS
from paper_checks.report.mathematics import markdown, mathematics, number


def texts(claim):
    return [claim.title, claim.planted, *claim.sections.values()]


every_claim = pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)


def tree(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<p>{html}</p>")


def prose(text: str) -> str:
    """What is left of a text when formulas and code are taken out."""
    root = tree(mathematics(text))
    parts = [root.text or ""]
    for element in root.iter():
        if element is not root and element.tag in ("span", "a"):
            parts.append(element.text or "")
        if element.tag in ("math", "span", "code", "a"):
            parts.append(element.tail or "")
    return "".join(parts)


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("|grad Phi|^2 <= 2 V_0 / (beta T)", r"$\left\lvert \nabla\Phi\right\rvert^{2} \le \frac{2V_{0}}{\beta T}$"),
        ("N at most 1/T of 2 / L", r"$N$ at most $1 / T$ of $2 / L$"),
        ("alpha = 2 / (L + mu)", r"$\alpha = \frac{2}{L + \mu}$"),
        ("theta_i* of phi~ at H_K^-1 h", r"$\theta_{i}^{*}$ of $\tilde{\varphi}$ at $H_{K}^{-1}h$"),
        ("chi_hat, s_bar and sqrt(kappa)", r"$\hat{\chi}$, $\bar{s}$ and $\sqrt{\kappa}$"),
        ("2 r^N / (1 + r^2N)", r"$\frac{2r^{N}}{1 + r^{2N}}$"),
        ("d2g_i/dphi dtheta", r"$\frac{\partial^{2}g_{i}}{\partial\varphi\partial\theta}$"),
        ("d2g/dtheta2", r"$\frac{\partial^{2}g}{\partial\theta^{2}}$"),
        ("J_i'Q_i and p'Hp", r"$J_{i}^{\prime}Q_{i}$ and $p^{\prime}Hp$"),
        ("theta_i,K(phi)", r"$\theta_{i, K}\left(\varphi\right)$"),
        ("T^-1/2 and t^(-5/3)", r"$T^{-1 / 2}$ and $t^{-5 / 3}$"),
        ("missed by 1e-12 or 2e-3", r"missed by $10^{-12}$ or $2 \cdot 10^{-3}$"),
        ("ceil(1 / x)", r"$\left\lceil 1 / x\right\rceil$"),
        ("1/T sum_{t<T} E |d|^2", r"$1 / T\sum_{t < T}\,\mathbb{E}\,\left\lvert d\right\rvert^{2}$"),
        ("E T (x) T", r"$\mathbb{E}\,T \otimes T$"),
        ("h +- s, T = 10 .. 100", r"$h \pm s$, $T = 10 \dots 100$"),
        ("T -> infinity", r"$T \to \infty$"),
        ("log t and min(1, x)", r"$\mathrm{log}\,t$ and $\mathrm{min}\left(1, x\right)$"),
        ("(K, N) = (1, 1)", r"$\left(K, N\right) = \left(1, 1\right)$"),
        ("J <u_j, e> u_j < 1", r"$J\left\langle u_{j}, e\right\rangle u_{j} < 1$"),
        ("3 x 32 x 32 images", r"$3 \times 32 \times 32$ images"),
    ],
)
def test_formulas_of_the_docstrings(text, latex):
    assert markdown(text) == latex


@pytest.mark.parametrize(
    "text",
    [
        "A cold start with a method, a floor and the sum of the mean",
        "(a) the first, (2) the second, S3a, Theorem 4b, claim C3",
        "5-way 5-shot episodes i.i.d. or non-convex, without end",
        "measured / bound, with and/or without (Nesterov 2004)",
        "0.5 s a task, 20 cells, 99.9 %",
        "Hotelling's test, the method's log",
        "it grows: the max, the min, the mean.",
    ],
)
def test_words_stay_words(text):
    assert markdown(text) == text
    assert str(mathematics(text)) == text.replace("'", "&#39;")


def test_a_symbol_that_begins_a_word_is_apart_from_the_one_before():
    assert markdown("g mu-strongly convex") == r"$g$ $\mu$-strongly convex"


def test_a_remark_is_no_factor():
    assert markdown("exact v (N = q): phi") == r"exact $v$ $\left(N = q\right)$: $\varphi$"


def test_identifiers_are_code_and_lead_where_they_are_said_to():
    html = str(mathematics("as in cg_rate, `make bench` and --device", links={"cg_rate": "#cg_rate"}))
    assert html == 'as in <a href="#cg_rate"><code>cg_rate</code></a>, <code>make bench</code> and --device'


def test_a_long_formula_is_broken_before_its_relations_and_sums():
    html = str(mathematics("V_t = Phi(phi_t) - Phi* + beta (P a_t + Q b_t) + gamma (R c_t + S d_t) <= 1"))
    pieces = re.findall(r"<math>.*?</math>", html)
    assert len(pieces) > 4
    assert html == " ".join(pieces)


def test_no_line_is_broken_between_a_formula_and_its_comma():
    assert re.search(r'<span class="together">\(<math>.*</math>,</span>', str(mathematics("of (phi_t, as said)")))


@every_claim
def test_what_the_claims_say_comes_out_whole(claim):
    for text in texts(claim):
        left = prose(text)
        assert not re.search(r"[_^|*~]|<=|>=|->|\b(?:phi|theta|Phi|grad|kappa|beta|alpha|sqrt|eps)\b", left), left
        for formula in tree(mathematics(text)).iter("math"):
            said = "".join(formula.itertext())
            assert said
            assert not re.search(r"[_^{}]|<=|->", said), said


@given(st.text(alphabet="abTxKphi_^{}()[]|'*~/+-=<>,.;: 012e`&\"\\\n", max_size=40))
def test_any_text_comes_out_well_formed(text):
    assert tree(mathematics(text)) is not None
    assert tree(mathematics(text, stacked=False)) is not None
    assert markdown(text).count("$") % 2 == text.count("$") % 2


@every_claim
def test_markdown_has_pairs_of_dollars_and_of_braces(claim):
    for text in map(markdown, texts(claim)):
        assert text.count("$") % 2 == 0
        for formula in re.findall(r"\$([^$]*)\$", text):
            assert formula == formula.strip()
            assert formula.count("{") == formula.count("}")
            assert formula.count(r"\left") == formula.count(r"\right")


def test_numbers_are_short_and_integers_whole():
    assert [number(value) for value in (-0.99999999, 1e-31, 18684.0, float("inf"))] == [
        "-1",
        "1e-31",
        "18684",
        "not finite",
    ]
