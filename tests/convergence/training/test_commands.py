"""`train` and `evaluate` from the command line: files, exit statuses, signals, a full disk."""

import json
import os
import re
import resource
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import convergence.__main__ as command
from convergence import checkpoints
from convergence.files import NotWritten
from convergence.recipes import RECIPES
from convergence.status import Status
from convergence.training import TrainingFailed
from convergence.training.commands import TRAIN_HELP
from convergence.training.data import NAMES
from problems.few_shot import glyphs
from tests.convergence.training.small import run_command, started, tiny, without_seconds, write_tiny

SIZES = ("--way", 3, "--shot", 1, "--queries", 1, "--evaluation-queries", 2, "--channels", 2, "--batch", 2)
STEPS = ("--lower-steps", 3, "--cg-steps", 2)
PACE = ("--validate-every", 3, "--validation-episodes", 3, "--checkpoint-every", 2)
TINY = (*SIZES, *STEPS, *PACE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return ("--data", "folder", "--root", str(write_tiny(folder / "files")))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMORY_REDUCED_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def call(monkeypatch, capsys):
    def called(*arguments):
        """Exit status, standard output, standard error."""
        monkeypatch.setattr(sys, "argv", ["convergence", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return called


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_its_files_and_is_evaluated(call, data, tmp_path):
    out = tmp_path / "run"
    code, printed, shown = call("train", *data, *TINY, "--iterations", 4, "--out", out)
    assert (code, printed) == (0, "")
    assert "iteration 3: loss" in shown
    assert "peak" in shown
    written = {"config.json", "metrics.jsonl", "checkpoint.pt", "end.json", "training.png"}
    assert {path.name for path in out.iterdir()} == written
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert [row["iteration"] for row in rows(out)] == [1, 2, 3, 4]

    code, printed, _ = call("evaluate", out, "--episodes", 5)
    found = json.loads(printed)
    assert code == 0
    assert printed.count("\n") == 1
    assert found.keys() >= {"accuracy", "ci95", "episodes", "seed"}
    assert (found["episodes"], found["seed"], found["bn"]) == (5, 0, "task")
    assert [found[name] for name in ("way", "shot", "queries", "embedding", "channels")] == [3, 1, 2, "conv4", 2]
    assert (found["iterations"], found["end"]) == (4, "iterations")
    stored = json.loads((out / "evaluation.json").read_text())
    assert found.items() <= stored.items()
    assert stored["versions"].keys() >= {"torch"}
    with np.load(out / "episodes.npz") as listing:
        assert listing["accuracy"].mean() == pytest.approx(found["accuracy"])
        assert listing["rows"].shape == (5, 3, 3)
    again = json.loads(call("evaluate", out, "--list", out / "episodes.npz")[1])
    assert again == found


def test_a_saved_list_is_judged_by_as_it_is_or_refused(call, data, tmp_path):
    out, other = tmp_path / "run", tmp_path / "other"
    assert call("train", *data, *TINY, "--iterations", 2, "--out", out)[0] == 0
    assert call("train", *data, *TINY, "--way", 2, "--iterations", 2, "--out", other)[0] == 0
    found = json.loads(call("evaluate", out, "--episodes", 4, "--seed", 7)[1])
    saved = tmp_path / "saved.npz"
    saved.write_bytes((out / "episodes.npz").read_bytes())
    assert call("evaluate", out, "--episodes", 3)[0] == 0
    assert json.loads(call("evaluate", out, "--list", saved)[1]) == found
    with np.load(saved) as listing:
        arrays = dict(listing)
    np.savez(tmp_path / "elsewhere.npz", **(arrays | {"sha256": np.array("0" * 12)}))
    np.savez(tmp_path / "split.npz", **(arrays | {"split": np.array("held-out")}))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes(saved.read_bytes()[:-50])
    np.savez(tmp_path / "pickle.npz", **(arrays | {"rows": np.array([{}], dtype=object)}))
    for folder, path, expected in (
        (other, saved, "listed episodes of 2 classes, as in training, got 3"),
        (out, tmp_path / "elsewhere.npz", "got one of 000000000000"),
        (out, tmp_path / "split.npz", "got one of held-out"),
        (out, tmp_path / "text.npz", "expected an episodes.npz"),
        (out, tmp_path / "cut.npz", "expected an episodes.npz"),
        (out, tmp_path / "pickle.npz", "expected an episodes.npz"),
        (out, tmp_path / "none.npz", "none.npz"),
    ):
        code, printed, shown = call("evaluate", folder, "--list", path)
        assert (code, printed) == (2, ""), shown
        assert expected in shown.splitlines()[-1]
    code, _, shown = call("evaluate", out, "--list", saved, "--seed", 7)
    assert code == 2
    assert "expected --list or --episodes and --seed" in shown


def test_resume_by_the_command_line(call, data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call("train", *data, *TINY, "--iterations", 6, "--out", whole)[0] == 0
    assert call("train", *data, *TINY, "--iterations", 3, "--out", cut)[0] == 0
    code, _, refused = call("train", *data, *TINY, "--iterations", 6, "--out", cut)
    assert code == 2
    assert len(refused.splitlines()) == 2  # the layout, and the error
    assert call("train", *data, *TINY, "--iterations", 6, "--out", cut, "--resume")[0] == 0
    assert without_seconds(rows(whole)) == without_seconds(rows(cut))
    assert call("evaluate", whole, "--episodes", 3)[1] == call("evaluate", cut, "--episodes", 3)[1]


def test_on_resume_only_what_is_given_is_held_against_the_run(call, data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    line = ("train", *data, *SIZES, *PACE, "--method", "anil", "--channels", 3, "--flip")
    assert call(*line, "--iterations", 5, "--out", whole)[0] == 0
    assert call(*line, "--iterations", 3, "--out", cut)[0] == 0
    for option, value, name in (("--batch", 4, "plan.batch = 2"), ("--queries", 5, "plan.queries = 1")):
        code, _, refused = call("train", *data, option, value, "--out", cut, "--resume")
        assert code == 2  # as it was by default, but now it is asked for
        assert f"expected {name}, as in" in refused
    code, _, refused = call("train", *data, "--method", "memory_reduced", "--out", cut, "--resume")
    assert (code, "expected --method anil, as in the run to resume" in refused) == (2, True)
    assert call("train", *data, "--iterations", 5, "--out", cut, "--resume")[0] == 0
    assert without_seconds(rows(whole)) == without_seconds(rows(cut))
    assert call("train", *data, "--out", cut, "--resume")[0] == 0  # as many iterations as before, which are done
    assert len(rows(cut)) == 5


def test_a_run_is_evaluated_and_goes_on_as_it_was_trained_whatever_the_recipe_is_today(
    call, data, tmp_path, monkeypatch
):
    out, whole = tmp_path / "run", tmp_path / "whole"
    options = (*data, *SIZES, *PACE, "--lower-steps", 3)
    given = ("--lasso", 0.01, "--learning-rate", 0.01, "--flip")
    assert call("train", *options, *given, "--iterations", 6, "--out", whole)[0] == 0
    assert call("train", *options, *given, "--iterations", 3, "--out", out)[0] == 0
    recipe = RECIPES["memory_reduced"].with_head(ridge=9.0).varied(cg_steps=3)
    monkeypatch.setitem(RECIPES, "memory_reduced", recipe)
    assert call("evaluate", out, "--episodes", 3)[0] == 0
    assert call("train", *options, "--iterations", 6, "--out", out, "--resume")[0] == 0
    assert without_seconds(rows(out)) == without_seconds(rows(whole))
    code, _, shown = call("train", *options, "--ridge", 3, "--iterations", 6, "--out", out, "--resume")
    assert code == 2
    assert "expected recipe.head.ridge = 1.0, as in" in shown
    assert call("train", *options, "--ridge", 1, "--iterations", 6, "--out", out, "--resume")[0] == 0


def test_a_run_from_python_is_refused_by_name(call, tmp_path):
    tiny(1, out=tmp_path)
    code, _, shown = call("evaluate", tmp_path)
    assert code == 2
    assert "made from Python" in shown
    assert "use convergence.training.load and evaluate" in shown


def test_several_seeds_are_runs_of_their_own_with_a_table(call, data, tmp_path):
    out = tmp_path / "runs"
    options = (*data, *TINY, "--out", out, "--seeds", 0, 3, "--iterations")
    code, _, shown = call("train", *options, 2)
    assert code == 0
    assert "mean, 95 % interval" in shown
    assert [json.loads((out / f"seed-{seed}" / "config.json").read_text())["plan"]["seed"] for seed in (0, 3)] == [0, 3]
    assert call("train", *options, 4, "--resume")[0] == 0
    found = json.loads(call("evaluate", out, "--episodes", 3)[1])
    assert found["accuracies"].keys() == {"seed-0", "seed-3"}
    assert found["accuracy"] == pytest.approx(np.mean(list(found["accuracies"].values())))
    assert json.loads((out / "evaluation.json").read_text()) == found


def test_wrong_usage_is_one_line(call, data, tmp_path):
    for arguments in (
        ("train", *data, "--out", tmp_path / "a", "--cg-steps", 3, "--method", "anil"),
        ("train", *data, "--out", tmp_path / "b", "--resume"),
        ("train", *data, "--out", tmp_path / "c", "1", "2"),
        ("train", *data, "--out", tmp_path / "d", "--way", 9),
        ("evaluate", tmp_path),
    ):
        code, printed, shown = call(*arguments)
        assert (code, printed) == (2, "")
        *before, last = shown.splitlines()
        assert last.startswith("error: expected ")
        assert before in ([], [f"folder: arrays in {data[-1]}"])
    assert list(tmp_path.glob("[a-d]")) == []


def test_a_breakdown_ends_with_1_and_advice(call, data, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise TrainingFailed(Status.BREAKDOWN, 7)

    monkeypatch.setattr("convergence.training.commands.train_run", fails)
    code, _, shown = call("train", *data, *TINY, "--out", tmp_path / "run")
    assert code == 1
    assert "BREAKDOWN in iteration 7" in shown
    assert "add a ridge term" in shown
    assert "1 BREAKDOWN or NON_FINITE" in TRAIN_HELP


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_with_a_checkpoint_from_which_it_goes_on(number, status, call, data, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    arguments = ("train", *data, *TINY, "--out", str(out), "--iterations")
    process = started(run_command, log, *arguments, 100000)
    while process.is_alive() and not ((out / "metrics.jsonl").exists() and len(rows(out)) >= 3):
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == status, log.read_text()
    assert f"{number.name} after iteration" in log.read_text()
    assert "--resume goes on" in log.read_text()
    done = len(checkpoints.read(out / "checkpoint.pt")[1]["metrics"])
    assert done == len(rows(out)) >= 3
    assert (out / "training.png").exists()
    assert call(*arguments, done + 2, "--resume")[0] == 0
    assert len(rows(out)) == done + 2


def limited(size, log, *arguments):
    """In a process: the command, where no file may be longer than so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run_command(log, *arguments)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 B")],
)
def test_out_of_memory_is_one_line_and_the_checkpoint_is_intact(error, call, data, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise error

    out = tmp_path / "run"
    assert call("train", *data, *TINY, "--out", out, "--iterations", 2)[0] == 0
    monkeypatch.setattr("convergence.training.run.direction_in_chunks", fails)
    code, _, shown = call("train", *data, *TINY, "--out", out, "--iterations", 4, "--resume")
    assert code == 1
    assert shown.splitlines()[-1].startswith("error: expected room ")
    assert shown.splitlines()[-1].endswith(
        f"try --chunk 1, --low-memory or fewer --channels; what is in {out} is from before"
    )
    assert len(checkpoints.read(out / "checkpoint.pt")[1]["metrics"]) == 2
    monkeypatch.setattr("convergence.training.commands.evaluate_trained", fails)
    code, printed, shown = call("evaluate", out, "--episodes", 2)
    assert (code, printed) == (1, "")
    assert shown.splitlines()[-1].endswith("try --chunk 1")
    assert not (out / "evaluation.json").exists()


def test_another_runtime_error_is_a_defect(call, data, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("of another kind")

    monkeypatch.setattr("convergence.training.commands.train_run", fails)
    code, _, shown = call("train", *data, *TINY, "--out", tmp_path / "run")
    assert code == 70
    assert "of another kind" in shown


def full(path, content):
    raise NotWritten(28, "No space left on device", str(path))


@pytest.mark.parametrize("seeds", [(), ("--seeds", 0, 1)])
def test_what_was_judged_is_printed_though_the_disk_is_full(seeds, call, data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert call("train", *data, *TINY, "--out", out, "--iterations", 1, *seeds)[0] == 0
    monkeypatch.setattr("convergence.training.commands.write_atomically", full)
    code, printed, shown = call("evaluate", out, "--episodes", 2)
    assert code == 2
    assert json.loads(printed)["episodes"] == 2
    assert shown.splitlines()[-1].startswith("error: expected room and leave to write ")
    assert shown.splitlines()[-1].endswith("episodes.npz, got No space left on device")
    assert "a full disk" in TRAIN_HELP


def test_a_figure_that_cannot_be_written_is_a_warning(call, data, tmp_path, monkeypatch):
    monkeypatch.setattr("convergence.training.commands.write_atomically", full)
    code, _, shown = call("train", *data, *TINY, "--out", tmp_path, "--iterations", 1)
    assert code == 0
    assert f"warning: expected room and leave to write {tmp_path / 'training.png'}, got No space" in shown


def test_the_last_lines_say_how_it_ended_and_what_is_next(call, data, tmp_path):
    *_, ended, following = call("train", *data, *TINY, "--out", tmp_path, "--iterations", 2)[2].splitlines()
    assert re.fullmatch(
        r"ended after 2 iterations \(all were asked for\): best validation .* % after iteration 2, .*", ended
    )
    assert following == f"next: python -m convergence evaluate {tmp_path}"


def test_a_run_that_has_not_ended_is_judged_with_a_warning(call, data, tmp_path):
    options = (*data, *TINY, "--out", tmp_path, "--iterations")
    assert call("train", *options, 5)[0] == 0
    path = tmp_path / "checkpoint.pt"
    config, state = checkpoints.read(path)
    config["plan"]["iterations"] = 8
    checkpoints.write(path, config, state)
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, shown = call("evaluate", tmp_path, "--episodes", 2)
    assert code == 0
    assert f"warning: the run in {tmp_path} stopped at 5 of 8 iterations" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--decay", 0.5), "expected no --decay without --schedule step, got 0.5"),
        (("--decay-every", 5, "--schedule", "cosine"), "expected no --decay-every without --schedule step, got 5"),
        (("--seed", 0, "--seeds", 1, 2), "expected --seed or --seeds, got both (--seed 0)"),
        (
            ("--validate-every", 0, "--patience", 2),
            "expected --validate-every of at least 1 beside --patience 2, got 0",
        ),
        (("--checkpoint-every", 0), "expected --checkpoint-every an integer >= 1, got 0"),
        (("--chunk", 0), "expected --chunk an integer >= 1, got 0"),
        (("--memory", "lots"), 'expected --memory in bytes or as "2GiB" or "500MB", got \'lots\''),
        (("--lower-steps", -1), "expected --lower-steps an integer >= 0, got -1"),
    ],
)
def test_options_that_do_nothing_or_are_out_of_range_are_named(options, said, call, data, tmp_path):
    code, _, shown = call("train", *data, "--out", tmp_path / "run", *options)
    assert (code, shown.splitlines()[-1]) == (2, f"error: {said}")
    assert not (tmp_path / "run").exists()


def test_no_validation_and_a_schedule_of_steps(call, data, tmp_path):
    options = ("--validate-every", 0, "--schedule", "step", "--decay-every", 1, "--decay", 0.5, "--iterations", 2)
    code, _, shown = call("train", *data, *SIZES, *STEPS, "--out", tmp_path, *options)
    assert code == 0
    assert "ended after 2 iterations (all were asked for): nothing was validated, the last phi is kept" in shown
    plan = json.loads((tmp_path / "config.json").read_text())["plan"]
    assert (plan["validate_every"], plan["decay"], plan["seed"]) == (None, 0.5, 0)


def test_an_interrupted_evaluation_is_said(call, data, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    assert call("train", *data, *TINY, "--out", tmp_path, "--iterations", 1)[0] == 0
    monkeypatch.setattr("convergence.training.commands.evaluate_trained", interrupted)
    code, printed, shown = call("evaluate", tmp_path)
    assert (code, printed, shown.splitlines()[-1]) == (130, "", "interrupted")


def test_a_full_disk_is_one_line_and_the_checkpoint_is_intact(call, data, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    arguments = ("train", *data, *TINY, "--out", str(out), "--iterations")
    assert call(*arguments, 3)[0] == 0
    before = (out / "checkpoint.pt").read_bytes()
    process = started(limited, len(before) // 2, log, *arguments, 6, "--resume")
    process.join()
    assert process.exitcode == 2
    assert log.read_text().splitlines()[-1].startswith("error: expected room to write ")
    assert (out / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in out.glob(".*")] == []
    assert call(*arguments, 6, "--resume")[0] == 0


# ---- the guide

GUIDE = (Path(__file__).parents[3] / "docs" / "few_shot.md").read_text()


def test_the_chunk_is_measured_recorded_and_kept(call, data, tmp_path, monkeypatch):
    monkeypatch.setattr("convergence.training.train_evaluate.fastest_chunk", lambda *arguments: 2)
    line = ("train", *data, *TINY, "--chunk", "auto", "--out", tmp_path / "run")
    assert call(*line, "--iterations", 2)[0] == 0
    monkeypatch.setattr("convergence.training.train_evaluate.fastest_chunk", lambda *arguments: 1)
    assert call(*line, "--iterations", 3, "--resume")[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["plan"]["chunk"], len(rows(tmp_path / "run"))) == (2, 3)
    status, _, error = call(*line[:-4], "--chunk", "most", "--out", tmp_path / "other")
    assert (status, error) == (2, "error: expected --chunk an integer >= 1 or auto, got most\n")


def test_a_memory_budget_is_refused_with_one_that_is_enough_and_chooses_the_chunk(call, data, tmp_path):
    line = ("train", *data, *TINY, "--out", tmp_path / "run", "--iterations", 2)
    code, _, shown = call(*line, "--memory", "1kB")
    enough = re.search(r"error: expected --memory of at least (\S+) for one task at a time, got 1000B", shown)
    assert (code, enough is not None) == (2, True)
    assert call(*line, "--memory", enough[1])[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["plan"]["chunk"] == 1


def test_threads_are_measured_recorded_and_kept(call, data, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr("convergence.training.commands.fastest_threads", lambda *arguments: measured.append(1) or 1)
    line = ("train", *data, *TINY, "--threads", "auto", "--out", tmp_path / "run")
    assert call(*line, "--iterations", 1)[0] == 0
    assert call(*line, "--iterations", 2, "--resume")[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["labels"]["threads"], len(measured), len(rows(tmp_path / "run"))) == (1, 1, 2)
    status, _, error = call(*line[:-4], "--threads", "many", "--out", tmp_path / "other")
    assert (status, error) == (2, "error: expected --threads an integer >= 1 or auto, got many\n")
    status, _, error = call(*line[:-4], "--threads", 0, "--out", tmp_path / "other")
    assert (status, error) == (2, "error: expected --threads an integer >= 1, got 0\n")


def test_layout_threads_and_blocks_reach_the_run(call, data, tmp_path):
    fast = ("--channels-first", "--recompute-blocks", "--resident", "--threads", 1)
    assert call("train", *data, *TINY, *fast, "--iterations", 1, "--out", tmp_path / "run")[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["network"]["checkpointed"]
    assert (config["plan"]["channels_last"], config["plan"]["resident"], config["labels"]["threads"]) == (
        False,
        True,
        1,
    )
    status, _, error = call("train", *data, "--channels-first", "--channels-last", "--out", tmp_path / "other")
    assert (status, error) == (2, "error: expected --channels-last or --channels-first, got both\n")
    again = ("train", *data, *TINY, "--iterations", 2, "--resume", "--out", tmp_path / "run")
    status, _, error = call(*again, "--channels-last")
    assert status == 2
    assert "expected plan.channels_last = False" in error
    assert call(*again)[0] == 0


def test_every_option_in_the_guide_exists(call):
    helps = "".join(call(name, "--help")[1] for name in ("train", "evaluate"))
    ours = "\n".join(line for line in GUIDE.splitlines() if not re.search("paper_checks|few_shot_accuracy", line))
    named = set(re.findall(r"--[a-z][a-z-]+", ours)) - {"--help"}
    assert len(named) > 15
    assert [option for option in named if option not in helps] == []


def test_every_recipe_and_data_set_is_in_the_guide():
    assert [name for name in (*RECIPES, *NAMES) if f"`{name}`" not in GUIDE] == []


def test_the_example_of_the_guide_runs(monkeypatch, tmp_path, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    small = partial(glyphs.glyphs, classes=(6, 5, 5), progress=False)
    monkeypatch.setattr(glyphs, "glyphs", small)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("=250", "=1").replace("=600", "=2"), "few_shot.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out) <= 1
    assert (tmp_path / "runs" / "mine" / "checkpoint.pt").exists()
