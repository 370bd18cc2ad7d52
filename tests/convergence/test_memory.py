from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convergence import PeakBytes, peak_bytes
from convergence.memory import resident_bytes, saved_bytes

N = 100
ROW = N * 8  # bytes of one row of N numbers in float64


def row() -> torch.Tensor:
    return torch.zeros(N, dtype=torch.float64)


def two_at_once():
    a = row()
    b = a + 1
    return a, b


def one_after_the_other():
    for _ in range(5):
        row()


def a_view_of_one():
    a = row()
    return a[10:20], a.view(10, 10).T, a.expand(3, N), a.detach()


def in_place():
    a = row()
    a.add_(1).mul_(2)
    a[3:5] = 7.0
    return a


def a_view_that_outlives_its_tensor():
    part = row()[:1]  # keeps the whole storage alive
    return part, row()


def a_copy_of_a_view():
    a = row()
    return a.view(10, 10).T.contiguous()


def written_into_a_tensor_made_before():
    a, out = row(), row()
    torch.add(a, 1, out=out)
    return out


def single_precision_and_integers():
    return torch.zeros(N, dtype=torch.float32), torch.zeros(N, dtype=torch.int64), torch.zeros(N, dtype=torch.bool)


def several_results():
    return torch.sort(row())  # the row, the sorted values, their int64 indices


def grown_in_place():
    a = torch.empty(0, dtype=torch.float64)
    return a.resize_(N)


def grown_by_out():
    return torch.cat([row(), row()], out=torch.empty(0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("program", "peak"),
    [
        (lambda: None, 0),
        (row, ROW),
        (two_at_once, 2 * ROW),
        (one_after_the_other, ROW),
        (a_view_of_one, ROW),
        (in_place, ROW),
        (a_view_that_outlives_its_tensor, 2 * ROW),
        (a_copy_of_a_view, 2 * ROW),
        (written_into_a_tensor_made_before, 2 * ROW),
        (single_precision_and_integers, N * (4 + 8 + 1)),
        (several_results, 3 * ROW),
        (grown_in_place, ROW),
        (grown_by_out, 4 * ROW),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_peak_is_the_one_counted_by_hand(program, peak):
    assert peak_bytes(program) == peak
    assert peak_bytes(program) == peak  # and again: it depends on nothing before


def test_the_live_bytes_follow_what_is_deleted():
    with PeakBytes() as memory:
        a = row()
        b = a.repeat(2)
        assert memory.live == 3 * ROW
        del a
        assert memory.live == 2 * ROW
        view = b[:1]
        del b
        assert memory.live == 2 * ROW
        del view
        assert (memory.live, memory.peak) == (0, 3 * ROW)
        c = row()
    assert (memory.live, memory.peak) == (ROW, 3 * ROW)
    del c
    assert memory.live == 0


def test_tensors_made_before_are_not_counted_and_their_end_is_not_subtracted():
    before = [row(), row()]
    with PeakBytes() as memory:
        views = [tensor.view(10, 10) for tensor in before]
        made = before[0] + before[1]
        del views
        before.clear()
        assert (memory.live, memory.peak) == (ROW, ROW)
    del made


@given(sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)), max_size=12))
def test_the_peak_is_the_largest_sum_of_what_is_alive(sizes):
    # each step makes a tensor and then drops the oldest few
    alive, counted, peak = [], [], 0
    with PeakBytes() as memory:
        for size, dropped in sizes:
            alive.append(torch.zeros(size, dtype=torch.float64))
            counted.append(8 * size)
            peak = max(peak, sum(counted))
            del alive[:dropped], counted[:dropped]
            assert (memory.live, memory.peak) == (sum(counted), peak)


# ---- graphs


def test_a_graph_keeps_what_it_saved_until_it_goes():
    x = row().requires_grad_()
    with PeakBytes() as memory:
        y = x.exp().sum()  # exp saves its result; the sum is one number
        assert memory.live == ROW + 8
        y = y.detach()
        assert memory.live == 8
    del y


def test_a_backward_pass_is_counted_step_by_step():
    x = row().requires_grad_()
    with PeakBytes() as memory:
        y = x.exp().exp().sum()
        assert memory.live == 2 * ROW + 8
        (gradient,) = torch.autograd.grad(y, x)
        # Beside y and the seed, one number each: two saved results and the first gradient; then, the outer result
        # being released with its node, the inner result and both gradients. The gradient of the sum is a view.
        assert memory.live == ROW + 8
        assert memory.peak == 3 * ROW + 16
    del gradient, y


@pytest.mark.parametrize("length", [1, 5, 20])
def test_a_chain_of_saved_results_costs_one_row_each_and_a_detached_chain_one_row(length):
    x = row().requires_grad_()

    def chain(detached: bool) -> torch.Tensor:
        y = x
        for _ in range(length):
            y = y.detach().exp() if detached else y.exp()
        return y

    assert peak_bytes(lambda: chain(detached=False)) == length * ROW
    assert peak_bytes(lambda: chain(detached=True)) == min(length, 2) * ROW


def test_a_cycle_of_python_objects_holds_its_tensor_until_it_is_collected():
    gc.disable()
    try:
        with PeakBytes() as memory:
            cycle = [row()]
            cycle.append(cycle)
            del cycle
            assert memory.live == ROW
            gc.collect()
            assert memory.live == 0
    finally:
        gc.enable()


# ---- the tape


@pytest.mark.parametrize(
    ("program", "rows"),
    [
        (lambda x: x.exp(), 1),  # its result
        (lambda x: x * x, 1),  # x, twice the same storage
        (lambda x: x[10:] * x[:-10], 1),  # two views of one storage, counted whole
        (lambda x: x + 1, 0),
        (lambda x: x.sin().cos(), 2),  # x and sin x
        (lambda x: x.exp() * x.sin(), 3),  # exp x, x, sin x
        (lambda x: x.detach().exp(), 0),
        (lambda x: torch.outer(x, row()).sum(), 1),  # the constant, for the gradient in x alone
    ],
)
def test_the_tape_is_what_a_backward_pass_needs(program, rows):
    x = row().requires_grad_()
    assert saved_bytes(lambda: program(x)) == rows * ROW


def test_the_tape_of_several_statements_counts_each_storage_once_even_if_it_is_gone():
    x = row().requires_grad_()

    def program():
        for _ in range(3):
            (x * 2).sin()  # saves the product, which goes with its graph: the next may lie at the same address

    assert saved_bytes(program) == 3 * ROW


# ---- CUDA


@pytest.mark.gpu
def test_on_a_gpu_the_peak_is_the_same_but_for_blocks_of_512_bytes():
    def program(device: str) -> torch.Tensor:
        a = torch.zeros(1000, dtype=torch.float64, device=device)
        b = a + 1
        return (a * b).exp()  # a, b, the product, its exponential

    before = torch.ones(10**5, device="cuda")  # not counted
    on_cpu, on_gpu = (peak_bytes(lambda d=device: program(d), device=device) for device in ("cpu", "cuda"))
    assert on_cpu == 4 * 8000
    assert on_cpu <= on_gpu <= on_cpu + 4 * 511
    del before


def test_the_resident_size_has_been_at_least_what_torch_and_a_tensor_take():
    before = resident_bytes()
    held = torch.ones(before // 8 + 2**21, dtype=torch.float64)  # more than all that was resident, every page touched
    assert resident_bytes() - before > 2**23
    assert resident_bytes() > held.nbytes > before > 2**26
