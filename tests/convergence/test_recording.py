from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convergence import Status, peak_bytes
from convergence.method import Step
from convergence.recording import failure_of
from tests.strategies import normal, seeds


def step(phi: dict[str, Tensor], failure: Tensor) -> Step:
    theta = torch.zeros(*failure.shape, 2, dtype=torch.float64)
    return Step(phi, None, phi, theta, theta, failure.int())


@given(
    seed=seeds,
    replicas=st.sampled_from([None, 3]),
    wild=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    both=st.booleans(),
)
def test_a_single_entry_that_is_not_finite_is_seen_in_its_replica_alone(seed, replicas, wild, both):
    lead = () if replicas is None else (replicas,)
    phi = {"a": normal(seed, *lead, 7, 2), "b": normal(seed + 1, *lead)}
    which = torch.ones(lead, dtype=torch.bool)
    failure = torch.zeros(*lead, 4)
    failure[..., 2] = Status.BREAKDOWN
    expected = torch.full(lead, int(Status.BREAKDOWN), dtype=torch.int32)
    assert torch.equal(failure_of(step(phi, failure), which), expected)
    entry = torch.randint(14, (), generator=torch.Generator().manual_seed(seed))
    row = phi["a"] if replicas is None else phi["a"][1]
    row.view(-1)[entry] = wild
    if both:
        row.view(-1)[(entry + 1) % 14] = -wild  # infinities of both signs do not cancel
    (expected if replicas is None else expected[1]).fill_(Status.NON_FINITE)
    assert torch.equal(failure_of(step(phi, failure), which), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_large_sums_of_ordinary_numbers_are_finite(dtype):
    phi = {"a": torch.full((10_000,), 1000.0, dtype=dtype)}  # the sum is beyond float16
    assert int(failure_of(step(phi, torch.zeros(2)), torch.ones((), dtype=torch.bool))) == 0


def test_a_large_phi_is_looked_at_without_scratch():
    taken = step({"a": normal(0, 100_000)}, torch.zeros(2))
    assert peak_bytes(lambda: failure_of(taken, torch.ones((), dtype=torch.bool))) < 1000
