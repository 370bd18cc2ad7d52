"""MAML: the whole network adapted, against torch.func through the written-out steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from convergence import BOIL, FOMAML, IMAML, MAML, Oracle, Reptile, run
from convergence.chunks import direction_in_chunks
from problems import Parameters
from problems.few_shot import Conv4, ResNet12, WholeNetwork
from tests.independent import assert_near
from tests.problems.few_shot import independent
from tests.problems.few_shot.tiny import drawn, episodes, singles, start

METHOD = MAML(lower_steps=3, lower_step_size=0.4)


LAST = ("last.weight", "last.bias")


def whole_network(*, adapts: str = "all", prox: float = 0.0, **options) -> WholeNetwork:
    return WholeNetwork(episodes(**options), embedding=Conv4(4), adapts=adapts, prox=prox)


def loss(own: Parameters, images: Tensor, labels: Tensor) -> Tensor:
    Z, _ = independent.conv4(own, images)
    return F.cross_entropy(F.linear(Z, own["last.weight"], own["last.bias"]), labels)


def adapted(phi: Parameters, support: Tensor, y: Tensor, *, steps: int, drop: bool = False) -> Parameters:
    """Gradient steps on every tensor; with `drop` their derivative is left out."""
    own = phi
    for _ in range(steps):
        slopes = grad(loss)(own, support, y)
        own = {name: tensor - 0.4 * (slopes[name].detach() if drop else slopes[name]) for name, tensor in own.items()}
    return own


def expected(problem: WholeNetwork, phi: Parameters, tasks, *, steps: int, first_order: bool) -> Parameters:
    directions = []
    for support, y, query, labels in singles(tasks):
        if first_order:
            directions.append(grad(loss)(adapted(phi, support, y, steps=steps), query, labels))
        else:

            def composed(own, support=support, y=y, query=query, labels=labels):
                return loss(adapted(own, support, y, steps=steps), query, labels)

            directions.append(grad(composed)(phi))
    return independent.mean_over(directions)


@pytest.mark.parametrize("first_order", [False, True], ids=["maml", "fomaml"])
@pytest.mark.parametrize("queries", [2, 3])
@pytest.mark.parametrize("chunk", [1, 3])
def test_maml_differentiates_the_loss_after_k_steps_from_phi(first_order, queries, chunk):
    problem = whole_network(queries=queries)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    method = FOMAML(lower_steps=3, lower_step_size=0.4) if first_order else METHOD
    found = direction_in_chunks(method, oracle, phi, tasks, None, chunk=chunk).direction
    reference = expected(problem, phi, tasks, steps=3, first_order=first_order)
    scale = max(float(tensor.abs().max()) for tensor in reference.values())
    assert scale > 1e-2
    for name, tensor in reference.items():
        assert_near(found[name] / scale, tensor / scale, within=1e-9)
    other = expected(problem, phi, tasks, steps=3, first_order=not first_order)
    gap = max(float((found[name] - other[name]).abs().max()) for name in found)
    assert gap > 1e-3 * scale  # the derivative of the steps counts


def test_the_adapted_network_and_its_accuracy_are_those_of_single_tasks():
    problem = whole_network(queries=5)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    theta = METHOD.adapt(oracle, oracle.features(phi, tasks), phi, tasks)
    shares = []
    for i, (support, y, query, labels) in enumerate(singles(tasks)):
        own = adapted(phi, support, y, steps=3)
        assert_near(theta[i], torch.cat([own[name].flatten() for name in problem.shapes]), within=1e-10)
        Z, _ = independent.conv4(own, query)
        logits = F.linear(Z, own["last.weight"], own["last.bias"])
        shares.append(float((logits.argmax(1) == labels).double().mean()))
    with torch.no_grad():
        assert problem.accuracy({}, theta, tasks).tolist() == pytest.approx(shares)
    assert 0 < sum(shares) < 3


@pytest.mark.parametrize("embedding", [Conv4(4), ResNet12((2, 2, 2, 2))])
def test_theta_starts_at_phi_and_has_its_size(embedding):
    problem = WholeNetwork(episodes(), embedding=embedding)
    phi = problem.phi0(torch.Generator().manual_seed(0))
    theta = problem.theta0(phi, drawn(problem))
    assert theta.shape == (3, problem.q)
    assert problem.q == sum(tensor.numel() for tensor in phi.values())
    assert torch.equal(theta[1], torch.cat([tensor.flatten() for tensor in phi.values()]))
    assert float(phi["last.weight"].abs().max()) <= problem.features**-0.5


def test_channels_last_changes_nothing_but_rounding():
    phi = start(whole_network())
    tasks = drawn(whole_network())
    found = []
    for channels_last in (False, True):
        problem = WholeNetwork(episodes(), embedding=Conv4(4), channels_last=channels_last)
        found.append(METHOD.step(Oracle(problem), phi, tasks, None).direction)
    for name, tensor in found[0].items():
        assert_near(found[1][name], tensor, within=1e-10)


def test_bfloat16_is_for_the_network_alone():
    problem = WholeNetwork(episodes(), embedding=Conv4(4), autocast=torch.bfloat16)
    phi, tasks = start(problem, dtype=torch.float32), drawn(problem)
    step = METHOD.step(Oracle(problem), phi, tasks, None)
    exact = METHOD.step(Oracle(whole_network()), phi, tasks, None)
    assert step.theta.dtype == torch.float32
    assert all(tensor.dtype == torch.float32 for tensor in step.direction.values())
    gap = float((step.theta - exact.theta).norm() / exact.theta.norm())
    assert 1e-6 < gap < 0.1


def test_replicas_together_equal_separate_runs():
    problem, method = whole_network(), dataclasses.replace(METHOD, upper_step_size=0.1)
    together = run(problem, method, iterations=2, batch=2, seed=1, replicas=2)
    for r in range(2):
        alone = run(problem, method, iterations=2, batch=2, seed=1 + r)
        for name, tensor in alone.phi.items():
            assert_near(together.phi[name][r], tensor, within=1e-9)


# ---- a last layer that is shared


def test_boil_adapts_the_body_and_learns_the_last_layer_through_its_steps():
    problem = whole_network(adapts="body", queries=3)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    assert problem.q == sum(tensor.numel() for name, tensor in phi.items() if name not in LAST)
    directions, adapted_body = [], []
    for support, y, query, labels in singles(tasks):

        def bodies(own, support=support, y=y):
            body = {name: tensor for name, tensor in own.items() if name not in LAST}
            last = {name: own[name] for name in LAST}
            for _ in range(2):
                slopes = grad(lambda body, last=last: loss(body | last, support, y))(body)
                body = {name: tensor - 0.4 * slopes[name] for name, tensor in body.items()}
            return body | last

        directions.append(grad(lambda own, at=bodies, x=query, z=labels: loss(at(own), x, z))(phi))
        own = bodies(phi)
        adapted_body.append(torch.cat([own[name].flatten() for name in problem.shapes]))
    step = BOIL(lower_steps=2, lower_step_size=0.4).step(oracle, phi, tasks, None)
    assert_near(step.theta, torch.stack(adapted_body), within=1e-10)
    for name, tensor in independent.mean_over(directions).items():
        assert_near(step.direction[name], tensor, within=1e-9)
    assert float(step.direction["last.weight"].abs().max()) > 1e-3


def test_the_accuracy_of_an_adapted_body_is_that_of_the_shared_last_layer():
    problem = whole_network(adapts="body", queries=5)
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    z = oracle.features(phi, tasks)
    theta = BOIL(lower_steps=1, lower_step_size=0.4).adapt(oracle, z, phi, tasks)
    whole = torch.cat([theta, *(phi[name].flatten().expand(3, -1) for name in LAST)], -1)
    with torch.no_grad():
        assert torch.equal(problem.accuracy(z.value, theta, tasks), whole_network(queries=5).accuracy({}, whole, tasks))


# ---- a start that theta is tied to


def test_the_proximal_term_ties_theta_to_phi_and_gives_phi_an_implicit_gradient():
    bare, tied = whole_network(), whole_network(prox=2.0)
    phi, tasks, oracle = start(tied), drawn(tied), Oracle(tied)
    theta = tied.theta0(phi, tasks) + 0.1 * torch.randn(3, tied.q, generator=torch.Generator().manual_seed(0)).double()
    z = tied.embed(phi, tasks)
    pull = (theta - tied.theta0(phi, tasks)).square().sum(-1)
    assert_near(tied.lower(z, theta, tasks), bare.lower({}, theta, tasks) + pull, within=1e-12)
    assert torch.equal(tied.upper(z, theta, tasks), bare.upper({}, theta, tasks))
    # d = lambda v with v from N CG steps on Hhat + lambda I
    step = IMAML(lower_steps=2, lower_step_size=0.05, cg_steps=1).step(oracle, phi, tasks, None)
    flat = torch.cat([step.direction[name].flatten() for name in tied.shapes])
    assert_near(flat, 2.0 * step.v.mean(0), within=1e-12)
    assert float(flat.norm()) > 1e-3


def test_reptile_goes_where_the_network_goes_and_not_by_its_queries():
    problem = whole_network()
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    step = Reptile(lower_steps=2, lower_step_size=0.4).step(oracle, phi, tasks, None)
    ends = [adapted(phi, support, y, steps=2) for support, y, _, _ in singles(tasks)]
    for name, tensor in independent.mean_over(ends).items():
        assert_near(step.direction[name], phi[name] - tensor, within=1e-10)
    assert oracle.upper_values is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"adapts": "head"}, "expected adapts one of all, body, got 'head'"),
        ({"prox": -1.0}, "expected prox a finite number >= 0, got -1.0"),
    ],
)
def test_other_parts_and_a_negative_prox_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        whole_network(**options)


@pytest.mark.parametrize("options", [{"adapts": "body"}, {"prox": 2.0}])
def test_replicas_together_equal_separate_runs_with_what_is_shared(options):
    problem = whole_network(**options)
    method = MAML(lower_steps=1, lower_step_size=0.1, upper_step_size=0.1)
    together = run(problem, method, iterations=2, batch=2, seed=1, replicas=2)
    for r in range(2):
        for name, tensor in run(problem, method, iterations=2, batch=2, seed=1 + r).phi.items():
            assert_near(together.phi[name][r], tensor, within=1e-9)
