from __future__ import annotations

import pytest
import torch

from convergence import run
from convergence.catalogue import METHODS
from convergence.methods.warm import Warm
from problems import Minibatch, ProxLogistic
from tests.convergence.methods.instances import batch_of, method


class OfTheTasks(ProxLogistic):
    """Logistic heads with a curvature, from the examples of the tasks alone."""

    def curvature(self, features, tasks):
        largest = self.prox + tasks.X.square().sum(-1).mean(-1) / 4
        return torch.full_like(largest, self.prox), largest


class OfFeatures(OfTheTasks):
    """The same; half of it comes from the features, which hold a number for each example."""

    def embed(self, phi, tasks):
        return super().embed(phi, tasks) | {"sizes": tasks.X.norm(dim=-1)}

    def curvature(self, features, tasks):
        largest = self.prox + (features["sizes"] * tasks.X.norm(dim=-1)).mean(-1) / 4
        return torch.full_like(largest, self.prox), largest


@pytest.mark.parametrize("name", [name for name, make in METHODS.items() if issubclass(make, Warm)])
@pytest.mark.parametrize("replicas", [None, 2])
def test_step_sizes_of_the_curvature_are_those_of_the_whole_tasks_whatever_is_drawn(name, replicas):
    made = method(name, lower_step_size=None)
    options = {"iterations": 3, "batch": batch_of(made, 2), "replicas": replicas, "probes": ()}
    runs = [
        run(Minibatch(problem.random(tasks=4, q=2, examples=4), lower=2, upper=2), made, **options)
        for problem in (OfTheTasks, OfFeatures)
    ]
    torch.testing.assert_close(*(result.phi["centre"] for result in runs), rtol=1e-12, atol=1e-12)
