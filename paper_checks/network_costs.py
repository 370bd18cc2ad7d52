"""What the cost of few-shot methods is measured on: images, each method with its laws, the plain network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from convergence import ITDBiO, Oracle
from convergence.chunks import Direction, direction_in_chunks
from convergence.method import Method
from convergence.recipes import RECIPES
from convergence.streams import generator
from problems import Parameters, Problem, Tasks
from problems.few_shot import Conv4, Embedding, Episodes, FewShot, Head, ImageSet

Shape = tuple[int, int, int]
WAY = SHOT = QUERIES = 5


def episodes(shape: Shape, seed: int) -> Episodes:
    """5-way 5-shot 5-query episodes of noise, uint8 images (C, H, W): no cost depends on what they show."""
    classes, each = WAY + 1, SHOT + QUERIES
    channels, height, width = shape
    noise = np.random.default_rng(seed).integers(0, 256, (classes * each, height, width, channels), dtype=np.uint8)
    images = ImageSet(noise, np.repeat(np.arange(classes), each), tuple(f"class {c}" for c in range(classes)))
    return Episodes(images=images, split="train", way=WAY, shot=SHOT, queries=QUERIES, seed=seed)


class EmbeddedAnew(FewShot):
    """The same bilevel problem with the features computed by every evaluation of g and f, as published code does.

    g sees phi itself, so that each lower step passes the support images through the network; what is kept of a lower
    step holds that pass. No closed forms. Not centred, bn="task": the query images need no support images.
    """

    def __init__(self, episodes: Episodes, *, embedding: Embedding, head: Head):
        super().__init__(episodes, embedding=embedding, head=head, centred=False)

    embed = Problem.embed  # phi
    embed_parts = Problem.embed_parts

    def lower(self, features: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        """g_i, of the support images; `features` is phi."""
        Z = self.head.prepare(self._features(features, tasks.support))
        return self.head.lower(Z, tasks.support_labels, theta, self._own(features))

    def upper(self, features: Parameters, theta: Tensor, tasks: Tasks) -> Tensor:
        """f_i, of the query images; `features` is phi."""
        Z = self.head.prepare(self._features(features, tasks.query))
        return self.head.upper(Z, tasks.query_labels, theta, self._own(features))

    def has(self, closed_form: str) -> bool:
        """None."""
        return False


class Counted:
    """An embedding that counts the images which pass through it, forward and backward."""

    def __init__(self, embedding: Embedding):
        self.embedding, self.parameters, self.size = embedding, embedding.parameters, embedding.size
        self.forward = self.backward = 0

    def __call__(self, phi: Parameters, images: Tensor, normalise: Any) -> Tensor:
        """Features of the images."""
        Z = self.embedding(phi, images, normalise)
        count = len(images)
        self.forward += count
        if Z.requires_grad:
            Z.register_hook(lambda gradient: self._note(count))
        return Z

    def _note(self, count: int) -> None:
        self.backward += count


# ---- the methods


@dataclass(frozen=True)
class Cost:
    """A method, on which problem, and how often the images of a task pass through the network in an iteration.

    problem    of episodes and an embedding
    method     of K, N and the algorithm under judgement, called as `Setting.method`
    forward, backward    passes of all images of a task, affine in K: (at K = 0, for each lower step)
    """

    problem: Callable[[Episodes, Embedding], Problem]
    method: Callable[[int, int, Callable[..., Method]], Method]
    forward: tuple[float, float]
    backward: tuple[float, float]


def _recipe(name: str) -> Callable[[Episodes, Embedding], Problem]:
    return lambda episodes, embedding: RECIPES[name].problem(episodes, embedding=embedding)


def _unrolled(name: str) -> Callable[[int, int, Callable[..., Method]], ITDBiO]:
    return lambda K, N, algorithm: RECIPES[name].varied(lower_steps=K).method


def _implicit(**options: Any) -> Callable[[int, int, Callable[..., Method]], Method]:
    fixed = {"upper_step_size": None, "warm_start": False, "lower_step_size": None} | options
    return lambda K, N, algorithm: algorithm(lower_steps=K, cg_steps=N, **fixed)


def embedded_anew(name: str) -> Callable[[Episodes, Embedding], Problem]:
    """`EmbeddedAnew` with the head of this recipe."""
    return lambda episodes, embedding: EmbeddedAnew(episodes, embedding=embedding, head=RECIPES[name].head(WAY))


# Support images are half of all. Features anew: each lower step one pass of them; b and the Hessian another half each,
# the last line all. MAML backwards: once for the gradient of the step, once for the derivative of the step.
COSTS = {
    "memory_reduced": Cost(_recipe("memory_reduced"), _implicit(), (1, 0), (1, 0)),
    "recompute": Cost(_recipe("memory_reduced"), _implicit(recompute=True), (2, 0), (1, 0)),
    "anew": Cost(embedded_anew("memory_reduced"), _implicit(lower_step_size=0.1), (2, 0.5), (1, 0)),
    "itd_once": Cost(_recipe("itd_bio"), _unrolled("itd_bio"), (1, 0), (1, 0)),
    "itd_anew": Cost(embedded_anew("itd_bio"), _unrolled("itd_bio"), (0.5, 0.5), (0.5, 0.5)),
    "maml": Cost(_recipe("maml"), _unrolled("maml"), (0.5, 0.5), (0.5, 1)),
}
FLAT = ("memory_reduced", "recompute", "anew")  # the algorithm under judgement
GROWING = ("itd_anew", "maml")


@dataclass
class Iteration:
    """One upper iteration of a method on `tasks`, `chunk` of them at a time, as a function without arguments."""

    problem: Problem
    method: Method
    tasks: Tasks
    device: str = "cpu"
    chunk: int = 1

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.problem)
        phi = self.problem.phi0(generator(0, "start"))
        self.phi = {name: tensor.to(self.device) for name, tensor in phi.items()}
        self.tasks = self.tasks.to(self.device)
        self.state = self.method.start(self.oracle, self.phi)

    def __call__(self) -> Direction:
        """d of the batch."""
        return direction_in_chunks(self.method, self.oracle, self.phi, self.tasks, self.state, chunk=self.chunk)


# ---- the limit: a plain network, sharing no code with the above


class Plain:
    """Forward and backward pass of a plain classifier over the images of some episodes, in minibatches."""

    def __init__(
        self, tasks: Tasks, *, channels: int, minibatch: int, device: str = "cpu", channels_last: bool = False
    ):
        self.order = torch.channels_last if channels_last else torch.contiguous_format
        self.images = torch.cat([tasks.support, tasks.query], 1).flatten(0, 1).to(device).split(minibatch)
        self.labels = torch.cat([tasks.support_labels, tasks.query_labels], 1).flatten().to(device).split(minibatch)
        depth, height, width = tasks.support.shape[2:]
        widths = (depth, channels, channels, channels, channels)
        blocks = [
            # ReLU after pooling: the same function, and the cheaper order
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.MaxPool2d(2), nn.ReLU())
            for a, b in pairwise(widths)
        ]
        features = channels * (height // 16) * (width // 16)
        network = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(features, WAY))
        self.network = network.to(device, memory_format=self.order).train()

    def __call__(self) -> None:
        """Gradients of the cross entropy, summed over the minibatches."""
        self.network.zero_grad(set_to_none=True)
        for images, labels in zip(self.images, self.labels, strict=True):
            x = images.float().div_(255).contiguous(memory_format=self.order)
            cross_entropy(self.network(x), labels).backward()


def cpu_seconds(step: Callable[[], object], device: str = "cpu") -> float:
    """Of this process, which others on the machine do not lengthen by waiting; on CUDA seconds by the clock."""
    if device == "cpu":
        began = time.process_time()
        step()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


# ---- the laws of memory


def step_bytes(name: str, *, channels: int, shape: Shape) -> tuple[int, int]:
    """What a lower step of an unrolled method adds to the peak, and to the tape, in bytes (float32, one task).

    With n support images and C channels on s_l = H W / 4^(l-1) pixels in block l = 1 .. 4, a pass through Conv4 keeps
    the images and for each block the outputs of convolution and batch norm (n C s_l numbers each), the places of the
    maxima (n C s_l / 4, of 8 bytes), the output (n C s_l / 4), means and deviations (2 C).
    Softmax head with lasso, q = way (d + 1): theta and its signs (q each), the logits, their exponentials and the slope
    in them (n way each), the logarithm of their sum and the slope in it (n each), two numbers; and features (z, 1).
    MAML: all tensors theta of the network, again n C s_l numbers for the slopes in the outputs of convolution and of
    batch norm (they are what the backward pass of a block hands down), and for the last layer the logarithms of the
    probabilities and two slopes (n way each). One number more on the tape belongs to the loss, which is let go.
    """
    n = WAY * SHOT
    depth, height, width = shape
    pixels = sum(height * width // 4**block for block in range(4))
    network = 4 * n * depth * height * width + 11 * n * channels * pixels + 4 * 2 * 4 * channels
    features = Conv4(channels).size(shape)
    q = WAY * (features + 1)
    head = 4 * (2 * q + n * (3 * WAY + 2) + 2)
    if name == "itd_once":
        return 0, head  # let go before the pass through the network needs its own memory
    if name == "itd_anew":
        return (network + 4 * n * (features + 1) + head,) * 2
    weights = 9 * channels * (depth + 3 * channels) + 4 * 3 * channels + q
    maml = network + 8 * n * channels * pixels + 4 * (weights + 3 * n * WAY)
    return maml, maml + 4
