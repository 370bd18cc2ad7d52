"""Evidence comes back as it was written, or is refused in a sentence."""

from __future__ import annotations

import json
import math
import os
import shutil

import numpy as np
import pytest

from paper_checks import Setting, Verdict, archive, evidence
from paper_checks.claim import Comparison, Outcome

ODD = Comparison("inf over nan", math.inf, "<=", math.nan, Outcome.VIOLATED, "exceeds", (-math.inf, 0.1), "K 3")
EVEN = Comparison("a third", 1 / 3, "=", 5e-324, Outcome.HOLDS, "attained")
ARRAYS = {
    "x": np.array([1.0, math.nan, -0.0]),
    "names": np.array(["CG", "höher"]),
    "none": np.zeros((0, 3), np.float32),
    "number": np.array(3),
    "turned": np.arange(6).reshape(2, 3).T,
    "plain_seconds": np.array([0.1, 0.2]),
}


def verdict(name="cg_rate", **changes):
    return Verdict(name, (ODD, EVEN), (ODD,), 1.23456789, Setting(seed=3), **changes)


@pytest.fixture
def folder(tmp_path):
    """A run of two claims, the second not judged yet."""
    (tmp_path / "evidence").mkdir()
    asked = evidence.asked_for(Setting(seed=3))
    evidence.begin(tmp_path, ["cg_rate", "memory"], asked)
    store(tmp_path, verdict())
    return tmp_path


def store(folder, judged, arrays=ARRAYS):
    evidence.write_arrays(folder, judged.claim, arrays)
    evidence.write_json(folder, judged, arrays, asked=evidence.asked_for(judged.setting))


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_verdict_and_its_arrays_come_back_bit_for_bit(folder):
    run = evidence.load_run(folder)
    assert run.claims == ("cg_rate", "memory")
    assert not run.finished
    (found,) = run.entries.values()
    assert repr(found.verdict) == repr(verdict())  # NaN equals nothing, but is written alike
    assert found.evidence.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found.evidence[name].dtype == array.dtype
        assert np.ascontiguousarray(found.evidence[name]).tobytes() == np.ascontiguousarray(array).tobytes()
        assert found.evidence[name].shape == array.shape


def test_a_failed_run_comes_back_with_its_reason(folder):
    store(folder, verdict(failure="the run ended with NON_FINITE"), {})
    found = evidence.load_run(folder).entries["cg_rate"]
    assert found.verdict.reason == "the run ended with NON_FINITE"
    assert found.evidence == {}


def test_files_name_what_computed(folder):
    header = json.loads((folder / "evidence" / "cg_rate.json").read_text())
    assert header["schema"] == evidence.SCHEMA
    assert {"memory-reduced-meta-learning", "torch", "numpy"} <= header["versions"].keys()
    assert header["setting"] == {
        "scale": "smoke",
        "seed": 3,
        "device": "cpu",
        "memory": None,
        "method": "convergence.memory_reduced:MemoryReduced",
        "problem": None,
    }


def test_the_digest_is_of_every_bit_but_seconds():
    reference = evidence.digest(ARRAYS)
    assert evidence.digest(ARRAYS | {"plain_seconds": np.array([0.3, 0.2])}) == reference
    for other in (
        {"x": np.array([1.0, math.nan, 0.0])},
        {"number": np.array(3.0)},
        {"number": np.array([3])},
        {"none": np.zeros((3, 0), np.float32)},
        {"more": np.zeros(1)},
    ):
        assert evidence.digest(ARRAYS | other) != reference


@pytest.mark.parametrize("place", ["measured", "reason", "seconds", "sha256", "arrays", "seed"])
def test_a_changed_file_is_refused(folder, place):
    def change(content):
        if place in ("measured", "reason"):
            content["verdict"]["comparisons"][1][place] = 0.5
        elif place == "seconds":
            content["verdict"][place] = 0.5
        elif place == "seed":
            content["setting"][place] = 0
        elif place == "arrays":
            del content[place]["x"]
        else:
            content[place] = "0" * 64

    changed(folder / "evidence" / "cg_rate.json", change)
    with pytest.raises(ValueError, match=r"cg_rate.json as paper_checks wrote it, got one that was changed"):
        evidence.load_run(folder)


def test_changed_arrays_are_refused(folder):
    np.savez_compressed(folder / "evidence" / "cg_rate.npz", **(ARRAYS | {"x": np.array([1.0, math.nan, 1e-300])}))
    with pytest.raises(ValueError, match=r"expected the arrays that .*cg_rate.json names in .*cg_rate.npz, got others"):
        evidence.load_run(folder)


def test_bytes_that_are_no_array_are_refused(folder):
    path = folder / "evidence" / "cg_rate.npz"
    with path.open("ab") as file:
        file.write(b"\0" * 32)
    assert archive.unpacked(path).keys() == ARRAYS.keys()  # numpy reads it all the same
    with pytest.raises(ValueError, match=r"cg_rate.npz as paper_checks wrote it, got one that was changed since"):
        evidence.load_run(folder)


def test_arrays_without_a_digest_of_their_file_are_of_schema_1(folder):
    path = folder / "evidence" / "cg_rate.json"
    header = {name: each for name, each in archive.opened(path).items() if name != "npz"}
    path.write_bytes(archive.sealed(header))
    with pytest.raises(ValueError, match=r"cg_rate.npz as paper_checks wrote it"):
        evidence.load_run(folder)
    path.write_bytes(archive.sealed(header | {"schema": 1}))
    assert evidence.load_run(folder).entries["cg_rate"].evidence.keys() == ARRAYS.keys()


@pytest.mark.parametrize(
    ("part", "name", "value", "refused"),
    [
        ("setting", "seed", 1, "seed = 3, in .*cg_rate.json, got 1"),
        ("setting", "threads", 2, "threads = None, in .*cg_rate.json, got 2"),
        ("versions", "torch", "1.0", "torch = '.*', in .*cg_rate.json, got '1.0'"),
    ],
)
def test_evidence_of_another_run_is_refused(folder, part, name, value, refused):
    path = folder / "evidence" / "cg_rate.json"
    header = archive.opened(path)
    header[part][name] = value
    path.write_bytes(archive.sealed(header))
    for read in (evidence.load_run, lambda folder: evidence.read(folder, "cg_rate")):
        with pytest.raises(ValueError, match=f"expected evidence of this run, {refused}"):
            read(folder)


def test_evidence_without_a_setting_is_refused(folder):
    path = folder / "evidence" / "cg_rate.json"
    path.write_bytes(archive.sealed(archive.opened(path) | {"setting": 3}))
    with pytest.raises(ValueError, match=r"expected setting in .*cg_rate.json, got none"):
        evidence.load_run(folder)


@pytest.mark.parametrize("name", ["run.json", "evidence/cg_rate.json", "evidence/cg_rate.npz"])
@pytest.mark.parametrize("kept", [0, 0.3, 0.99])
def test_a_truncated_file_is_refused(folder, name, kept):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"expected .*{name}"):
        evidence.load_run(folder)


def told(folder):
    """All that is read from a folder; the sentence of a refusal."""
    try:
        run = evidence.load_run(folder)
    except ValueError as error:
        return str(error)
    found = run.entries["cg_rate"]
    return repr(run.header), repr(found.verdict), evidence.digest(found.evidence), found.evidence["plain_seconds"].sum()


@pytest.mark.parametrize("name", ["run.json", "evidence/cg_rate.json", "evidence/cg_rate.npz"])
def test_every_flipped_bit_is_noticed(folder, name):
    content, whole = (folder / name).read_bytes(), told(folder)
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        bent = bytearray(content)
        bent[place] ^= 1 << int(place) % 8
        (folder / name).write_bytes(bent)
        found = told(folder)  # where it is as before, a space in the JSON was bent
        same = found == whole and not name.endswith("npz")
        assert same or (isinstance(found, str) and found.startswith("expected "))


def test_evidence_of_another_claim_is_refused(folder):
    for suffix in ("npz", "json"):
        shutil.copy(folder / "evidence" / f"cg_rate.{suffix}", folder / "evidence" / f"memory.{suffix}")
    with pytest.raises(ValueError, match=r"expected the evidence of memory in .*, got that of 'cg_rate'"):
        evidence.load_run(folder)


def test_a_newer_schema_is_named(folder):
    changed(folder / "run.json", lambda content: content.update(schema=evidence.SCHEMA + 1))
    with pytest.raises(
        ValueError, match=rf"expected schema {evidence.SCHEMA} or older in .*: a newer release wrote it"
    ):
        evidence.load_run(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "3", '{"a": 1}', '{"schema": [], "sha256": ""}', "[" * 100_000])
def test_foreign_json_is_refused(folder, content):
    (folder / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"expected a file that paper_checks wrote in .*run.json"):
        evidence.load_run(folder)


def test_a_pickle_is_not_executed(folder):
    canary = folder / "canary"

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    np.savez(folder / "evidence" / "cg_rate.npz", x=np.array([Hostile()], dtype=object))
    with pytest.raises(ValueError, match=r"expected an .npz file of arrays in .*cg_rate.npz"):
        evidence.load_run(folder)
    assert not canary.exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file that paper_checks wrote in .*run.json, got no such file"):
        evidence.load_run(tmp_path)


def test_what_is_no_plain_file_is_not_waited_for(folder):
    (folder / "run.json").unlink()
    os.mkfifo(folder / "run.json")
    with pytest.raises(ValueError, match="got no such file"):
        evidence.load_run(folder)


def test_a_method_of_ones_own_is_told_from_another():
    class Mine:
        pass

    named = evidence.asked_for(Setting(method=Mine))["method"]
    assert "test_evidence:" in named
    assert named.count("sha256") == 1
