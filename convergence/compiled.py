"""One upper iteration as a compiled program: traced once through automatic differentiation, then torch.compile."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch._inductor.exc import InvalidCxxCompiler
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from convergence.batches import Batches
from convergence.method import Method, Step
from convergence.oracle import Oracle
from problems import Parameters


class CompiledStep:
    """`method.step` on batches of one shape, as one program without Python.

    The step is run once while torch.fx writes down its operations, those of automatic differentiation among them; what
    it decides in Python it decides then, once. The program is the same mathematics with its sums in another order:
    results differ by rounding. The oracle counts in every iteration what it counted while the step was traced.

    `seconds` is what tracing and compiling took.

    Raises ValueError on a step that cannot be written down: stochastic objectives, numbers drawn by the method, a
    state with numbers that are no tensors (they would stay what they were), decisions that look at values.
    """

    def __init__(self, method: Method, oracle: Oracle, batches: Batches, phi: Parameters, state: Any, seen: Any):
        name = type(method).__name__
        if not oracle.exact:
            raise ValueError(
                f"expected exact objectives with compile=True, got {type(oracle.problem).__name__}, which draws samples"
            )
        if held := [leaf for leaf in pytree.tree_leaves(state) if leaf is not None and not isinstance(leaf, Tensor)]:
            raise ValueError(
                f"expected a state of tensors with compile=True, got {name}, whose state holds {held[0]!r}: "
                "in a compiled step it would stay what it is"
            )
        began = time.perf_counter()

        def program(phi: Parameters, state: Any, seen: Any) -> Step:
            return method.step(oracle, phi, batches.of(seen), state)

        self._oracle = oracle
        before = dict(oracle.calls), dict(oracle.examples)
        program(phi, state, seen)  # what problems compute once, constants for example, is no part of the step
        oracle.calls, oracle.examples = (dict(counted) for counted in before)
        try:
            traced = make_fx(program)(phi, state, seen)
        except RuntimeError as error:
            raise ValueError(
                f"expected a step without decisions on values with compile=True, got one of {name} ({error})"
            ) from error
        if oracle.drew:
            raise ValueError(f"expected a method that draws no numbers with compile=True, got {name}")
        self._counts = [
            {call: counted[call] - start[call] for call in counted}
            for counted, start in zip((oracle.calls, oracle.examples), before, strict=True)
        ]
        oracle.calls, oracle.examples = before
        oracle.upper_values = None  # of the trace
        self._program = torch.compile(traced, fullgraph=True, dynamic=False)
        try:
            with torch.no_grad():
                self._program(phi, state, seen)
        except InvalidCxxCompiler as error:
            raise ValueError("expected a C++ compiler (g++ or clang++) for compile=True, got none") from error
        self.seconds = time.perf_counter() - began

    def __call__(self, phi: Parameters, seen: Any, state: Any) -> Step:
        """The step that `method.step` takes on these tasks."""
        for counted, more in zip((self._oracle.calls, self._oracle.examples), self._counts, strict=True):
            for call, count in more.items():
                counted[call] += count
        with torch.no_grad():
            step: Step = self._program(phi, state, seen)
        return step
