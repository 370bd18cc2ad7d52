"""SABA against its equations in numpy, its tables, and where it ends on finite sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from convergence import SABA, SOBA, SRBA, Oracle, run
from convergence.methods.saba import LowerTerms, Tables, UpperTerms
from convergence.methods.single_loop import State
from problems import Minibatch, Noisy, ProxLogistic, Quadratic
from tests.convergence.methods.in_numpy import SEED, LeastSquares, assert_replays, batches_of, derivatives, numbers
from tests.independent import assert_near
from tests.strategies import normal

STEPS = {"lower_step_size": 0.2, "linear_step_size": 0.3, "upper_step_size": 0.1}
BLOCKS = 3  # of two examples each, at both levels


def sums() -> Minibatch:
    return Minibatch(LeastSquares(), lower=2, upper=2)


@pytest.mark.parametrize("batch", [None, 2])
def test_a_run_replays_the_five_tables_written_in_numpy(batch):
    problem = sums()
    M, q = problem.tasks, problem.q
    theta, v = np.zeros((2, M, q))
    tables = np.zeros((5, M, BLOCKS, q))  # slope, product, cross by lower, upper and direct by upper blocks
    rows_of = batches_of(problem, batch)

    def visit(t, i, phi):
        lower, upper = numbers(t, len(rows_of[t]), BLOCKS, BLOCKS)
        place = rows_of[t].index(i)
        j, k = lower[place], upper[place]
        estimates = []
        for table, term, block in zip(
            tables[:, i], derivatives(problem.problem, i, phi, theta[i], v[i], j, k), (j, j, j, k, k), strict=True
        ):
            estimates.append(term - table[block] + table.mean(0))
            table[block] = term
        slope, product, cross, upper_slope, direct = estimates
        theta[i] -= 0.2 * slope
        v[i] -= 0.3 * (product - upper_slope)
        return direct - cross

    result = assert_replays(problem, SABA(**STEPS), visit, lambda t: 0.1, batch=batch)
    kept = result.state.more
    names = (
        kept.lower.gradient,
        kept.lower.product,
        kept.lower.cross["phi"],
        kept.upper.gradient,
        kept.upper.direct["phi"],
    )
    for found, table in zip(names, tables, strict=True):
        assert_near(found, torch.from_numpy(table), within=1e-12)
    assert int((tables != 0).all(-1).sum()) > 5 * M  # more than one block of most tasks was seen


def test_replicas_replay_their_seeds_on_the_whole_pool():
    together = run(sums(), SABA(**STEPS), iterations=4, replicas=3, seed=SEED, probes=())
    for r in range(3):
        alone = run(sums(), SABA(**STEPS), iterations=4, seed=SEED + r, probes=())
        assert_near(together.phi["phi"][r], alone.phi["phi"], within=1e-13)


def some_state(problem) -> State:
    M, q = problem.tasks, problem.q

    def table(seed):
        return normal(seed, M, BLOCKS, q)

    more = Tables(LowerTerms(table(1), table(2), {"phi": table(3)}), UpperTerms(table(4), {"phi": table(5)}))
    return State(0, normal(6, M, q), normal(7, M, q), more)


def test_over_all_blocks_the_mean_of_a_step_is_that_on_the_whole_sums_whatever_is_in_the_tables():
    problem = sums()
    phi, state = {"phi": normal(8, problem.q)}, some_state(problem)
    oracle = Oracle(problem)
    steps = []
    for blocks in itertools.product(range(BLOCKS), repeat=2):
        chosen = iter([torch.full((problem.tasks,), block) for block in blocks])
        oracle.sampled = lambda make, chosen=chosen: next(chosen)
        steps.append(SABA(**STEPS).step(oracle, phi, oracle.pool, state))
    whole = SOBA(**STEPS).step(Oracle(problem.problem), phi, oracle.pool, state)
    for name, found in (("theta", [s.theta for s in steps]), ("v", [s.v for s in steps])):
        assert_near(torch.stack(found).mean(0), getattr(whole, name), within=1e-13)
    exact = SOBA(**STEPS).step(Oracle(problem.problem), phi, Oracle(problem.problem).pool, state)
    directions = torch.stack([step.direction["phi"] for step in steps])
    assert_near(directions.mean(0), exact.direction["phi"], within=1e-13)
    assert float(directions.std(0).min()) > 1e-2  # single blocks are far off


def test_tables_of_the_point_itself_leave_no_variance():
    problem = sums()
    phi, state = {"phi": normal(8, problem.q)}, some_state(problem)
    M, q = problem.tasks, problem.q
    tables = np.zeros((5, M, BLOCKS, q))
    for i, block in itertools.product(range(M), range(BLOCKS)):
        arrays = (phi["phi"].numpy(), state.theta[i].numpy(), state.v[i].numpy())
        tables[:, i, block] = derivatives(problem.problem, i, *arrays, block, block)
    a, b, c, d, e = (torch.from_numpy(table) for table in tables)
    state = state._replace(more=Tables(LowerTerms(a, b, {"phi": c}), UpperTerms(d, {"phi": e})))
    exact = SOBA(**STEPS).step(Oracle(problem.problem), phi, Oracle(problem.problem).pool, state)
    for seed in range(3):
        oracle = Oracle(problem, seeds=(seed,))
        step = SABA(**STEPS).step(oracle, phi, oracle.pool, state)
        assert_near(step.phi["phi"], exact.phi["phi"], within=1e-13)
        assert_near(step.theta, exact.theta, within=1e-13)


def test_with_one_block_it_is_soba():
    problem = Minibatch(LeastSquares())
    ends = [run(problem, method(**STEPS), iterations=6).phi["phi"] for method in (SABA, SOBA)]
    assert_near(*ends, within=1e-13)


def test_variance_reduced_methods_end_at_a_stationary_point_where_soba_has_a_floor():
    problem = Minibatch(ProxLogistic.random(tasks=2, q=2, examples=4), lower=2, upper=2)
    ends = {}
    for method in (SABA, SRBA, SOBA):
        made = method(lower_step_size=0.25, linear_step_size=0.25, upper_step_size=0.25)
        result = run(problem, made, iterations=501, probe_every=100)
        ends[method] = float(result.trace["grad_norm_sq"][-1])
    assert ends[SABA] <= 1e-16
    assert ends[SRBA] <= 1e-16
    assert ends[SOBA] > 1e-6


@pytest.mark.parametrize("problem", [Quadratic.random(tasks=3, p=2, q=2, kappa=2.0), Noisy(LeastSquares(), lower=0.1)])
@pytest.mark.parametrize("method", [SABA, SRBA])
def test_a_problem_that_is_no_finite_sum_is_refused(method, problem):
    names = rf"for {method.__name__}, got {type(problem).__name__}, which has none"
    sentence = "expected lower and upper objectives that are finite sums .* " + names
    with pytest.raises(ValueError, match=sentence):
        run(problem, method(**STEPS), iterations=1, probes=())


def test_a_start_without_blocks_is_refused_as_well():
    problem = LeastSquares()
    with pytest.raises(ValueError, match=r"finite sum cut into blocks \(Minibatch\), got LeastSquares"):
        SABA(**STEPS).start(Oracle(problem), problem.phi0(torch.Generator()))
