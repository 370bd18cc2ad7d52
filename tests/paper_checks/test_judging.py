"""Claims on several ranks: each judged once, by whichever is free, heard of by rank 0 alone."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import paper_checks.__main__
from convergence.distributed import Ranks, restarted
from paper_checks import CLAIMS, Setting, judging
from paper_checks.archive import digest
from paper_checks.cells import Cells
from paper_checks.claim import silent
from paper_checks.evidence import load_run
from tests.convergence.distributed.processes import on_ranks, under_torchrun
from tests.killed import TOYS, add_toys, toy

NAMED = [SimpleNamespace(name=name, title="") for name in "abcde"]


def spread(ranks: Ranks, failing: str) -> list[Any]:
    """Claims that say who judged them; the first one lasts until another rank has judged one."""

    def judge(name, setting):
        if ranks.first:
            while not any(ranks.ready(f"judged/{number}") for number in range(5)):
                pass
        if name == failing:
            raise RuntimeError(f"{name} could not be judged: for a reason")
        return ranks.rank, name

    judging._judge = judge
    return list(judging.on_ranks(NAMED, Setting(), silent, ranks))


def test_every_claim_is_judged_once_and_heard_of_by_rank_0_alone(tmp_path):
    heard, *others = on_ranks(3, spread, tmp_path, "")
    assert others == [[], []]
    assert sorted(name for _, _, name in heard) == list("abcde")
    assert all(claim.name == name for claim, _, name in heard)
    assert {rank for _, rank, _ in heard} - {0}  # whichever was free


def test_why_a_claim_could_not_be_judged_is_said_by_rank_0(tmp_path):
    first, _ = on_ranks(2, spread, tmp_path, "e")
    assert isinstance(first, RuntimeError)
    assert "e could not be judged: for a reason" in str(first)


def command(folder: Path, arguments: list[str]) -> None:
    """`python -m paper_checks` with what it prints in a file of this rank."""
    sys.argv = ["paper_checks", *arguments]
    with (folder / f"rank-{os.environ['RANK']}.txt").open("w") as sys.stdout:
        try:
            paper_checks.__main__.main()
        except SystemExit as end:
            if end.code:
                os._exit(end.code)


def test_the_report_of_two_ranks_is_that_of_one_process(tmp_path):
    names = ["cg_rate"]
    assert under_torchrun(2, command, tmp_path, [*names, "--out", str(tmp_path / "out")], restarts=0)
    assert (tmp_path / "rank-1.txt").read_text() == ""
    printed = (tmp_path / "rank-0.txt").read_text()
    assert all(printed.count(f"HOLDS         {name} (") == 1 for name in names)
    found = {record["claim"]: record for record in json.loads((tmp_path / "out" / "verdicts.json").read_text())}
    for claim, verdict, _ in judging.one_by_one([CLAIMS[name] for name in names], Setting(), silent):
        assert found[claim.name]["outcome"] == verdict.outcome
        assert found[claim.name]["measured"] == pytest.approx(verdict.headline.measured, rel=1e-12)
    assert (tmp_path / "out" / "report.html").is_file()


def dying(folder: Path, arguments: list[str]) -> None:
    """The same; rank 1 is killed when it asks for its fifth value, unless torchrun has started it anew."""
    kept, asked = Cells.kept, itertools.count(1)

    def deadly(cells: Cells, *arguments: Any) -> Any:
        if next(asked) == 5 and os.environ["RANK"] == "1" and not restarted():
            os.kill(os.getpid(), signal.SIGKILL)
        return kept(cells, *arguments)

    Cells.kept = deadly
    add_toys()
    command(folder, arguments)


def test_ranks_that_torchrun_starts_anew_go_on(tmp_path):
    arguments = [*TOYS, "--out", str(tmp_path / "out")]
    assert under_torchrun(2, dying, tmp_path, arguments, restarts=1)
    run = load_run(tmp_path / "out")
    assert run.finished
    for name, entry in run.entries.items():
        assert entry.header["evidence"] == digest(toy(name).run(Setting()))
