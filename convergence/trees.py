"""Nested dicts, lists, tuples and named tuples of tensors: features and states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """The tree with function(tensor, *namesakes) in place of each tensor; anything else is left as it is.

    >>> import torch
    >>> map_tensors(torch.neg, {"a": (torch.ones(1), None)})
    {'a': (tensor([-1.]), None)}
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        return {name: map_tensors(function, branch, *(x[name] for x in others)) for name, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        branches = [map_tensors(function, *same) for same in zip(tree, *others, strict=True)]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return tree


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of the tree, in the order in which `map_tensors` meets them."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, tree)
    return found
