"""What computed: the versions that stand in every file and on every page."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Of this package, Python and what computes."""
    found = {"Python": platform.python_version()}
    for name in ("memory-reduced-meta-learning", "torch", "numpy", "scipy", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from the checkout"
    return found
