"""Upper iterations as compiled programs: one traced once through automatic differentiation, then torch.compile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from convergence.batches import Batches
from convergence.imported import said
from convergence.method import Method, Step
from convergence.oracle import Oracle
from convergence.recording import Going, Running
from convergence.trees import map_tensors, tensors_of
from problems import Parameters

BLOCK = 64  # iterations that one call of a program takes at most: what the call itself costs is then lost in them
BACKEND = "inductor"  # of torch.compile
Program = Callable[..., Any]


class CompiledSteps:
    """`method.step` on batches of one shape, as programs without Python: one step, or many with a loop around them.

    A step is run while torch.fx writes down its operations, those of automatic differentiation among them; what it
    decides in Python it decides then, once. The program is the same mathematics with its sums in another order: results
    differ by rounding. The oracle counts in every iteration what it counted while the step was traced.

    `seconds` is what tracing and compiling took.

    Raises ValueError on a step that cannot be written down: stochastic objectives, numbers drawn by the method, a
    state with numbers that are no tensors (they would stay what they were), decisions that look at values, results
    that are not those of the step in Python; and where there is no C++ compiler.
    """

    def __init__(self, method: Method, oracle: Oracle, batches: Batches):
        if not oracle.exact:
            raise ValueError(
                f"expected exact objectives with compile=True, got {type(oracle.problem).__name__}, which draws samples"
            )
        self._method, self._oracle, self._batches = method, oracle, batches
        self._one: Program | None = None
        self._many: Program | None = None
        self._counts: list[dict[str, int]] = []
        self.seconds = 0.0

    def step(self, phi: Parameters, state: Any, seen: Any) -> Step:
        """The step that `method.step` takes on these tasks."""
        if self._one is None:
            self._one = self._built(lambda: self._one_step(phi, state, seen))
        self._count(1)
        step: Step = self._one(phi, state, seen)
        return step

    def steps(self, phi: Parameters, state: Any, seen: Sequence[Any], running: Running) -> tuple[Parameters, Any]:
        """phi and state after a step on each of these batches, at most BLOCK of them; `running` is brought up to date.

        A replica whose step fails stops and keeps its phi and state, as in steps one by one.
        """
        before = (running.going, phi, state)
        batches = [
            torch.cat([torch.stack(same), same[-1].expand(BLOCK - len(same), *same[-1].shape)])
            for same in zip(*map(tensors_of, seen), strict=True)
        ]
        if self._many is None:
            self._many = self._built(lambda: self._many_steps(before, seen[0], batches))
        count = torch.tensor(len(seen), device=running.which.device)
        taken, *after = self._many(count, tensors_of(before), batches)
        self._count(int(taken))
        going, phi, state = _filled(before, after)
        running.took(going)
        return phi, state

    # ---- the programs

    def _built(self, build: Callable[[], Program]) -> Program:
        """What is built, its seconds noted, nothing counted. Whatever keeps it from being built is a ValueError."""
        oracle, began = self._oracle, time.perf_counter()
        before = dict(oracle.calls), dict(oracle.examples), oracle.upper_values
        try:
            return build()
        except ValueError:
            raise
        except Exception as error:  # tracing and compiling have errors of many kinds
            raise ValueError(
                "expected a step that torch can trace and compile with compile=True, got one of "
                f"{type(self._method).__name__} ({said(error)})"
            ) from error
        finally:
            oracle.calls, oracle.examples, oracle.upper_values = before
            self.seconds += time.perf_counter() - began

    def _one_step(self, phi: Parameters, state: Any, seen: Any) -> Program:
        _require_tensors(state, self._method)

        def one(phi: Parameters, state: Any, seen: Any) -> Step:
            return self._step(phi, state, seen)

        cuda = next(iter(phi.values())).device.type == "cuda"
        program = self._compiled(self._traced(one, phi, state, seen), {"triton.cudagraphs": True} if cuda else {})
        elsewhere = (*map_tensors(_moved, (phi, state)), seen)
        self._require_equal(program(*elsewhere), one, *elsewhere)
        return program

    def _many_steps(self, before: tuple[Going, Parameters, Any], batch: Any, batches: list[Tensor]) -> Program:
        def iteration(tensors: list[Tensor], seen: list[Tensor]) -> list[Tensor]:
            going, phi, state = _filled(before, tensors)
            step = self._step(phi, state, _filled(batch, seen))
            going = going.after(step)
            return tensors_of((going, going.keep(step.phi, phi), going.keep(step.state, state)))

        now, first, last = tensors_of(before), [x[0] for x in batches], [x[-1] for x in batches]
        _require_tensors(before, self._method)
        traced = self._traced(iteration, now, first)

        def loop(count: Tensor, now: list[Tensor], batches: list[Tensor]) -> Any:
            def more(taken: Tensor, which: Tensor, *others: Tensor) -> Tensor:
                return (taken < count) & which.any()

            def once(taken: Tensor, *now: Tensor) -> tuple[Tensor, ...]:
                return taken + 1, *traced(list(now), [x.index_select(0, taken.view(1)).squeeze(0) for x in batches])

            return while_loop(more, once, (torch.zeros_like(count), *now))

        program = self._compiled(loop, {"cpp_wrapper": True})
        # Elsewhere than where it was traced, on another batch: values of the trace that are kept in the program show
        there = tensors_of((before[0], *map_tensors(_moved, before[1:])))
        one = torch.ones_like(before[0].completed).amax()
        found = program(one, there, [x.expand(BLOCK, *x.shape).clone() for x in last])
        self._require_equal(list(found[1:]), iteration, there, last)
        return program

    def _step(self, phi: Parameters, state: Any, seen: Any) -> Step:
        return self._method.step(self._oracle, phi, self._batches.of(seen), state)

    def _traced(self, program: Program, *arguments: Any) -> Program:
        """The operations of one step. The oracle's counts of it are noted, and taken back."""
        oracle, name = self._oracle, type(self._method).__name__
        program(*arguments)  # what problems compute once, constants for example, is no part of it
        before = dict(oracle.calls), dict(oracle.examples)
        try:
            # Without values: a step that asks for one is refused, instead of keeping it
            traced = make_fx(program, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)
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
        return traced

    def _compiled(self, program: Program, options: dict[str, Any]) -> Program:
        from torch._dynamo.exc import BackendCompilerFailed  # here: these take as long to import as all of torch
        from torch._inductor.exc import InvalidCxxCompiler

        if torch.backends.cpu.get_cpu_capability() == "AVX512":
            options = options | {"cpp.simdlen": 256}  # rows of theta are short: half of a wider vector would be empty
        if isinstance(program, FunctionType):  # one of its own: torch compiles no more than 8 programs of one code
            program.__code__ = program.__code__.replace()
        compiled = torch.compile(
            program, fullgraph=True, dynamic=False, backend=BACKEND, options=options if BACKEND == "inductor" else None
        )

        def called(*arguments: Any) -> Any:
            try:
                with torch.no_grad():
                    return compiled(*arguments)
            except BackendCompilerFailed as error:
                if not isinstance(error.inner_exception, InvalidCxxCompiler):
                    raise
                raise ValueError("expected a C++ compiler (g++ or clang++) for compile=True, got none") from error

        return called

    def _require_equal(self, found: Any, program: Program, *arguments: Any) -> None:
        for ours, theirs in zip(tensors_of(found), tensors_of(program(*arguments)), strict=True):
            # More than the rounding of a step whose CG is badly conditioned
            allowed = torch.finfo(ours.dtype).eps ** (1 / 3) if ours.is_floating_point() else 0.0
            ours, theirs = (x.to(torch.float64) for x in (ours, theirs))
            finite = torch.isfinite(theirs)
            # Where one is not finite, the same value is asked for, or NaN in both
            same = torch.equal(ours[~finite].nan_to_num(), theirs[~finite].nan_to_num())
            apart = float((ours - theirs)[finite].abs().sum()) if same else torch.inf
            if not apart <= allowed * float(theirs[finite].abs().sum()):
                raise ValueError(
                    f"expected a step that looks at phi, the tasks and its state alone with compile=True, got one of "
                    f"{type(self._method).__name__} that differs from itself in Python by {apart:.3g}"
                )

    def _count(self, steps: int) -> None:
        for counted, more in zip((self._oracle.calls, self._oracle.examples), self._counts, strict=True):
            for call, count in more.items():
                counted[call] += steps * count


def _filled(tree: Any, tensors: Sequence[Tensor]) -> Any:
    """The tree with these tensors in place of its own."""
    left = iter(tensors)
    return map_tensors(lambda _: next(left), tree)


def _require_tensors(state: Any, method: Method) -> None:
    if held := [x for x in pytree.tree_leaves(state) if x is not None and not isinstance(x, Tensor)]:
        raise ValueError(
            f"expected a state of tensors with compile=True, got {type(method).__name__}, whose state holds "
            f"{held[0]!r}: in a compiled step it would stay what it is"
        )


def _moved(tensor: Tensor) -> Tensor:
    """Other values of about the same size."""
    return 0.75 * tensor + 0.125 * tensor.abs().mean() if tensor.is_floating_point() else tensor
