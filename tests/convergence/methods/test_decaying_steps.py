from __future__ import annotations

import pytest
import torch

from convergence import SOBA, Oracle, run
from convergence.catalogue import METHODS
from convergence.methods.alternating import Alternating
from convergence.methods.decaying_steps import DecayingSteps
from problems import Minibatch, ProxLogistic, Quadratic
from tests.convergence.methods.instances import batch_of, method
from tests.twins import UserRidge


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


@pytest.mark.parametrize("name", [name for name, make in METHODS.items() if issubclass(make, DecayingSteps)])
@pytest.mark.parametrize("replicas", [None, 2])
def test_step_sizes_of_the_curvature_are_those_of_the_whole_tasks_whatever_is_drawn(name, replicas):
    made = method(name, lower_step_size=None)
    options = {"iterations": 3, "batch": batch_of(made, 2), "replicas": replicas, "probes": ()}
    runs = [
        run(Minibatch(problem.random(tasks=4, q=2, examples=4), lower=2, upper=2), made, **options)
        for problem in (OfTheTasks, OfFeatures)
    ]
    torch.testing.assert_close(*(result.phi["centre"] for result in runs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("field", ["lower_step_size", "linear_step_size"])
def test_a_step_size_that_is_neither_given_nor_known_is_asked_for_by_its_name(field):
    given = {"lower_step_size": 0.1, "linear_step_size": 0.1, "upper_step_size": 0.1} | {field: None}
    with pytest.raises(ValueError, match=f"expected {field} a number, got None with UserRidge, which gives no const"):
        run(UserRidge(), SOBA(**given), iterations=1, probes=())


def test_steps_decay_like_powers_of_the_iteration():
    problem = Quadratic.random(tasks=2, p=2, q=3, kappa=4.0)
    oracle, made = Oracle(problem), SOBA(linear_step_size=0.3, lower_decay=0.5)
    z = oracle.embed({"phi": torch.zeros(2, dtype=torch.float64)}, oracle.pool)
    at = [made.decayed("linear_step_size", oracle, z, oracle.pool, t) for t in (0, 3, 99)]
    assert at == pytest.approx([0.3, 0.15, 0.03], rel=1e-15)
    assert made.lower_size(oracle, z, oracle.pool, 3) == pytest.approx(2 / 5 / 2, rel=1e-14)  # 2 / (L + mu), L = 4


@pytest.mark.parametrize("name", [name for name, make in METHODS.items() if issubclass(make, Alternating)])
def test_theta_is_kept_where_the_method_declares_that_it_is_warm(name):
    problem = Quadratic.random(tasks=2, p=2, q=3, kappa=4.0)
    kept = run(problem, method(name), iterations=2, probes=()).state.theta
    assert (kept is not None) == METHODS[name].declared.warm
