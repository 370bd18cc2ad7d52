"""`python -m convergence watch`: the command."""

from __future__ import annotations

import io
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from convergence.arguments import positive
from convergence.files import NotWritten, write_atomically
from convergence.watch.folders import Watched, plain, watched
from convergence.watch.view import view

WATCH_HELP = (
    "Reads what the run writes, and nothing else: it may be on a read-only disk, and does not notice. Ends with the "
    "run, or with Ctrl-C, which leaves the run alone.\n\n"
    "Exit status: 0 seen to its end, or left by Ctrl-C, 2 a folder without a run, or that cannot be read."
)
_READING = 0.3  # seconds a look may take: of a log of a million lines the rest is left for the next ones


def watch(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of train, of solve --keep or of paper_checks.")
    ],
    refresh: Annotated[float, typer.Option(help="Seconds between two looks.")] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="One look; so it is where the output is no terminal.")] = False,
    svg: Annotated[Path | None, typer.Option(help="One look, as a picture of the terminal in this file.")] = None,
) -> None:
    """Show a running or finished run: loss, gradient norm, certificate, oracle calls, bytes, pace and state.

    \b
    Examples:
      python -m convergence watch runs/first
      python -m convergence watch verdicts --refresh 2
    """
    positive("--refresh", refresh)
    try:
        _show(directory, Console(), refresh=refresh, once=once, svg=svg)
    except NotWritten:
        raise  # says which file, and why
    except OSError as error:
        where = error.filename or directory
        raise ValueError(f"expected files of a run that can be read, got {where}: {error.strerror}") from error
    except KeyboardInterrupt:
        pass  # how one leaves: the terminal keeps what was seen last


def _show(directory: Path, console: Console, *, refresh: float, once: bool, svg: Path | None) -> None:
    seen = watched(directory)
    if svg is not None:
        seen.look()
        title = plain(f"python -m convergence watch {directory}")
        write_atomically(svg, picture(seen, title=title).encode())
    elif once or not console.is_terminal:
        seen.look()
        console.print(view(seen))
    else:
        with _terminated():
            follow(seen, console, refresh=refresh)


def picture(seen: Watched, *, title: str, width: int = 100) -> str:
    """What is seen, on a terminal of so many columns, as SVG."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(view(seen))
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=title), flags=re.DOTALL)  # fonts of a web site


def follow(seen: Watched, console: Console, *, refresh: float) -> None:
    """Show what is seen until nobody is at work in the folder any more."""
    ended = 0.0
    seen.look(within=_READING)
    with Live(view(seen), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while seen.running or seen.behind or ended < seen.patience:
            time.sleep(refresh)
            ended = 0.0 if seen.running else ended + refresh
            seen.look(within=_READING)
            live.update(view(seen), refresh=True)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends the block as an exception does, so that the terminal gets its cursor back."""

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
