"""A pickle gives arrays and containers, whoever wrote it, and runs nothing."""

import os
import pickle
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from problems.few_shot.readers import safe_pickle
from tests.problems.few_shot.readers.samples import write_pickle, write_python2_pickle

VALUE = {
    "data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "labels": [1, 2],
    "big endian": np.arange(3, dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "names": np.array(["ab", "cde"]),
    "scalar": np.float32(1.5),
    "empty": b"",
    "none": None,
    "set": {1, 2},
    "nested": [(b"x", {"y": np.zeros((0, 2))})],
}


def assert_same(found, expected):
    if isinstance(expected, np.ndarray | np.generic):
        np.testing.assert_array_equal(np.asarray(found), expected)
        assert np.asarray(found).dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")  # numpy may swap
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(tmp_path, protocol):
    write_pickle(tmp_path / "a.pkl", VALUE, protocol=protocol)
    assert_same(safe_pickle.load(tmp_path / "a.pkl"), VALUE)


@pytest.mark.parametrize("encoding", ["bytes", "latin1"])
def test_pickles_of_python_2_are_read_in_both_encodings(tmp_path, encoding):
    data = np.arange(256, dtype=np.uint8).reshape(4, 64)
    write_python2_pickle(tmp_path / "a.pkl", {"data": data, "name": "caf\xe9", "labels": np.arange(3)})
    assert b"numpy.core.multiarray" in (tmp_path / "a.pkl").read_bytes()
    found = safe_pickle.load(tmp_path / "a.pkl", encoding=encoding)
    found = {safe_pickle.text(key): value for key, value in found.items()}
    np.testing.assert_array_equal(found["data"], data)
    np.testing.assert_array_equal(found["labels"], np.arange(3))
    assert safe_pickle.text(found["name"]) == "caf\xe9"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=hnp.arrays(
        st.one_of(hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?"), hnp.boolean_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_arrays_come_back_as_the_unrestricted_unpickler_gives_them(tmp_path, array, protocol):
    write_pickle(tmp_path / "a.pkl", array, protocol=protocol)
    found = np.asarray(safe_pickle.load(tmp_path / "a.pkl"))
    expected = pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class State:
    """Pickled as a function with a state for what it gives."""

    def __init__(self, function, arguments, state):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (os.system, "touch {}", r"(posix|nt)\.system"),
        (eval, "open({!r}, 'w')", r"(builtins|__builtin__)\.eval"),
        (exec, "open({!r}, 'w')", r"(builtins|__builtin__)\.exec"),
        (getattr, "{}", r"(builtins|__builtin__)\.getattr"),
        (__import__, "{}", r"(builtins|__builtin__)\.__import__"),
        (open, "{}", r"io\.open"),
        (subprocess.Popen, "{}", r"\.Popen"),
        (np.load, "{}", r"numpy\.load"),
        (np.fromfile, "{}", r"numpy\.(_core\.multiarray\.)?fromfile"),
        (OrderedDict, "", r"collections\.OrderedDict"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_named_and_not_run(tmp_path, function, argument, named, protocol):
    trace = tmp_path / "trace"
    arguments = (argument.format(str(trace)),) if argument else ()
    value = {"data": [np.zeros(2, np.uint8), Call(function, *arguments)]}
    write_pickle(tmp_path / "a.pkl", value, protocol=protocol)
    with pytest.raises(ValueError, match=f"{named} is not one of them, and was not called"):
        safe_pickle.load(tmp_path / "a.pkl")
    assert not trace.exists()


def test_a_module_that_a_pickle_names_is_not_imported(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02cturtledemo.clock\nmain\n)R.")
    with pytest.raises(ValueError, match=r"turtledemo\.clock\.main is not one of them"):
        safe_pickle.load(tmp_path / "a.pkl")
    assert "turtledemo" not in sys.modules


def hidden_code():
    return np.array([Call(os.system, "true"), 1], dtype=object)


FORGED_DTYPE = (3, "|", None, ("a",), {"a": (np.dtype("u1"), 0)}, 8, 1, 0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([1, "a"], dtype=object), "an array of the type 'O8'"),
        (hidden_code(), "an array of the type 'O8'"),
        (np.zeros(2, [("a", "u1")]), "an array of the type 'V1'"),
        (np.array(["2020-01-01"], "M8[D]"), "an array of the type 'M8'"),
        (State(np.dtype, ("u1", False, True), FORGED_DTYPE), "an array of the type"),
        (State(np.ndarray, ((0,),), (1, (2,), np.dtype("u1"), False, [1, 2])), "an array of objects"),
        (State(np.ndarray, ((0,),), (1, (-1,), np.dtype("u1"), False, b"")), r"an array of the shape \(-1,\)"),
        (State(np.ndarray, ((0,),), (1, (2,), "u1", False, b"ab")), "an array of the type 'u1'"),
        (State(np.ndarray, ((0,),), (1, (2**40,), np.dtype("u1"), False, b"ab")), "in .*a.pkl: "),
        (Call(bytes, 2**40), "bytes made from something else"),
        (Call(np._core.multiarray.scalar, np.dtype("i8"), b"ab"), "buffer"),
    ],
)
def test_arrays_that_are_not_plain_are_refused(tmp_path, value, said):
    write_pickle(tmp_path / "a.pkl", value, protocol=2)
    with pytest.raises(ValueError, match=f"expected a pickle of numpy arrays and builtin types .*{said}"):
        safe_pickle.load(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\x00\x00\x00xK\x01sb.",  # a state for a function
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}X\x08\x00\x00\x00functionK\x01s\x86b.",  # with slots
        b"\x80\x02c__builtin__\nlist\nN}X\x06\x00\x00\x00appendK\x01s\x86b.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00base64\x86R.",
        b"\x80\x02r\xff\xff\xff\xff.",  # a memo of 2^32 entries
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"a",  # more bytes than there can be
        b"\x80\xff.",
        b"P1\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # a copyreg extension
        b"",
        b"not a pickle",
    ],
)
def test_damaged_or_hostile_files_give_one_sentence(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a pickle of numpy arrays and builtin types in .*a\.pkl"):
        safe_pickle.load(tmp_path / "a.pkl")


def test_a_function_of_this_file_cannot_be_changed_by_a_pickle(tmp_path):
    before = safe_pickle._ALLOWED["numpy", "ndarray"].function
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02cnumpy\nndarray\nN}X\x08\x00\x00\x00functionK\x01s\x86b.")
    with pytest.raises(ValueError, match="a state for a function"):
        safe_pickle.load(tmp_path / "a.pkl")
    assert safe_pickle._ALLOWED["numpy", "ndarray"].function is before


def test_every_truncation_is_refused(tmp_path):
    content = pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, 2]}, 2)
    for length in range(len(content)):
        (tmp_path / "a.pkl").write_bytes(content[:length])
        with pytest.raises(ValueError, match="expected a pickle"):
            safe_pickle.load(tmp_path / "a.pkl")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(tmp_path, place, byte):
    content = bytearray(pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, np.int64(2)]}, 2))
    content[place % len(content)] = byte
    (tmp_path / "a.pkl").write_bytes(content)
    found = said = None
    try:
        found = safe_pickle.load(tmp_path / "a.pkl")
    except ValueError as refused:
        said = str(refused)
    assert said is None or "expected a pickle" in said
    assert type(found).__module__ in ("builtins", "numpy", safe_pickle.__name__)


@pytest.mark.parametrize("value", [[1, 2], {1: 2}])
def test_a_mapping_has_names_as_keys(tmp_path, value):
    write_pickle(tmp_path / "a.pkl", value)
    with pytest.raises(ValueError, match="expected a dict with names as keys"):
        safe_pickle.load_mapping(tmp_path / "a.pkl")
