"""A run of claims in a folder, from the first to the last: judged, written down, interrupted, gone on with."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from convergence.distributed import Ranks, launched, restarted
from convergence.files import locked
from convergence.training.interrupts import Ended, Ending
from paper_checks.cells import Cells
from paper_checks.claim import Claim, Setting, Verdict, silent
from paper_checks.evidence import RUN, names_to_resume
from paper_checks.judging import Judged, on_ranks, one_by_one, side_by_side
from paper_checks.output import Output, require_writable
from paper_checks.subject import applicable


@dataclass(frozen=True)
class Battery:
    """What is to be judged, where it is written, and how: the options of `python -m paper_checks run`."""

    names: Sequence[str]
    setting: Setting
    out: Path
    jobs: int = 1
    threads: int = 1
    resume: bool = False
    overwrite: bool = False

    def run(self, say: Callable[[str], None], heard: Callable[[Verdict], None]) -> tuple[Output, dict[str, str]]:
        """Judge the claims that are left; what the folder then holds, and why other claims do not apply.

        say     hears what is being measured
        heard   hears of each verdict, once it is written down

        A signal ends the process with 128 + its number, after a line on how to go on; ranks other than the first end
        here. Raises ValueError on wrong usage; OSError where a file cannot be written, what was kept intact.
        """
        applicable(self.setting, self.names)  # before anything is written
        with _ending() as ending, launched(self.setting.device) as ranks, ExitStack() as stack:
            if ranks.size > 1 and self.jobs > 1:
                raise ValueError(
                    f"expected no --jobs where torchrun has started {ranks.size} processes, got {self.jobs}"
                )
            names, resume = self.names, self.resume
            resume = resume or (restarted() and ranks.from_first((self.out / RUN).is_file))
            if resume:
                names = ranks.from_first(lambda: names_to_resume(self.out, self.names))
            claims, apart = applicable(self.setting, names)
            outputs: list[Output] = []  # of the first rank alone

            def begin() -> list[str]:
                require_writable(self.out)
                stack.enter_context(locked(self.out))
                options = {"threads": self.threads, "resume": resume, "overwrite": self.overwrite, "skipped": apart}
                outputs.append(Output(self.out, claims, self.setting, names=names, **options))
                return outputs[0].left

            left = ranks.from_first(begin)
            chosen = [claim for claim in claims if claim.name in left]
            if not ranks.first:
                deque(self._judged(chosen, ranks, silent), maxlen=0)  # rank 0 hears of them
                raise typer.Exit(0)
            self._write(chosen, ranks, outputs[0], ending, say, heard)
        return outputs[0], apart

    def _write(
        self,
        claims: Sequence[Claim],
        ranks: Ranks,
        output: Output,
        ending: Ending,
        say: Callable[[str], None],
        heard: Callable[[Verdict], None],
    ) -> None:
        """Each verdict as it comes."""

        def said(line: str) -> None:
            say(line)
            output.progress.look()

        with _going_on(output, ending), closing(self._judged(claims, ranks, said)) as judged:
            for verdict in output.verdicts:  # of before
                heard(verdict)
            output.write()
            for claim, verdict, evidence in judged:
                output.add(claim, verdict, evidence)
                output.write()  # after each claim: what is finished is kept
                heard(verdict)
                ending.check()

    def _judged(self, claims: Sequence[Claim], ranks: Ranks, say: Callable[[str], None]) -> Iterator[Judged]:
        setting = replace(self.setting, cells=Cells(self.out / "progress"))
        if ranks.size > 1:
            yield from on_ranks(claims, setting, say, ranks)
        elif self.jobs == 1 or len(claims) < 2:
            yield from one_by_one(claims, setting, say)
        else:
            yield from side_by_side(claims, setting, say, jobs=min(self.jobs, len(claims)), threads=self.threads)


@contextmanager
def _ending() -> Iterator[Ending]:
    """A signal ends what is within, and the process with 128 + its number."""
    try:
        with Ending() as ending:
            yield ending
    except Ended as end:
        sys.exit(128 + end.received)


@contextmanager
def _going_on(output: Output, ending: Ending) -> Iterator[None]:
    """Say how the run goes on, where something ends it, to people and in progress.json."""
    try:
        try:
            yield
        except Exception:  # a file that was being packed, say, when the signal came
            ending.check()
            raise
    except Ended as end:
        message = f"{end}: {output.kept}, the same command with --resume goes on"
        output.progress.write("interrupted", message)
        print(message, file=sys.stderr)
        raise
    except OSError as error:
        message = f"{error}; {output.kept}: when that is mended, the same command with --resume goes on"
        output.progress.write("failed", message)
        raise OSError(message) from error
    except BaseException as error:
        output.progress.write("failed", f"{type(error).__name__}: {error}")
        raise
    output.progress.finish()
