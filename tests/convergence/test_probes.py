from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import PROBES, SOBA, MemoryReduced, Oracle, Reptile, Snapshot, run
from problems import PROBLEMS, Noisy, Problem, Quadratic
from tests.independent import assert_near
from tests.strategies import normal, quadratics, seeds
from tests.twins import Endless, Twin, UserRidge

METHOD = MemoryReduced(lower_steps=1, lower_step_size=0.05, cg_steps=1, upper_step_size=0.1)


def snapshot_of(problem: Problem, seed: int, replicas: int | None = None) -> Snapshot:
    """A snapshot with a step, at a random phi."""
    oracle = Oracle(problem, replicas=replicas)
    lead = () if replicas is None else (replicas,)
    phi = {n: normal(seed, *lead, *tensor.shape) for n, tensor in problem.phi0(torch.Generator()).items()}
    step = METHOD.step(oracle, phi, oracle.pool, METHOD.start(oracle, phi))
    return Snapshot(problem, oracle.pool, replicas, 0, phi, step, oracle.pool)


def by_hand(problem: Quadratic, snapshot: Snapshot) -> dict[str, float]:
    """Every probe in numpy: theta* = A^-1 (C phi + b), the chain rule, the normal equations of the optimum."""
    A, C, b, Q, u, R, w = (problem.data[name].numpy() for name in "ACbQuRw")
    phi, d = snapshot.phi["phi"].numpy(), snapshot.step.direction["phi"].numpy()
    J = np.linalg.inv(A) @ C

    def upper(x: np.ndarray) -> tuple[float, np.ndarray]:
        gap = np.linalg.solve(A, (C @ x + b)[..., None])[..., 0] - u
        values = 0.5 * np.einsum("mi,mij,mj->m", gap, Q, gap) + 0.5 * np.einsum("mi,mij,mj->m", x - w, R, x - w)
        slopes = np.einsum("mji,mjk,mk->mi", J, Q, gap) + np.einsum("mij,mj->mi", R, x - w)
        return values.mean(), slopes.mean(0)

    H = np.stack([upper(e)[1] - upper(0 * e)[1] for e in np.eye(problem.p)], -1)
    optimum = np.linalg.solve(H, -upper(np.zeros(problem.p))[1])
    value, gradient = upper(phi)
    theta, v = snapshot.step.theta.numpy(), snapshot.step.v.numpy()

    def norm(matrices):
        return np.linalg.norm(matrices, 2, axis=(-2, -1)).max()

    residual = np.einsum("mij,mj->mi", Q, theta - u) - np.einsum("mij,mj->mi", A, v)
    distance = np.linalg.norm(np.einsum("mij,mj->mi", A, theta) - C @ phi - b, axis=-1) / np.linalg.eigvalsh(A).min()
    coupling = min(norm(np.swapaxes(J, 1, 2) @ Q), norm(J) * norm(Q))
    return {
        "grad_norm_sq": gradient @ gradient,
        "value": value,
        "gap": value - upper(optimum)[0],
        "distance_sq": (phi - optimum) @ (phi - optimum),
        "direction_norm_sq": d @ d,
        "direction_error_sq": (d - gradient) @ (d - gradient),
        "certified_direction_error": (coupling * distance + norm(J) * np.linalg.norm(residual, axis=-1)).mean(),
    }


@given(problem=quadratics(max_kappa=10), seed=seeds)
def test_every_probe_measures_what_its_name_says(problem, seed):
    snapshot = snapshot_of(problem, seed)
    expected = by_hand(problem, snapshot)
    assert set(expected) == set(PROBES)
    for name, probe in PROBES.items():
        assert probe.name == name
        # kappa <= 10; the normal equations of the optimum add the conditioning of H_Phi, below 100
        assert_near(probe.measure(snapshot), torch.tensor(expected[name], dtype=torch.float64), within=1e-11)


@given(problem=quadratics(max_kappa=10), seed=seeds)
def test_without_closed_forms_a_probe_measures_the_same_by_the_reference(problem, seed):
    closed, automatic = snapshot_of(problem, seed), snapshot_of(Twin(problem), seed)
    for name in ("grad_norm_sq", "value", "direction_norm_sq", "direction_error_sq"):
        assert_near(PROBES[name].measure(automatic), PROBES[name].measure(closed), within=1e-11)


@pytest.mark.parametrize("name", PROBLEMS)
def test_probes_of_replicas_are_those_of_each_alone(name):
    problem = PROBLEMS[name](0)
    together = snapshot_of(problem, 3, replicas=3)
    for r in range(3):
        phi = {n: tensor[r] for n, tensor in together.phi.items()}
        oracle = Oracle(problem)
        step = METHOD.step(oracle, phi, oracle.pool, METHOD.start(oracle, phi))
        alone = Snapshot(problem, oracle.pool, None, 0, phi, step, oracle.pool)
        for probe in PROBES.values():
            if probe.name in ("gap", "distance_sq") and not problem.has("upper_solution"):
                continue
            if probe.name == "certified_direction_error" and problem.constants is None:
                continue
            found = probe.measure(together)
            assert found.shape == (3,)
            assert_near(found[r], probe.measure(alone), within=1e-11)


@pytest.mark.parametrize("replicas", [None, 2])
def test_the_reference_is_computed_once_a_snapshot_and_begins_where_the_last_one_ended(replicas, monkeypatch):
    starts = []

    def counted(problem, phi, tasks, *, start=None):
        starts.append(start)
        return original(problem, phi, tasks, start=start)

    import convergence.probes as probes  # the function of this name hides the module

    original = probes.reference
    monkeypatch.setattr(probes, "reference", counted)
    problem = UserRidge()
    probes = ("grad_norm_sq", "value", "direction_error_sq")
    method = MemoryReduced(lower_steps=1, lower_step_size=0.05, cg_steps=1, upper_step_size=1e-6, warm_start=False)
    run(problem, method, iterations=2, replicas=replicas, probes=probes)
    count = replicas or 1
    assert len(starts) == 2 * count
    assert all(start is None for start in starts[:count])
    assert all(start is not None and start.shape == (5, 3) for start in starts[count:])


def test_only_the_probes_of_the_direction_need_a_step():
    of_step = {"direction_norm_sq", "direction_error_sq", "certified_direction_error"}
    assert {name for name, probe in PROBES.items() if probe.of_step} == of_step


@pytest.mark.parametrize("name", ["gap", "distance_sq"])
def test_a_probe_of_the_optimum_names_what_a_problem_without_one_lacks(name):
    snapshot = snapshot_of(PROBLEMS["prox-logistic"](0), 0)
    with pytest.raises(NotImplementedError, match="ProxLogistic has no closed form upper_solution"):
        PROBES[name].measure(snapshot)


@given(st.sampled_from(["grad_norm_sq", "value"]))
def test_an_endless_problem_has_no_true_gradient(name):
    snapshot = Snapshot(Endless(), None, None, 0, {"x": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"finite pool of tasks for the true gradient, got Endless, .* probes=\(\)"):
        PROBES[name].measure(snapshot)


@pytest.mark.parametrize("replicas", [None, 3])
@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize(
    "method", [SOBA(upper_step_size=0.1), Reptile(lower_steps=2, upper_step_size=0.1)], ids=["soba", "reptile"]
)
def test_the_certificate_holds_for_directions_that_are_not_implicit_and_for_samples(method, noise, replicas):
    problem = Quadratic.random(tasks=4, p=3, q=3, kappa=3.0, coupling=0.01, initialisation=True)
    options = {"iterations": 5, "replicas": replicas, "probes": ("direction_error_sq", "certified_direction_error")}
    trace = run(Noisy(problem, upper_phi=noise), method, **options).trace
    assert (trace["direction_error_sq"].sqrt() <= trace["certified_direction_error"]).all()
