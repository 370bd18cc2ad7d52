"""A network as a compiled program."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

from problems.base import Parameters
from problems.few_shot.embeddings import Embedding
from problems.few_shot.normalisation import Normalisation

_COMPILERS = {"InvalidCxxCompiler": "a C++ compiler (g++ or clang++)", "TritonMissing": "Triton"}


class Compiled:
    """The same embedding, its forward and backward pass each one program of torch.compile.

    A program is made in the first call with images of a shape; where no graph is kept, as in evaluation, the network
    runs as it is. The sums have another order: results differ by rounding. First derivatives only, without replicas.

    seconds   what compiling has taken in this process since this object was made

    Raises ValueError, in the first call, where there is no C++ compiler (on a GPU no Triton).
    """

    def __init__(self, embedding: Embedding):
        self.embedding, self.parameters, self.size = embedding, embedding.parameters, embedding.size
        self._clock = _clock()
        self._before = self._clock.seconds

        def passed(phi: Parameters, images: Tensor, normalise: Normalisation) -> Tensor:
            return embedding(phi, images, normalise)

        self._program = torch.compile(passed, fullgraph=True, dynamic=False)

    @property
    def seconds(self) -> float:
        """Of compiling."""
        return self._clock.seconds - self._before

    def __call__(self, phi: Parameters, images: Tensor, normalise: Normalisation) -> Tensor:
        """Features (n, d) of images (n, C, H, W)."""
        if not torch.is_grad_enabled():
            return self.embedding(phi, images, normalise)
        from torch._dynamo.exc import BackendCompilerFailed  # here: it takes as long to import as all of torch

        try:
            Z: Tensor = self._program(phi, images, normalise)
        except BackendCompilerFailed as error:
            needed = _COMPILERS.get(type(error.inner_exception).__name__)
            if needed is None:
                raise
            raise ValueError(f"expected {needed} for a compiled network, got none") from error
        return Z


class _Clock:
    """Seconds of compiling in this process, of forward passes and, when they are first needed, backward ones."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0

    def start(self, *arguments: object) -> None:
        self._began = time.perf_counter()

    def stop(self, *arguments: object) -> None:
        self.seconds += time.perf_counter() - self._began


@cache
def _clock() -> _Clock:
    """The one of this process, running whenever torch compiles."""
    from torch._dynamo.callback import on_compile_end, on_compile_start

    clock = _Clock()
    on_compile_start(clock.start)
    on_compile_end(clock.stop)
    return clock
