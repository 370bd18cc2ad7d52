"""The compiled upper iteration equals the one written in Python, counts the same, and refuses what it cannot be."""

import shutil

import numpy as np
import pytest
import torch

from convergence import (
    SOBA,
    Composed,
    ForwardGradient,
    GradientDescent,
    ITDBiO,
    MemoryReduced,
    run,
)
from problems import Noisy, ProxLogistic, Quadratic
from tests.convergence.test_optimisers import OPTIMIZERS
from tests.independent import assert_near
from tests.twins import Endless

QUADRATIC = Quadratic.random(tasks=6, p=3, q=4, kappa=5.0, seed=1)
LOGISTIC = ProxLogistic.random(tasks=3, q=2, examples=3)
WARM = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.2)
UNROLLED = ITDBiO(lower_steps=1, upper_step_size=0.2)
needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler: g++ or clang++"
)
# What torch's compiler says of itself is not this package's to mend
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def quick(monkeypatch):
    """Everything but the code of torch.compile's own compiler, which takes ten seconds a program."""
    monkeypatch.setattr("convergence.compiled.BACKEND", "aot_eager")


CASES = {
    "closed forms, all tasks": (QUADRATIC, WARM, {}),
    "replicas": (QUADRATIC, WARM, {"batch": 3, "replicas": 3}),
    "automatic derivatives, replicas": (LOGISTIC, WARM, {"batch": 2, "replicas": 2}),
    "unrolled": (LOGISTIC, UNROLLED, {"batch": 2}),
    "optimiser": (QUADRATIC, MemoryReduced(lower_steps=2, cg_steps=2), {"optimizer": OPTIMIZERS["adam"]}),
}


@needs_a_compiler
@pytest.mark.parametrize("options", [{"batch": 2, "replicas": 3}, {"probes": ()}], ids=["one", "many"])
def test_a_compiled_run_is_the_run_with_the_compiler_itself(options):
    problem = Quadratic.random(tasks=3, p=2, q=3, kappa=5.0, seed=1)
    once = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.2)
    eager, compiled = (run(problem, once, iterations=70, seed=3, compile=way, **options) for way in (False, True))
    assert_near(compiled.phi["phi"], eager.phi["phi"], within=1e-12)
    assert compiled.calls == eager.calls


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("case", CASES)
def test_a_compiled_run_is_the_run(case):
    problem, method, options = CASES[case]
    probes = ("grad_norm_sq", "direction_norm_sq", "direction_error_sq")
    eager, compiled = (
        run(problem, method, iterations=12, probes=probes, seed=3, compile=way, **options) for way in (False, True)
    )
    for name, tensor in eager.phi.items():
        assert_near(compiled.phi[name], tensor, within=1e-12)
    for name, values in eager.trace.items():
        assert_near(compiled.trace[name], values, within=1e-12)
    assert (compiled.calls, compiled.examples) == (eager.calls, eager.examples)
    assert (compiled.status, compiled.iterations) == (eager.status, eager.iterations)
    assert compiled.seconds > compiled.compile_seconds > 0 == eager.compile_seconds


@pytest.mark.usefixtures("quick")
def test_tasks_without_end_are_seen_anew_by_every_iteration():
    method = MemoryReduced(lower_steps=2, lower_step_size=0.1, cg_steps=2, upper_step_size=0.1, warm_start=False)
    eager, compiled = (
        run(Endless(), method, iterations=5, batch=3, probes=(), seed=1, compile=way) for way in (False, True)
    )
    for name, tensor in eager.phi.items():
        assert_near(compiled.phi[name], tensor, within=1e-12)


@pytest.mark.usefixtures("quick")
def test_a_breakdown_is_seen_in_a_compiled_run():
    fast = MemoryReduced(lower_steps=3, lower_step_size=1e200, cg_steps=1, upper_step_size=1.0)
    found = [
        run(QUADRATIC, fast, iterations=4, raise_on_failure=False, probes=(), compile=way) for way in (False, True)
    ]
    assert found[0].status is found[1].status
    assert found[1].status.failed
    assert found[0].iterations == found[1].iterations


@pytest.mark.parametrize(
    ("problem", "method", "said"),
    [
        (Noisy(QUADRATIC, lower=0.1), WARM, "expected exact objectives with compile=True, got Noisy"),
        (
            QUADRATIC,
            SOBA(upper_step_size=0.1),
            "expected a state of tensors with compile=True, got SOBA, whose state holds 0",
        ),
        (
            QUADRATIC,
            Composed(lower=GradientDescent(2, 0.1), estimator=ForwardGradient(), upper_step_size=0.1),
            "expected a method that draws no numbers with compile=True, got Composed",
        ),
        (
            QUADRATIC,
            MemoryReduced(lower_steps=5, cg_steps=5, upper_step_size=0.1, accuracy=0.5),
            "expected a step without decisions on values with compile=True, got one of MemoryReduced",
        ),
    ],
)
def test_a_step_that_cannot_be_written_down_is_refused(problem, method, said):
    with pytest.raises(ValueError, match=said):
        run(problem, method, iterations=2, probes=(), compile=True)


@pytest.mark.parametrize("probes", [(), ("value",)], ids=["many", "one"])
def test_without_a_compiler_one_sentence_says_so(probes):
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with missing, pytest.raises(ValueError, match=r"expected a C\+\+ compiler .* for compile=True, got none"):
        run(QUADRATIC, WARM, iterations=2, probes=probes, compile=True)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("problem", "options"),
    [
        (QUADRATIC, {"batch": 3}),
        (QUADRATIC, {"batch": 2, "replicas": 3, "replacement": True}),
        (QUADRATIC, {"batch": 3, "probes": ("value",), "probe_every": 7, "stop_at": {"grad_norm_sq": 1e-4}}),
        (LOGISTIC, {"batch": 2}),
    ],
    ids=["single", "replicas", "probes now and then, and a threshold", "automatic derivatives"],
)
def test_many_iterations_in_one_program_are_the_run(problem, options):
    options = {"probes": (), **options}
    eager, compiled = (run(problem, WARM, iterations=150, seed=2, compile=way, **options) for way in (False, True))
    for name, tensor in eager.phi.items():
        assert_near(compiled.phi[name], tensor, within=1e-12)
    for ours, theirs in zip(compiled.state, eager.state, strict=True):
        assert_near(ours, theirs, within=1e-12)
    for name, values in eager.trace.items():
        assert_near(compiled.trace[name], values, within=1e-12)
    assert torch.equal(compiled.probed_at, eager.probed_at)
    assert (compiled.calls, compiled.examples) == (eager.calls, eager.examples)
    assert (compiled.statuses, compiled.iterations_of) == (eager.statuses, eager.iterations_of)


@pytest.mark.usefixtures("quick")
def test_replicas_that_fail_in_the_middle_of_a_program_stop_there_and_the_others_go_on():
    fast = MemoryReduced(lower_steps=2, cg_steps=2, upper_step_size=3.0)
    phi0 = {"phi": torch.tensor([[1.0, 2.0, 3.0], [1e300, 1e300, 1e300], [1e150, 0.0, 0.0]], dtype=torch.float64)}
    eager, compiled = (
        run(QUADRATIC, fast, iterations=200, replicas=3, phi0=phi0, probes=(), raise_on_failure=False, compile=way)
        for way in (False, True)
    )
    assert len(set(eager.iterations_of)) == 3
    assert (compiled.statuses, compiled.iterations_of) == (eager.statuses, eager.iterations_of)
    assert compiled.calls == eager.calls


class _Remembers(Quadratic):
    """Its lower level changes with every look at it."""

    looks = 0

    def lower_gradient(self, features, theta, tasks):
        type(self).looks += 1
        return super().lower_gradient(features, theta, tasks) * (1 + 0.01 * self.looks)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("probes", [(), ("grad_norm_sq",)], ids=["many", "one"])
def test_a_step_that_looks_at_more_than_its_arguments_is_refused(probes):
    problem = _Remembers(*(QUADRATIC.data[name] for name in ("A", "C", "b", "Q", "u", "R", "w")))
    with pytest.raises(ValueError, match=r"looks at phi, the tasks and its state alone .* differs from itself"):
        run(problem, WARM, iterations=5, probes=probes, compile=True, first=1)  # its values are not looked at before


@pytest.mark.usefixtures("quick")
def test_long_runs_are_compiled_by_themselves_where_they_can_be(monkeypatch):
    monkeypatch.setattr("convergence.driver._LONG", 100)
    SMALL = Quadratic.random(tasks=2, p=1, q=1, kappa=1.0)
    once = MemoryReduced(lower_steps=1, cg_steps=1, upper_step_size=0.2)
    assert run(SMALL, once, iterations=99, probes=()).compile_seconds == 0
    compiled = run(SMALL, once, iterations=100, probes=())
    assert compiled.compile_seconds > 0
    assert_near(
        compiled.phi["phi"], run(SMALL, once, iterations=100, probes=(), compile=False).phi["phi"], within=1e-12
    )
    certified = MemoryReduced(lower_steps=5, cg_steps=5, upper_step_size=0.1, accuracy=0.5)
    plain, decided = (run(SMALL, certified, iterations=100, probes=(), compile=way) for way in (False, None))
    assert torch.equal(plain.phi["phi"], decided.phi["phi"])  # decides on values: Python goes on
    assert decided.calls == plain.calls
    noisy = run(Noisy(SMALL, lower=0.1), once, iterations=100, probes=())
    assert noisy.compile_seconds == 0


@pytest.mark.usefixtures("quick")
def test_a_process_compiles_any_number_of_programs():
    with torch._dynamo.config.patch(recompile_limit=1):
        for seed in range(3):
            problem = Quadratic.random(tasks=2, p=1, q=2 + seed, kappa=2.0)
            assert run(problem, WARM, iterations=5, probes=(), compile=True).compile_seconds > 0


class _ThroughNumpy(Quadratic):
    """A closed form that leaves torch on the way."""

    def upper_gradient(self, features, theta, tasks):
        length = np.linalg.norm(theta.detach().numpy())
        return super().upper_gradient(features, theta, tasks) * float(length >= 0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("probes", [(), ("value",)], ids=["many", "one"])
def test_a_step_that_leaves_torch_is_refused_and_never_kept_as_it_was_once(probes, monkeypatch):
    problem = _ThroughNumpy(*(QUADRATIC.data[name] for name in ("A", "C", "b", "Q", "u", "R", "w")))
    with pytest.raises(ValueError, match="with compile=True, got one of MemoryReduced"):
        run(problem, WARM, iterations=30, probes=probes, compile=True)
    monkeypatch.setattr("convergence.driver._LONG", 10)
    plain, decided = (run(problem, WARM, iterations=30, probes=probes, compile=way) for way in (False, None))
    assert torch.equal(plain.phi["phi"], decided.phi["phi"])
    assert decided.calls == plain.calls


class _Growing(MemoryReduced):
    """Its state has another tensor from the first iteration on."""

    def start(self, oracle, phi):
        return (super().start(oracle, phi), None)

    def step(self, oracle, phi, tasks, state):
        step = super().step(oracle, phi, tasks, state[0])
        return step._replace(state=(step.state, step.theta))


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_compiled_runs_in_python_unless_it_was_asked_for(monkeypatch):
    monkeypatch.setattr("convergence.driver._LONG", 10)
    growing = _Growing(lower_steps=1, cg_steps=1, upper_step_size=0.2)
    assert run(QUADRATIC, growing, iterations=10, probes=()).iterations == 10
    with pytest.raises(ValueError, match="expected a step that torch can trace and compile"):
        run(QUADRATIC, growing, iterations=10, probes=(), compile=True)
