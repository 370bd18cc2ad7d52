from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convergence.trees import map_tensors


class Pair(NamedTuple):
    first: Tensor
    second: dict


def test_every_tensor_of_nested_containers_is_mapped_with_its_namesakes_and_the_rest_is_left():
    def tree(k: float) -> Pair:
        return Pair(torch.tensor(k), {"list": [torch.tensor(2 * k), None], "tuple": (torch.tensor(3 * k), "text", 7)})

    found = map_tensors(torch.sub, tree(10.0), tree(1.0))
    assert isinstance(found, Pair)
    assert found == Pair(
        torch.tensor(9.0), {"list": [torch.tensor(18.0), None], "tuple": (torch.tensor(27.0), "text", 7)}
    )
    assert map_tensors(torch.neg, torch.tensor(1.0)) == torch.tensor(-1.0)
    assert map_tensors(torch.neg, None) is None
