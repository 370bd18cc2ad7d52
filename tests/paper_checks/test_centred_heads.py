"""Logistic heads with theta_0 = phi: their reference against the general one, their levels against ProxLogistic."""

from __future__ import annotations

import torch

from convergence import MemoryReduced, run
from convergence.needs import START_AT_PHI
from convergence.reference import reference
from paper_checks.centred_heads import CentredHeads
from problems import ProxLogistic
from tests.strategies import normal


def heads(kind: type[ProxLogistic] = CentredHeads) -> ProxLogistic:
    return kind.random(tasks=3, q=4, examples=12, prox=0.5, seed=1)


def test_phi_is_where_theta_starts():
    assert START_AT_PHI.met(heads())
    assert not START_AT_PHI.met(heads(ProxLogistic))


def test_value_and_gradient_are_those_of_the_general_reference():
    problem, phi = heads(), {"centre": normal(2, 5, 4)}
    value, slope = problem.value(phi), problem.hypergradient(phi)["centre"]
    for r in range(5):
        exact = reference(heads(ProxLogistic), {"centre": phi["centre"][r]}, problem.sample(None, torch.Generator()))
        torch.testing.assert_close(value[r], exact.value, rtol=1e-12, atol=0)
        torch.testing.assert_close(slope[r], exact.hypergradient["centre"], rtol=1e-10, atol=1e-12)


def test_a_run_from_the_same_point_is_that_of_prox_logistic():
    method = MemoryReduced(lower_steps=60, cg_steps=4, upper_step_size=0.3)  # the start of theta is forgotten
    options = {"iterations": 8, "replicas": 2, "probes": ()}
    ours, theirs = run(heads(), method, **options), run(heads(ProxLogistic), method, **options)
    torch.testing.assert_close(ours.phi["centre"], theirs.phi["centre"], rtol=1e-9, atol=1e-11)
