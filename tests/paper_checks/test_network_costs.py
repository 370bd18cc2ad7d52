"""The problems, counters and laws by which the cost of few-shot methods is judged."""

import pytest
import torch

from convergence import ITDBiO, MemoryReduced, Oracle
from convergence.memory import saved_bytes
from paper_checks.network_costs import COSTS, WAY, Counted, EmbeddedAnew, Iteration, Plain, episodes, step_bytes
from problems.few_shot import Conv4, FewShot, SoftmaxHead, WholeNetwork

SHAPE = (1, 16, 16)
HEAD = SoftmaxHead(way=WAY, ridge=0.1, lasso=1e-3)


def direction(problem, method):
    oracle = Oracle(problem)
    phi = {name: tensor.double() for name, tensor in problem.phi0(torch.Generator().manual_seed(0)).items()}
    tasks = problem.episodes.draw([3, 4])
    return method.step(oracle, phi, tasks, method.start(oracle, phi)).direction


@pytest.mark.parametrize(
    "method",
    [
        MemoryReduced(lower_steps=3, lower_step_size=0.1, cg_steps=4, warm_start=False),
        ITDBiO(lower_steps=3, lower_step_size=0.1),
    ],
    ids=["memory_reduced", "itd_bio"],
)
def test_features_anew_change_the_cost_and_not_the_hypergradient(method):
    drawn = episodes(SHAPE, 0)
    anew = direction(EmbeddedAnew(drawn, embedding=Conv4(4), head=HEAD), method)
    once = direction(FewShot(drawn, embedding=Conv4(4), head=HEAD, centred=False), method)
    assert anew.keys() == once.keys()
    largest = max(tensor.abs().max() for tensor in once.values())
    # One sum in another order: some thousand float64 roundings, of the largest entry
    assert all(torch.allclose(anew[name], once[name], rtol=0, atol=1e-11 * float(largest)) for name in once)


def test_images_are_counted_forward_and_backward():
    drawn = episodes(SHAPE, 0)
    counted = Counted(Conv4(4))
    problem = FewShot(drawn, embedding=counted, head=HEAD, centred=False)
    oracle, tasks = Oracle(problem), drawn.draw([0, 1])
    z = oracle.embed(problem.phi0(torch.Generator()), tasks)
    assert (counted.forward, counted.backward) == (100, 0)
    theta = torch.ones(2, problem.q)
    oracle.hypergradient(z, theta, theta, tasks)
    assert (counted.forward, counted.backward) == (100, 100)
    oracle.features(problem.phi0(torch.Generator()), tasks)
    assert (counted.forward, counted.backward) == (200, 100)


@pytest.mark.parametrize("name", ["itd_once", "itd_anew", "maml"])
@pytest.mark.parametrize(("channels", "shape"), [(3, (3, 16, 16)), (5, (1, 32, 16))])
def test_the_tape_grows_as_predicted_at_other_sizes(name, channels, shape):
    drawn = episodes(shape, 0)
    cost = COSTS[name]

    def tape(K):
        return saved_bytes(Iteration(cost.problem(drawn, Conv4(channels)), cost.method(K, 1, None), drawn.draw([0])))

    assert tape(4) - tape(2) == 2 * step_bytes(name, channels=channels, shape=shape)[1]


def test_the_plain_network_is_of_the_same_size_and_sees_every_image_once():
    drawn = episodes(SHAPE, 0)
    plain = Plain(drawn.draw([0, 1]), channels=4, minibatch=25)
    plain()
    seen = []
    plain.network.register_forward_hook(lambda network, images, logits: seen.append(len(logits)))
    plain()
    parameters = list(plain.network.parameters())
    assert sum(tensor.numel() for tensor in parameters) == WholeNetwork(drawn, embedding=Conv4(4)).q
    assert all(bool(tensor.grad.abs().sum() > 0) for tensor in parameters if tensor.ndim > 1)
    assert seen == [25] * 4
