"""`make package`: the wheel and the sdist hold what they must, and the wheel works in an empty environment.

Built in build/package/, left in dist/. Nothing of the checkout is on the path of what is tried.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
PACKAGES = ("problems", "convergence", "paper_checks", "figures")


def main() -> None:
    """Build, look into what was built, install, try."""
    _run(sys.executable, "-m", "validate_pyproject", str(ROOT / "pyproject.toml"))
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT))  # the wheel from the sdist
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    check_contents(wheel, sdist)
    with tempfile.TemporaryDirectory() as folder:
        try_installed(wheel, Path(folder))
    print(f"{wheel.name} and {sdist.name} are whole; the wheel works in an empty environment")


def check_contents(wheel: Path, sdist: Path) -> None:
    """Every tracked file of the packages is in the wheel, every tracked file in the sdist."""
    tracked = _run("git", "-C", str(ROOT), "ls-files").split("\n")[:-1]
    with zipfile.ZipFile(wheel) as archive:
        _require_all(wheel, {name for name in tracked if name.split("/")[0] in PACKAGES}, set(archive.namelist()))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    _require_all(sdist, set(tracked), names)


def _require_all(archive: Path, wanted: set[str], found: set[str]) -> None:
    _require(wanted <= found, f"{sorted(wanted - found)} in {archive.name}", "none of them")
    foreign = {name for name in found - wanted if name.endswith((".py", ".pyc"))}
    _require(not foreign, f"no {sorted(foreign)} in {archive.name}, which git does not know", "them")


def try_installed(wheel: Path, folder: Path) -> None:
    """The commands of the README, by the wheel alone, from a folder outside the checkout."""
    venv.create(folder / "empty", with_pip=True)
    bin_ = folder / "empty" / "bin"
    # Without byte code: most of what is installed is never imported here
    _run(bin_ / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
         "-c", ROOT / "constraints.txt", wheel)  # fmt: skip
    outside = folder / "outside"
    outside.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(folder / "matplotlib"), "COLUMNS": "200"}

    def said(*command: str | Path) -> str:
        return _run(*command, cwd=outside, env=environment)

    where = said(bin_ / "python", "-c", f"import {', '.join(PACKAGES)}; print(problems.__file__)")
    _require(Path(where.strip()).is_relative_to(folder), "the installed package", where)
    listed = said(bin_ / "paper-checks", "list")
    _require("cg_rate" in listed, "a list of the claims", listed)
    said(bin_ / "paper-checks", "cg_rate", "--out", "verdicts")
    (verdict,) = json.loads((outside / "verdicts" / "verdicts.json").read_text())
    _require(verdict["outcome"] == "HOLDS", "cg_rate to hold", verdict)
    _require("cg_rate" in (outside / "verdicts" / "report.html").read_text(), "cg_rate in the report", "none")
    again = "from paper_checks.bounds import worst_file; print(worst_file('cg_rate'))"
    replayed = said(bin_ / "paper-checks", "falsify", "cg_rate", "--replay", said(bin_ / "python", "-c", again).strip())
    _require("0.99999" in replayed, "the worst instance of the search, replayed", replayed)
    solved = said(bin_ / "python", "-m", "convergence", "solve", "quadratic", "--stop", "1e-6")
    _require("CONVERGED" in solved, "a solved problem", solved)
    said(bin_ / "python", "-m", "figures", "verdicts")


def _require(good: bool, wanted: str, got: object) -> None:
    if not good:
        raise SystemExit(f"expected {wanted}, got {got}")


def _run(*command: str | Path, **options: object) -> str:
    """What a command prints. A failing one ends this with all that it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
