from __future__ import annotations

import copy
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from problems import Constants, Examples, Problem, Quadratic, Tasks, map_parameters
from problems.base import matvec
from tests.independent import assert_near
from tests.strategies import normal, seeds
from tests.twins import Endless, UserRidge


@pytest.fixture
def tasks() -> Tasks:
    return Tasks(torch.tensor([4, 0, 2]), X=normal(0, 3, 2), label=torch.tensor([1, 2, 3]))


class Pool(Problem):
    """A pool of these tensors and nothing else."""

    def __init__(self, **data):
        self.data = data


# ---- Tasks


def test_tensors_of_tasks_are_read_as_attributes(tasks):
    assert len(tasks) == 3
    assert torch.equal(tasks.X, normal(0, 3, 2))
    assert repr(tasks) == "Tasks(index=(3,), X=(3, 2), label=(3,))"


def test_iterating_over_tasks_gives_batches_of_one(tasks):
    singles = list(tasks)
    assert [len(single) for single in singles] == [1, 1, 1]
    assert torch.equal(torch.cat([single.X for single in singles]), tasks.X)
    assert torch.equal(torch.cat([single.index for single in singles]), tasks.index)


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([2, 2, 0]), torch.tensor([True, False, True])])
def test_rows_of_tasks_select_the_same_rows_of_every_tensor(tasks, rows):
    some = tasks[rows]
    assert torch.equal(some.index, tasks.index[rows])
    assert torch.equal(some.X, tasks.X[rows])
    assert torch.equal(some.label, tasks.label[rows])


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda tasks: pickle.loads(pickle.dumps(tasks))])
def test_tasks_survive_copying_and_pickling(tasks, clone):
    again = clone(tasks)
    assert torch.equal(again.index, tasks.index)
    assert torch.equal(again.X, tasks.X)


def test_moving_tasks_to_a_dtype_changes_floating_point_tensors_alone(tasks):
    moved = tasks.to("cpu", torch.float32)
    assert (moved.X.dtype, moved.label.dtype, moved.index.dtype) == (torch.float32, torch.int64, torch.int64)
    assert tasks.X.dtype == torch.float64
    assert tasks.to().X.dtype == torch.float64


def test_an_unknown_tensor_of_tasks_is_named_beside_those_held(tasks):
    with pytest.raises(AttributeError, match="tasks hold X, label; expected one of them, got 'Y'"):
        _ = tasks.Y
    with pytest.raises(AttributeError, match="tasks hold no tensors; expected one of them, got 'X'"):
        _ = Tasks(torch.arange(2)).X


@pytest.mark.parametrize("name", ["tensors", "to"])
def test_a_task_tensor_cannot_take_the_name_of_an_attribute(name):
    with pytest.raises(ValueError, match=rf"otherwise than tensors, to; got \['{name}'\]"):
        Tasks(torch.arange(2), **{name: torch.zeros(2)})


def test_a_task_tensor_needs_the_leading_axes_of_the_index():
    with pytest.raises(ValueError, match=r"task tensor 'X' with leading axes \(2,\), got shape \(3, 2\)"):
        Tasks(torch.arange(2), X=torch.zeros(3, 2))


def test_tasks_with_a_replica_axis_are_not_indexed():
    replicated = Tasks(torch.zeros(2, 3, dtype=torch.int64), X=torch.zeros(2, 3, 1))
    assert len(replicated) == 3
    with pytest.raises(ValueError, match=r"without replica axes, got index of shape \(2, 3\)"):
        _ = replicated[:1]


# ---- the pool of a Problem


def test_the_number_of_tasks_is_the_leading_axis_of_the_data():
    assert Pool(X=torch.zeros(4, 2), y=torch.zeros(4)).tasks == 4
    assert Endless().tasks is None


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (Pool(X=torch.zeros(4, 2), y=torch.zeros(3)), r"one common leading axis M >= 1, got sizes \{'X': 4, 'y': 3\}"),
        (Pool(X=torch.zeros(0, 2)), r"one common leading axis M >= 1, got sizes \{'X': 0\}"),
        (Pool(X=torch.tensor(1.0)), r"one common leading axis M >= 1, got sizes \{'X': 0\}"),
        (Pool(), "Pool has neither data nor a sample method: expected one of them"),
        (Problem(), "Problem has neither data nor a sample method: expected one of them"),
    ],
)
def test_data_without_a_common_number_of_tasks_are_refused(problem, sentence):
    with pytest.raises(ValueError, match=sentence):
        _ = problem.tasks


def test_sampling_without_a_size_gives_all_tasks_in_order():
    tasks = Pool(X=normal(0, 4, 2)).sample(None, torch.Generator())
    assert tasks.index.tolist() == [0, 1, 2, 3]
    assert torch.equal(tasks.X, normal(0, 4, 2))


@given(pool=st.integers(1, 9), data=st.data(), seed=seeds)
def test_a_sample_holds_different_tasks_with_their_own_rows(pool, data, seed):
    size = data.draw(st.integers(1, pool))
    problem = Pool(X=normal(seed, pool, 2))
    tasks = problem.sample(size, torch.Generator().manual_seed(seed))
    assert len(set(tasks.index.tolist())) == size
    assert torch.equal(tasks.X, problem.data["X"][tasks.index])
    again = problem.sample(size, torch.Generator().manual_seed(seed))
    assert torch.equal(tasks.index, again.index)


def test_every_pair_of_tasks_is_sampled_equally_often():
    problem, rng = Pool(X=torch.zeros(4, 1)), torch.Generator().manual_seed(0)
    counts = Counter(tuple(sorted(problem.sample(2, rng).index.tolist())) for _ in range(1200))
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4  # a fixed seed: it passes or fails for good


@pytest.mark.parametrize("size", [0, -1, 5])
def test_a_sample_larger_than_the_pool_or_empty_is_refused(size):
    with pytest.raises(ValueError, match=f"a batch of 1 to 4 tasks without replacement, got {size}"):
        Pool(X=torch.zeros(4, 2)).sample(size, torch.Generator())


def test_selecting_with_a_replica_axis_keeps_it():
    problem = Pool(X=normal(0, 4, 2, 3))
    index = torch.tensor([[0, 3, 3], [1, 1, 2]])
    assert torch.equal(problem.select(index).X, problem.data["X"][index])


@pytest.mark.parametrize(
    ("value", "error", "sentence"),
    [
        (np.zeros((4, 2)), TypeError, "expected data 'X' to be a torch.Tensor, got ndarray"),
        (torch.tensor([1.0, math.nan, math.inf]), ValueError, "finite values in data tensor 'X', got 2 that are not"),
    ],
)
def test_data_that_are_not_tensors_of_finite_values_are_refused(value, error, sentence):
    with pytest.raises(error, match=sentence):
        Pool(X=value).check()


# ---- stochastic objectives


def test_a_problem_is_exact_and_no_sum_unless_it_says_otherwise(tasks):
    problem = Pool(X=torch.zeros(3, 2))
    assert problem.draw(tasks, torch.Generator()) is tasks
    assert not problem.has("draw")
    assert problem.terms(tasks) == (1, 1)
    assert (problem.examples, problem.blocks, problem.twice_differentiable) == (None, None, True)
    with pytest.raises(ValueError, match=r"a finite sum cut into blocks \(Minibatch\), got Pool, which is none"):
        problem.select_blocks(tasks, tasks.index, tasks.index)


@pytest.mark.parametrize("index", [torch.arange(2), torch.tensor([[0, 1], [2, 0], [1, 1]])], ids=["one", "replicas"])
def test_terms_are_the_examples_after_the_task_axis(index):
    problem = Pool(X=torch.zeros(3, 7, 2), y=torch.zeros(3, 7), X_val=torch.zeros(3, 5, 2))
    problem.examples = Examples(lower=("X", "y"), upper=("X_val",))
    assert problem.terms(problem.select(index)) == (7, 5)


# ---- what a subclass must give


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("phi0", 1),
        ("lower", 3),
        ("upper", 3),
        ("lower_gradient", 3),
        ("lower_hvp", 4),
        ("upper_gradient", 3),
        ("surrogate_gradient", 5),
        ("lower_solution", 2),
        ("value", 1),
        ("hypergradient", 1),
        ("upper_solution", 0),
    ],
)
def test_what_a_problem_does_not_give_is_named_together_with_the_problem(missing, arguments):
    problem = Pool(X=torch.zeros(1, 1))
    assert not problem.has(missing)
    with pytest.raises(NotImplementedError, match=f"Pool has no .*{missing}"):
        getattr(problem, missing)(*[None] * arguments)


def test_has_tells_an_overridden_closed_form_from_an_inherited_one():
    quadratic, ridge = Quadratic.random(tasks=1, p=1, q=1, kappa=1.0), UserRidge()
    assert quadratic.has("lower_hvp")
    assert not ridge.has("lower_hvp")
    assert ridge.has("lower")


def test_theta_starts_at_zero_in_the_dtype_of_phi_and_needs_its_size():
    tasks, phi = Tasks(torch.arange(3)), {"x": torch.zeros(5, dtype=torch.float32)}
    theta = UserRidge().theta0(phi, tasks)
    assert torch.equal(theta, torch.zeros(3, 3, dtype=torch.float32))
    with pytest.raises(ValueError, match="Pool gives no size of theta: expected an attribute q or a theta0 method"):
        Pool(X=torch.zeros(3, 1)).theta0(phi, tasks)


def test_a_moved_problem_is_a_copy_and_leaves_the_original_alone():
    problem = Pool(X=normal(0, 2, 2), label=torch.tensor([1, 2]))
    problem.weight = normal(1, 3)
    moved = problem.to(dtype=torch.float32)
    assert (moved.data["X"].dtype, moved.data["label"].dtype) == (torch.float32, torch.int64)
    assert moved.weight.dtype == torch.float32
    assert (problem.data["X"].dtype, problem.weight.dtype) == (torch.float64, torch.float64)


def test_features_are_phi_itself_unless_embed_is_overridden():
    phi = {"x": torch.ones(2)}
    assert Endless().embed(phi, Tasks(torch.arange(2))) is phi


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=["no-replicas", "replicas", "two-axes"])
@pytest.mark.parametrize("own", [0, 1, 2], ids=["shared", "one-axis", "all-axes"])
@pytest.mark.parametrize("rows", [1, 4], ids=["one-row-for-all", "a-row-each"])
def test_a_product_of_each_task_broadcasts_over_what_the_matrices_lack(lead, own, rows):
    matrix = normal(0, *lead[len(lead) - min(own, len(lead)) :], 4, 3, 5)
    vector = normal(1, *lead, rows, 5)
    expected = np.einsum("...ij,...j->...i", matrix.numpy(), vector.numpy())  # B of the matrices, 1 or B of the vectors
    assert_near(matvec(matrix, vector), torch.from_numpy(expected), within=1e-14)


def test_map_parameters_pairs_tensors_by_name():
    phi, other = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, {"b": torch.tensor(20.0), "a": torch.tensor(10.0)}
    assert map_parameters(torch.sub, other, phi) == {"b": torch.tensor(18.0), "a": torch.tensor(9.0)}


# ---- Constants


@pytest.mark.parametrize(("mu", "L"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_constants_need_zero_below_mu_up_to_a_finite_L(mu, L):
    with pytest.raises(ValueError, match=f"expected 0 < mu <= L < inf, got mu={mu}, L={L}"):
        Constants(mu=mu, L=L)


@given(mu=st.floats(1e-3, 1e3), kappa=st.floats(1, 1e4), other=st.floats(0.01, 1.99))
def test_the_lower_step_size_has_the_smallest_contraction_factor(mu, kappa, other):
    constants = Constants(mu=mu, L=kappa * mu)
    best = constants.lower_contraction(constants.lower_step_size)
    assert best == pytest.approx((constants.kappa - 1) / (constants.kappa + 1), abs=1e-12)
    assert best <= constants.lower_contraction(other / constants.L) + 1e-12


@given(mu=st.floats(1e-3, 1e3), kappa=st.floats(1.01, 1e4), alpha=st.floats(0.0, 3.0))
def test_the_lower_contraction_is_the_norm_of_the_step_on_the_ends_of_the_spectrum(mu, kappa, alpha):
    spectrum = np.array([mu, mu * kappa])
    step = np.diag(1 - alpha / mu * spectrum)
    found = Constants(mu=mu, L=spectrum[1]).lower_contraction(alpha / mu)
    assert found == pytest.approx(np.linalg.norm(step, 2), rel=1e-12)


@given(kappa=st.floats(1.01, 1e4), steps=st.integers(0, 30))
def test_the_cg_contraction_is_the_reciprocal_of_a_chebyshev_polynomial(kappa, steps):
    coefficients = [0.0] * steps + [1.0]
    polynomial = np.polynomial.chebyshev.chebval((kappa + 1) / (kappa - 1), coefficients)
    # Clenshaw's recurrence loses about one digit in a few steps beside the interval
    assert Constants(mu=1.0, L=kappa).cg_contraction(steps) == pytest.approx(1 / polynomial, rel=1e-9)


def test_a_perfectly_conditioned_lower_level_needs_one_cg_step():
    constants = Constants(mu=2.0, L=2.0)
    assert [constants.cg_contraction(steps) for steps in range(3)] == [1.0, 0.0, 0.0]
