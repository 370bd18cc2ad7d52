from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convergence import MemoryReduced, Probe, ReferenceFailed, RunFailed, State, Status, Step, run
from convergence.streams import TaskStream, generator
from problems import PROBLEMS, Quadratic, Tasks
from tests.independent import assert_near
from tests.problems.few_shot.tiny import few_shot
from tests.strategies import normal, quadratics
from tests.twins import Endless, Scalar, UserRidge

METHOD = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=0.2)
COLD = MemoryReduced(lower_steps=2, lower_step_size=0.1, cg_steps=2, upper_step_size=0.05, warm_start=False)


@pytest.fixture
def quadratic() -> Quadratic:
    return Quadratic.random(tasks=6, p=3, q=4, kappa=5.0, seed=0)


@dataclass
class Recorder:
    """A method that stands still and notes the tasks of each iteration."""

    seen: list[Tasks] = field(default_factory=list)

    def start(self, oracle, phi):
        return State(None, None)

    def step(self, oracle, phi, tasks, state):
        self.seen.append(tasks)
        some = next(iter(phi.values()))
        lead = () if oracle.replicas is None else (oracle.replicas,)
        standing = some.new_zeros(*lead, len(tasks), oracle.problem.q)
        return Step(
            phi, state, {n: torch.zeros_like(x) for n, x in phi.items()}, standing, standing, standing[..., 0].int()
        )

    def declared_calls(self, batch):
        return {}


def tasks_of(problem, iterations: int, **options) -> list[Tasks]:
    recorder = Recorder()
    run(problem, recorder, iterations=iterations, probes=(), **options)
    return recorder.seen


# ---- which tasks, in which iteration


@pytest.mark.parametrize("replacement", [False, True])
def test_the_tasks_are_those_of_the_stream_of_the_seed(quadratic, replacement):
    stream = TaskStream(9, pool=6, batch=3, replacement=replacement)
    for t, tasks in enumerate(tasks_of(quadratic, 70, batch=3, replacement=replacement, seed=9)):
        assert torch.equal(tasks.index, stream.index(t))
        assert torch.equal(tasks.b, quadratic.data["b"][tasks.index])


@pytest.mark.parametrize("replicas", [None, 3])
def test_without_a_batch_all_tasks_come_in_order_without_a_replica_axis(quadratic, replicas):
    for tasks in tasks_of(quadratic, 2, replicas=replicas):
        assert tasks.index.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("endless", [False, True], ids=["pool", "endless"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tasks_depend_on_the_seed_and_the_iteration_alone(quadratic, endless, dtype):
    problem = Endless() if endless else quadratic
    few, many = (tasks_of(problem, count, batch=2, seed=5, dtype=dtype) for count in (2, 5))
    together = tasks_of(problem, 5, batch=2, seed=4, replicas=3, dtype=dtype)
    name = "c" if endless else "b"
    for t in range(5):
        assert torch.equal(together[t].index[1], many[t].index)
        assert torch.equal(getattr(together[t], name)[1], getattr(many[t], name))
        assert getattr(many[t], name).dtype == dtype
        if t < 2:
            assert torch.equal(getattr(few[t], name), getattr(many[t], name))
    assert not torch.equal(getattr(many[0], name), getattr(many[1], name))


# ---- replicas, starts, resumption


def test_a_problem_as_a_user_writes_it_runs_alone_and_in_replicas():
    problem = UserRidge()
    together = run(problem, COLD, iterations=5, batch=2, seed=3, replicas=3)
    assert {name: tuple(tensor.shape) for name, tensor in together.phi.items()} == {
        "centre": (3, 3),
        "log_weight": (3, 1),
    }
    for r in range(3):
        alone = run(problem, COLD, iterations=5, batch=2, seed=3 + r)
        for name, tensor in alone.phi.items():
            assert_near(together.phi[name][r], tensor, within=1e-12)
        assert_near(together.trace["grad_norm_sq"][:, r], alone.trace["grad_norm_sq"], within=1e-11)
        assert together.seeds[r] == alone.seeds[0]


class RidgeWithNumber(UserRidge):
    """One of the tensors of phi has no axis."""

    def phi0(self, rng):
        return {name: tensor.squeeze() for name, tensor in super().phi0(rng).items()}


@pytest.mark.parametrize("replicas", [None, 1, 3])
def test_a_tensor_of_phi_may_be_a_single_number(replicas):
    result = run(RidgeWithNumber(), COLD, iterations=5, replicas=replicas)
    expected = run(UserRidge(), COLD, iterations=5, replicas=replicas)
    assert_near(result.phi["log_weight"], expected.phi["log_weight"].squeeze(-1), within=1e-12)
    assert_near(result.phi["centre"], expected.phi["centre"], within=1e-12)
    assert_near(result.trace["grad_norm_sq"], expected.trace["grad_norm_sq"], within=1e-11)


def test_replicas_of_an_endless_problem_are_separate_runs():
    method = MemoryReduced(lower_steps=1, lower_step_size=1.0, cg_steps=1, upper_step_size=0.5, warm_start=False)
    together = run(Endless(), method, iterations=6, batch=4, seed=2, replicas=3)
    assert together.trace == {}  # there is no true gradient to compare with
    for r in range(3):
        alone = run(Endless(), method, iterations=6, batch=4, seed=2 + r)
        assert_near(together.phi["x"][r], alone.phi["x"], within=1e-13)
        # by hand: theta* = phi + c, v = theta, d = mean v
        x = torch.ones(2, dtype=torch.float64)
        for t in range(6):
            x = x - 0.5 * (x + Endless().sample(4, generator(2 + r, "tasks", t)).c.mean(0))
        assert_near(alone.phi["x"], x, within=1e-13)


def test_the_start_is_drawn_from_the_seed(quadratic):

    def start(seed, **options):
        return run(quadratic, METHOD, iterations=0, seed=seed, **options).phi["phi"]

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert torch.equal(start(1, replicas=2), torch.stack([start(1), start(2)]))
    assert torch.equal(start(1), quadratic.phi0(generator(1, "start"))["phi"])


@given(problem=quadratics(), first=st.integers(0, 4), second=st.integers(0, 4), replicas=st.sampled_from([None, 2]))
def test_a_cold_run_resumed_from_its_last_phi_equals_the_uninterrupted_one(problem, first, second, replicas):
    options = {"probes": ("value",), "replicas": replicas}
    whole = run(problem, COLD, iterations=first + second, **options)
    begun = run(problem, COLD, iterations=first, **options)
    resumed = run(problem, COLD, iterations=second, phi0=begun.phi, **options)
    assert torch.equal(resumed.phi["phi"], whole.phi["phi"])
    joined = torch.cat([begun.trace["value"], resumed.trace["value"]])
    assert torch.equal(joined, whole.trace["value"])


def test_one_start_serves_all_replicas_and_is_not_written_to(quadratic):
    phi0 = {"phi": normal(1, 3)}
    result = run(quadratic, METHOD, iterations=4, batch=2, replicas=2, phi0=phi0)
    assert torch.equal(phi0["phi"], normal(1, 3))
    for r in range(2):
        alone = run(quadratic, METHOD, iterations=4, batch=2, seed=r, phi0=phi0)
        assert_near(result.phi["phi"][r], alone.phi["phi"], within=1e-13)
    still = run(quadratic, METHOD, iterations=0, phi0=phi0).phi["phi"]
    still.add_(1)
    assert torch.equal(phi0["phi"], normal(1, 3))


# ---- what is measured


def test_nothing_is_measured_and_nothing_moves_in_no_iterations(quadratic):
    result = run(quadratic, METHOD, iterations=0, replicas=2)
    assert result.trace["grad_norm_sq"].shape == (0, 2)
    assert (result.status, result.iterations, result.iterations_of) == (Status.MAX_ITERATIONS, 0, (0, 0))
    assert set(result.calls.values()) == {0}
    assert result.probed_at.tolist() == []


@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_probing_less_often_measures_the_same_values_at_every_so_manieth_iteration(quadratic, every):
    probes = ("grad_norm_sq", "direction_norm_sq")
    full = run(quadratic, METHOD, iterations=8, probes=probes)
    sparse = run(quadratic, METHOD, iterations=8, probes=probes, probe_every=every)
    assert sparse.probed_at.tolist() == list(range(0, 8, every))
    for name in probes:
        assert torch.equal(sparse.trace[name], full.trace[name][::every])
    assert torch.equal(sparse.phi["phi"], full.phi["phi"])


def test_the_trace_begins_at_the_start_and_is_float64_on_the_cpu(quadratic):
    result = run(quadratic, METHOD, iterations=3, dtype=torch.float32, phi0={"phi": normal(1, 3)})
    assert result.phi["phi"].dtype == torch.float32
    assert (result.trace["grad_norm_sq"].dtype, result.trace["grad_norm_sq"].device.type) == (torch.float64, "cpu")
    exact = quadratic.hypergradient({"phi": normal(1, 3)})["phi"].square().sum()
    assert float(result.trace["grad_norm_sq"][0]) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("replicas", [None, 2])
def test_own_functions_are_probes_of_the_step_and_own_probes_may_be_of_phi(quadratic, replicas):
    def moved(snapshot):
        return (snapshot.step.phi["phi"] - snapshot.phi["phi"]).square().sum(-1)

    size = Probe("size", lambda snapshot: snapshot.phi["phi"].norm(dim=-1))
    iteration = Probe("iteration", lambda snapshot: torch.full((replicas or 1,), snapshot.iteration).squeeze(0))
    probes = (moved, size, iteration, "direction_norm_sq")
    result = run(quadratic, METHOD, iterations=4, probes=probes, replicas=replicas)
    assert list(result.trace) == ["moved", "size", "iteration", "direction_norm_sq"]
    assert_near(result.trace["moved"], 0.2**2 * result.trace["direction_norm_sq"], within=1e-13)
    start = run(quadratic, METHOD, iterations=0, replicas=replicas).phi["phi"]
    assert torch.equal(result.trace["size"][0], start.norm(dim=-1))
    if replicas is None:
        assert result.trace["iteration"].tolist() == [0, 1, 2, 3]


def test_two_probes_of_one_name_are_refused(quadratic):
    probes = (lambda snapshot: torch.zeros(()), lambda snapshot: torch.ones(()))
    with pytest.raises(ValueError, match=r"expected .*name"):
        run(quadratic, METHOD, iterations=1, probes=probes)


@pytest.mark.parametrize("probe", [partial(torch.zeros, 1), 3], ids=["nameless", "number"])
def test_a_probe_without_a_name_is_refused(quadratic, probe):
    with pytest.raises((TypeError, ValueError), match=r"expected .*[Pp]robe"):
        run(quadratic, METHOD, iterations=1, probes=(probe,))


def test_probes_are_not_counted_and_do_not_change_the_run(quadratic):
    every_probe = ("grad_norm_sq", "value", "gap", "distance_sq", "direction_norm_sq", "direction_error_sq")
    bare, probed = (run(quadratic, METHOD, iterations=4, batch=2, probes=probes) for probes in ((), every_probe))
    assert bare.trace == {}
    assert bare.calls == probed.calls
    assert torch.equal(bare.phi["phi"], probed.phi["phi"])


@pytest.mark.parametrize("probes", [("grad_norm_sq",), ("grad_norm_sq", "direction_norm_sq"), ()])
@pytest.mark.parametrize("options", [{}, {"replicas": 2}, {"probe_every": 2}, {"stop_at": {"grad_norm_sq": 0.5}}])
def test_who_watches_hears_what_the_traces_hold_as_it_is_measured(quadratic, probes, options):
    heard = []
    if probes == () and "stop_at" in options:
        probes = ("direction_norm_sq",)
    result = run(
        quadratic, METHOD, iterations=6, probes=probes, watch=lambda t, found: heard.append((t, dict(found))), **options
    )
    assert [t for t, _ in heard] == result.probed_at.tolist()
    for name, trace in result.trace.items():
        assert torch.equal(torch.stack([found[name] for _, found in heard]).nan_to_num(-1), trace.nan_to_num(-1))
    assert torch.equal(result.phi["phi"], run(quadratic, METHOD, iterations=6, probes=probes, **options).phi["phi"])


def test_who_watches_a_run_within_a_budget_hears_of_the_run_alone(quadratic):
    heard = []
    run(quadratic, METHOD, iterations=3, batch=2, memory="1GiB", watch=lambda t, found: heard.append(t))
    assert heard == [0, 1, 2]


def test_a_progress_bar_changes_nothing(quadratic, capsys):
    shown = run(quadratic, METHOD, iterations=4, progress=True)
    assert "4/4" in capsys.readouterr().out
    assert torch.equal(shown.phi["phi"], run(quadratic, METHOD, iterations=4).phi["phi"])


def test_a_run_that_goes_on_from_another_is_the_long_one(quadratic):
    whole = run(quadratic, COLD, iterations=7, batch=2, probe_every=2)
    before = run(quadratic, COLD, iterations=3, batch=2, probe_every=2)
    after = run(quadratic, COLD, iterations=4, batch=2, probe_every=2, first=before.iterations, phi0=before.phi)
    assert torch.equal(after.phi["phi"], whole.phi["phi"])
    assert torch.equal(torch.cat([before.probed_at, after.probed_at]), whole.probed_at)
    traces = [found.trace["grad_norm_sq"] for found in (before, after, whole)]
    assert torch.equal(torch.cat(traces[:2]), traces[2])


def test_the_problem_is_left_as_it_was(quadratic):
    before = {name: tensor.clone() for name, tensor in quadratic.data.items()}
    run(quadratic, METHOD, iterations=3, dtype=torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quadratic.data.items())
    assert quadratic.hypergradient({"phi": normal(0, 3)})["phi"].dtype == torch.float64


# ---- stopping


def test_a_threshold_on_phi_stops_before_the_first_iteration_that_meets_it(quadratic):
    result = run(quadratic, METHOD, iterations=100, stop_at={"grad_norm_sq": 1e-3})
    trace = result.trace["grad_norm_sq"]
    assert result.status is Status.CONVERGED
    assert trace[-1] <= 1e-3 < trace[:-1].min()
    assert result.iterations == len(trace) - 1 < 100
    assert torch.equal(result.phi["phi"], run(quadratic, METHOD, iterations=result.iterations).phi["phi"])
    assert float(quadratic.hypergradient(result.phi)["phi"].square().sum()) == float(trace[-1])


def test_a_threshold_on_the_step_stops_after_the_first_iteration_that_meets_it(quadratic):
    result = run(quadratic, METHOD, iterations=100, probes=(), stop_at={"direction_norm_sq": 1e-3})
    trace = result.trace["direction_norm_sq"]
    assert result.status is Status.CONVERGED
    assert trace[-1] <= 1e-3 < trace[:-1].min()
    assert result.iterations == len(trace) < 100
    assert torch.equal(result.phi["phi"], run(quadratic, METHOD, iterations=result.iterations).phi["phi"])


def test_a_threshold_on_an_own_probe_and_one_that_is_never_met(quadratic):
    size = Probe("size", lambda snapshot: snapshot.phi["phi"].norm())
    stopped = run(quadratic, METHOD, iterations=5, probes=(size,), stop_at={"size": 1e6})
    assert (stopped.status, stopped.iterations) == (Status.CONVERGED, 0)
    going = run(quadratic, METHOD, iterations=5, stop_at={"grad_norm_sq": 0.0})
    assert (going.status, going.iterations) == (Status.MAX_ITERATIONS, 5)


def test_a_value_equal_to_the_threshold_meets_it(quadratic):
    third = float(run(quadratic, METHOD, iterations=3).trace["grad_norm_sq"][2])
    stopped = run(quadratic, METHOD, iterations=9, stop_at={"grad_norm_sq": third})
    assert (stopped.status, stopped.iterations) == (Status.CONVERGED, 2)


def test_several_thresholds_on_phi_must_all_be_met(quadratic):
    alone = [run(quadratic, METHOD, iterations=99, stop_at={name: 0.01}).iterations for name in ("gap", "grad_norm_sq")]
    assert alone[0] != alone[1]
    for names in (("gap", "grad_norm_sq"), ("grad_norm_sq", "gap")):
        both = run(quadratic, METHOD, iterations=99, stop_at=dict.fromkeys(names, 0.01))
        assert both.iterations == max(alone)


def test_a_threshold_is_tested_where_it_is_measured_alone(quadratic):
    full = run(quadratic, METHOD, iterations=100, stop_at={"grad_norm_sq": 1e-3})
    sparse = run(quadratic, METHOD, iterations=100, stop_at={"grad_norm_sq": 1e-3}, probe_every=7)
    assert sparse.iterations == math.ceil(full.iterations / 7) * 7


@pytest.mark.parametrize("name", ["grad_norm_sq", "direction_norm_sq"])
@pytest.mark.parametrize("batch", [None, 5])
def test_each_replica_stops_on_its_own_and_leaves_the_others_alone(quadratic, name, batch):
    options = {"iterations": 60, "batch": batch, "probes": (name, "value"), "stop_at": {name: 0.05}}
    together = run(quadratic, METHOD, seed=1, replicas=4, **options)
    assert len(set(together.iterations_of)) > 1
    for r in range(4):
        alone = run(quadratic, METHOD, seed=1 + r, **options)
        assert together.statuses[r] is alone.status
        assert together.iterations_of[r] == alone.iterations
        assert_near(together.phi["phi"][r], alone.phi["phi"], within=1e-12)
        for probe, trace in alone.trace.items():
            assert_near(together.trace[probe][: len(trace), r], trace, within=1e-11)
            assert bool(together.trace[probe][len(trace) :, r].isnan().all())
    assert together.iterations == max(together.iterations_of)
    assert together.status is max(together.statuses)
    assert together.calls == {n: count * together.iterations for n, count in METHOD.declared_calls(batch or 6).items()}


# ---- failures


def falling(x: Tensor, theta: Tensor) -> Tensor:
    """g = x theta^2 / 2: convex while x > 0. With f = x + theta / 1000 and theta_0 = 0, K = 0: x falls by 1 a step."""
    return 0.5 * x * theta.square()


BREAKING = Scalar(falling, lambda x, theta: x + theta / 1000)
FALL = MemoryReduced(lower_steps=0, lower_step_size=1.0, cg_steps=2, upper_step_size=1.0)


def test_a_breakdown_ends_the_run_at_the_last_good_iterate_and_carries_the_result():
    start = {"x": torch.tensor([2.5], dtype=torch.float64)}
    with pytest.raises(RunFailed, match=r"BREAKDOWN after 3 upper iterations: .* add a ridge term") as caught:
        run(BREAKING, FALL, iterations=10, probes=("direction_norm_sq",), phi0=start)
    result = caught.value.result
    assert (caught.value.status, result.status, result.iterations) == (Status.BREAKDOWN, Status.BREAKDOWN, 3)
    assert result.phi["x"].tolist() == [-0.5]
    quiet = run(BREAKING, FALL, iterations=10, probes=("direction_norm_sq",), phi0=start, raise_on_failure=False)
    assert quiet.status is Status.BREAKDOWN
    assert torch.equal(quiet.phi["x"], result.phi["x"])
    for name, trace in result.trace.items():
        assert torch.equal(quiet.trace[name], trace)


def test_a_breakdown_of_one_replica_leaves_the_others_running():
    starts = [2.5, 100.0, 0.5, 7.0]
    phi0 = {"x": torch.tensor(starts, dtype=torch.float64).unsqueeze(-1)}
    options = {"iterations": 10, "probes": ("direction_norm_sq",), "raise_on_failure": False}
    together = run(BREAKING, FALL, phi0=phi0, replicas=4, **options)
    assert together.statuses == (Status.BREAKDOWN, Status.MAX_ITERATIONS, Status.BREAKDOWN, Status.BREAKDOWN)
    assert together.iterations_of == (3, 10, 1, 7)  # the 7th step arrives at 0, where p'Hp = 0
    assert (together.status, together.iterations) == (Status.BREAKDOWN, 10)
    for r, start in enumerate(starts):
        alone = run(BREAKING, FALL, phi0={"x": torch.tensor([start], dtype=torch.float64)}, **options)
        assert together.statuses[r] is alone.status
        assert torch.equal(together.phi["x"][r], alone.phi["x"])
        trace = alone.trace["direction_norm_sq"]
        assert_near(together.trace["direction_norm_sq"][: len(trace), r], trace, within=1e-14)
        assert bool(together.trace["direction_norm_sq"][len(trace) :, r].isnan().all())
    with pytest.raises(RunFailed, match="BREAKDOWN after 10 upper iterations"):
        run(BREAKING, FALL, phi0=phi0, replicas=4, iterations=10, probes=())


def test_a_stopped_replica_without_a_true_gradient_does_not_stop_the_others():
    phi0 = {"x": torch.tensor([[2.5], [100.0]], dtype=torch.float64)}
    options = {"iterations": 8, "raise_on_failure": False}
    result = run(BREAKING, FALL, phi0=phi0, replicas=2, **options)
    assert result.statuses == (Status.BREAKDOWN, Status.MAX_ITERATIONS)
    going = run(BREAKING, FALL, phi0={"x": phi0["x"][1]}, **options)
    assert_near(result.trace["grad_norm_sq"][:, 1], going.trace["grad_norm_sq"], within=1e-13)
    # d/dx of x + theta*(x) / 1000 with theta* = 0; none at x = -0.5, and nothing thereafter
    assert result.trace["grad_norm_sq"][:3, 0].tolist() == [1.0, 1.0, 1.0]
    assert bool(result.trace["grad_norm_sq"][3:, 0].isnan().all())


def test_a_breakdown_of_one_task_is_a_breakdown():
    class Opposed(Scalar):
        """The second task is concave."""

        def lower(self, features, theta, tasks):
            return (1 - 2 * tasks.index) * super().lower(features, theta, tasks)

    problem = Opposed(lambda x, theta: 0.5 * (theta - x).square(), lambda x, theta: theta)
    result = run(problem, FALL, iterations=3, probes=(), raise_on_failure=False)
    assert (result.status, result.iterations) == (Status.BREAKDOWN, 0)


def test_a_replica_that_has_converged_does_not_fail_afterwards():
    # the first stops at x = -0.5 <= 0, where the next step would break down, the second goes on from 100
    position = Probe("position", lambda snapshot: snapshot.phi["x"].squeeze(-1))
    phi0 = {"x": torch.tensor([[2.5], [100.0]], dtype=torch.float64)}
    result = run(BREAKING, FALL, iterations=10, probes=(position,), stop_at={"position": 0.0}, phi0=phi0, replicas=2)
    assert result.statuses == (Status.CONVERGED, Status.MAX_ITERATIONS)
    assert result.phi["x"].tolist() == [[-0.5], [90.0]]


def test_an_overflow_of_one_replica_leaves_the_others_running():
    # f = x^4 / 4 with step 1 and g that pulls theta to x: |x| > sqrt 2 explodes, smaller x converges
    problem = Scalar(lambda x, theta: (theta - x).square(), lambda x, theta: x**4 / 4)
    method = MemoryReduced(lower_steps=1, lower_step_size=0.5, cg_steps=1, upper_step_size=1.0)
    phi0 = {"x": torch.tensor([[10.0], [0.5]], dtype=torch.float64)}
    result = run(problem, method, iterations=20, phi0=phi0, replicas=2, raise_on_failure=False)
    assert result.statuses == (Status.NON_FINITE, Status.MAX_ITERATIONS)
    assert result.iterations_of[0] < 10 < result.iterations_of[1] == 20
    assert bool(torch.isfinite(result.phi["x"]).all())
    x = 0.5
    for _ in range(20):
        x -= x**3
    assert float(result.phi["x"][1]) == pytest.approx(x, rel=1e-12)
    assert bool(torch.isfinite(result.trace["grad_norm_sq"][:, 1]).all())


@pytest.mark.parametrize("size", [1e6, 1e30])
def test_a_diverging_run_ends_non_finite_and_not_in_its_probe(size):
    for name in ("quadratic", "prox-logistic"):
        problem = PROBLEMS[name](0)
        method = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=size)
        result = run(problem, method, iterations=400, raise_on_failure=False)
        assert result.status is Status.NON_FINITE
        assert bool(torch.isfinite(next(iter(result.phi.values()))).all())


@pytest.mark.parametrize(
    "lower", [lambda x, t: (t - x) ** 4 / 4, lambda x, t: -((t - x) ** 2) / 2], ids=["singular", "concave"]
)
def test_a_lower_level_that_is_not_strongly_convex_ends_in_breakdown_and_not_in_its_probe(lower):
    problem = Scalar(
        lower, lambda x, theta: (theta - 1).square(), start=0.0
    )  # theta starts at x: the Hessian is 0, or -1
    method = MemoryReduced(lower_steps=1, lower_step_size=0.1, cg_steps=1, upper_step_size=0.1)
    result = run(problem, method, iterations=3, raise_on_failure=False)
    assert (result.status, result.iterations) == (Status.BREAKDOWN, 0)


@pytest.mark.parametrize("replicas", [None, 2])
def test_a_true_gradient_that_does_not_exist_is_said_so_where_the_method_goes_on(replicas):
    # g is concave, but f does not see theta: v = 0 solves every system, and the method has nothing to break down on
    problem = Scalar(lambda x, theta: -(theta - x).square(), lambda x, theta: x**2)
    method = MemoryReduced(lower_steps=0, cg_steps=1, upper_step_size=0.1, lower_step_size=0.1)
    assert run(problem, method, iterations=2, probes=(), replicas=replicas).status is Status.MAX_ITERATIONS
    with pytest.raises(ReferenceFailed, match=r"the lower level of Scalar to be strongly convex"):
        run(problem, method, iterations=2, replicas=replicas)


# ---- arguments


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"iterations": -1}, ValueError, "expected iterations an integer >= 0, got -1"),
        ({"iterations": 2.0}, ValueError, "expected iterations an integer >= 0, got 2.0"),
        ({"iterations": True}, ValueError, "expected iterations an integer >= 0, got True"),
        ({"probe_every": 0}, ValueError, "expected probe_every an integer >= 1, got 0"),
        ({"replicas": 0}, ValueError, "expected replicas None or an integer >= 1, got 0"),
        ({"replicas": 2.0}, ValueError, "expected replicas None or an integer >= 1, got 2.0"),
        ({"replicas": True}, ValueError, "expected replicas None or an integer >= 1, got True"),
        ({"batch": 0}, ValueError, "expected batch None or an integer >= 1, got 0"),
        ({"batch": 2.0}, ValueError, "expected batch None or an integer >= 1, got 2.0"),
        ({"batch": 7}, ValueError, "expected a batch of at most 6 tasks without replacement, got 7"),
        ({"seed": -1}, ValueError, "expected .*seed.*, got -1"),
        ({"seed": 0.5}, ValueError, "expected .*seed.*, got 0.5"),
        (
            {"probes": ("grad_norm",)},
            ValueError,
            "expected a probe out of grad_norm_sq, .*, got 'grad_norm'; did you mean 'grad_norm_sq'?",
        ),
        ({"probes": ("zzz",)}, ValueError, "expected a probe out of grad_norm_sq, .*, got 'zzz'$"),
        ({"stop_at": {"valeu": 1.0}}, ValueError, "expected a probe out of .*, got 'valeu'; did you mean 'value'?"),
        ({"device": "banana"}, ValueError, 'expected a device such as "cpu" or "cuda", got \'banana\''),
        ({"phi0": {"phi": torch.zeros(4)}}, ValueError, r"expected phi0\['phi'\] of shape \(3,\), got \(4,\)"),
        ({"phi0": {"psi": torch.zeros(3)}}, ValueError, r"expected phi0 with the tensors \['phi'\], got \['psi'\]"),
        (
            {"phi0": {"phi": torch.zeros(3), "psi": torch.zeros(3)}},
            ValueError,
            r"expected phi0 with the tensors \['phi'\]",
        ),
        ({"phi0": {"phi": torch.tensor([0, 0, math.nan])}}, ValueError, r"expected finite values in phi0\['phi'\]"),
        ({"phi0": {"phi": torch.zeros(3, 3)}, "replicas": 2}, ValueError, r"expected phi0\['phi'\] of shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(quadratic, change, error, sentence):
    with pytest.raises(error, match=sentence):
        run(quadratic, METHOD, **({"iterations": 2, "batch": 2} | change))


@pytest.mark.parametrize("seed", [np.int64(3), np.int32(3)])
def test_an_integer_of_numpy_is_a_seed_like_any_other(quadratic, seed):
    found = run(quadratic, METHOD, iterations=3, batch=2, seed=seed).phi["phi"]
    assert torch.equal(found, run(quadratic, METHOD, iterations=3, batch=2, seed=3).phi["phi"])


def test_a_batch_larger_than_the_pool_is_drawn_with_replacement(quadratic):
    assert len(tasks_of(quadratic, 1, batch=7, replacement=True)[0]) == 7


def test_a_cuda_device_is_refused_on_a_machine_without_one(quadratic, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"expected a CUDA device for 'cuda', got a machine \(or a torch\) without one"
    ):
        run(quadratic, METHOD, iterations=1, device="cuda")


def test_data_that_are_not_finite_are_refused_before_the_first_iteration(quadratic):
    quadratic.data["b"][1, 2] = math.inf
    with pytest.raises(ValueError, match="expected finite values in data tensor 'b', got 1 that are not"):
        run(quadratic, METHOD, iterations=0)


@pytest.mark.parametrize("wrong", [torch.zeros(3), {"x": [0.0]}, None])
def test_a_phi0_method_that_returns_no_dict_of_tensors_is_refused(wrong):
    problem = UserRidge()
    problem.phi0 = lambda rng: wrong
    with pytest.raises(TypeError, match=r"expected phi0 of UserRidge.* to be a .*, got"):
        run(problem, COLD, iterations=1)


def test_an_endless_problem_needs_a_batch_and_has_no_true_gradient():
    with pytest.raises(ValueError, match="expected a batch size: Endless draws tasks without end, got batch=None"):
        run(Endless(), COLD, iterations=1)
    with pytest.raises(ValueError, match=r"finite pool of tasks for the true gradient, got Endless, .* probes=\(\)"):
        run(Endless(), COLD, iterations=1, batch=2, probes=("grad_norm_sq",))
    assert list(run(Endless(), COLD, iterations=2, batch=2, probes=("direction_norm_sq",)).trace) == [
        "direction_norm_sq"
    ]


# ---- devices


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["quadratic", "prox-logistic"])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("replicas", [None, 2])
def test_a_run_on_a_gpu_equals_the_run_on_the_cpu(name, batch, replicas):
    problem = PROBLEMS[name](0)
    probes = ("grad_norm_sq", "value", "direction_norm_sq", "direction_error_sq")
    options = {"iterations": 10, "batch": batch, "replicas": replicas, "seed": 1, "probes": probes}
    on_cpu, on_gpu = (run(problem, METHOD, device=device, **options) for device in ("cpu", "cuda"))
    for n, tensor in on_cpu.phi.items():
        assert on_gpu.phi[n].device.type == "cuda"
        assert_near(on_gpu.phi[n].cpu(), tensor, within=1e-9)
    for probe in probes:
        assert_near(on_gpu.trace[probe], on_cpu.trace[probe], within=1e-9)
    assert on_gpu.calls == on_cpu.calls


@pytest.mark.gpu
@pytest.mark.parametrize("endless", [False, True], ids=["pool", "endless"])
def test_the_tasks_on_a_gpu_are_those_on_the_cpu(quadratic, endless):
    problem, name = (Endless(), "c") if endless else (quadratic, "b")
    on_cpu, on_gpu = (tasks_of(problem, 3, batch=2, seed=1, device=device) for device in ("cpu", "cuda"))
    for ours, theirs in zip(on_cpu, on_gpu, strict=True):
        assert theirs.index.device.type == getattr(theirs, name).device.type == "cuda"
        assert torch.equal(theirs.index.cpu(), ours.index)
        assert torch.equal(getattr(theirs, name).cpu(), getattr(ours, name))


def test_a_run_is_converged_only_where_every_replica_is(quadratic):
    lone = [run(quadratic, METHOD, iterations=30, seed=r).trace["grad_norm_sq"] for r in range(3)]
    last = torch.stack([trace[-1] for trace in lone])
    middle = float(last.sort().values[1])  # reached by some of the replicas within 30 iterations, not by all
    mixed = run(quadratic, METHOD, iterations=30, replicas=3, stop_at={"grad_norm_sq": middle})
    assert set(mixed.statuses) == {Status.CONVERGED, Status.MAX_ITERATIONS}
    assert mixed.status is Status.MAX_ITERATIONS
    every = run(quadratic, METHOD, iterations=30, replicas=3, stop_at={"grad_norm_sq": 2 * float(last.max())})
    assert every.status is Status.CONVERGED


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dtype": "float32"}, "expected a floating-point torch.dtype, got 'float32'"),
        ({"dtype": torch.int64}, "expected a floating-point torch.dtype, got torch.int64"),
        ({"stop_at": 1e-5}, "expected stop_at as .*, got 1e-05"),
        ({"device": "meta"}, 'expected a device such as "cpu" or "cuda", got'),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_in_a_sentence(quadratic, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(quadratic, METHOD, iterations=1, **change)


def test_one_probe_may_be_named_without_a_tuple(quadratic):
    assert list(run(quadratic, METHOD, iterations=2, probes="value").trace) == ["value"]


# ---- an upper step by an optimiser, and the few-shot problem


def test_the_trace_of_a_run_with_an_optimizer_is_measured_before_each_step(quadratic):
    method = replace(METHOD, upper_step_size=None)
    sgd = partial(torch.optim.SGD, lr=0.2)
    own, other = (run(quadratic, m, iterations=6, batch=2, optimizer=o) for m, o in ((METHOD, None), (method, sgd)))
    assert torch.equal(own.trace["grad_norm_sq"], other.trace["grad_norm_sq"])
    assert torch.equal(own.phi["phi"], other.phi["phi"])


def test_an_optimizer_that_overflows_ends_non_finite_at_the_last_good_phi(quadratic):
    method = replace(METHOD, upper_step_size=None)
    options = {"iterations": 50, "probes": (), "optimizer": partial(torch.optim.SGD, lr=1e150)}
    with pytest.raises(RunFailed, match="NON_FINITE") as caught:
        run(quadratic, method, **options)
    assert bool(torch.isfinite(caught.value.result.phi["phi"]).all())
    assert 0 < caught.value.result.iterations < 5


def test_few_shot_episodes_are_functions_of_the_seed_and_the_iteration():
    problem = few_shot()
    first = tasks_of(problem, 3, batch=2, seed=5)
    for t, tasks in enumerate(first):
        again = problem.sample(2, generator(5, "tasks", t))
        assert torch.equal(tasks.index, again.index)
        assert torch.equal(tasks.support, again.support)
        assert tasks.support.dtype == torch.uint8
    assert not torch.equal(first[0].index, first[1].index)
    assert not torch.equal(first[0].index, tasks_of(problem, 1, batch=2, seed=6)[0].index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_few_shot_run_repeats_itself_in_the_type_asked_for(dtype):
    adam = partial(torch.optim.Adam, lr=1e-3)
    method = MemoryReduced(lower_steps=3, cg_steps=3, warm_start=False)
    ends = [run(few_shot(), method, iterations=3, batch=2, seed=1, dtype=dtype, optimizer=adam) for _ in range(2)]
    assert ends[0].trace == {}
    assert ends[0].calls == {name: 3 * count for name, count in method.declared_calls(2).items()}
    for name, tensor in ends[0].phi.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, ends[1].phi[name])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": None}, "expected a batch size: FewShot draws tasks without end, got batch=None"),
        ({"replacement": True}, "expected replacement=False: FewShot draws its own tasks, got True"),
    ],
)
def test_few_shot_episodes_have_no_pool(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(few_shot(), COLD, **({"iterations": 1, "batch": 2} | change))
    with pytest.raises(ValueError, match="expected a finite pool of tasks for warm_start, got FewShot"):
        run(few_shot(), METHOD, iterations=1, batch=2)


@pytest.mark.gpu
def test_a_few_shot_run_on_a_gpu_equals_the_run_on_the_cpu():
    adam = partial(torch.optim.Adam, lr=1e-3)
    method = MemoryReduced(lower_steps=3, cg_steps=3, warm_start=False)
    cpu, gpu = (
        run(few_shot(), method, iterations=3, batch=2, optimizer=adam, device=device) for device in ("cpu", "cuda")
    )
    for name, tensor in cpu.phi.items():
        assert_near(gpu.phi[name].cpu(), tensor, within=1e-8)
