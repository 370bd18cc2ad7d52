"""The page of methods is what the registry declares."""

import re
from pathlib import Path

import pytest

from convergence.catalogue import METHODS
from paper_checks.methods_table import formula, table, typeset

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_page_is_what_the_methods_declare():
    assert PAGE.read_text() == table(), "run: python -m paper_checks.methods_table > docs/methods.md"


def test_every_method_has_one_row_in_each_of_the_two_tables():
    first = [line.split(" | ")[0].removeprefix("| ") for line in table().splitlines() if line.startswith("| ")]
    titles = [make.declared.title for make in METHODS.values()]
    assert first == 2 * ["method", "---", *titles]


def test_nothing_in_the_tables_is_escaped_or_left_in_ascii():
    rows = [line for line in table().splitlines() if line.startswith("| ")]
    assert not [row for row in rows if re.search(r"[\\^_*]|\b(?:varrho|theta|phi|Phi|chi|eta|lambda|grad)\b", row)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grad Phi_K - grad Phi", "∇Φ<sub>K</sub> − ∇Φ"),
        ("phi - mean_i theta_{i,K}", "φ − mean<sub>i</sub> θ<sub>i,K</sub>"),
        ("-1/lambda C'A^-1 (theta* - u)", "−1/λ C'A<sup>−1</sup> (θ∗ − u)"),
        ("Ji, Yang, Liang, ICML 2021; arXiv:1802.02246", "Ji, Yang, Liang, ICML 2021; arXiv:1802.02246"),
        ("two-timescale, beta", "two-timescale, beta"),
    ],
)
def test_formulas_are_typeset(text, shown):
    assert typeset(text) == shown


@pytest.mark.parametrize(
    ("count", "fields", "text"),
    [
        (lambda at: 1, ["lower_steps"], "1"),
        (lambda at: 0, [], "0"),
        (lambda at: at["lower_steps"], ["lower_steps"], "K"),
        (lambda at: at["terms"] - 1, ["lower_steps", "terms"], "Q − 1"),
        (lambda at: 2 * at["lower_steps"] + at["cg_steps"] + 4, ["lower_steps", "cg_steps"], "2K + N + 4"),
    ],
)
def test_counts_are_written_as_formulas(count, fields, text):
    assert formula(count, fields) == text


def test_a_count_that_is_not_affine_is_refused():
    with pytest.raises(ValueError, match="expected a count that is affine in lower_steps"):
        formula(lambda at: at["lower_steps"] ** 2, ["lower_steps"])
