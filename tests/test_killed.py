"""Long commands killed at random moments end with what they end with otherwise: real processes, real signals."""

from __future__ import annotations

import pytest

from tests.convergence.training.small import write_tiny
from tests.killed import commands, survive

KILLS = {"paper_checks": 14, "solve": 10, "train": 10}


@pytest.mark.parametrize("name", KILLS)
def test_a_command_survives_signals_at_random_moments(name, tmp_path):
    command = commands(write_tiny(tmp_path / "images"))[name]
    assert survive(command, tmp_path / "runs", kills=KILLS[name], seed=0) >= 1
