"""Errors that leave most of the evidence intact are caught by the part of a claim that looks at them."""

import numpy as np
import pytest
import torch

from convergence import MemoryReduced, State
from paper_checks import batch_size_decay, hypergradient_error
from paper_checks.claim import Setting
from problems import map_parameters


class WrongRow(MemoryReduced):
    """Every batch stores its warm theta and v in the row of the next task."""

    def step(self, oracle, phi, tasks, state):
        right = super().step(oracle, phi, tasks, state)
        return right._replace(state=State(*(rows if rows is None else rows.roll(1, -2) for rows in right.state)))


class CrossDerivativeAtTheOrigin(MemoryReduced):
    """grad_phi f and the cross product are evaluated at theta = 0 instead of theta_K."""

    def step(self, oracle, phi, tasks, state):
        right = super().step(oracle, phi, tasks, state)
        d = oracle.hypergradient(oracle.embed(phi, tasks), torch.zeros_like(right.theta), right.v, tasks)
        return right._replace(phi=map_parameters(lambda x, dx: x - self.upper_step_size * dx, phi, d), direction=d)


def gap(evidence, name, law):
    return np.abs(evidence[name] - evidence[law]).max() / np.abs(evidence[law]).max()


@pytest.mark.parametrize(
    ("mutant", "gather", "name", "law"),
    [
        (WrongRow, batch_size_decay._replay, "replay", "replay_law"),
        (CrossDerivativeAtTheOrigin, hypergradient_error._bilinear, "bilinear", "bilinear_exact"),
    ],
)
def test_the_mutant_is_seen_where_the_algorithm_is_right_to_rounding(mutant, gather, name, law):
    assert gap(gather(Setting()), name, law) < 1e-12
    assert gap(gather(Setting(method=mutant)), name, law) > 1e-3
