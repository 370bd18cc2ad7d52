"""Runs on 1, 2 and 4 processes against the run of one: phi, traces, counts, rows; messages; what is kept."""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist

from convergence import Composed, GradientDescent, Implicit, MemoryReduced, RunFailed, Status, Unrolled
from convergence import run as alone
from convergence.budget import memory_limit
from convergence.catalogue import METHODS
from convergence.distributed import RankLost, Ranks, run
from convergence.distributed.average import BESIDE
from convergence.linear_solvers import RandomNeumann
from convergence.trees import tensors_of
from problems import STOCHASTIC, LearnedStart, ProxLogistic, Quadratic
from tests.convergence.distributed.processes import among, on_ranks, outcomes
from tests.convergence.methods.instances import HEADS, QUADRATICS, accepted, method
from tests.independent import assert_near
from tests.twins import Endless

SIZES = (1, 2, 4)
T = 12
WARM = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.2)
COLD = MemoryReduced(lower_steps=2, lower_step_size=0.1, cg_steps=2, upper_step_size=0.05, warm_start=False)
PARTS = Composed(lower=GradientDescent(3, 0.1), estimator=Unrolled(last=2), upper_step_size=0.1)


def quadratic() -> Quadratic:
    return Quadratic.random(tasks=7, p=3, q=4, kappa=5.0, seed=0)


def endless() -> Endless:
    return Endless()


def heads() -> LearnedStart:
    return LearnedStart(ProxLogistic.random(tasks=3, q=5, examples=8))


ADAM = {"optimizer": partial(torch.optim.Adam, lr=0.05)}
BARE = MemoryReduced(lower_steps=2, cg_steps=2)
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "batch": (quadratic, WARM, {"batch": 4}),
    "theta": (
        quadratic,
        MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.2, warm_start="theta"),
        {"batch": 4},
    ),
    "a rank without a task": (quadratic, WARM, {"batch": 1}),
    "replacement": (quadratic, WARM, {"batch": 5, "replacement": True}),
    "all tasks": (quadratic, WARM, {}),
    "more ranks than tasks": (heads, COLD, {"probes": ("direction_norm_sq",)}),
    "endless": (endless, COLD, {"batch": 3, "probes": ("direction_norm_sq",)}),
    "unrolled": (quadratic, PARTS, {"batch": 4, "seed": 3}),
    "optimizer": (quadratic, BARE, {"batch": 4, **ADAM}),
    "threshold": (quadratic, WARM, {"batch": 4, "stop_at": {"grad_norm_sq": 1.0}}),
    "float32": (quadratic, WARM, {"batch": 4, "dtype": torch.float32}),
}
BY_TASK = [name for name in METHODS if getattr(method(name), "by_task", False)]
REPLICAS = {"replicas": 3, "batch": 2, "stop_at": {"grad_norm_sq": 3.0}}


def result_of(found: Any) -> dict[str, Any]:
    return {
        "phi": found.phi,
        "trace": found.trace,
        "probed_at": found.probed_at,
        "counts": (found.calls, found.examples, found.status, found.iterations, found.statuses, found.seeds),
    }


def all_of_it(ranks: Ranks, folder: Any) -> dict[Any, Any]:
    """Every case on this rank, among 1, 2 and 4."""
    messages: list[int] = []
    all_reduce = dist.all_reduce

    def noted(tensor, *arguments, **options):
        messages.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *arguments, **options)

    dist.all_reduce = noted
    found: dict[Any, Any] = {}
    sizes = among(ranks, SIZES)
    for size, some in sizes.items():
        for name, (make, of, options) in CASES.items():
            messages.clear()
            result = run(make(), of, ranks=some, iterations=T, **options)
            found[size, name] = result_of(result) | {"messages": Counter(messages), "rows": tensors_of(result.state)}
        for name in BY_TASK:
            of = method(name)
            problem = accepted(of, QUADRATICS | HEADS)
            found[size, name] = result_of(run(problem, of, ranks=some, iterations=3, batch=2, probes=()))
        messages.clear()
        found[size, "replicas"] = result_of(run(quadratic(), WARM, ranks=some, iterations=T, **REPLICAS))
        found[size, "replicas"]["messages"] = Counter(messages)
        found[size, "refused"] = refusals(some)
    found.update(kept(sizes, folder))
    return found


def refusals(ranks: Ranks) -> dict[str, str]:
    if ranks.size == 1:
        return {}
    drawing = Composed(lower=GradientDescent(1, 0.1), estimator=Implicit(RandomNeumann(3, 0.1)), upper_step_size=0.1)
    asked = {
        "state": (quadratic(), method("soba"), {}),
        "accuracy": (quadratic(), MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.1, accuracy=0.5), {}),
        "noise": (STOCHASTIC["quadratic-noisy"](0), WARM, {}),
        "draws": (quadratic(), drawing, {}),
        "compile": (quadratic(), WARM, {"compile": True}),
        "probe": (quadratic(), WARM, {"probes": ("certified_direction_error",)}),
    }
    said = {}
    for name, (problem, of, options) in asked.items():
        with pytest.raises(ValueError, match="expected") as error:
            run(problem, of, ranks=ranks, iterations=2, **options)
        said[name] = str(error.value)
    return said


def kept(some: dict[int, Ranks], folder: Any) -> dict[Any, Any]:
    """A run kept by 2 ranks, gone on with by 1 and by 4, and by 1 and 4 again."""
    options: dict[str, Any] = {"batch": 4, "keep_every": 3, "keep": folder / "kept"}
    found = {}
    for number, (size, iterations) in enumerate(((2, 5), (1, 8), (4, 11), (1, T))):
        if size in some:
            result = run(quadratic(), WARM, ranks=some[size], iterations=iterations, resume=number > 0, **options)
            found["kept", iterations] = result_of(result) | {"rows": tensors_of(result.state)}
        dist.barrier()
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return outcomes(4, all_of_it, folder, folder)


def assert_same_run(mine: dict[str, Any], whole: Any, *, within: float = 1e-12) -> None:
    expected = result_of(whole)
    for name, tensor in expected["phi"].items():
        assert_near(mine["phi"][name], tensor, within=within)
    assert mine["counts"] == expected["counts"]
    assert torch.equal(mine["probed_at"], expected["probed_at"])
    assert mine["trace"].keys() == expected["trace"].keys()
    for name, trace in expected["trace"].items():
        assert torch.equal(mine["trace"][name].isnan(), trace.isnan())
        assert_near(mine["trace"][name].nan_to_num(), trace.nan_to_num(), within=within)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_phi_traces_and_counts_are_those_of_one_process(found, size, name):
    make, of, options = CASES[name]
    within = 1e-4 if name == "float32" else 1e-12
    whole = alone(make(), of, iterations=T, **options)
    for rank in range(size):
        assert_same_run(found[rank][size, name], whole, within=within)


@pytest.mark.parametrize("name", BY_TASK)
@pytest.mark.parametrize("size", SIZES)
def test_every_method_that_says_it_works_task_by_task_does(found, size, name):
    of = method(name)
    whole = alone(accepted(of, QUADRATICS | HEADS), of, iterations=3, batch=2, probes=())
    assert_same_run(found[0][size, name], whole)


def test_some_methods_work_task_by_task():
    assert {"memory_reduced", "maml", "itd_bio", "aid_bio"} <= set(BY_TASK)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [2, 4])
def test_phi_is_the_same_on_every_rank_bit_for_bit(found, size, name):
    first, *others = (found[rank][size, name]["phi"] for rank in range(size))
    assert all(torch.equal(first[part], other[part]) for other in others for part in first)


@pytest.mark.parametrize("name", ["batch", "theta", "replacement", "all tasks"])
@pytest.mark.parametrize("size", SIZES)
def test_a_rank_holds_the_rows_of_its_tasks_and_of_no_others(found, size, name):
    make, of, options = CASES[name]
    whole = tensors_of(alone(make(), of, iterations=T, **options).state)
    for rank in range(size):
        rows, own = found[rank][size, name]["rows"], Ranks(rank, size).part(7)
        assert len(rows) == len(whole)
        for mine, tensor in zip(rows, whole, strict=True):
            assert_near(mine, tensor[own], within=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_an_iteration_is_one_message_of_the_declared_size(found, size, name):
    make, _, _ = CASES[name]
    p = sum(tensor.numel() for tensor in make().phi0(torch.Generator().manual_seed(0)).values())
    steps = found[0][size, name]["counts"][3]
    each = (p + BESIDE) * (4 if name == "float32" else 8)
    for rank in range(size):
        assert found[rank][size, name]["messages"] == ({} if size == 1 else {each: steps})


@pytest.mark.parametrize("size", SIZES)
def test_replicas_on_several_ranks_are_those_of_one_process_and_send_nothing(found, size):
    whole = alone(quadratic(), WARM, iterations=T, **REPLICAS)
    assert len(set(whole.iterations_of)) > 1  # one replica stops before another
    for rank in range(size):
        assert_same_run(found[rank][size, "replicas"], whole)
        assert not found[rank][size, "replicas"]["messages"]


@pytest.mark.parametrize("size", [2, 4])
def test_what_cannot_be_spread_is_refused_in_one_sentence(found, size):
    said = found[0][size, "refused"]
    assert "got SOBA" in said["state"]
    assert "got MemoryReduced" in said["accuracy"]
    assert "got Noisy, which draws samples" in said["noise"]
    assert "draws no numbers" in said["draws"]
    assert "expected no compile with tasks that are spread over ranks" in said["compile"]
    assert "expected no probe certified_direction_error" in said["probe"]


@pytest.mark.parametrize(("iterations", "size"), [(5, 2), (8, 1), (11, 4), (T, 1)])
def test_a_run_that_is_kept_goes_on_with_any_number_of_ranks(found, iterations, size):
    whole = alone(quadratic(), WARM, iterations=iterations, batch=4)
    for rank in range(size):
        mine = found[rank]["kept", iterations]
        assert_same_run(mine, whole)
        for row, tensor in zip(mine["rows"], tensors_of(whole.state), strict=True):
            assert_near(row, tensor[Ranks(rank, size).part(7)], within=1e-12)


# ---- one rank, kept


def test_a_kept_run_is_the_run_and_leaves_no_rows_behind(tmp_path):
    kept = run(quadratic(), WARM, ranks=Ranks(), iterations=7, batch=4, keep=tmp_path, keep_every=2)
    assert_same_run(result_of(kept), alone(quadratic(), WARM, iterations=7, batch=4))
    assert {path.name for path in tmp_path.glob("*.pt")} == {"run.pt", "rows-7-0-of-1.pt"}


def test_a_threshold_that_was_met_is_met_again(tmp_path):
    options = {"batch": 4, "stop_at": {"grad_norm_sq": 1.0}, "iterations": 100}
    whole = alone(quadratic(), WARM, **options)
    assert whole.status is Status.CONVERGED
    for resume in (False, True):
        found = run(quadratic(), WARM, ranks=Ranks(), keep=tmp_path, keep_every=2, resume=resume, **options)
        assert_same_run(result_of(found), whole)


def test_a_wish_to_stop_is_heard_when_the_run_is_kept(tmp_path):
    options = {"ranks": Ranks(), "batch": 4, "keep": tmp_path, "keep_every": 3}
    first = run(quadratic(), WARM, iterations=8, stop=lambda: True, **options)
    assert first.iterations == 3
    assert_same_run(
        result_of(run(quadratic(), WARM, iterations=8, resume=True, **options)),
        alone(quadratic(), WARM, iterations=8, batch=4),
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch": 3}, "expected batch = 4"),
        ({"seed": 1}, "expected seed = 0"),
        ({"iterations": 2}, "expected iterations of at least the 4 done, got 2"),
        ({"resume": False}, r"expected a folder without a run, or resume, got .* with run.pt"),
        ({"replicas": 2}, "expected no replicas with a run that is kept, got 2"),
        ({"first": 5}, "expected no first with a run that is kept, got 5"),
        (ADAM, "expected no optimizer with a run that is kept"),
    ],
)
def test_what_does_not_go_on_with_a_kept_run_is_refused(changes, named, tmp_path):
    options = {"ranks": Ranks(), "batch": 4, "keep": tmp_path, "iterations": 4}
    run(quadratic(), WARM, **options)
    with pytest.raises(ValueError, match=named):
        run(quadratic(), WARM, **({**options, "resume": True, "iterations": 6} | changes))


def test_a_budget_around_a_run_that_measures_nothing_is_refused_rather_than_forgotten(tmp_path):
    with memory_limit("1GiB"), pytest.raises(ValueError, match="expected no memory limit around a run that is kept"):
        run(quadratic(), WARM, ranks=Ranks(), batch=4, keep=tmp_path, iterations=4)


@pytest.mark.parametrize("changed", [Quadratic.random(tasks=7, p=3, q=4, kappa=5.0, seed=1), endless()])
def test_another_problem_does_not_go_on_with_a_kept_run(changed, tmp_path):
    options = {"ranks": Ranks(), "batch": 4, "keep": tmp_path, "probes": ()}
    run(quadratic(), COLD, iterations=4, **options)
    with pytest.raises(ValueError, match=r"expected problem\."):
        run(changed, COLD, iterations=5, resume=True, **options)


def test_rows_that_are_missing_or_damaged_are_refused(tmp_path):
    options = {"ranks": Ranks(), "batch": 4, "keep": tmp_path}
    run(quadratic(), WARM, iterations=4, **options)
    rows = tmp_path / "rows-4-0-of-1.pt"
    content = rows.read_bytes()
    for broken, named in ((content[: len(content) // 2], "truncated or corrupt"), (None, "got no such file")):
        rows.unlink() if broken is None else rows.write_bytes(broken)
        with pytest.raises(ValueError, match=named):
            run(quadratic(), WARM, iterations=6, resume=True, **options)


def test_a_run_that_fails_leaves_what_was_kept(tmp_path):
    steep = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=1e30)
    options = {"ranks": Ranks(), "keep": tmp_path, "keep_every": 2, "probes": ()}
    with pytest.raises(RunFailed, match="NON_FINITE"):
        run(quadratic(), steep, iterations=100, **options)
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(RunFailed, match="NON_FINITE"):
        run(quadratic(), steep, iterations=100, resume=True, **options)
    assert (tmp_path / "run.pt").read_bytes() == before


@pytest.mark.gpu
def test_on_a_gpu_rows_and_phi_are_those_of_the_cpu(tmp_path):
    options = {"ranks": Ranks(), "batch": 4, "keep": tmp_path, "keep_every": 3, "device": "cuda"}
    run(quadratic(), WARM, iterations=5, **options)
    found = run(quadratic(), WARM, iterations=T, resume=True, **options)
    whole = alone(quadratic(), WARM, iterations=T, batch=4)
    assert_near(found.phi["phi"].cpu(), whole.phi["phi"], within=1e-9)
    for mine, tensor in zip(tensors_of(found.state), tensors_of(whole.state), strict=True):
        assert_near(mine.cpu(), tensor, within=1e-9)


# ---- a rank that is lost


def lost(ranks: Ranks, folder: Any) -> None:
    """Rank 2 is killed in the sixth iteration, after the run was kept at the fourth."""
    count = 0
    if ranks.rank == 2:
        all_reduce = dist.all_reduce

        def dying(tensor, *arguments, **options):
            nonlocal count
            count += tensor.dtype == torch.float64  # messages of iterations: the first two find out the peak bytes
            if count == 2 + 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return all_reduce(tensor, *arguments, **options)

        dist.all_reduce = dying
    run(quadratic(), WARM, ranks=ranks, iterations=T, batch=4, keep=folder / "kept", keep_every=4)


def test_a_lost_rank_is_named_on_all_others_and_the_run_goes_on_from_what_was_kept(tmp_path):
    ended = on_ranks(4, lost, tmp_path, tmp_path)
    assert ended.pop(2) is signal.SIGKILL
    for outcome in ended:
        assert isinstance(outcome, RankLost)
        assert str(outcome) == "expected word from all 4 ranks, got none from rank 2."
        assert (outcome.ranks, outcome.speaker) == ((2,), 0)
    found = run(
        quadratic(), WARM, ranks=Ranks(), iterations=T, batch=4, keep=tmp_path / "kept", keep_every=4, resume=True
    )
    assert_same_run(result_of(found), alone(quadratic(), WARM, iterations=T, batch=4))
