"""`python -m figures.gallery`: the pictures in docs/gallery/ and the pages that show them, from stored evidence.

docs/gallery/run.json, evidence/   a run of every claim at smoke scale, as python -m paper_checks left it
docs/gallery/NAME.png              the figure of each
docs/gallery.md                    all of them, with what each panel shows
README.md                          those of SHOWN, between two marks
"""

from __future__ import annotations

import inspect
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from convergence import command_line
from convergence.files import write_atomically
from figures import FIGURES
from figures.style import Evidence, png
from paper_checks.claim import Outcome
from paper_checks.evidence import RUN, arrays_file, json_file, load_run, read_arrays
from paper_checks.report.mathematics import markdown

ROOT = Path(__file__).parents[1]
GALLERY = Path("docs", "gallery")
PAGE = Path("docs", "gallery.md")
SHOWN = (  # in the README: all of one height
    "hypergradient_error",
    "memory",
    "cg_rate",
    "sublinear_rate",
    "cold_start_floor",
    "worst_case_sdp",
    "sample_complexity",
    "few_shot_cost",
)
MARKS = "<!-- gallery: written by `make gallery` -->", "<!-- end of the gallery -->"
DPI, COLOURS = 160, 256  # of the pictures: 1120 pixels wide, some 30 KiB
_WRITTEN = "<!-- Written by `make gallery` from the docstrings of figures/ and the evidence in docs/gallery/. -->"


def main_page() -> str:
    """docs/gallery.md."""
    head = f"""{_WRITTEN}
# Gallery

Every claim as `make verify` finds it: measurements as markers and solid lines, predictions dashed, bounds and laws as
each legend says. Drawn from the evidence in `docs/gallery/`, without running an algorithm:

    python -m figures docs/gallery --out figures-of-the-gallery    # PNG, SVG and PDF
"""
    return "\n".join([head, *(_section(name) for name in FIGURES)])


def _section(name: str) -> str:
    return f"""## {name}

{caption(name)}

![{caption(name)}](gallery/{name}.png)

{panels(name)}

[The claim](claims/{name}.md) · [how it is drawn](../figures/{name}.py)
"""


def readme(text: str) -> str:
    """The README with the grid of the gallery between its marks. Raises ValueError where a mark is missing."""
    begin, end = MARKS
    if begin not in text or end not in text:
        raise ValueError(f"expected the marks {begin} and {end} in README.md, got a text without")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n{grid()}{end}{after}"


def grid() -> str:
    """A table of two columns: each picture leads to the page of its claim."""
    cells = [
        f"[![{name}]({(GALLERY / name).as_posix()}.png)](docs/claims/{name}.md)<br>{caption(name)}" for name in SHOWN
    ]
    rows = [f"| {left} | {right} |" for left, right in zip(cells[::2], cells[1::2], strict=True)]
    return "\n".join(["| | |", "|---|---|", *rows, ""])


def caption(name: str) -> str:
    """What the figure shows: the first line of its module.

    >>> caption("memory")
    'Peak memory of one upper iteration over lower steps K and CG steps N.'
    """
    return (inspect.getdoc(sys.modules[FIGURES[name].__module__]) or "").partition("\n")[0]


def panels(name: str) -> str:
    """What each panel shows, from the docstring of `draw`: "a: this; b, c: that." as a list, formulas typeset."""
    paragraphs = (" ".join(each.split()) for each in (inspect.getdoc(FIGURES[name]) or "").split("\n\n"))
    pieces = _PANEL.split(next(filter(_PANEL.match, paragraphs)).removesuffix("."))[1:]
    shown = zip(pieces[::2], pieces[1::2], strict=True)
    return "\n".join(f"- **{letters}**: {markdown(text.removesuffix('; '))}" for letters, text in shown)


_PANEL = re.compile(r"(?:^|(?<=; ))([a-j](?:(?:, |-)[a-j])*): ")


def picture(name: str, evidence: Evidence) -> bytes:
    """The figure as a PNG of few colours: a third of the bytes."""
    with Image.open(io.BytesIO(png(FIGURES[name](evidence), DPI))) as image:
        few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    content = io.BytesIO()
    few.save(content, format="png", optimize=True)
    return content.getvalue()


def take_over(run: Path, gallery: Path) -> None:
    """Copy the evidence of a run. Raises ValueError where it is not whole, or not every claim HOLDS in it."""
    found = load_run(run)
    if wrong := [name for name in FIGURES if name not in found.entries]:
        raise ValueError(f"expected evidence of every claim in {run}, got none of {', '.join(wrong)}")
    outcomes = {name: stored.verdict.outcome for name, stored in found.entries.items()}
    if wrong := [f"{name} {outcome}" for name, outcome in outcomes.items() if outcome is not Outcome.HOLDS]:
        raise ValueError(f"expected a run in which every claim HOLDS in {run}, got {', '.join(wrong)}")
    (gallery / "evidence").mkdir(parents=True, exist_ok=True)
    write_atomically(gallery / RUN, (run / RUN).read_bytes())
    for name in FIGURES:
        for file in (arrays_file, json_file):
            write_atomically(file(gallery, name), file(run, name).read_bytes())


def written(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file of the gallery that is made from its evidence, and its content."""
    yield root / PAGE, main_page().encode()
    yield root / "README.md", readme((root / "README.md").read_text(encoding="utf-8")).encode()
    for name in FIGURES:
        yield root / GALLERY / f"{name}.png", picture(name, read_arrays(root / GALLERY, name))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Exit status: 0 every file written, 2 evidence is missing, changed, or not of a run that HOLDS.")
def write(
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="Take over the evidence of this run first.")] = None,
) -> None:
    """Write docs/gallery/NAME.png, docs/gallery.md and the gallery in README.md. No algorithm is run.

    Example: make verify && python -m figures.gallery --run verdicts
    """
    if run is not None:
        take_over(run, ROOT / GALLERY)
    for path, content in written(ROOT):
        write_atomically(path, content)
        typer.echo(path.relative_to(ROOT))


def main() -> None:
    """The command line."""
    command_line.main(app)


if __name__ == "__main__":
    main()
