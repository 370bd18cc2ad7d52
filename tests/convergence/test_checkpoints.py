"""Checkpoints: what is written is read, what is damaged, foreign or malicious is refused in one sentence."""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from convergence import checkpoints

CONFIG = {"plan": {"batch": 4, "patience": None}, "labels": {}}
STATE = {
    "phi": {"w": torch.arange(6.0).view(2, 3), "step": torch.tensor(3)},
    "empty": torch.zeros(0),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "metrics": [{"loss": 0.1, "calls": {"hvp": 3}}, {"loss": None}],
    "betas": (0.9, 0.999),
}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoints.write(path, CONFIG, STATE)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as refused:
        checkpoints.read(path)
    message = str(refused.value)
    assert message.startswith("expected ")
    assert "\n" not in message
    return message


def test_what_is_written_is_read(written):
    config, state = checkpoints.read(written)
    assert config == CONFIG
    assert state["metrics"] == STATE["metrics"]
    assert state["betas"] == STATE["betas"]
    assert torch.equal(state["phi"]["w"], STATE["phi"]["w"])
    assert state["half"].dtype == torch.bfloat16


def test_a_file_cut_anywhere_is_refused(written):
    whole = written.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        written.write_bytes(whole[:length])
        assert "truncated or corrupt" in refusal(written)


def test_a_changed_byte_is_refused_or_changes_nothing(written):
    """Among them bytes of tensors, which torch.load does not check."""
    whole, refused = written.read_bytes(), 0
    for place in range(0, len(whole), 37):
        bent = bytearray(whole)
        bent[place] ^= 0x10
        written.write_bytes(bytes(bent))
        try:
            config, state = checkpoints.read(written)
        except ValueError:
            refused += 1
        else:
            assert config == CONFIG
            assert torch.equal(state["phi"]["w"], STATE["phi"]["w"])
    assert refused > 10


def test_a_changed_number_in_a_tensor_is_refused(written):
    content = torch.load(written, weights_only=True)
    content["state"]["phi"]["w"][0, 0] += 1
    torch.save(content, written)
    assert "truncated or corrupt" in refusal(written)


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_file_is_not_executed(tmp_path, save):
    path, marker = tmp_path / "checkpoint.pt", tmp_path / "executed"
    save({"format": checkpoints.FORMAT, "config": {}, "state": {"phi": Evil(marker)}}, path)
    refusal(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # the control: unpickled without care, it is
    assert marker.exists()


def test_a_pickle_with_code_is_called_so(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 1, "state": Evil(tmp_path / "executed")}, path)
    assert "names code: none of it was executed" in refusal(path)


class Shell:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_a_module_that_torch_blocks_is_code_too_and_said_without_a_warning(tmp_path, save):
    path = tmp_path / "checkpoint.pt"
    save({"format": 1, "state": Shell()}, path)
    assert "names code: none of it was executed" in refusal(path)


def test_other_files_are_told_apart(tmp_path, written, monkeypatch):
    assert "got no such file" in refusal(tmp_path / "none.pt")
    other = tmp_path / "other.pt"
    torch.save({"w": torch.ones(2)}, other)
    assert "another file of torch.save" in refusal(other)
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    assert "expected a checkpoint of format 2" in refusal(written)
    assert "got format 1" in refusal(written)
