"""The style holds inside its context only, and a figure saved twice gives the same bytes."""

import struct

import matplotlib
import pytest

from figures import FIGURES
from figures.style import CYCLE, condition_number, darker, paper_style, save
from tests.figures.evidence import make


def test_settings_hold_inside_the_context_only():
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 31, "lines.marker": "x"}):
        with paper_style():
            assert matplotlib.rcParams["font.size"] == 9
            assert matplotlib.rcParams["lines.marker"] == "None"
            assert matplotlib.rcParams["svg.fonttype"] == "path"
        assert matplotlib.rcParams["font.size"] == 31
    assert dict(matplotlib.rcParams) == before


def test_settings_are_put_back_after_an_error():
    before = dict(matplotlib.rcParams)
    with pytest.raises(KeyError):
        FIGURES["memory"]({})
    assert dict(matplotlib.rcParams) == before


def test_saved_twice_is_the_same_bytes_whatever_the_users_settings(tmp_path):
    claim = "batch_size_decay"  # lines, markers and bands; test_main compares two more
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, size in zip(folders, (10, 31), strict=True):
        folder.mkdir()
        with matplotlib.rc_context({"font.size": size, "svg.hashsalt": str(size)}):
            written = save(FIGURES[claim](make(claim, 2)), folder, claim)
        assert written == [folder / f"{claim}.{suffix}" for suffix in ("png", "svg", "pdf")]
        assert sorted(folder.iterdir()) == sorted(written)  # and no partial file
    for name in (path.name for path in written):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_files_carry_no_date_and_no_font_but_truetype(tmp_path):
    png, svg, pdf = save(FIGURES["memory"](make("memory", 2)), tmp_path, "memory")
    width, _ = struct.unpack(">II", png.read_bytes()[16:24])
    assert width == 1400  # 7 inches at 200 dpi
    assert b"tIME" not in png.read_bytes()
    assert b"Creation" not in png.read_bytes()
    text = svg.read_text()
    assert "dc:date" not in text
    assert "<text" not in text
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/CreationDate" not in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()


def test_saving_into_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError, match="missing"):
        save(FIGURES["memory"](make("memory", 1)), tmp_path / "missing", "memory")


def test_condition_numbers_of_one_figure_look_different():
    for kappas in ((4, 10, 100, 1e3, 1e4), (1, 10, 100), (5, 20)):
        drawn = [condition_number(kappa) for kappa in kappas]
        assert len({series.colour for series in drawn}) == len({series.marker for series in drawn}) == len(kappas)
        assert len({series.label for series in drawn}) == len(kappas)
    assert condition_number(9.0)[:2] == condition_number(10.0)[:2]
    assert len({colour for colour, _ in CYCLE}) == len({marker for _, marker in CYCLE}) == len(CYCLE) >= 6


def test_a_darker_shade_is_darker():
    for colour, _ in CYCLE:
        assert sum(darker(colour)) < 0.7 * sum(matplotlib.colors.to_rgb(colour))
