"""Tasks drawn while the iteration before them is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from problems import Tasks


class Ahead:
    """The tasks of iteration t, and at once, in a thread of its own, those of t + 1.

    draw   a function of the number of an iteration (from 0) and of nothing else, so that the tasks are the same whoever
           draws them, and when
    end    iterations there are: nothing is drawn beyond

    What `draw` raises is raised by the call for the iteration it belongs to, and the iterations before it are computed.
    A call for another iteration than the next one draws that one. The thread ends with the last reference to this.
    """

    def __init__(self, draw: Callable[[int], Tasks], end: int):
        self._draw, self._end = draw, end
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tasks")
        self._next: tuple[int, Future[Tasks]] | None = None

    def __call__(self, iteration: int) -> Tasks:
        """The tasks of this iteration."""
        drawn, self._next = self._next, None
        ready = drawn is not None and drawn[0] == iteration
        tasks = drawn[1].result() if drawn and ready else self._draw(iteration)
        if iteration + 1 < self._end:
            self._next = iteration + 1, self._thread.submit(self._draw, iteration + 1)
        return tasks
