"""A compiled network gives the features and the direction of the same network in Python."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor
from torch._inductor import config

from convergence import MemoryReduced, Oracle
from problems import Parameters
from problems.few_shot.compiled import Compiled
from tests.independent import assert_near
from tests.problems.few_shot.tiny import drawn, episodes, few_shot, start

# torch.compile warns of its own deprecated parts
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Scaled:
    """Pixels with a scale, batch norm, their means: the least that a network does, since compiling takes seconds."""

    def parameters(self, shape, rng: torch.Generator) -> Parameters:
        names = ("scale", "norm.weight", "norm.bias")
        return {name: torch.rand(shape[0], generator=rng) + 0.5 for name in names}

    def size(self, shape) -> int:
        return shape[0] * shape[2]

    def __call__(self, phi: Parameters, images: Tensor, normalise) -> Tensor:
        x = normalise(images * phi["scale"].view(-1, 1, 1), phi, "norm")
        return x.square().mean(-2).flatten(1)


def direction(embedding, side: int = 16) -> Parameters:
    problem = few_shot(embedding=embedding, source=episodes(side))
    phi, tasks, oracle = start(problem), drawn(problem), Oracle(problem)
    method = MemoryReduced(lower_steps=3, cg_steps=2, warm_start=False)
    return method.step(oracle, phi, tasks, method.start(oracle, phi)).direction


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_network_has_the_same_direction_and_says_what_compiling_took():
    compiled = Compiled(Scaled())
    assert compiled.seconds == 0
    found = direction(compiled)
    taken = compiled.seconds
    assert taken > 0
    for name, tensor in direction(Scaled()).items():
        assert float(tensor.norm()) > 1e-6
        assert_near(found[name], tensor, within=1e-12)
    direction(compiled)
    assert compiled.seconds == taken  # once for all


def test_without_a_graph_it_runs_as_it_is():
    network = Scaled()
    compiled, plain = (few_shot(embedding=each) for each in (Compiled(network), network))
    phi, tasks = start(plain), drawn(plain)
    with torch.no_grad():
        assert torch.equal(compiled.embed(phi, tasks).query, plain.embed(phi, tasks).query)
    assert compiled.features == plain.features
    assert compiled.embedding.seconds == 0


def test_without_a_compiler_it_says_so():
    nothing = {"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}
    with (
        config.patch(nothing),
        pytest.raises(ValueError, match=r"expected a C\+\+ compiler \(g\+\+ or clang\+\+\) for a compiled network"),
    ):
        direction(Compiled(Scaled()), side=17)
