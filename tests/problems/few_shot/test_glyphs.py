"""The embedded data: drawn once, alike every time, and as hard as it says."""

import json
from itertools import combinations

import numpy as np
import pytest

from problems.few_shot import glyphs as module
from problems.few_shot.glyphs import DATA_SETS, glyphs

SIZE = {"classes": (14, 8, 10), "images_per_class": 20, "progress": False}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def hard(cache):
    return glyphs("hard", cache=cache, **SIZE)


@pytest.fixture(scope="module")
def easy(cache):
    return glyphs("easy", cache=cache, **SIZE)


@pytest.fixture
def undrawn(monkeypatch):
    """Whatever is not in the cache fails."""

    def never(*arguments, **options):
        raise AssertionError("drawn again")

    monkeypatch.setattr(module, "masters", never)


def test_a_split_holds_its_classes_in_the_shape_of_its_variant(hard, easy):
    for splits, shape in ((hard, (3, 32, 32)), (easy, (1, 28, 28))):
        assert list(splits) == ["train", "validation", "test"]
        assert [len(images.names) for images in splits.values()] == list(SIZE["classes"])
        for images in splits.values():
            assert isinstance(images.images, np.memmap)
            assert images.images.dtype == np.uint8
            assert images.shape == shape
            assert {len(rows) for rows in images.rows} == {20}


def test_no_two_splits_share_a_class_or_an_alphabet(hard):
    for one, two in combinations(hard.values(), 2):
        assert not set(one.names) & set(two.names)
        assert not set(one.groups) & set(two.groups)


def test_pictures_of_a_class_differ(hard, easy):
    for splits in (hard, easy):
        for images in splits.values():
            assert len({image.tobytes() for image in images.images}) == len(images)


def test_a_second_call_reads_the_same_pictures(cache, hard, undrawn):
    again = glyphs("hard", cache=cache, **SIZE)
    for split, images in hard.items():
        assert np.array_equal(again[split].images, images.images)
        assert (again[split].names, again[split].groups) == (images.names, images.groups)


def test_within_has_the_pictures_of_hard_and_their_alphabets(cache, hard, undrawn):
    within = DATA_SETS["glyphs-within"](cache=cache, **SIZE)
    assert np.array_equal(within["test"].images, hard["test"].images)
    assert "greek" in within["test"].groups


def test_pictures_drawn_anew_are_the_same_and_those_of_another_seed_are_not(tmp_path, hard):
    again = glyphs("hard", cache=tmp_path, **SIZE)
    other = glyphs("hard", cache=tmp_path, seed=1, **SIZE)
    assert len(list(tmp_path.iterdir())) == 2
    for split, images in hard.items():
        assert np.array_equal(again[split].images, images.images)
        assert other[split].names == images.names
        assert not np.array_equal(other[split].images, images.images)


def test_the_pictures_of_a_class_do_not_depend_on_the_other_classes(tmp_path, hard):
    fewer = glyphs("hard", cache=tmp_path, **SIZE | {"classes": (3, 1, 1)})["train"]
    assert set(fewer.names) < set(hard["train"].names)
    for label, name in enumerate(fewer.names):
        rows = hard["train"].rows[hard["train"].names.index(name)]
        assert np.array_equal(fewer.images[fewer.rows[label]], hard["train"].images[rows])


def test_damaged_pictures_are_drawn_again(tmp_path):
    size = SIZE | {"classes": (2, 1, 1)}
    first = np.array(glyphs("easy", cache=tmp_path, **size)["train"].images)
    (path,) = tmp_path.glob("*/train.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    assert np.array_equal(glyphs("easy", cache=tmp_path, **size)["train"].images, first)


def test_the_cache_records_the_recipe_the_versions_and_the_hashes(tmp_path):
    glyphs("easy", cache=tmp_path, **SIZE | {"classes": (2, 1, 1)})
    (path,) = tmp_path.glob("glyphs-*/metadata.json")
    recorded = json.loads(path.read_text())
    assert recorded["content"]["recipe"]["classes"] == [2, 1, 1]
    assert recorded["content"]["versions"].keys() == {"matplotlib", "pillow", "torch", "unicode"}
    assert {name: len(held) for name, held in recorded["files"].items()} == {
        "train.npy": 64,
        "validation.npy": 64,
        "test.npy": 64,
    }


def test_another_version_of_a_package_is_another_key(monkeypatch):
    drawing = module.Drawing(look=module.VARIANTS["hard"], classes=None, images_per_class=20, seed=0)
    before = drawing.key()
    assert before == drawing.key()
    monkeypatch.setattr(module, "version", lambda name: "0")
    assert drawing.key() != before


def test_the_cache_is_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMORY_REDUCED_CACHE", str(tmp_path))
    glyphs("easy", **SIZE | {"classes": (1, 1, 1), "images_per_class": 1})
    assert [path.name[:7] for path in tmp_path.iterdir()] == ["glyphs-"]


def test_no_progress_is_shown_where_nobody_watches(tmp_path, capfd):
    glyphs("easy", cache=tmp_path, **SIZE | {"classes": (1, 1, 1), "progress": True})
    assert capfd.readouterr() == ("", "")


def accuracy(images, episodes=100):
    """Of the nearest class mean of the pixels, 5-way 5-shot: mean over episodes and its standard error."""
    rng = np.random.default_rng(0)
    right = []
    for _ in range(episodes):
        chosen = rng.choice(len(images.names), 5, replace=False)
        rows = np.stack([rng.permutation(images.rows[label]) for label in chosen])
        pixels = images.images[rows].reshape(*rows.shape, -1).astype(np.float32)
        means, queries = pixels[:, :5].mean(1), pixels[:, 5:]
        distance = ((queries[:, :, None] - means) ** 2).sum(-1)
        right.append((distance.argmin(-1) == np.arange(5)[:, None]).mean())
    return np.mean(right), np.std(right) / np.sqrt(episodes)


def test_pixels_tell_the_easy_classes_apart_and_not_the_hard_ones(hard, easy):
    (on_hard, hard_error), (on_easy, _) = accuracy(hard["test"]), accuracy(easy["test"])
    assert 0.2 - 4 * hard_error < on_hard < 0.3  # chance is 0.2; measured 0.21 on all classes
    assert on_easy > 0.8  # measured 0.92 on all classes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"variant": "harder"}, "expected a variant of the glyphs among hard, easy, within, got 'harder'"),
        ({"classes": (1, 2)}, r"expected classes \(train, validation, test\) of at least 1 each or None, got \(1, 2\)"),
        ({"classes": (1, 0, 1)}, r"of at least 1 each or None, got \(1, 0, 1\)"),
        ({"images_per_class": 0}, "expected images_per_class >= 1 and seed >= 0, got 0 and 0"),
        ({"seed": -1}, "expected images_per_class >= 1 and seed >= 0, got 20 and -1"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, said):
    with pytest.raises(ValueError, match=said):
        glyphs(**SIZE | {"cache": tmp_path} | arguments)
    assert list(tmp_path.iterdir()) == []


def test_more_classes_than_there_are_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "masters", lambda wanted, advance: {"train": [], "validation": [], "test": []})
    with pytest.raises(ValueError, match="expected at most 0 train classes of glyphs, got 14"):
        glyphs(cache=tmp_path, **SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path, undrawn):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"expected a cache that can be written .* got .*file"):
        glyphs(cache=tmp_path / "file", **SIZE)
