"""Tiny files in the exact formats of the benchmarks."""

import io
import pickle
from typing import ClassVar

import numpy as np
from PIL import Image

SPLITS = ("train", "validation", "test")


def images(n, side=4, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), dtype=np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image))


def write_pickle(path, value, *, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and numpy 1 wrote: text and array contents as 8-bit strings, numpy.core, protocol 2."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file):
        super().__init__(file, protocol=2)

    def save_string(self, value):
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(value)

    def save_function(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string
    dispatch[type(len)] = dispatch[type] = save_function

    def save_global(self, value, name=None):
        self.save_function(value, name)


def write_python2_pickle(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Python2Pickler(buffer).dump(value)
    path.write_bytes(buffer.getvalue())
