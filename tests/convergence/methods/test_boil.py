"""BOIL: the steps of ANIL on the other half of a network."""

from __future__ import annotations

import torch

from convergence import ANIL, BOIL, run
from problems import LearnedStart, Quadratic


def test_on_one_problem_it_takes_the_steps_of_anil():
    problem = LearnedStart(Quadratic.random(tasks=4, p=2, q=3, kappa=5.0))
    options = {"lower_steps": 3, "lower_step_size": 0.2, "upper_step_size": 0.2}
    ends = [run(problem, kind(**options), iterations=4, batch=2).phi for kind in (BOIL, ANIL)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ("start", "phi"))
    assert (BOIL.declared.title, BOIL.needs) == ("BOIL", ANIL.needs)
