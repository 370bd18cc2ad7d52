"""The page of methods is what the registry declares."""

from pathlib import Path

import pytest

from convergence.catalogue import METHODS
from paper_checks.methods_table import formula, table

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_page_is_what_the_methods_declare():
    assert PAGE.read_text() == table(), "run: python -m paper_checks.methods_table > docs/methods.md"


def test_every_method_has_one_row():
    first = [line.split(" | ")[0].removeprefix("| ") for line in table().splitlines() if line.startswith("| ")]
    assert first[2:] == [make.declared.title for make in METHODS.values()]


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
