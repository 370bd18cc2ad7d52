"""`python -m figures DIR`: redraw every figure of a report from its stored evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convergence import command_line
from convergence.command_line import named
from figures import FIGURES
from figures.style import save
from paper_checks.evidence import RUN, read_arrays, read_header

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Exit status: 0 every figure drawn, 2 a folder or a file is missing or was changed.")
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
    if (directory / RUN).exists() and (problem := read_header(directory)["setting"].get("problem")):
        raise ValueError(f"expected a run whose claims have figures in {directory}, got one on the problem {problem}")
    drawers = {path: named(FIGURES, path.stem, "claim") for path in stored(directory)}
    for path, draw in drawers.items():
        evidence = read_arrays(directory, path.stem)
        try:
            figure = draw(evidence)
        except KeyError as error:
            raise ValueError(f"expected evidence named {error} in {path}, got {', '.join(evidence)}") from error
        try:
            into.mkdir(parents=True, exist_ok=True)
            drawn = save(figure, into, path.stem)
        except OSError as error:
            raise ValueError(f"expected a folder that can be written, got {into}: {error.strerror}") from error
        for written in drawn:
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


def main() -> None:
    """The command line."""
    command_line.main(app)


if __name__ == "__main__":
    main()
