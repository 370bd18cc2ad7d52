"""What the command lines share: names looked up in a catalogue, wrong usage answered in one line."""

from __future__ import annotations

import difflib
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import NoReturn, TypeVar

import typer

from convergence.arguments import shown
from convergence.distributed.ranks import RankLost

WRONG_USAGE = 2
INTERRUPTED = 130
LOST = 1  # a rank of several: not a verdict either, but torchrun makes 1 of every status
BROKEN = 70  # a defect of this package or of what it runs: neither a verdict nor wrong usage
_PATIENCE = 10.0  # seconds: a process takes some to end where the machine is busy
T = TypeVar("T")


def named(catalogue: Mapping[str, T], name: str, kind: str) -> T:
    """The entry of this name. Raises ValueError naming what there is and the nearest name.

    >>> named({"huber": 1}, "hubber", "problem")
    Traceback (most recent call last):
        ...
    ValueError: expected a problem out of huber; got 'hubber': did you mean 'huber'?
    """
    text = isinstance(name, str)  # of a file it may be anything
    if text and name in catalogue:
        return catalogue[name]
    near = difflib.get_close_matches(name, catalogue, n=1) if text else []
    hint = f": did you mean {near[0]!r}?" if near else ""
    article = "an" if kind[0] in "aeiou" else "a"
    raise ValueError(f"expected {article} {kind} out of {', '.join(catalogue)}; got {shown(name)}{hint}")


def main(app: typer.Typer) -> None:
    """Run the command line; wrong usage ends in one line on standard error and exit status 2, a defect with 70.

    A KeyboardInterrupt ends with 130, the loss of a rank with 1. A message that holds a list, on indented lines, keeps
    its lines. Where torchrun has started several processes, what all of them have to say is said by the first.
    """
    try:
        code = app(standalone_mode=False)  # some releases of Typer return the exit status, others raise it
        _end(code if isinstance(code, int) else 0)
    except typer.Exit as error:
        _end(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _end(INTERRUPTED)
    except (ValueError, TypeError, OSError) as error:
        _refuse(str(error))
    except RankLost as error:
        if own_rank() == error.speaker:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(LOST)
    except ModuleNotFoundError as error:
        if error.name is not None:  # a failed import; without a name it is our own sentence on an extra
            _break()
        _refuse(str(error))
    except Exception as error:  # what the option parser rejects; its class differs between releases of Typer
        if not hasattr(error, "format_message"):
            _break()
        _refuse(error.format_message())


def own_rank() -> int:
    """Which of the processes that torchrun has started this is; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def _after_the_first() -> None:
    """Wait where another process may be about to say the same: torchrun ends this one when that one has ended."""
    if own_rank() > 0:
        time.sleep(_PATIENCE)


def _end(code: int) -> None:
    if code == INTERRUPTED:  # what Typer makes of a KeyboardInterrupt, without a word
        print("interrupted", file=sys.stderr)
    sys.exit(code)


def _break() -> NoReturn:
    _after_the_first()
    traceback.print_exc()
    sys.exit(BROKEN)


def _refuse(message: str) -> None:
    lines = message.splitlines()
    if not any(line[:1].isspace() for line in lines):
        lines = [" ".join(message.split())]
    _after_the_first()
    print("error: " + "\n".join(lines), file=sys.stderr)
    sys.exit(WRONG_USAGE)
