"""Commands in processes of their own that are killed at random moments and gone on with, until they are done.

`python -m tests.killed [KILLS]` does it that many times (300 by default), `tests/test_killed.py` some.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import convergence.__main__
import paper_checks.__main__
from convergence import checkpoints
from paper_checks import CLAIMS, Claim, judging
from paper_checks.claim import SECTIONS, at_least, at_most
from tests.convergence.training.small import write_tiny
from tests.forked import context

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_LIMIT = 120  # seconds in which a process ends that has nothing to wait for


@dataclass(frozen=True)
class Command:
    """A command line that goes on with --resume.

    main        what runs it, with the arguments in sys.argv
    arguments   of an uninterrupted run that writes to a folder
    begun       a file of the folder that is there once a run can be gone on with
    found       what a finished folder holds, to be the same however often the run was killed
    """

    main: Callable[[], None]
    arguments: Callable[[Path], list[str]]
    begun: str
    found: Callable[[Path], Any]


# ---- the commands


def toy(name: str) -> Claim:
    """A claim of twelve numbers that take 10 ms each and are kept one by one, and of a control of four."""

    def measured(seed: int, k: int) -> dict[str, Any]:
        time.sleep(0.01)
        drawn = np.random.default_rng([seed, k, *name.encode()]).standard_normal(50)
        return {"mean": float(drawn.mean()), "draws": drawn, "peak": (k, drawn.max())}

    def run(setting: Any) -> dict[str, Any]:
        found = [setting.kept(measured, setting.seed, k) for k in setting.track(range(12), "numbers")]
        return {"mean": np.array([each["mean"] for each in found]), "draws": np.stack([e["draws"] for e in found])}

    def control(setting: Any) -> dict[str, Any]:
        return {"mean": np.array([setting.kept(measured, setting.seed, k)["draws"][0] + 9 for k in range(4)])}

    def judge(evidence: Any) -> list[Any]:
        return [at_most("largest mean", evidence["mean"], 1.0), at_least("smallest mean", evidence["mean"], -1.0)]

    return Claim(name, name, dict.fromkeys(SECTIONS, "text"), run, judge, control, "nine is added")


TOYS = ("first", "second", "third")


def add_toys() -> None:
    """To the claims of this process, which is not that of the tests."""
    CLAIMS.update({name: toy(name) for name in TOYS})


def without_seconds(record: Any) -> Any:
    """JSON without what no two runs share: seconds, and the digests over them."""
    if isinstance(record, Mapping):
        return {k: without_seconds(x) for k, x in record.items() if not k.endswith("seconds") and k != "sha256"}
    return [without_seconds(each) for each in record] if isinstance(record, list) else record


def _report(folder: Path) -> Any:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found: dict[str, Any] = {}
    for name, path in files.items():
        if name not in ("progress.json", "report.html"):  # with the times of day
            found[name] = without_seconds(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()
    assert json.loads((folder / "progress.json").read_text())["state"] == "finished"
    return found


def _checkpoint(file: str) -> Callable[[Path], Any]:
    def found(folder: Path) -> Any:
        config, state = checkpoints.read(folder / file)
        state = {name: value for name, value in state.items() if name != "seconds"}
        if "metrics" in state:
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in lines] == state["metrics"]
            state["metrics"] = without_seconds(state["metrics"])
        names = {path.name for path in folder.iterdir() if not path.name.startswith("events.")}
        seen = (folder / "progress.jsonl").read_text().splitlines() if "progress.jsonl" in names else []
        return names, [without_seconds(json.loads(line)) for line in seen], checkpoints.digest([config, state])

    return found


def commands(data: Path, *, jobs: int = 1, claims: Sequence[str] = TOYS) -> dict[str, Command]:
    """The long commands on something that takes a second; `data` holds the images for training."""
    sizes = "--way 3 --shot 1 --queries 1 --evaluation-queries 2 --channels 2 --batch 2 --lower-steps 3 --cg-steps 2"
    pace = "--validate-every 3 --validation-episodes 3 --checkpoint-every 2 --iterations 24"
    solve = "solve quadratic --batch 2 --iterations 400 --keep-every 20"
    train = ["train", "--data", "folder", "--root", str(data), *sizes.split(), *pace.split()]
    return {
        "paper_checks": Command(
            paper_checks.__main__.main,
            lambda out: [*claims, "--jobs", str(jobs), "--out", str(out)],
            "run.json",
            _report,
        ),
        "solve": Command(
            convergence.__main__.main, lambda out: [*solve.split(), "--keep", str(out)], "run.pt", _checkpoint("run.pt")
        ),
        "train": Command(
            convergence.__main__.main,
            lambda out: [*train, "--out", str(out)],
            "checkpoint.pt",
            _checkpoint("checkpoint.pt"),
        ),
    }


# ---- killing them


def _run(main: Callable[[], None], arguments: list[str], log: Path, room: int | None) -> None:
    """In a process: the command, with what it prints in a file; no file may be longer than `room` bytes."""
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command says otherwise
    torch.set_num_threads(1)
    add_toys()
    judging._START = "fork"  # which takes the toys along
    sys.argv = ["command", *arguments]
    with log.open("a", buffering=1) as sys.stdout, log.open("a", buffering=1) as sys.stderr:
        main()


def ended(
    command: Command,
    folder: Path,
    *,
    after: float | None = None,
    by: signal.Signals = signal.SIGKILL,
    room: int | None = None,
) -> int:
    """The exit status of the command, gone on with where it has begun; `after` so many seconds it is sent a signal."""
    log = folder.with_suffix(".log")
    arguments = [*command.arguments(folder), *["--resume"] * (folder / command.begun).exists()]
    process = context().Process(target=_run, args=(command.main, arguments, log, room))
    process.start()
    assert process.pid is not None
    process.join(after)
    if after is not None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, by)
    process.join(_LIMIT)
    assert process.exitcode is not None, f"it hangs: {log.read_text()}"
    return process.exitcode


def survive(command: Command, folder: Path, *, kills: int, seed: int) -> int:
    """Kill the command so many times at random moments, and hold what it ends with against an uninterrupted run.

    Returns how many runs that took. Raises AssertionError where one ends otherwise, or cannot be gone on with.
    """
    folder.mkdir(parents=True)
    first = context().Process()  # starts the server
    first.start()
    first.join()
    began = time.monotonic()
    assert ended(command, folder / "whole") == 0, (folder / "whole.log").read_text()
    seconds, expected = time.monotonic() - began, command.found(folder / "whole")
    rng, killed, runs = random.Random(seed), 0, 0
    while killed < kills:
        out = folder / f"killed-{runs}"
        status = -1
        while status != 0:
            by = rng.choice(SIGNALS)
            status = ended(command, out, after=rng.uniform(0, seconds / 2) if killed < kills else None, by=by)
            said = out.with_suffix(".log").read_text() if out.with_suffix(".log").exists() else ""
            assert status in (0, -by, 128 + by) or not said, f"{status} after {by.name}: {said}"
            killed += status != 0
        assert command.found(out) == expected, out
        runs += 1
    return runs


def main() -> None:
    """Kill each command some hundred times, print how often it was."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = write_tiny(folder / "images")
        claims = (*TOYS, "cg_rate")
        several = {"paper_checks --jobs 2": commands(data, jobs=2, claims=claims)["paper_checks"]}
        for name, command in (commands(data, claims=claims) | several).items():
            runs = survive(command, folder / name.replace(" ", "-"), kills=kills, seed=0)
            print(
                f"{name}: killed {kills} times, {runs} runs, each with the results of an uninterrupted one", flush=True
            )


if __name__ == "__main__":
    from tests.killed import main as this  # whose functions other processes find by the name of the module

    this()
