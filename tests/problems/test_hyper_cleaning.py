"""Data hyper-cleaning against numpy, scikit-learn, finite differences; what it finds on real digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.func import grad

from convergence import MemoryReduced, Oracle, run
from problems import HyperCleaning, Minibatch, Parameters, Tasks
from problems.bundled import bundled
from tests.independent import Dense, assert_near
from tests.strategies import normal, seeds
from tests.twins import Twin


def arrays(seed: int, *, tasks: int = 2, n: int = 6, m: int = 4, d: int = 3, classes: int = 3) -> dict[str, Tensor]:
    """Gaussian inputs, random labels; each task has n of the n + 2 training examples, in an order of its own."""
    rng = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(n + 2, generator=rng) for _ in range(tasks)]
    rows[0] = rows[0].roll(-int(rows[0].argmax()))  # the last example is in use
    return {
        "X": normal(seed, tasks, n, d),
        "y": torch.randint(classes, (tasks, n), generator=rng),
        "row": torch.stack(rows)[:, :n],
        "X_val": normal(seed + 1, tasks, m, d),
        "y_val": torch.randint(classes, (tasks, m), generator=rng),
    }


def pool(problem: HyperCleaning) -> Tasks:
    return problem.sample(None, torch.Generator())


def saturated(problem: HyperCleaning, used: Tensor) -> Parameters:
    """Weights of exactly 1 where `used`, else of nothing (1e-18)."""
    return {"weights": torch.where(used, 40.0, -40.0).double()}


def small() -> HyperCleaning:
    return HyperCleaning.digits(train=200, validation=100, pool=2, seed=0)


# ---- the two levels


@given(seed=seeds, tasks=st.integers(1, 3), n=st.integers(1, 5), classes=st.integers(2, 4), ridge=st.floats(0.01, 3))
def test_the_objectives_equal_sums_over_examples_in_numpy(seed, tasks, n, classes, ridge):
    problem = HyperCleaning(**arrays(seed, tasks=tasks, n=n, classes=classes), classes=classes, ridge=ridge)
    phi, theta = {"weights": normal(seed, problem.weights)}, normal(seed + 2, tasks, problem.q)
    z, data = problem.embed(phi, pool(problem)), {name: x.numpy() for name, x in problem.data.items()}

    def loss(W, x, y):
        return np.log(np.exp(W @ x).sum()) - (W @ x)[y]

    lower, upper = [], []
    for i in range(tasks):
        W = theta[i].numpy().reshape(classes, -1)
        weights = [1 / (1 + math.exp(-phi["weights"][j])) for j in data["row"][i]]
        each = [w * loss(W, x, y) for w, x, y in zip(weights, data["X"][i], data["y"][i], strict=True)]
        lower.append(np.mean(each) + ridge / 2 * (W**2).sum())
        upper.append(np.mean([loss(W, x, y) for x, y in zip(data["X_val"][i], data["y_val"][i], strict=True)]))
    assert_near(problem.lower(z, theta, pool(problem)), torch.tensor(np.array(lower)), within=1e-13)
    assert_near(problem.upper(z, theta, pool(problem)), torch.tensor(np.array(upper)), within=1e-13)


def test_every_weight_starts_at_one_half():
    problem = HyperCleaning(**arrays(0), classes=3, ridge=0.1)
    phi = problem.phi0(torch.Generator())
    assert torch.equal(phi["weights"], torch.zeros(problem.weights, dtype=torch.float64))
    assert bool((problem.embed(phi, pool(problem)) == 0.5).all())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("drawn", [False, True], ids=["whole", "minibatch"])
def test_the_closed_forms_are_those_of_automatic_differentiation_also_on_blocks_of_examples(seed, drawn):
    problem = HyperCleaning(**arrays(seed), classes=3, ridge=0.1)
    tasks = pool(problem)
    if drawn:
        tasks = Minibatch(problem, lower=2, upper=2).draw(tasks, torch.Generator().manual_seed(seed))
        assert tasks.X.shape[1] == tasks.row.shape[1] == tasks.y_val.shape[1] == 2
    phi, theta = {"weights": 2 * normal(seed, problem.weights)}, normal(seed + 1, 2, problem.q)
    v, dense = normal(seed + 2, 2, problem.q), Dense(problem, tasks)
    x, z = phi["weights"], problem.embed(phi, tasks)
    assert_near(problem.lower_gradient(z, theta, tasks), dense.each(dense.lower_slope, x, theta), within=1e-13)
    hessian = dense.each(dense.hessian, x, theta)
    assert_near(problem.lower_hvp(z, theta, v, tasks), (hessian @ v[..., None])[..., 0], within=1e-13)
    assert_near(problem.upper_gradient(z, theta, tasks), dense.each(dense.upper_slope, x, theta), within=1e-13)
    crosses = (dense.each(dense.cross, x, theta).mT @ v[..., None])[..., 0]
    expected = (dense.each(grad(dense.f), x, theta) - crosses).mean(0)
    assert_near(problem.surrogate_gradient(phi, z, theta, v, tasks)["weights"], expected, within=1e-13)


@pytest.mark.parametrize("shared", [True, False], ids=["shared-tasks", "own-tasks"])
def test_a_step_in_replicas_is_the_step_of_each_by_automatic_differentiation(shared):
    problem = HyperCleaning(**arrays(3), classes=3, ridge=0.1)
    index = torch.tensor([[0, 1], [1, 0], [1, 1]])
    phi, method = (
        normal(0, 3, problem.weights),
        MemoryReduced(lower_steps=3, lower_step_size=0.1, cg_steps=2, upper_step_size=5.0, warm_start=False),
    )
    oracle = Oracle(problem, replicas=3)
    tasks = oracle.pool if shared else problem.select(index)
    together = method.step(oracle, {"weights": phi}, tasks, method.start(oracle, {"weights": phi}))
    for r in range(3):
        twin = Oracle(Twin(problem))
        own = twin.pool if shared else problem.select(index[r])
        alone = method.step(twin, {"weights": phi[r]}, own, method.start(twin, {"weights": phi[r]}))
        assert_near(together.direction["weights"][r], alone.direction["weights"], within=1e-12)
        assert_near(together.v[r], alone.v, within=1e-12)


# ---- the reference


def test_the_lower_solution_is_that_of_scikit_learn_with_these_weights():
    problem = HyperCleaning.digits(train=60, validation=30, ridge=0.05, classes=4, pool=2)
    phi = {"weights": normal(0, 60)}
    X, y = problem.data["X"][0].numpy(), problem.data["y"][0].numpy()
    # 1/2 |W|^2 + C sum_j w_j CE_j is g times 1/ridge where C = 1 / (n ridge)
    judge = LogisticRegression(C=1 / (60 * 0.05), fit_intercept=False, tol=1e-12, solver="newton-cholesky")
    judge.fit(X, y, sample_weight=torch.sigmoid(phi["weights"]).numpy())
    found = problem.lower_solution(phi, pool(problem)).view(4, -1)
    assert_near(found, torch.from_numpy(judge.coef_), within=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_newton_ends_where_the_gradient_written_in_numpy_vanishes(scale):
    problem = small()
    phi = {"weights": scale * normal(0, problem.weights)}
    theta = problem.exact(phi).theta[0].view(10, -1).numpy()
    X, y = problem.data["X"][0].numpy(), problem.data["y"][0].numpy()
    p = np.exp(X @ theta.T)
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    weights = 1 / (1 + np.exp(-phi["weights"].numpy()))
    assert np.abs((weights[:, None] * p).T @ X / len(y) + problem.ridge * theta).max() <= 1e-13


@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_hypergradient_is_the_slope_of_the_value(folds, seed):
    problem = HyperCleaning.digits(train=40, validation=20, ridge=0.01, pool=4, tasks=folds, seed=seed)
    phi, d = normal(seed, 40), normal(seed + 1, 40)

    def value(t):
        return float(problem.value({"weights": phi + t * d}))

    h = 1e-2  # Richardson: h^4 times a fifth derivative, and 1e-16 |Phi| / h of rounding
    estimate = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    slope = float(problem.hypergradient({"weights": phi})["weights"] @ d)
    assert slope == pytest.approx(estimate, rel=1e-6)
    assert abs(slope) > 1e-4


def test_the_bounds_of_the_hessian_and_of_the_cross_derivative_are_attained():
    # two classes: at theta = 0 and weights 1 the curvature of every loss is 1/2 along W = (u, -u)
    data = arrays(0, tasks=1, classes=2)
    problem = HyperCleaning(**data, classes=2, ridge=0.1)
    x, dense = torch.full((problem.weights,), 40.0, dtype=torch.float64), Dense(problem)
    spectrum = torch.linalg.eigvalsh(dense.each(dense.hessian, x, torch.zeros(1, 6, dtype=torch.float64)))
    assert float(spectrum[0, -1]) == pytest.approx(problem.constants.L, rel=1e-12)
    assert float(spectrum[0, 0]) == pytest.approx(problem.constants.mu, rel=1e-12)
    # one label, which theta is sure is wrong: every residual is (1, -1); weights 1/2, where the sigmoid is steepest
    inputs = data["X"].abs()
    sure = HyperCleaning(**data | {"X": inputs, "y": torch.ones_like(data["y"])}, classes=2, ridge=0.1)
    dense, theta = Dense(sure), torch.tensor([[200.0, 200.0, 200.0, -200.0, -200.0, -200.0]], dtype=torch.float64)
    cross = dense.each(dense.cross, torch.zeros(sure.weights, dtype=torch.float64), theta)
    assert float(torch.linalg.matrix_norm(cross, 2)) == pytest.approx(sure.constants.L_c, rel=1e-9)


# ---- the digits


def test_the_digits_are_split_and_corrupted_as_asked_for():
    problem = HyperCleaning.digits(train=300, validation=100, corrupted=0.4, seed=3)
    X, y, row = (problem.data[name] for name in ("X", "y", "row"))
    assert (tuple(X.shape), tuple(problem.data["X_val"].shape)) == ((1, 300, 65), (1, 100, 65))
    assert problem.X_test.shape == (1797 - 400, 65)
    assert (problem.q, problem.weights, int(problem.corrupted.sum())) == (650, 300, 120)
    assert torch.equal(row[0], torch.arange(300))
    assert bool((X[..., -1] == 1).all())
    assert (float(X.min()), float(X.max())) == (0, 1)
    images, labels = bundled("digits")
    known = {tuple(image.tolist()): int(label) for image, label in zip(images / 16, labels, strict=True)}
    assert len(known) == 1797  # no image twice: an image tells its label
    parts = torch.cat([X[0], problem.data["X_val"][0], problem.X_test])[:, :-1]
    assert {tuple(image.tolist()) for image in parts} == known.keys()  # a partition: 1797 images, each once
    truth = torch.tensor([known[tuple(image.tolist())] for image in parts])
    given_labels = torch.cat([y[0], problem.data["y_val"][0], problem.y_test])
    assert torch.equal(truth[:300] != given_labels[:300], problem.corrupted)
    assert torch.equal(truth[300:], given_labels[300:])


def test_the_wrong_labels_are_spread_over_all_others():
    problem = HyperCleaning.digits(train=1500, validation=100, corrupted=1.0, classes=10)
    clean = HyperCleaning.digits(train=1500, validation=100, corrupted=0.0, classes=10)
    shift = (problem.data["y"] - clean.data["y"]) % 10
    counts = torch.bincount(shift[0], minlength=10)
    assert counts[0] == 0
    # 1500 / 9 expected of each of nine, within four standard deviations (12.2)
    assert bool(((counts[1:] - 1500 / 9).abs() < 49).all())


def test_folds_leave_out_their_own_share_and_validate_on_theirs():
    whole = HyperCleaning.digits(train=12, validation=6, pool=4, seed=1)
    folds = HyperCleaning.digits(train=12, validation=6, pool=4, tasks=3, seed=1)
    assert folds.data["row"].tolist() == [[*range(4, 12)], [*range(4), *range(8, 12)], [*range(8)]]
    assert torch.equal(folds.data["X"], whole.data["X"][0][folds.data["row"]])
    assert torch.equal(folds.data["y"], whole.data["y"][0][folds.data["row"]])
    assert torch.equal(folds.data["X_val"].flatten(0, 1), whole.data["X_val"][0])
    assert folds.weights == 12


def test_pooling_averages_blocks_of_pixels():
    fine, coarse = (HyperCleaning.digits(train=10, validation=10, pool=size).data["X"][0] for size in (1, 4))
    blocks = fine[:, :-1].view(10, 2, 4, 2, 4).mean((2, 4)).flatten(1)
    assert_near(coarse[:, :-1], blocks, within=1e-15)
    assert bool((coarse[:, -1] == 1).all())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_detection_auc_is_that_of_scikit_learn_with_ties_and_replicas(seed):
    problem = HyperCleaning.digits(train=50, validation=10, pool=4, seed=seed)
    phi = {"weights": (2 * normal(seed, 2, 3, 50)).round()}  # about nine different values
    found = problem.detection_auc(phi)
    assert found.shape == (2, 3)
    truth = problem.corrupted.numpy()
    for i in np.ndindex(2, 3):
        assert float(found[i]) == pytest.approx(roc_auc_score(truth, -phi["weights"][i].numpy()), abs=1e-14)
    assert float(problem.detection_auc(problem.phi0(torch.Generator()))) == 0.5
    assert float(problem.detection_auc(saturated(problem, ~problem.corrupted))) == 1


def test_the_accuracy_counts_test_images_whose_largest_logit_is_their_label():
    problem = HyperCleaning.digits(train=40, validation=20, pool=2, tasks=2, seed=0)
    phi = {"weights": normal(0, 3, 40)}
    theta = problem.lower_solution(phi, pool(problem))
    inputs, labels = problem.X_test.numpy(), problem.y_test.numpy()
    right = [[(inputs @ W.reshape(10, -1).T).argmax(1) == labels for W in row] for row in theta.numpy()]
    expected = torch.from_numpy(np.mean(right, -1))
    assert_near(problem.accuracy(theta), expected, within=1e-15)
    assert_near(problem.test_accuracy(phi), expected.mean(-1), within=1e-15)


def test_cleaning_finds_the_corrupted_labels_and_classifies_better_than_all_of_them():
    problem = small()
    method = MemoryReduced(lower_steps=10, cg_steps=5, upper_step_size=2.0 * problem.weights)
    result = run(problem, method, iterations=60, probes=("value",))
    value, start = result.trace["value"], problem.phi0(torch.Generator())
    everything, clean = saturated(problem, torch.ones(200, dtype=torch.bool)), saturated(problem, ~problem.corrupted)
    reached = {
        name: float(problem.test_accuracy(phi))
        for name, phi in {"start": start, "all": everything, "clean": clean, "cleaned": result.phi}.items()
    }
    # measured: Phi 1.614 to 1.11, AUC 0.95; accuracy 0.644 at the start, 0.671 all, 0.787 clean, 0.756 cleaned
    assert float(value[0]) == pytest.approx(float(problem.value(start)))
    assert float(problem.value(result.phi)) < 0.75 * float(value[0])
    assert float(problem.detection_auc(result.phi)) > 0.9
    assert reached["clean"] > reached["cleaned"] > max(reached["start"], reached["all"]) + 0.05


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"X": normal(0, 6, 3)}, r"expected X of shape \(M, n, d\) with labels \(M, n\), got \(6, 3\) and \(2, 6\)"),
        ({"y_val": torch.zeros(2, 3).long()}, r"expected X_val of shape .*, got \(2, 4, 3\) and \(2, 3\)"),
        ({"y": torch.full((2, 6), 3)}, "expected labels of X to be int64 from 0 to 2"),
        ({"y_val": torch.zeros(2, 4)}, "expected labels of X_val to be int64 from 0 to 2"),
        ({"X_val": normal(0, 2, 4, 5)}, r"to share M and d, got \(2, 6, 3\) and \(2, 4, 5\)"),
        ({"row": torch.arange(6)}, r"expected row of shape \(2, 6\), int64 >= 0, got \(6,\)"),
        ({"row": torch.arange(-1, 5).expand(2, 6)}, "int64 >= 0, got"),
        ({"row": torch.tensor([0, 1, 2, 3, 4, 0]).expand(2, 6)}, "to differ in their row, got a row twice"),
        ({"X": torch.full((2, 6, 3), math.nan)}, "expected finite values in data tensor 'X', got 36"),
        ({"ridge": 0.0}, "expected ridge > 0, got 0"),
        ({"ridge": math.nan}, "expected ridge a finite number, got nan"),
        ({"corrupted": torch.ones(3, dtype=torch.bool)}, r"expected corrupted of shape \(\d,\), bool, got \(3,\)"),
    ],
)
def test_malformed_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        HyperCleaning(**{**arrays(0), "classes": 3, "ridge": 0.1, **change})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": 11}, "expected 2 to 10 classes, pool 1, 2, 4 or 8 and a share .*, got 11, 1 and 0.4"),
        ({"pool": 3}, "got 10, 3 and 0.4"),
        ({"corrupted": 1.5}, "got 10, 1 and 1.5"),
        ({"train": 1797}, "that leave some of 1797 to test on, got 1797 and 10"),
        ({"validation": 0}, "expected validation an integer >= 1, got 0"),
        ({"tasks": 3}, "expected 20 and 10 examples to divide into 3 equal shares"),
    ],
)
def test_digits_that_do_not_exist_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        HyperCleaning.digits(**{"train": 20, "validation": 10, **change})


def test_what_is_not_known_is_not_measured():
    problem = HyperCleaning(**arrays(0), classes=3, ridge=0.1)
    phi = problem.phi0(torch.Generator())
    with pytest.raises(ValueError, match="expected a problem with corrupted and clean labels, known apart"):
        problem.detection_auc(phi)
    with pytest.raises(ValueError, match="expected a problem with a test set"):
        problem.test_accuracy(phi)
    with pytest.raises(ValueError, match="expected a problem with corrupted and clean labels, known apart"):
        HyperCleaning.digits(train=10, validation=10, corrupted=0.0, pool=4).detection_auc({"weights": normal(0, 10)})
