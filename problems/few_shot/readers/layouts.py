"""The layouts in which a data set is found on disk: which files, where, and the first one that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from problems.few_shot.image_set import Splits

Parts = Mapping[str, tuple[Path, ...]]  # part -> the files or folders found for it, sorted
Advance = Callable[[int], object]  # told how many more images have been converted


class FoundSplits(Splits):
    """The splits, and where they come from.

    layout   the layout that was read
    folder   its root: the folder given, or one of its subfolders
    others   layouts that were there too, and were not read
    """

    def __init__(self, splits: Splits, layout: str, folder: Path, others: tuple[str, ...]):
        super().__init__(splits)
        self.layout, self.folder, self.others = layout, folder, others


@dataclass(frozen=True)
class Request:
    """What a reader is asked for.

    folder    where the data set is, resolved
    cache     where to keep what is converted of this data set
    size      the side to which image files are resized, or None
    advance   called with the number of images converted since the last call
    """

    folder: Path
    cache: Path
    size: int | None = None
    advance: Advance = lambda images: None


@dataclass(frozen=True)
class Layout:
    """One way to store a data set.

    name    whose files these are
    files   part -> patterns relative to a root, any of which will do; a pattern that ends in "/" names a folder
    read    from what was found and the request to the splits
    """

    name: str
    files: Mapping[str, tuple[str, ...]]
    read: Callable[[Parts, Request], Splits]

    def find(self, root: Path) -> dict[str, tuple[Path, ...]]:
        """The parts that are there; a layout is there if none is missing."""
        found = {part: _first(root, patterns) for part, patterns in self.files.items()}
        return {part: paths for part, paths in found.items() if paths}

    def __str__(self) -> str:
        return f"{self.name}: " + ", ".join(" or ".join(patterns) for patterns in self.files.values())


@dataclass(frozen=True)
class Reader:
    """A data set: its layouts, the first of which that is there is read; where people get it.

    roots are subfolders that archives unpack into, tried after the folder itself.
    """

    title: str
    layouts: Sequence[Layout]
    source: str
    roots: tuple[str, ...] = ()
    size: int | None = None  # the side to which image files are resized where the caller does not say

    def load(self, request: Request) -> FoundSplits:
        """The splits. Raises FileNotFoundError naming every layout, ValueError on files that are wrong."""
        present = []
        for root in self._roots(request.folder):
            for layout in self.layouts:
                parts = layout.find(root)
                if len(parts) == len(layout.files):
                    present.append((layout, root, parts))
        if not present:
            raise FileNotFoundError(self._missing(request.folder))
        layout, root, parts = present[0]
        for paths in parts.values():
            for path in paths:
                inside(request.folder, path)
        splits = layout.read(parts, request)
        return FoundSplits(splits, layout.name, root, tuple(other.name for other, _, _ in present[1:]))

    def _roots(self, folder: Path) -> list[Path]:
        return [folder] + [folder / root for root in self.roots if (folder / root).is_dir()]

    def _missing(self, folder: Path) -> str:
        lines = [f"expected {self.title} in {folder}, in one of these layouts:"]
        for layout in self.layouts:
            found = max((layout.find(root) for root in self._roots(folder)), key=len)
            lacking = [part for part in layout.files if part not in found]
            there = f" (found, but for: {', '.join(lacking)})" if found else ""
            lines.append(f"  {layout}{there}")
        if self.roots:
            lines.append("There or in a subfolder " + ", ".join(self.roots) + ".")
        return "\n".join([*lines, f"Nothing is downloaded. {self.source}"])


def inside(folder: Path, path: Path) -> Path:
    """The path resolved. Raises ValueError where it leads out of the (resolved) folder, by ".." or a symbolic link."""
    resolved = path.resolve()
    if not resolved.is_relative_to(folder):
        raise ValueError(f"expected files inside {folder}, got {path}, which leads to {resolved}")
    return resolved


def named(folder: Path, name: str, where: Path) -> Path:
    """The file or folder that a list calls `name`, relative to `folder`. Raises ValueError on a name that leads out."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name or "\0" in name or not name.strip():
        raise ValueError(f"expected names relative to {folder} in {where}, got {name!r}")
    return folder / name


def _first(root: Path, patterns: tuple[str, ...]) -> tuple[Path, ...]:
    for pattern in patterns:
        of_kind = Path.is_dir if pattern.endswith("/") else Path.is_file  # not a pipe
        found = sorted(path for path in root.glob(pattern.rstrip("/")) if of_kind(path))
        if found:
            return tuple(found)
    return ()
