"""`python -m figures DIR`: redraw every figure of a report from its stored evidence."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from convergence import command_line
from convergence.command_line import named
from figures import FIGURES
from figures.style import Evidence, save

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Exit status: 0 every figure drawn, 2 a folder or a file is missing or cannot be read.")
def redraw(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that python -m paper_checks wrote.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write instead of there.")] = None,
) -> None:
    """Write DIR/NAME.png, DIR/NAME.svg and DIR/NAME.pdf from DIR/evidence/NAME.npz. No algorithm is run.

    \b
    Examples:
      python -m figures verdicts
      python -m figures docs/gallery --out verdicts
    """
    into = directory if out is None else out
    drawers = {path: named(FIGURES, path.stem, "claim") for path in stored(directory)}
    for path, draw in drawers.items():
        evidence = read(path)
        try:
            figure = draw(evidence)
        except KeyError as error:
            raise ValueError(f"expected evidence named {error} in {path}, got {', '.join(evidence)}") from error
        into.mkdir(parents=True, exist_ok=True)
        for written in save(figure, into, path.stem):
            typer.echo(written)


def stored(directory: Path) -> list[Path]:
    """The evidence files of a report. Raises ValueError where there are none."""
    folder = directory / "evidence"
    if not folder.is_dir():
        found = (
            "a file" if directory.is_file() else "no such folder" if not directory.exists() else "a folder without it"
        )
        raise ValueError(f"expected a folder with evidence/NAME.npz in it, got {directory}: {found}")
    if not (paths := sorted(folder.glob("*.npz"))):
        raise ValueError(f"expected files NAME.npz in {folder}, got none")
    return paths


def read(path: Path) -> Evidence:
    """Every array of an .npz file. Raises ValueError where it cannot be read whole."""
    try:
        # Opened here: numpy leaves a file that it cannot unpack open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"expected an .npz file of arrays in {path}, got one that cannot be read: {error}") from error


def main() -> None:
    """The command line."""
    command_line.main(app)


if __name__ == "__main__":
    main()
