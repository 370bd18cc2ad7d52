"""SIGTERM and SIGINT as a wish that a loop can ask for, or as an exception wherever the process is."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

_WISHES = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """While active, the first SIGTERM or SIGINT is noted instead of obeyed; the next one does what it always did.

    received   the signal, or None; true as soon as there is one. Only the main thread can be interrupted so
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {wish: signal.signal(wish, self._note) for wish in _WISHES}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class Ended(BaseException):
    """SIGTERM or SIGINT, wherever the process was; no `except Exception` stops it on its way."""

    def __init__(self, received: signal.Signals):
        super().__init__(received.name)
        self.received = received


class Ending(Interrupts):
    """While active, the first SIGTERM or SIGINT raises Ended; the next one does what it always did.

    Code in C that swallows exceptions of callbacks may swallow this one: `check` raises it again.
    """

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        self.check()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if isinstance(exception[1], Exception):  # what was broken off may say so in words of its own
            self.check()

    def check(self) -> None:
        """Raise Ended where there was a signal."""
        if self.received is not None:
            raise Ended(self.received)
