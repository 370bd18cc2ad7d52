"""Where images that took long to make or to decode are kept."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MEMORY_REDUCED_CACHE"


def cache_folder(chosen: Path | str | None = None) -> Path:
    """The folder of the cache; it need not exist yet.

    `chosen` where given, else the environment variable MEMORY_REDUCED_CACHE, else `memory-reduced` in
    XDG_CACHE_HOME, else in ~/.cache. A variable that is empty counts as unset, as does a relative XDG_CACHE_HOME
    (XDG base directory specification).
    """
    if chosen is not None:
        return Path(chosen)
    if named := os.environ.get(VARIABLE):
        return Path(named)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "memory-reduced"
