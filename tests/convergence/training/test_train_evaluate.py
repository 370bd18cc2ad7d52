"""Training from start to end: what it learns, that it goes on bit for bit wherever it is cut off, how it fails."""

import errno
import json
import random
import sys
import time
from dataclasses import dataclass, field, replace

import pytest
import torch

from convergence import Oracle, checkpoints
from convergence.__main__ import main
from convergence.methods import BSA, ClosedForm
from convergence.recipes import RECIPES
from convergence.status import Status
from convergence.streams import generator
from convergence.training import TrainingFailed, evaluate, load, train
from convergence.training import run as training_run
from convergence.training.evaluation import Evaluation
from convergence.training.run_folder import RunFolder
from problems.few_shot import Augmentation, Conv4, PrototypeHead, compiled
from problems.few_shot.glyphs import glyphs
from tests.convergence.training.small import (
    NETWORK,
    PLAN,
    RECIPE,
    assert_same_run,
    go_on,
    same_tensors,
    started,
    tiny,
    tiny_splits,
    without_seconds,
)

FEW = {"queries": 3, "evaluation_queries": 3}

# ---- what it learns


def test_a_smoke_training_by_the_command_line_clearly_beats_the_untrained_network(tmp_path, monkeypatch, capsys):
    small = {"classes": (60, 20, 20), "cache": tmp_path / "cache", "progress": False}
    monkeypatch.setenv("MEMORY_REDUCED_CACHE", str(small["cache"]))
    splits, out = glyphs("easy", **small), tmp_path / "run"

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["convergence", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    size = ("--classes", 60, 20, 20, "--channels", 16, "--batch", 2)
    pace = ("--iterations", 40, "--learning-rate", 0.003, "--validation-episodes", 20)
    data = ("--data", "glyphs-easy", "--method", "memory_reduced")
    assert command("train", *data, *size, *pace, "--out", out) == ""
    found = json.loads(command("evaluate", out, "--episodes", 60))
    assert (found["episodes"], found["seed"]) == (60, 0)
    untrained = train(RECIPES["memory_reduced"], splits, embedding=Conv4(16), iterations=0)
    before = evaluate(untrained, episodes=60)
    # 91 % against 66 %, intervals of 2 points each
    assert found["accuracy"] - found["ci95"] > before.accuracy + before.ci95 + 0.1
    assert {path.name for path in out.iterdir()} >= {"config.json", "metrics.jsonl", "checkpoint.pt", "training.png"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_is_evaluated(name):
    trained = tiny(2, RECIPES[name])
    assert trained.iteration == 2
    assert trained.end == "iterations"
    assert all(torch.isfinite(tensor).all() for tensor in trained.phi.values())
    calls = RECIPES[name].method.declared_calls(PLAN["batch"])
    assert trained.metrics[-1]["calls"] == {kind: 2 * count for kind, count in calls.items()}
    assert 0 <= evaluate(trained, episodes=2).accuracy <= 1


def test_the_metrics_name_all_that_was_promised():
    first, second, third = tiny(3).metrics
    always = {"iteration", "loss", "direction_norm", "learning_rate", "breakdowns", "calls", "seconds"}
    assert first.keys() == always | {"peak_bytes"}
    assert second.keys() == always
    validation = {"accuracy", "ci95", "gradient_ratio", "mu", "L"}
    assert third.keys() == always | {f"validation_{name}" for name in validation}
    assert third["validation_mu"] == pytest.approx(RECIPE.head(3).ridge)
    assert first["seconds"] <= second["seconds"] <= third["seconds"]


@pytest.mark.parametrize(("done", "seed"), [(0, 0), (1, 0), (2, 0), (0, 1)])
def test_the_loss_is_the_mean_upper_objective_on_the_tasks_of_the_iteration(done, seed):
    before = tiny(done, seed=seed, validate_every=None)
    found = tiny(done + 1, seed=seed).metrics[-1]["loss"]
    problem = before.plan.problem(RECIPE, before.plan.episodes(tiny_splits(), "train"), NETWORK)
    tasks, oracle = problem.sample(2, generator(seed, "tasks", done)), Oracle(problem)
    z = oracle.features(before.phi, tasks)
    theta = RECIPE.method.adapt(oracle, z, before.phi, tasks)
    assert found == pytest.approx(problem.upper(z.value, theta, tasks).mean().item(), rel=1e-5)


def test_the_first_best_iterate_on_validation_is_kept_and_evaluated(monkeypatch):
    accuracies = iter([0.5, 0.7, 0.7, 0.6])
    seen = []

    def scripted(problem, method, phi, **options):
        seen.append({name: tensor.clone() for name, tensor in phi.items()})
        return Evaluation(accuracies=torch.full((3,), next(accuracies)), split="validation", seed=0)

    monkeypatch.setattr(training_run, "measure", scripted)
    trained = tiny(4, validate_every=1)
    assert trained.validated["iteration"] == 2
    assert same_tensors(trained.phi, seen[1])
    assert not same_tensors(trained.state["phi"], seen[1])


def test_patience_ends_a_run_after_so_many_validations_without_a_better_one(monkeypatch, tmp_path):
    accuracies = iter([0.5, 0.7, 0.7, 0.6, 0.9])
    monkeypatch.setattr(
        training_run,
        "measure",
        lambda *arguments, **options: Evaluation(
            accuracies=torch.full((3,), next(accuracies)), split="validation", seed=0
        ),
    )
    ended = tiny(10, validate_every=1, patience=2, out=tmp_path)
    assert (ended.iteration, ended.end) == (4, "patience")
    assert tiny(10, validate_every=1, patience=2, out=tmp_path, resume=True).iteration == 4


def test_without_validation_the_last_iterate_is_the_best():
    trained = tiny(2, validate_every=None)
    assert trained.validated is None
    assert same_tensors(trained.phi, trained.state["phi"])


def test_test_images_are_not_looked_at():
    splits = {**tiny_splits(), "test": tiny_splits()["validation"]}
    assert_same_run(tiny(3), train(RECIPE, splits, embedding=NETWORK, iterations=3, **PLAN))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_too_few_images_of_any_split_are_said_before_the_first_iteration(split, tmp_path):
    images = tiny_splits()[split]
    splits = {**tiny_splits(), split: replace(images, images=images.images[3:], labels=images.labels[3:])}
    message = rf"expected at least 4 images .*, got 3 of class '{split}-0' \(of the {split} images\)"
    with pytest.raises(ValueError, match=message):
        train(RECIPE, splits, embedding=NETWORK, out=tmp_path / "run", iterations=1, **(PLAN | FEW))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"chunk": 2}, {"schedule": "step", "decay_every": 2}, {"optimizer": "sgd"}])
def test_what_the_plan_says_changes_the_run(options):
    if "chunk" in options:  # but for rounding
        pairs = zip(tiny(3).metrics, tiny(3, **options).metrics, strict=True)
        assert all(one["loss"] == pytest.approx(other["loss"], rel=1e-3) for one, other in pairs)
    else:
        assert not same_tensors(tiny(4).state["phi"], tiny(4, **options).state["phi"])
    rates = [row["learning_rate"] for row in tiny(5, **options).metrics]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5] if "schedule" in options else [1e-3] * 5)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float64"},
        {"autocast": True},
        {"channels_last": False},
        {"bn": "support"},
        {"bn": "running"},
        {"augmentation": Augmentation(rotate_classes=True, crop=1, flip=True)},
    ],
)
def test_variants_train_and_go_on_bit_for_bit(options, tmp_path):
    tiny(3, out=tmp_path, **options)
    trained = tiny(6, out=tmp_path, resume=True, **options)
    assert_same_run(tiny(6, **options), trained)
    assert {tensor.dtype for tensor in trained.phi.values()} == {getattr(torch, trained.plan.dtype)}


@pytest.mark.parametrize("options", [{"ahead": False}, {"resident": True}, {"checkpointed": True}])
@pytest.mark.parametrize("augmentation", [None, Augmentation(rotate_classes=True, crop=1, flip=True)])
def test_what_only_saves_time_or_memory_changes_no_bit_and_may_change_on_resume(options, augmentation, tmp_path):
    changes = dict(options)
    network = replace(NETWORK, checkpointed=changes.pop("checkpointed", False))
    arguments = PLAN | changes | {"augmentation": augmentation}
    found = train(RECIPE, tiny_splits(), embedding=network, iterations=4, out=tmp_path, **arguments)
    plain = tiny(4, augmentation=augmentation)
    assert same_tensors(found.state["phi"], plain.state["phi"])
    apart = {"peak_bytes"} if network.checkpointed else set()
    for one, other in zip(without_seconds(found.metrics), without_seconds(plain.metrics), strict=True):
        assert {k: x for k, x in one.items() if k not in apart} == {k: x for k, x in other.items() if k not in apart}
    longer = tiny(7, out=tmp_path, resume=True, augmentation=augmentation)
    assert same_tensors(longer.state["phi"], tiny(7, augmentation=augmentation).state["phi"])


def test_an_image_that_cannot_be_read_ends_the_run_in_its_own_iteration(monkeypatch):
    drawn = training_run._drawn

    def failing(*asked):
        if asked[-1] == 3:
            raise OSError("expected images in a file, got a disk that is gone")
        return drawn(*asked)

    monkeypatch.setattr(training_run, "_drawn", failing)
    rows = []
    with pytest.raises(OSError, match="expected images in a file, got a disk that is gone"):
        tiny(7, watch=rows.append)
    assert len(rows) == 3


def test_a_compiled_run_says_what_compiling_took_and_goes_the_same_way():
    class Clocked:
        """The network as it is, and two seconds on the clock: the program itself is a matter of test_compiled.py."""

        def __init__(self, program):
            self.program, self.calls = program, 0

        def __call__(self, *arguments):
            self.calls += 1
            if self.calls == 1:
                compiled._clock().seconds += 2
            return self.program(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.torch, "compile", lambda program, **options: Clocked(program))
        found = tiny(4, compile=True)
    assert same_tensors(found.state["phi"], tiny(4).state["phi"])
    assert [row.get("compile_seconds") for row in found.metrics] == [2.0, None, None, None]
    assert not any("peak_bytes" in row for row in found.metrics)  # what a program takes is not seen
    assert ["resident_bytes" in row for row in found.metrics] == [True, False, False, False]


# ---- going on


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_a_stopped_run_goes_on_bit_for_bit(cut, tmp_path):
    options = {"schedule": "cosine"}
    whole = tiny(out=tmp_path / "whole", **options)
    rows = []
    stopped = tiny(out=tmp_path / "cut", watch=rows.append, stop=lambda: len(rows) == cut, **options)
    assert (stopped.iteration, stopped.end) == (cut, "stopped")
    assert_same_run(whole, tiny(out=tmp_path / "cut", resume=True, **options))
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    lines = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert without_seconds(lines[0]) == without_seconds(lines[1]) == without_seconds(whole.metrics)


def test_how_a_run_ended_is_written_down_for_those_who_look_on(tmp_path, monkeypatch):
    def noted():
        return json.loads((tmp_path / "end.json").read_text())

    tiny(out=tmp_path, stop=lambda: True)
    assert (noted()["end"], noted()["iteration"]) == ("stopped", 1)
    meanwhile = []
    tiny(out=tmp_path, resume=True, watch=lambda row: meanwhile.append((tmp_path / "end.json").exists()))
    assert meanwhile == [False] * 6
    assert (noted()["end"], noted()["iteration"]) == ("finished", 7)

    def interrupted(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(8, out=tmp_path, resume=True, watch=interrupted)
    assert not (tmp_path / "end.json").exists()
    monkeypatch.setattr(RunFolder, "append", lambda self, row: (_ for _ in ()).throw(OSError("expected room")))
    with pytest.raises(OSError, match="expected room"):
        tiny(8, out=tmp_path, resume=True)
    assert noted() == {"end": "failed", "iteration": 8, "message": "expected room"}


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"optimizer": "sgd"}])
@pytest.mark.parametrize("cut", [3, 6])
def test_a_stop_within_a_validation_ends_the_run_before_its_iteration(cut, options, tmp_path):
    """Validations of three episodes, one at a time, are due after the iterations 3, 6 and 7."""
    rows, asked = [], []

    def stop():
        asked.append(len(rows))
        return asked.count(cut - 1) == 2  # the first time is that after the iteration before

    stopped = tiny(out=tmp_path, watch=rows.append, stop=stop, **options)
    assert (stopped.iteration, stopped.end, len(rows)) == (cut - 1, "stopped", cut - 1)
    assert_same_run(stopped, load(tmp_path, RECIPE, tiny_splits(), embedding=NETWORK))
    assert_same_run(tiny(**options), tiny(out=tmp_path, resume=True, **options))


@pytest.mark.parametrize("written", [1, 2, 3, 4])
def test_a_run_cut_off_before_a_checkpoint_goes_back_to_the_one_before(written, tmp_path, monkeypatch):
    """Checkpoints are due at 0, 2, 4, 6 and 7; the validation of iteration 6 comes before that of 6."""
    whole = tiny()
    real, count = checkpoints.write, iter(range(100))

    def cut_off(*arguments):
        if next(count) == written:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(checkpoints, "write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tiny(out=tmp_path)
    monkeypatch.undo()
    ahead = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    assert ahead == (2, 4, 6, 7)[written - 1]
    assert len(checkpoints.read(tmp_path / "checkpoint.pt")[1]["metrics"]) < ahead
    assert_same_run(whole, tiny(out=tmp_path, resume=True))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 7


def test_a_run_goes_on_in_memory_and_its_start_is_left_alone():
    short = tiny(3)
    whole = tiny()
    assert_same_run(whole, tiny(start=short.state))
    assert_same_run(whole, tiny(start=short.state))


@dataclass(frozen=True, kw_only=True)
class Draws(ClosedForm):
    """A method that draws a number in each step."""

    seen: list[float] = field(default_factory=list)

    def step(self, oracle, phi, tasks, state):
        self.seen.append(oracle.sampled(lambda rng: torch.rand(1, generator=rng)).item())
        return super().step(oracle, phi, tasks, state)


def test_what_a_method_draws_is_a_function_of_the_seed_and_the_iteration_also_where_a_run_goes_on():
    method = Draws()
    recipe = RECIPES["protonet"].__class__(source="", method=method, head=lambda way: PrototypeHead(way=way))
    short = tiny(2, recipe, seed=7, chunk=2)
    tiny(4, recipe, seed=7, chunk=2, start=short.state)
    assert method.seen == [torch.rand(1, generator=generator(7, "noise", t)).item() for t in range(4)]


def test_a_finished_run_is_asked_for_more_iterations(tmp_path):
    tiny(3, out=tmp_path)
    assert_same_run(tiny(6), tiny(6, out=tmp_path, resume=True))
    with pytest.raises(ValueError, match="expected iterations of at least the 6 done, got 5"):
        tiny(5, out=tmp_path, resume=True)


def test_with_a_schedule_the_iterations_are_part_of_the_run(tmp_path):
    tiny(3, out=tmp_path, schedule="cosine")
    with pytest.raises(ValueError, match=r"expected plan.iterations = 3, as in .*checkpoint.pt, got 6"):
        tiny(6, out=tmp_path, resume=True, schedule="cosine")


def test_a_process_killed_at_any_moment_leaves_a_checkpoint_from_which_it_goes_on_bit_for_bit(tmp_path):
    rng, iterations, kills = random.Random(0), 40, 0
    metrics = tmp_path / "metrics.jsonl"
    lines = -1
    while kills < 7:
        process = started(go_on, tmp_path, iterations)
        until = lines + 1 + rng.randrange(4)
        while process.is_alive() and (metrics.read_bytes().count(b"\n") if metrics.exists() else 0) < until:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -9, "it ended before it was killed"
        kills += 1
        if (tmp_path / "checkpoint.pt").exists():
            lines = len(checkpoints.read(tmp_path / "checkpoint.pt")[1]["metrics"])
    assert lines > 0
    go_on(tmp_path, iterations)
    assert_same_run(tiny(iterations), load(tmp_path, RECIPE, tiny_splits(), embedding=NETWORK))
    assert list(tmp_path.glob(".*")) == []


# ---- failing


@dataclass(frozen=True, kw_only=True)
class FailsInTheThird(ClosedForm):
    """A method whose third iteration ends as told."""

    code: Status = Status.BREAKDOWN

    def step(self, oracle, phi, tasks, state):
        third = oracle.calls["upper_gradient"] >= 2 * PLAN["batch"]
        step = super().step(oracle, phi, tasks, state)
        if third and self.code is Status.MAX_ITERATIONS:
            return step._replace(direction={name: tensor * torch.nan for name, tensor in step.direction.items()})
        return step._replace(failure=step.failure + int(self.code)) if third else step


@pytest.mark.parametrize("code", [Status.BREAKDOWN, Status.NON_FINITE, Status.MAX_ITERATIONS])
def test_a_failure_ends_training_with_advice_and_the_checkpoint_intact(code, tmp_path):
    """MAX_ITERATIONS stands for a direction that is not finite though no solver said so."""
    failing = {"method": FailsInTheThird(code=code), "head": lambda way: PrototypeHead(way=way)}
    recipe = RECIPES["protonet"].__class__(source="", **failing)
    expected = Status.BREAKDOWN if code is Status.BREAKDOWN else Status.NON_FINITE
    with pytest.raises(TrainingFailed, match=f"{expected.name} in iteration 3: ") as failed:
        tiny(5, recipe, out=tmp_path)
    assert failed.value.status is expected
    assert expected.advice in str(failed.value)
    _, state = checkpoints.read(tmp_path / "checkpoint.pt")
    assert len(state["metrics"]) == 2
    noted = json.loads((tmp_path / "end.json").read_text())
    assert noted == {"end": "failed", "iteration": 2, "message": str(failed.value)}


def test_a_step_out_of_the_numbers_leaves_the_checkpoint_before_it(tmp_path):
    """d is finite, phi is not: without a test of phi it would be in the next checkpoint."""
    with pytest.raises(TrainingFailed, match="NON_FINITE in iteration 1"):
        tiny(4, out=tmp_path, optimizer="sgd", learning_rate=3e38, checkpoint_every=1)
    _, state = checkpoints.read(tmp_path / "checkpoint.pt")
    assert state["metrics"] == []
    assert same_tensors(state["phi"], tiny(0).phi)


def test_breakdowns_are_counted_where_the_recipe_allows_them():
    allowed = RECIPES["protonet"].__class__(
        method=FailsInTheThird(), head=lambda way: PrototypeHead(way=way), breakdowns=True, source=""
    )
    assert [row["breakdowns"] for row in tiny(4, allowed).metrics] == [0, 0, 2, 2]


def test_a_full_disk_is_said_and_the_checkpoint_before_is_intact(tmp_path, monkeypatch):
    tiny(3, out=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    real, count = checkpoints.write_atomically, iter(range(100))

    def full(path, content):
        if next(count) == 1:
            path.with_name(".partial").write_bytes(content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    with pytest.raises(
        OSError, match=r"expected room to write .*checkpoint.pt, got No space left on device; .* intact"
    ):
        tiny(out=tmp_path, resume=True)
    monkeypatch.undo()
    held, then = (checkpoints.read(path)[1] for path in (tmp_path / "checkpoint.pt", _file(tmp_path, before)))
    assert same_tensors(held["phi"], then["phi"])
    assert_same_run(tiny(), tiny(out=tmp_path, resume=True))


def _file(folder, content):
    path = folder / "before.pt"
    path.write_bytes(content)
    return path


def test_tensorboard_gets_the_numbers_where_it_is_installed(monkeypatch, tmp_path):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def flush(self):
            pass

    fake = type(sys)("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    tiny(3, out=tmp_path)
    assert written[0] == (str(tmp_path), 1)
    assert [step for name, step in written if name == "loss"] == [1, 2, 3]
    assert [step for name, step in written if name == "validation_accuracy"] == [3]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="expected a folder out to resume from, got None"):
        tiny(resume=True)
    counting = BSA(lower_steps=1, lower_step_size=0.1, linear_step_size=0.1)
    with pytest.raises(ValueError, match="expected a method without a state, got BSA with one"):
        tiny(1, replace(RECIPE, method=counting))
    with pytest.raises(ValueError, match="warm_start"):
        tiny(recipe=RECIPE.varied(warm_start=True))
    with pytest.raises(ValueError, match="upper_step_size=None with an optimizer"):
        tiny(recipe=RECIPE.varied(upper_step_size=0.1))
    with pytest.raises(ValueError, match='expected bn="task" where the network itself adapts'):
        tiny(recipe=RECIPES["maml"], bn="running")


def test_a_recipe_whose_problem_lacks_what_its_method_needs_is_refused_in_a_sentence_that_names_both():
    for recipe, sentence in (
        (
            RECIPES["anil"].with_head(learned_start=False),
            "depends on some tensors .* for ANIL, got FewShot, which has no",
        ),
        (
            replace(RECIPES["maml"], head=RECIPES["anil"].with_head(learned_start=False).head),
            "for MAML, got FewShot, wh",
        ),
        (replace(RECIPES["reptile"], adapts="body"), "to be the start theta_0 itself for Reptile, got WholeNetwork, "),
        (replace(RECIPES["boil"], adapts="all"), "for BOIL, got WholeNetwork, which has no such two parts"),
    ):
        with pytest.raises(ValueError, match=sentence):
            tiny(recipe=recipe)


@pytest.mark.gpu
def test_a_gpu_run_goes_on_from_its_checkpoint(tmp_path):
    tiny(3, out=tmp_path, device="cuda")
    on_the_cpu = load(tmp_path, RECIPE, tiny_splits(), embedding=NETWORK, device="cpu")
    assert all(tensor.device.type == "cpu" for tensor in on_the_cpu.phi.values())
    assert tiny(6, out=tmp_path, device="cuda", resume=True).iteration == 6
