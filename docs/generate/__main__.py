"""`python -m docs.generate pages` writes the pages that come from the code; `site DIR` makes HTML of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convergence import command_line
from docs.generate import ROOT, claims, command_lines
from docs.generate.site import build
from paper_checks import methods_table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


def written() -> dict[Path, str]:
    """Every page that is written from the code: its path and its text."""
    return {
        **claims.pages(),
        ROOT / "docs" / "command_line.md": command_lines.page(),
        ROOT / "docs" / "methods.md": methods_table.table(),
    }


@app.command()
def pages() -> None:
    """Write docs/claims/, docs/command_line.md and docs/methods.md; remove pages of claims that are no more."""
    texts = written()
    for stale in set(claims.FOLDER.rglob("*.md")) - set(texts):
        stale.unlink()
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    typer.echo(f"{len(texts)} pages")


@app.command()
def site(out: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that may be written over.")]) -> None:
    """Make HTML of every page and of the API. Anything that is amiss, a link or an annotation, ends it."""
    typer.echo(build(out))


if __name__ == "__main__":
    command_line.main(app)
