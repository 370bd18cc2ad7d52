"""Every file that is read: truncated, flipped, swapped, hostile, a pipe, a link. Nothing in one is ever executed."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from convergence import MemoryReduced, checkpoints
from convergence.distributed import Ranks
from convergence.distributed import run as run_on_ranks
from convergence.training import commands
from convergence.training.plan import Plan
from convergence.training.run_folder import RunFolder
from paper_checks import Setting, Verdict, evidence, falsify
from paper_checks.bounds import BOUNDS
from paper_checks.claim import Comparison, Outcome
from problems.few_shot import EpisodeList, cache
from problems.few_shot.readers import load, safe_pickle
from tests.convergence.training.small import tiny_splits
from tests.fuzz.ends import Case, ends_well
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.test_problems import Sound
from tests.problems.few_shot.readers.samples import images, png
from tests.problems.few_shot.readers.test_cifar import write_parquet, write_raw

CANARY = "executed"


class Executes:
    """A pickle that leaves a file where it is executed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (CANARY,)


class Surface(NamedTuple):
    """Files that belong together, by name; the one that is damaged; how they are read, to something comparable."""

    files: Mapping[str, bytes]
    damaged: str
    read: Callable[[Path], Any]
    sealed: bool = True  # whether it tells when it is another than what was written


# ---- what is read


def _npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def _written(write: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that are written to a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _checkpoint(seed: int) -> bytes:
    state = {"phi": {"w": torch.full((3,), float(seed))}, "metrics": [{"iteration": 1}]}
    (content,) = _written(lambda folder: checkpoints.write(folder / "run.pt", {"seed": seed}, state)).values()
    return content


def _judged(folder: Path) -> None:
    holds = Comparison("slope", 1.0, "<=", 2.0, Outcome.HOLDS, "attained")
    (folder / "evidence").mkdir()
    evidence.begin(folder, ["cg_rate", "memory"], evidence.asked_for(Setting()))
    for name in ("cg_rate", "memory"):
        arrays = {"x": np.arange(4.0) + len(name)}
        evidence.write_arrays(folder, name, arrays)
        verdict = Verdict(name, (holds,), (holds,), 1.0, Setting())
        evidence.write_json(folder, verdict, arrays, asked=evidence.asked_for(Setting()))


def _loaded(folder: Path) -> Any:
    return {
        name: (repr(found.verdict), {key: array.tolist() for key, array in found.evidence.items()})
        for name, found in evidence.load_run(folder).entries.items()
    }


def _verdict(folder: Path) -> Any:
    return evidence.read(folder, "cg_rate").verdict


def _unpickled(folder: Path) -> Any:
    return safe_pickle.load_mapping(folder / "value.pickle")


def _worst(folder: Path) -> None:
    bounds = BOUNDS["cg_rate"]
    cells = [dict(bound.cells[0]) for bound in bounds]
    found = [
        falsify.Worst("cg_rate", bound.name, 0.5, cell, [0.5] * bound.dimensions(cell), 1, 1.0, 0)
        for bound, cell in zip(bounds, cells, strict=True)
    ]
    falsify.save(found, bounds, folder / "worst.json")


def _replayed(folder: Path) -> Any:
    found = falsify.load(folder / "worst.json")
    return [falsify.replay(worst, bound) for worst, bound in zip(found, BOUNDS["cg_rate"], strict=False)]


def _images(folder: Path) -> Any:
    with tempfile.TemporaryDirectory() as kept:
        splits = load("folder", folder, cache=kept)
        return [(split, x.images.tolist(), x.labels.tolist(), x.names) for split, x in splits.items()]


def _episodes(folder: Path) -> Any:
    listing = commands._read(folder / "episodes.npz")
    listed = EpisodeList(tiny_splits()["test"], listing)
    return listed.rows(np.arange(len(listed))).tolist()


def _cached(folder: Path) -> Any:
    return cache.kept(folder / "kept", lambda new: {"bytes": (new / "array").write_bytes(b"abc")})


def _benchmark(name: str, folder: Path) -> Any:
    with tempfile.TemporaryDirectory() as kept:
        return [(split, x.images.shape[1:], len(x.names)) for split, x in load(name, folder, cache=kept).items()]


def _write_parquet(folder: Path) -> None:
    write_parquet(folder, img=[png(pixels) for pixels in images(100, 4)], fine_label=list(range(100)))


def _write_hdf5(folder: Path) -> None:
    for k, split in enumerate(("train", "val", "test")):
        with h5py.File(folder / f"{split}_data.hdf5", "w") as file:
            for name in "ab":
                encoded = np.frombuffer(png(images(1, 4, seed=k)[0]), np.uint8)
                data = file.create_dataset(f"datasets/{split} {name}", (1,), h5py.vlen_dtype(np.uint8))
                data[0] = encoded
        (folder / f"{split}_labels.json").write_text(json.dumps([f"{split} {name}" for name in "ab"]))


def _run_kept(folder: Path, *, seed: int = 1, iterations: int = 2, resume: bool = False) -> Any:
    method = MemoryReduced(lower_steps=1, lower_step_size=0.5, cg_steps=1, upper_step_size=0.2)
    options = {"keep": folder, "keep_every": 2, "resume": resume, "seed": seed, "probes": ()}
    result = run_on_ranks(Sound(), method, ranks=Ranks(), iterations=iterations, batch=2, **options)
    return result.phi["phi"].tolist(), result.iterations


def _gone_on(folder: Path) -> Any:
    return _run_kept(folder, iterations=4, resume=True)


def _episode_list() -> bytes:
    return _npz(**Plan(iterations=1, way=3, shot=1, evaluation_queries=2).episodes(tiny_splits(), "test").listing(2))


def _folder_images() -> dict[str, bytes]:
    return {
        f"{split}/{split} {name}/0.png": png(images(1, seed=k)[0])
        for k, (split, name) in enumerate((s, n) for s in ("train", "val", "test") for n in "ab")
    }


@functools.cache
def surfaces() -> dict[str, Surface]:
    """By name."""
    judged, folders = _written(_judged), _folder_images()
    arrays = {
        f"{split}.npz": _npz(images=images(2, seed=k), labels=np.array([2 * k, 2 * k + 1]))
        for k, split in enumerate(("train", "val", "test"))
    }
    csv = {f"{s}.csv": f"filename,label\n{s}.png,{s}\n".encode() for s in ("train", "val", "test")}
    csv |= {f"images/{s}.png": png(images(1, seed=k)[0]) for k, s in enumerate(("train", "val", "test"))}
    cached, kept = _written(_cached), _written(_run_kept)
    (rows,) = [name for name in kept if name.startswith("rows")]
    raw, parquet, hdf5 = map(_written, (write_raw, _write_parquet, _write_hdf5))
    pickled = {"value.pickle": pickle.dumps({"data": np.arange(6).reshape(2, 3), "labels": [1, 2]})}
    return {
        "run folder": Surface(
            {"checkpoint.pt": _checkpoint(1)}, "checkpoint.pt", lambda f: RunFolder(f).state({"seed": 1})
        ),
        "evidence arrays": Surface(judged, "evidence/cg_rate.npz", _loaded),
        "evidence header": Surface(judged, "evidence/cg_rate.json", _verdict),
        "evidence run": Surface(judged, "run.json", _loaded),
        "worst instances": Surface(_written(_worst), "worst.json", _replayed, sealed=False),
        "pickle": Surface(pickled, "value.pickle", _unpickled, sealed=False),
        "image arrays": Surface(arrays, "val.npz", _images),
        "image files": Surface(folders, "val/val a/0.png", _images),
        "image table": Surface(csv, "val.csv", _images, sealed=False),
        "episode list": Surface({"episodes.npz": _episode_list()}, "episodes.npz", _episodes),
        "cache": Surface(cached, "kept/metadata.json", _cached),
        "cached array": Surface(cached, "kept/array", _cached),
        "kept run": Surface(kept, "run.pt", _gone_on),
        "kept rows": Surface(kept, rows, _gone_on),
        "CIFAR pickle": Surface(raw, "train", functools.partial(_benchmark, "cifar-fs"), sealed=False),
        "CIFAR names": Surface(raw, "meta", functools.partial(_benchmark, "fc100"), sealed=False),
        "CIFAR parquet": Surface(parquet, "train-0.parquet", functools.partial(_benchmark, "cifar-fs"), sealed=False),
        "hdf5": Surface(hdf5, "val_data.hdf5", functools.partial(_benchmark, "tiered-imagenet"), sealed=False),
        "hdf5 names": Surface(hdf5, "val_labels.json", functools.partial(_benchmark, "tiered-imagenet"), sealed=False),
    }


# ---- what is done to a file


def _header(shape: str, descr: str = "<f8", body: bytes = b"\0" * 64) -> bytes:
    """An .npy file whose header says something else than what follows."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def _zip(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return content.getvalue()


def _as_objects() -> bytes:
    return _npz(x=np.array([Executes()], dtype=object), images=np.array([Executes()], dtype=object))


def _arrays(shape: str, descr: str = "<f8") -> bytes:
    """An .npz file of such arrays."""
    return _zip(**{name: _header(shape, descr) for name in ("x.npy", "images.npy", "labels.npy")})


@functools.cache
def contents() -> dict[str, bytes]:
    """Whole files of another kind."""
    deep, nan = b"[" * 10**5 + b"]" * 10**5, b'[{"claim": NaN, "x": [Infinity]}]'
    found = {
        "nothing": b"",
        "zeros": b"\0" * 4096,
        "text": b"expected 1, got 2\n",
        "not UTF-8": b"\xff\xfe\x00{}",
        "JSON of NaN": nan,
        "JSON without end": deep,
        "JSON: a huge number": b"9" * 10**5,
        "JSON: a key twice": b'{"sha256": 1, "sha256": 2, "schema": 1}',
        "JSON: null": b"null",
        "JSON: a list": b"[1, 2]",
        "JSON: an empty object": b"{}",
        "JSON: other types": b'[{"claim": 1, "bound": 2, "ratio": "x", "cell": [], "x": "y", "instances": {}, '
        b'"seconds": [], "seed": null}]',
        "JSON: paths": b'{"files": {"../../../etc/passwd": "0", "/etc/passwd": "1"}, "content": {}, "sha256": "x"}',
        "a name out of the folder": b"filename,label\n../../../../etc/hostname,x\n/etc/hostname,y\n",
        "a table without names": b",\n,,,\n\x00,\x00\n",
        "objects": _as_objects(),
        "a zip of nothing": _zip(),
        "a zip of text": _zip(**{"x.npy": b"text", "images.npy": b"text", "labels.npy": b"text"}),
        "a zip out of the folder": _zip(**{"../../escaped.npy": b"x", "/tmp/escaped.npy": b"x", "images.npy": b""}),
        "a zip bomb": _zip(**{name: bytes(10**7) for name in ("x.npy", "images.npy", "labels.npy")}),
        "an array of negative size": _arrays("(-1,)"),
        "an array too large": _arrays(f"({2**50},)"),
        "an array of too much": _arrays(f"({2**70}, {2**70})"),
        "an array of images too large": _arrays(f"({2**40}, 4, 4, 3)", "|u1"),
        "an array of objects": _arrays("(1,)", "|O"),
        "a header that is code": _arrays("__import__('os').mkdir('executed')"),
        "a picture too large": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
        + b"\x7f\xff\xff\xff" * 2
        + b"\x08\x02\0\0\0"
        + bytes(40),
        "a checkpoint of another run": _checkpoint(2),
        "a tensor": _saved(torch.ones(2)),
        **{
            f"{'run' if name == 'run.pt' else 'rows'} kept with another seed": content
            for name, content in _written(functools.partial(_run_kept, seed=2)).items()
            if name.endswith(".pt")
        },
        "a checkpoint that is hostile": _saved({"format": 1, "config": Executes(), "state": {}, "sha256": ""}),
    }
    found |= {f"a hostile pickle of protocol {k}": pickle.dumps(Executes(), k) for k in range(6)}
    return found | {f"the file of {name}": surface.files[surface.damaged] for name, surface in surfaces().items()}


def _saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


PLACES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": Path.mkdir,
    "a pipe": _pipe,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": _link("/no/such/file"),
    "a link to zeros without end": _link("/dev/zero"),
    "a link to /etc/hostname": _link("/etc/hostname"),
    "a link to the folder": _link(".."),
}


def _case(name: str, surface: Surface, place: Callable[[Path], object]) -> Case:
    """The files with another in the place of the damaged one; right is what is read of the files as they were."""

    def call(damage: bool = True) -> Any:
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as name:
            os.chdir(name)
            try:
                folder = Path(name).resolve() / "folder"
                for file, content in surface.files.items():
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_bytes(content)
                if damage:
                    (folder / surface.damaged).unlink()
                    place(folder / surface.damaged)
                return surface.read(folder)
            finally:
                os.chdir(before)
                escaped = Path("/tmp/escaped.npy").exists() or Path(name, "escaped.npy").exists()
                if Path(name, CANARY).exists() or escaped:
                    raise AssertionError("what the file brought was executed, or written")

    return Case(name, call, lambda found: not surface.sealed or repr(found) == repr(call(damage=False)))


@st.composite
def bytes_changed(draw: Callable[..., Any]) -> Case:
    """Some bytes lost or flipped."""
    name = draw(st.sampled_from(sorted(surfaces())))
    surface = surfaces()[name]
    content = surface.files[surface.damaged]
    kind = draw(st.sampled_from(["cut", "flip", "flip", "twice", "zeroed"]))
    at = draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    if kind == "cut":
        changed = changed[:at]
    elif kind == "flip":
        changed[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "zeroed":
        changed[at : at + 16] = bytes(len(changed[at : at + 16]))
    else:
        changed += changed[: at + 1]
    return _case(f"{name}: {kind} at {at}", surface, lambda path: path.write_bytes(changed))


@fuzz(bytes_changed(), distinct=60)
def test_files_that_are_damaged():
    """Truncated, flipped, longer."""


@st.composite
def files_exchanged(draw: Callable[..., Any]) -> Case:
    """Another file, or what is none."""
    name = draw(st.sampled_from(sorted(surfaces())))
    what = draw(st.sampled_from(sorted(contents()) + sorted(PLACES)))
    place = PLACES.get(what) or (lambda path: path.write_bytes(contents()[what]))
    return _case(f"{name}: {what}", surfaces()[name], place)


@fuzz(files_exchanged(), distinct=80)
def test_files_that_are_others():
    """Swapped, hostile, huge, pipes, links, folders."""


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("pickle", "a hostile pickle of protocol 4"),
        ("run folder", "a checkpoint that is hostile"),
        ("kept rows", "rows kept with another seed"),
        ("kept run", "run kept with another seed"),
        ("kept run", "the file of kept rows"),
        ("CIFAR pickle", "a hostile pickle of protocol 2"),
        ("image arrays", "objects"),
        ("evidence arrays", "a zip bomb"),
        ("evidence header", "a pipe"),
    ],
)
def test_the_worst_of_files(name, what):
    """Always, whatever is drawn above."""
    place = PLACES.get(what) or (lambda path: path.write_bytes(contents()[what]))
    ends_well(_case(f"{name}: {what}", surfaces()[name], place))
