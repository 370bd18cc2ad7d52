"""What a command sets for its process: threads within what it may use, freed memory that is kept."""

import json
import resource
from pathlib import Path

import pytest
import torch

from convergence.training.process import keep_freed_memory, processors, use_threads
from tests.convergence.training.small import started


def write_pages(path: Path) -> None:
    """In a process: how often the kernel gave a page for eight arrays of 8 MiB taken and freed, before and after."""
    torch.set_num_threads(1)

    def given() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            arrays = [torch.ones(2**21) for _ in range(8)]
            del arrays
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    before, told, _, after = given(), keep_freed_memory(), given(), given()
    path.write_text(json.dumps([before, told, after]))


def test_freed_memory_is_not_cleared_by_the_kernel_again(tmp_path):
    process = started(write_pages, tmp_path / "pages")
    process.join()
    before, told, after = json.loads((tmp_path / "pages").read_text())
    if not told:
        pytest.skip("this C library cannot be told: it has no mallopt")
    assert before > 3 * 2**26 / 2**21 / 2  # half of all bytes at least, in pages of at most 2 MiB
    assert after < before / 10


def test_threads_are_as_many_as_asked_for_and_no_more_than_granted(monkeypatch):
    monkeypatch.setattr("convergence.training.process.processors", lambda quota: 2)
    before = torch.get_num_threads()
    try:
        assert use_threads(3) == 3 == torch.get_num_threads()
        assert use_threads(None) == 2 == torch.get_num_threads()
        assert use_threads(1) == use_threads(None) == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match="expected threads None or an integer >= 1, got 0"):
        use_threads(0)


@pytest.mark.parametrize(
    ("content", "granted"),
    [("150000 100000\n", 2), ("100000 100000\n", 1), ("max 100000\n", None), ("", None), (None, None)],
)
def test_processors_are_those_of_the_group_rounded_up(content, granted, tmp_path):
    if content is not None:
        (tmp_path / "cpu.max").write_text(content)
    assert processors(tmp_path / "cpu.max") == granted
