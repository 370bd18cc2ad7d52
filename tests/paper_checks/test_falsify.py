"""The search finds a bound that is too small and a method that is wrong; the true bounds withstand it."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import paper_checks.__main__ as command
from convergence import MemoryReduced, reference, run
from paper_checks import CLAIMS, falsify
from paper_checks.bounds import BOUNDS, WORST, worst_file
from paper_checks.bounds.batches import _expectations, _sequences
from paper_checks.bounds.heads import CELLS, WARM, Heads, decode
from paper_checks.bounds.instances import Instances, Shape, Theory, parameters
from paper_checks.bounds.profiles import _profiles
from paper_checks.falsify import Bound, Worst, load, replay, save, search
from paper_checks.lyapunov import Lyapunov, drift_probe, reference_potential
from paper_checks.planted import FirstOrder, HiddenDecay, LastStepOnly, OneLowerStepFewer
from paper_checks.quadratic_theory import QuadraticTheory
from problems import Quadratic

EACH = [(claim, k) for claim, bounds in BOUNDS.items() for k in range(len(bounds))]
seeds = st.integers(0, 1000)


@pytest.mark.parametrize(("claim", "number"), EACH)
def test_random_instances_stay_below_the_bound_and_come_near_it(claim, number):
    bound = BOUNDS[claim][number]
    for cell in bound.cells:
        ratios = bound.evaluate(cell, np.random.default_rng(1).random((48, bound.dimensions(cell))))
        assert ratios.shape == (48,)
        assert (ratios <= 1 + 1e-9).all()
        assert ratios.max() > 1e-5  # zero would mean that nothing is measured


@pytest.mark.parametrize(
    ("claim", "number", "method", "cell"),
    [
        ("hypergradient_error", 0, FirstOrder, 3),
        ("certificate", 0, FirstOrder, 3),
        ("cold_start_floor", 0, OneLowerStepFewer, 2),
        ("lyapunov_decrease", 0, FirstOrder, 1),
        ("lyapunov_decrease", 2, FirstOrder, 1),
        ("itd_floor", 1, LastStepOnly, 1),
        ("growing_lower_steps", 0, HiddenDecay, 2),
        ("batch_size_decay", 0, OneLowerStepFewer, 0),
    ],
)
def test_a_planted_error_exceeds_the_bound(claim, number, method, cell):
    bound = BOUNDS[claim][number]
    x = np.random.default_rng(0).random((400, bound.dimensions(bound.cells[cell])))
    assert bound.evaluate(bound.cells[cell], x).max() <= 1 + 1e-9
    assert bound.evaluate(bound.cells[cell], x, method).max() > 1 + 1e-6


def test_the_search_climbs_and_finds_a_bound_that_is_too_small():
    true = BOUNDS["hypergradient_error"][0]
    halved = replace(true, cells=true.cells[:1], ratios=lambda *arguments: 2 * true.ratios(*arguments))
    random = halved.evaluate(halved.cells[0], np.random.default_rng(0).random((64, halved.dimensions({}))))
    heard = []
    worst = search("hypergradient_error", halved, budget=1.5, seed=1, report=heard.append)
    assert worst.exceeds
    assert worst.ratio > random.max()
    assert heard == sorted(heard)
    assert worst.instances > 500
    assert replay(worst, halved) == pytest.approx(worst.ratio, rel=1e-9)


class NoNumber(MemoryReduced):
    """A direction that is no number."""

    def step(self, oracle, phi, tasks, state):
        right = super().step(oracle, phi, tasks, state)
        return right._replace(direction={name: x * torch.nan for name, x in right.direction.items()})


@pytest.mark.parametrize("claim", ["hypergradient_error", "certificate", "growing_lower_steps", "cold_start_floor"])
def test_a_method_that_fails_obeys_no_bound(claim):
    for bound in BOUNDS[claim]:
        if bound.name.startswith("certificate over"):
            continue  # of theta and v, not of d
        x = np.random.default_rng(0).random((5, bound.dimensions(bound.cells[0])))
        assert (bound.evaluate(bound.cells[0], x, NoNumber) > 1e300).all()


def test_a_degenerate_point_is_judged_by_one_beside_it():
    def ratios(method, cell, x):
        return np.where(x[:, 0] == 0.5, np.nan, np.where(x[:, 0] == 1, np.inf, 0.25))

    bound = Bound("x", lambda cell: 1, ({},), ratios, lambda *_: {})
    found = bound.evaluate({}, np.array([[0.5], [1.0], [0.7]]))
    assert found[[0, 2]].tolist() == [0.25, 0.25]
    assert found[1] > 1e300


@pytest.mark.parametrize("path", sorted(WORST.glob("*.json")), ids=lambda path: path.stem)
def test_a_stored_instance_gives_its_ratio_again_and_does_not_exceed_the_bound(path):
    bounds = BOUNDS[path.stem]
    found = load(path)
    assert [worst.bound for worst in found] == [bound.name for bound in bounds]
    for worst, bound in zip(found, bounds, strict=True):
        assert not worst.exceeds
        assert replay(worst, bound) == pytest.approx(worst.ratio, rel=1e-5)  # ill-conditioned: the search seeks that


def test_every_bound_belongs_to_a_claim_and_has_been_searched():
    assert set(BOUNDS) <= set(CLAIMS)
    assert {worst_file(claim) for claim in BOUNDS} == set(WORST.glob("*.json"))


# ---- the instances


@given(seeds)
def test_the_theory_of_instances_is_that_of_each_alone(seed):
    shape = Shape(tasks=3, p=2, q=2, gain=True)
    theory = Theory(shape.decode(np.random.default_rng(seed).random((4, shape.dimensions))))
    for k, constants in enumerate(theory.constants):
        arrays = {name: array[k] for name, array in theory.arrays.items() if name != "phi"}
        problem = Quadratic(**arrays)
        alone = QuadraticTheory.of(problem)
        np.testing.assert_allclose(theory.gradient(theory.phi)[k], alone.gradient(theory.phi[k]), rtol=1e-9, atol=1e-9)
        for name in ("mu", "L", "L_c", "ell", "Lambda", "tau", "nu", "L_Phi"):
            assert getattr(constants, name) == pytest.approx(getattr(problem.constants, name), rel=1e-9)
        at = {"phi": problem.upper_solution()["phi"]}
        gap = problem.value(parameters(theory.phi[k])) - problem.value(at)
        assert theory.gap(theory.phi)[k] == pytest.approx(float(gap), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("number", range(6))
def test_the_solutions_of_heads_are_those_of_the_reference(number):
    cell = CELLS[number]
    heads = Heads(cell, decode(cell, np.random.default_rng(number).random((5, 14))))
    for k, constants in enumerate(heads.constants):
        assert 0 < constants.lower_contraction(0.5) < 1
        task = heads.problem.select(torch.tensor([k]))
        exact = reference(heads.problem, {"centre": torch.as_tensor(heads.phi[k])}, task)
        np.testing.assert_allclose(heads.theta[k], exact.theta[0], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(heads.gradient[k], exact.hypergradient["centre"], rtol=1e-8, atol=1e-11)
        assert heads.value[k] == pytest.approx(float(exact.value), rel=1e-12)
    np.testing.assert_allclose(heads.residual(heads.theta, heads.v(heads.theta)), 0, atol=1e-11)


@pytest.mark.parametrize("cell", WARM, ids=str)
def test_the_decrease_on_heads_is_that_of_runs_on_single_problems(cell):
    (bound,) = (each for each in BOUNDS["lyapunov_decrease"] if "heads" in each.name)
    x = np.random.default_rng(3).random((4, bound.dimensions(cell)))
    steps = {"lower_steps": cell["K"], "cg_steps": cell["N"], "lower_step_size": 0.5}
    for one, ratio in zip(x, bound.evaluate(cell, x), strict=True):
        heads = Heads(cell, {name: array[None] for name, array in bound.instance(cell, one).items()})
        exact_v = {"exact_v": cell["N"] == 2}
        heads = heads.scaled(np.array([Lyapunov.of(heads.problem.constants, **steps, **exact_v).largest_step]))
        lyapunov = Lyapunov.of(heads.problem.constants, **steps, **exact_v)
        assert lyapunov.largest_step == pytest.approx(1)
        probes = ("grad_norm_sq", reference_potential(heads.problem, 0.0, 1.0, lyapunov), drift_probe())
        method, phi = MemoryReduced(**steps, upper_step_size=1.0), {"centre": torch.as_tensor(heads.phi[0])}
        trace = run(heads.problem, method, iterations=6, phi0=phi, probes=probes).trace
        V, squares, drift = (trace[name].numpy() for name in ("V", "grad_norm_sq", "drift"))
        counted = drift[1:] <= lyapunov.drift
        law = (squares[:-1] / (2 * (V[:-1] - V[1:] + 1e-12 * V[:-1])))[counted]
        assert ratio == pytest.approx(law.max(initial=0), rel=1e-6)


@given(seeds, st.sampled_from([0, 1]))
def test_expectations_over_sequences_are_those_of_runs_on_single_problems(seed, iid):
    cell = {"M": 2, "b": 1, "T": 3, "K": 2, "iid": iid}
    shape = Shape(tasks=2, p=1, q=2)
    theory = Theory(shape.decode(np.random.default_rng(seed).random((2, shape.dimensions))))
    theory = theory.scaled(0.3 / theory.bounds["L_Phi"])
    squares, _ = _expectations(MemoryReduced, cell, theory, 2)
    assert len(_sequences(cell)) == 8
    for k in range(2):
        alone = QuadraticTheory(**{name: array[k] for name, array in theory.arrays.items() if name != "phi"})
        steps = {"K": 2, "N": 2, "lower_step_size": 1.0, "upper_step_size": 1.0}
        runs = [alone.replay(theory.phi[k], batches, **steps) for batches in _sequences(cell)]
        law = np.mean([[np.square(alone.gradient(phi)).sum() for phi in run[:3]] for run in runs], 0)
        np.testing.assert_allclose(squares[:, k], law, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", ["convex", "nonconvex"])
@pytest.mark.parametrize("seed", range(4))
def test_a_profile_has_the_slope_it_says_and_its_minimum(seed, kind):
    problem, start = _profiles(np.random.default_rng(seed).random((3, 15)), kind)

    def values(x):
        return problem.objective(torch.as_tensor(x)[..., None]).numpy()

    x = start + np.linspace(-5, 5, 200)
    slope = problem.objective_gradient(torch.as_tensor(x)).numpy()
    difference = (values(x + 1e-6) - values(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, difference, atol=2e-6)  # curvature 1: 1e-6, and rounding of the values
    grid = np.tile(np.linspace(-30, 40, 20001), (3, 1))
    sampled = values(grid)
    for k in range(3):
        near = grid[k, sampled[k].argmin()]

        def one(y, k=k):
            return values(np.full((3, 1), y))[k, 0]

        found = minimize_scalar(one, bounds=(near - 0.01, near + 0.01), method="bounded", options={"xatol": 1e-10})
        assert float(problem.minimum[k]) == pytest.approx(min(found.fun, sampled[k].min()), abs=1e-6)


def test_tasks_of_a_batch_are_those_of_the_instance():
    shape = Shape(tasks=3, p=1, q=2)
    theory = Theory(shape.decode(np.random.default_rng(0).random((2, shape.dimensions))))
    batch = Instances(theory).batch(np.array([[2, 0], [1, 1]]))
    np.testing.assert_array_equal(batch.u[0], theory.u[0, [2, 0]])
    np.testing.assert_array_equal(batch.A[1], theory.A[1, [1, 1]])
    assert batch.index.tolist() == [[2, 0], [1, 1]]


# ---- files and the command line


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["paper_checks", "falsify", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        command.main()
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_a_search_writes_a_file_that_can_be_replayed(monkeypatch, capsys, tmp_path):
    code, out, _ = call(monkeypatch, capsys, "cg_rate", "--budget", 0.3, "--out", tmp_path / "new[/x]")
    path = tmp_path / "new[/x]" / "cg_rate.json"
    assert code == 0
    assert f"{path}\n" in out
    assert "not exceeded" in out
    (record,) = json.loads(path.read_text())
    assert len(record["instance"]["eigenvalues"]) == record["cell"]["N"] + 1
    code, out, _ = call(monkeypatch, capsys, "cg_rate", "--replay", path)
    assert code == 0
    assert f"{record['ratio']:.9f} (found {record['ratio']:.9f})" in out


def test_a_bound_that_is_exceeded_ends_with_status_1(monkeypatch, capsys, tmp_path):
    true = BOUNDS["cg_rate"][0]
    wrong = replace(true, ratios=lambda *arguments: 3 * true.ratios(*arguments))
    monkeypatch.setitem(BOUNDS, "cg_rate", (wrong,))
    code, out, _ = call(monkeypatch, capsys, "cg_rate", "--budget", 0.3, "--out", tmp_path)
    assert code == 1
    assert "EXCEEDED" in out
    code, _, _ = call(monkeypatch, capsys, "cg_rate", "--replay", tmp_path / "cg_rate.json")
    assert code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("memory",), "expected a claim with a bound out of"),
        (("cg_rate", "--budget", "0"), "expected --budget a finite number > 0, got 0.0"),
        (("cg_rate", "--replay", "nowhere.json"), "expected nowhere.json to be a file that falsify wrote"),
        (("cg_rate", "--replay", "pyproject.toml"), "expected pyproject.toml to be a file that falsify wrote"),
    ],
)
def test_wrong_usage_is_one_sentence(monkeypatch, capsys, arguments, said):
    code, _, error = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


def test_an_instance_of_another_bound_is_refused(tmp_path):
    first, second, *_ = BOUNDS["lyapunov_decrease"]
    worst = Worst("lyapunov_decrease", first.name, 0.5, dict(first.cells[0]), [0.4] * 29, 1, 1.0, 0)
    save([worst], [first], tmp_path / "one.json")
    assert load(tmp_path / "one.json") == [worst]
    with pytest.raises(ValueError, match="expected an instance of"):
        replay(worst, second)
    with pytest.raises(ValueError, match="expected 29 coordinates"):
        replay(replace(worst, x=[0.5]), first)
    for outside in (float("nan"), 7.0):
        with pytest.raises(ValueError, match="expected coordinates from 0 to 1"):
            replay(replace(worst, x=[outside] * 29), first)
    (tmp_path / "bad.json").write_text((tmp_path / "one.json").read_text().replace("0.4, ", "[0.4], ", 1))
    with pytest.raises(ValueError, match="to be a file that falsify wrote"):
        load(tmp_path / "bad.json")
    assert falsify.replay(worst, first) <= 1
