"""How a run ended, as a value that says what to try."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The end of a run; larger is worse, so the worst of several is their maximum."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    BREAKDOWN = 2
    NON_FINITE = 3

    def __str__(self) -> str:
        return self.name

    @property
    def failed(self) -> bool:
        """Whether the iterates past this point mean nothing."""
        return self >= Status.BREAKDOWN

    @property
    def advice(self) -> str:
        """One sentence: what happened, and what to try."""
        return _ADVICE[self]


_ADVICE = {
    Status.MAX_ITERATIONS: "all iterations ran; ask for more if the trace still falls.",
    Status.CONVERGED: "the stopping criterion was met.",
    Status.BREAKDOWN: (
        "the linear solver met p'Hp <= 0, so the lower Hessian is not positive definite at the iterate reached, or "
        "(Direct) too ill-conditioned for its dtype: "
        "add a ridge term to the lower objective, take more lower steps, or a smaller lower step size; or (Reversed) "
        "undoing the lower steps did not lead back to their start: take fewer of them, or more momentum."
    ),
    Status.NON_FINITE: (
        "an iterate was not finite: try a smaller upper step size or learning rate (its limit shrinks with the "
        "coupling of the levels, not only with L_Phi), or a lower step size below 2 / L."
    ),
}
