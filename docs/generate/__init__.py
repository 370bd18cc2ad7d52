"""The pages of docs/ that are written from the code, and the HTML site made of all of them: `make docs`."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
