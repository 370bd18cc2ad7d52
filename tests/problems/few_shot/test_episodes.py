"""Episodes are functions of (seed, split, index), drawn uniformly; lists of them draw the same again.

Each picture of `coloured` says which row of the set it is, so that what was drawn is read off the pixels.
"""

from __future__ import annotations

import pickle
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from scipy import stats

from problems.few_shot import Augmentation, EpisodeList, Episodes, ImageSet
from tests.strategies import seeds

# The tests of frequencies have fixed seeds: they pass or fail for good. A right sampler fails one with
# probability 1e-4.
SIGNIFICANCE = 1e-4
EVERY = Augmentation(rotate_classes=True, crop=2, flip=True)
SPLITS = ("train", "validation", "test")
indices = st.integers(0, 2**62 - 1)


def labelled(sizes, groups=None, *, shuffle=True):
    """Labels of classes of these sizes, in random order, and what else an ImageSet takes."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if shuffle:
        labels = np.random.default_rng(0).permutation(labels)
    return labels, tuple(f"class {c}" for c in range(len(sizes))), groups


def coloured(sizes, groups=None, **options):
    """Pictures of one colour, 1 x 2 pixels: row r is (r // 256, r % 256, class)."""
    labels, names, groups = labelled(sizes, groups, **options)
    rows = np.arange(len(labels))
    colours = np.stack([rows // 256, rows % 256, labels], axis=-1).astype(np.uint8)
    return ImageSet(np.tile(colours[:, None, None, :], (1, 1, 2, 1)), labels, names, groups)


def patterned(sizes, side=6):
    """Pictures of independent random pixels."""
    labels, names, groups = labelled(sizes)
    pixels = np.random.default_rng(1).integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    return ImageSet(pixels, labels, names, groups)


SMALL = coloured([7, 9, 6, 12, 6, 8])
PATTERNED = patterned([8] * 7)
SMALLER = {"way": 3, "shot": 2, "queries": 4}


def rows_shown(pictures):
    """Of pictures (..., 3, 1, 2) from `coloured` the rows."""
    return (pictures[..., 0, 0, 0].long() * 256 + pictures[..., 1, 0, 0]).numpy()


@st.composite
def episodes(draw):
    """All options, of pictures that show them."""
    split, augmentation = draw(st.sampled_from(SPLITS)), draw(st.sampled_from([None, EVERY]))
    return Episodes(
        images=PATTERNED,
        split=split,
        way=draw(st.integers(2, 7)),
        shot=draw(st.integers(1, 4)),
        queries=draw(st.integers(1, 4)),
        seed=draw(seeds),
        augmentation=augmentation if split == "train" else None,
    )


def same(a, b):
    return torch.equal(a.index, b.index) and all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


# ---- a function of (seed, split, index)


@given(drawn=episodes(), batch=st.lists(indices, min_size=1, max_size=4), first=indices)
def test_an_episode_depends_on_no_other_of_its_batch_and_on_none_before(drawn, batch, first):
    drawn.draw([first])
    together = drawn.draw(batch)
    for b, i in enumerate(batch):
        assert same(together[b : b + 1], drawn.draw([i]))
    assert same(together, pickle.loads(pickle.dumps(drawn)).draw(batch))


def test_another_process_draws_the_same_episodes():
    here = Episodes(images=PATTERNED, split="train", seed=3, augmentation=EVERY, **SMALLER)
    batch = [5, 0, 2**62 - 1]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        there = process.submit(here.listing, 3).result()
        rows = process.submit(here.rows, batch).result()
    assert np.array_equal(rows, here.rows(batch))
    for name, listed in here.listing(3).items():
        assert np.array_equal(listed, there[name])


def test_the_episodes_of_this_version_are_those_of_the_first_one():
    drawn = Episodes(images=coloured([50] * 20, shuffle=False), split="test", way=3, shot=1, queries=2, seed=7)
    assert drawn.rows([0, 2**40]).tolist() == [
        [[281, 264, 269], [236, 209, 246], [980, 971, 995]],
        [[336, 306, 311], [964, 985, 981], [833, 802, 838]],
    ]


def test_an_index_may_be_a_list_an_array_or_a_tensor_even_an_empty_one():
    drawn = Episodes(images=SMALL, split="test", **SMALLER)
    listed = drawn.draw([4, 1])
    assert same(listed, drawn.draw(torch.tensor([4, 1])))
    assert same(listed, drawn.draw(np.array([4, 1], np.uint8)))
    assert listed.index.dtype == torch.int64
    assert drawn.draw([]).support.shape == (0, 6, 3, 1, 2)
    assert drawn.rows([]).shape == (0, 3, 6)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ([-1], r"expected indices 0 .. 2\^62 - 1, got -1 .. -1"),
        ([0, 2**62], "expected indices 0 .. .* got 0 .. 4611686018427387904"),
        ([2**63], "expected indices 0 .. "),
        ([0.5], r"expected an index of integers \(B,\), got float64 \(1,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), r"expected an index of integers \(B,\), got int64 \(2, 2\)"),
        (torch.tensor([True]), "expected an index of integers"),
    ],
)
def test_an_index_that_is_none_is_refused(index, said):
    with pytest.raises(ValueError, match=said):
        Episodes(images=SMALL, split="test", **SMALLER).draw(index)


# ---- what an episode holds


@given(drawn=episodes(), index=indices)
def test_no_image_is_in_an_episode_twice_and_each_class_is_of_one(drawn, index):
    (rows,) = drawn.rows([index])
    assert rows.shape == (drawn.way, drawn.shot + drawn.queries)
    assert len(np.unique(rows)) == rows.size
    classes = PATTERNED.labels[rows]
    assert (classes == classes[:, :1]).all()
    assert len(np.unique(classes[:, 0])) == drawn.way


@given(index=st.lists(indices, min_size=1, max_size=3), seed=seeds)
def test_pictures_are_of_the_rows_in_the_order_of_the_labels(index, seed):
    drawn = Episodes(images=SMALL, split="validation", seed=seed, **SMALLER)
    tasks, rows = drawn.draw(index), drawn.rows(index)
    assert np.array_equal(rows_shown(tasks.support), rows[:, :, :2].reshape(len(index), 6))
    assert np.array_equal(rows_shown(tasks.query), rows[:, :, 2:].reshape(len(index), 12))
    assert tasks.support_labels.tolist() == [[0, 0, 1, 1, 2, 2]] * len(index)
    assert tasks.query_labels.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * len(index)
    for support, query in zip(tasks.support[:, :, 2, 0, 0], tasks.query[:, :, 2, 0, 0], strict=True):
        shown = {label: set(support[2 * label :][:2].tolist() + query[4 * label :][:4].tolist()) for label in range(3)}
        assert sorted(map(len, shown.values())) == [1, 1, 1]  # one class a label


@given(drawn=episodes(), index=indices)
def test_tasks_are_contiguous_bytes_whatever_the_augmentation(drawn, index):
    tasks = drawn.draw([index])
    assert tasks.support.shape == (1, drawn.way * drawn.shot, 3, 6, 6)
    assert tasks.query.shape == (1, drawn.way * drawn.queries, 3, 6, 6)
    for pictures in (tasks.support, tasks.query):
        assert pictures.dtype == torch.uint8
        assert pictures.is_contiguous()
    for labels in (tasks.support_labels, tasks.query_labels):
        assert labels.dtype == torch.int64


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@given(drawn=st.lists(indices, min_size=1, max_size=4), augmentation=st.sampled_from([None, EVERY]), seed=seeds)
def test_images_that_are_resident_give_the_same_episodes(device, drawn, augmentation, seed):
    options = {"images": PATTERNED, "split": "train", "seed": seed, "augmentation": augmentation, **SMALLER}
    expected, found = Episodes(**options).draw(drawn), Episodes(**options, resident=device).draw(drawn)
    assert found.index.device.type == device
    assert torch.equal(found.index.cpu(), expected.index)
    for name, tensor in expected.tensors.items():
        there = found.tensors[name]
        assert there.device.type == device
        assert there.is_contiguous()
        assert torch.equal(there.cpu(), tensor)


def test_a_memory_map_is_drawn_like_an_array(tmp_path):
    np.save(tmp_path / "images.npy", PATTERNED.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    on_disk = Episodes(
        images=ImageSet(mapped, PATTERNED.labels, PATTERNED.names), split="train", augmentation=EVERY, **SMALLER
    )
    in_memory = Episodes(images=PATTERNED, split="train", augmentation=EVERY, **SMALLER)
    assert same(on_disk.draw([0, 1]), in_memory.draw([0, 1]))
    assert np.array_equal(mapped, PATTERNED.images)


# ---- what a change of options leaves as it is


@given(index=indices, shot=st.integers(1, 2), fewer=st.integers(1, 3), more=st.integers(1, 4))
def test_the_support_does_not_depend_on_the_number_of_queries(index, shot, fewer, more):
    short, long = (
        Episodes(images=SMALL, split="train", way=4, shot=shot, queries=n).rows([index]) for n in (fewer, more)
    )
    assert np.array_equal(short[:, :, :shot], long[:, :, :shot])
    common = shot + min(fewer, more)
    assert np.array_equal(short[:, :, :common], long[:, :, :common])


@given(index=indices)
def test_fewer_shots_are_the_same_classes_and_part_of_the_support(index):
    one, four = (Episodes(images=SMALL, split="train", shot=shot, queries=2).rows([index]) for shot in (1, 4))
    assert np.array_equal(one[:, :, 0], four[:, :, 0])


@given(index=indices)
def test_an_augmentation_leaves_the_rows_and_each_choice_does_not_depend_on_the_others(index):
    options = {"images": PATTERNED, "split": "train", **SMALLER}
    assert np.array_equal(Episodes(**options).rows([index]), Episodes(augmentation=EVERY, **options).rows([index]))
    together = Episodes(augmentation=EVERY, **options)._choices(np.array([index]))
    for alone in ({"rotate_classes": True}, {"crop": 2}, {"flip": True}):
        chosen = Episodes(augmentation=Augmentation(**alone), **options)._choices(np.array([index]))
        assert len(chosen) == 3
        for name, choice in chosen.items():
            assert np.array_equal(choice, together[name])


@given(index=indices, sizes=st.lists(st.integers(6, 40), min_size=4, max_size=4))
def test_the_images_of_a_class_do_not_depend_on_the_sizes_of_others(index, sizes):
    first, second = (
        Episodes(images=coloured([20, *others], shuffle=False), split="train", way=5, shot=2, queries=4)
        for others in ([6, 6, 6, 6], sizes)
    )
    # class 0 has the rows 0 .. 19 in both sets, and is in every episode of 5 ways
    of_class_0 = [rows[rows[:, 0] < 20].tolist() for rows in (first.rows([index])[0], second.rows([index])[0])]
    assert of_class_0[0] == of_class_0[1]


# ---- distributions


def shrunk_chi_square(counts, chosen):
    """The p value of counts of which each draw of `chosen` different ones of all has added one to as many."""
    expected = counts.sum() / len(counts)
    shrunk = (len(counts) - chosen) / (len(counts) - 1)
    return stats.chi2.sf(((counts - expected) ** 2 / expected).sum() / shrunk, len(counts) - 1)


def classes_of(count, **options):
    drawn = Episodes(**options)
    return drawn.images.labels[drawn.rows(range(count))[:, :, 0]]


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_and_every_pair_of_classes_is_drawn_equally_often(split):
    classes = classes_of(4000, images=SMALL, split=split, way=2, shot=1, queries=1)
    assert SIGNIFICANCE < shrunk_chi_square(np.bincount(classes.ravel()), 2) < 1 - SIGNIFICANCE
    pairs = Counter(tuple(sorted(pair)) for pair in classes.tolist())
    assert set(pairs) == set(combinations(range(6), 2))
    assert stats.chisquare(list(pairs.values())).pvalue > SIGNIFICANCE
    for place in classes.T:
        assert stats.chisquare(np.bincount(place)).pvalue > SIGNIFICANCE


def test_every_image_of_a_class_is_drawn_equally_often_in_every_place():
    drawn = Episodes(images=coloured([6, 6, 6], shuffle=False), split="train", way=3, shot=1, queries=2)
    rows = np.sort(drawn.rows(range(4000)), axis=1)  # classes in order
    for place in rows.reshape(4000, 9).T:
        assert stats.chisquare(np.bincount(place % 6, minlength=6)).pvalue > SIGNIFICANCE
    triples = Counter(map(tuple, np.sort(rows[:, 0]).tolist()))
    assert len(triples) == 20
    assert stats.chisquare(list(triples.values())).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"seed": 2**32}, {"seed": 2**32 + 1}, {"split": "validation"}, {"split": "test"}],
    ids=str,
)
def test_other_seeds_and_splits_give_independent_episodes(other):
    options = {"images": SMALL, "way": 2, "shot": 1, "queries": 1, "seed": 0, "split": "train"}
    first, second = classes_of(4000, **options)[:, 0], classes_of(4000, **options | other)[:, 0]
    together = np.bincount(6 * first + second, minlength=36).reshape(6, 6)
    assert stats.chi2_contingency(together).pvalue > SIGNIFICANCE
    # a control: the same episodes are found to depend on each other
    assert stats.chi2_contingency(np.diag(np.bincount(first)) + 1).pvalue < SIGNIFICANCE


def test_neighbouring_indices_and_those_that_share_their_low_half_are_independent():
    options = {"images": SMALL, "split": "train", "way": 2, "shot": 1, "queries": 1}
    first = classes_of(4001, **options)[:, 0]
    high = SMALL.labels[Episodes(**options).rows(np.arange(4000) + 2**32)[:, 0, 0]]
    for other in (first[1:], high):
        together = np.bincount(6 * first[:-1] + other, minlength=36).reshape(6, 6)
        assert stats.chi2_contingency(together).pvalue > SIGNIFICANCE


def test_seeds_of_two_words_do_not_meet_the_stream_of_another_split():
    # in one list the 32-bit words of both are 5, 1, 0, 9
    lists = ([5 + 2**32, 0, 9], [5, 1, 9 * 2**32])
    assert len({np.random.SeedSequence(words).generate_state(1)[0] for words in lists}) == 1
    options = {"images": SMALL, **SMALLER}
    long_seed = Episodes(split="train", seed=5 + 2**32, **options).rows([9])
    short_seed = Episodes(split="validation", seed=5, **options).rows([9 * 2**32])
    assert not np.array_equal(long_seed, short_seed)


def test_turns_shifts_and_flips_are_uniform():
    drawn = Episodes(images=PATTERNED, split="train", augmentation=EVERY, way=2, shot=1, queries=1)
    listing = drawn.listing(3000)
    assert stats.chisquare(np.bincount(listing["turns"].ravel(), minlength=4)).pvalue > SIGNIFICANCE
    assert stats.chisquare(np.bincount(listing["flips"].ravel(), minlength=2)).pvalue > SIGNIFICANCE
    down, right = listing["shifts"].reshape(-1, 2).T + 2
    both = np.bincount(5 * down + right, minlength=25)
    assert len(both) == 25
    assert stats.chisquare(both).pvalue > SIGNIFICANCE


# ---- groups

GROUPED = coloured([6] * 12, tuple("aaaabbbbbbcc"))


@given(index=indices, way=st.integers(2, 6), seed=seeds)
def test_all_classes_are_of_one_group(index, way, seed):
    drawn = Episodes(images=GROUPED, split="test", way=way, shot=2, queries=3, seed=seed, within_groups=True)
    classes = GROUPED.labels[drawn.rows([index])[0, :, 0]]
    assert len({GROUPED.groups[c] for c in classes}) == 1
    assert len(set(classes)) == way


def test_within_groups_every_class_of_the_groups_that_are_large_enough_is_drawn_equally_often():
    options = {"images": GROUPED, "split": "test", "way": 3, "shot": 1, "queries": 1}
    classes = classes_of(4000, within_groups=True, **options)
    counts = np.bincount(classes.ravel(), minlength=12)
    assert counts[10:].tolist() == [0, 0]  # group c has two classes
    of_b = int((classes[:, 0] >= 4).sum())
    assert stats.binomtest(of_b, 4000, 6 / 10).pvalue > SIGNIFICANCE
    for members in (counts[:4], counts[4:10]):
        assert shrunk_chi_square(members, 3) > SIGNIFICANCE
    assert len({GROUPED.groups[c] for c in classes_of(20, **options)[0]}) > 1  # a control: not within groups


def test_a_small_class_of_a_group_that_is_left_out_is_no_obstacle():
    images = coloured([6] * 4 + [2], tuple("aaaab"))
    assert Episodes(images=images, split="test", within_groups=True, **SMALLER).rows([0]).shape == (1, 3, 6)
    with pytest.raises(ValueError, match="got 2 of class 'class 4'"):
        Episodes(images=images, split="test", **SMALLER)


# ---- augmentation


def plain_and(augmentation, index, **options):
    options = {"images": PATTERNED, "split": "train", **SMALLER, **options}
    return (Episodes(augmentation=a, **options).draw(index) for a in (None, augmentation))


def test_a_rotated_class_is_turned_as_one_in_support_and_queries():
    plain, turned = plain_and(Augmentation(rotate_classes=True), range(10))
    seen = set()
    for b in range(10):
        for label in range(3):
            found = set()
            for part in ("support", "query"):
                of_class = getattr(plain, f"{part}_labels")[b] == label
                before, after = getattr(plain, part)[b, of_class], getattr(turned, part)[b, of_class]
                found |= {q for q in range(4) if torch.equal(torch.rot90(before, q, (2, 3)), after)}
            assert len(found) == 1
            seen |= found
    assert seen == {0, 1, 2, 3}
    assert torch.equal(plain.support_labels, turned.support_labels)


def test_two_turns_of_one_class_are_never_in_one_episode():
    drawn = Episodes(images=PATTERNED, split="train", way=7, shot=1, queries=1, augmentation=EVERY)
    assert (np.sort(drawn.listing(50)["classes"]) == np.arange(7)).all()
    with pytest.raises(ValueError, match="expected way of at most 7"):
        Episodes(images=PATTERNED, split="train", way=8, shot=1, queries=1, augmentation=EVERY)


def test_a_cropped_picture_is_a_window_of_the_reflected_one_and_a_flipped_one_is_mirrored():
    plain, cropped = plain_and(Augmentation(crop=2, flip=True), range(4))
    places = Counter()
    before, after = (tasks.query.flatten(0, 1).numpy() for tasks in (plain, cropped))
    for picture, changed in zip(before, after, strict=True):
        windows = sliding_window_view(np.pad(picture, ((0, 0), (2, 2), (2, 2)), mode="reflect"), (6, 6), axis=(1, 2))
        matches = [(windows == change[:, None, None]).all((0, 3, 4)) for change in (changed, changed[..., ::-1])]
        assert sum(int(match.sum()) for match in matches) == 1
        places += Counter({tuple(place): 1 for place in np.argwhere(np.stack(matches)).tolist()})
    assert len(places) > 20  # of 50: 48 pictures have been shifted and mirrored apart


# ---- lists


@pytest.mark.parametrize("augmentation", [None, Augmentation(rotate_classes=True), EVERY], ids=str)
def test_a_saved_list_draws_the_same_episodes(tmp_path, augmentation):
    drawn = Episodes(images=PATTERNED, split="train", seed=2**40, augmentation=augmentation, **SMALLER)
    np.savez(tmp_path / "episodes.npz", **drawn.listing(6))
    with np.load(tmp_path / "episodes.npz") as listing:
        saved = EpisodeList(PATTERNED, listing)
    assert same(saved.draw([5, 0, 3]), drawn.draw([5, 0, 3]))
    assert np.array_equal(saved.rows(range(6)), drawn.rows(range(6)))
    assert (len(saved), saved.split, saved.way, saved.shot, saved.queries, saved.seed) == (6, "train", 3, 2, 4, 2**40)


def test_a_list_has_the_rows_of_the_first_episodes_and_the_turns_where_there_are_any():
    drawn = Episodes(images=PATTERNED, split="train", **SMALLER)
    listing = drawn.listing(4)
    assert np.array_equal(listing["rows"], drawn.rows([0, 1, 2, 3]))
    assert np.array_equal(PATTERNED.labels[listing["rows"][:, :, 0]], listing["classes"])
    assert "turns" not in listing
    turned = Episodes(images=PATTERNED, split="train", augmentation=EVERY, **SMALLER).listing(4)
    assert turned["turns"].shape == (4, 3)
    with pytest.raises(ValueError, match="expected a list of at least one episode, got 0"):
        drawn.listing(0)


def changed(name, change):
    def apply(listing):
        listing[name] = change(listing[name].copy())

    return apply


def put(place, value):
    def apply(array):
        array[place] = value(array) if callable(value) else value
        return array

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda listing: listing.pop("rows"), r"expected a list of episodes with split, .* got none of \['rows'\]"),
        (changed("images", lambda n: n + 1), "expected a list of episodes of 56 images, got one of 57"),
        (changed("rows", lambda rows: rows[:, :, :-1]), r"expected listed rows int64 \(4, 3, 6\), got .* \(4, 3, 5\)"),
        (changed("classes", lambda classes: classes * 1.0), "expected listed classes int64 .* got float64"),
        (changed("rows", put((1, 0, 0), 56)), r"expected listed rows 0 .. 55, got \d+ .. 56"),
        (changed("rows", put((1, 0, 0), -1)), "expected listed rows 0 .. 55, got -1"),
        (changed("rows", put((0, 0), lambda rows: rows[0, 1])), "of the listed classes, got 6 that are of others"),
        (changed("rows", put((0, 0, 0), lambda rows: rows[0, 0, 1])), "rows that differ within an episode"),
        (changed("sha256", lambda digits: digits + "x"), "expected a list of episodes of the images .* got one of .*x"),
        (changed("shifts", put((0, 0, 0, 0), 6)), "expected a crop below 6 pixels"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(damage, said):
    listing = Episodes(images=PATTERNED, split="train", augmentation=EVERY, **SMALLER).listing(4)
    assert len(EpisodeList(PATTERNED, listing)) == 4
    damage(listing)
    with pytest.raises(ValueError, match=said):
        EpisodeList(PATTERNED, listing)


def test_a_list_with_a_class_twice_is_refused():
    listing = Episodes(images=PATTERNED, split="test", way=2, shot=1, queries=1).listing(1)
    listing["classes"][0, 1] = listing["classes"][0, 0]
    listing["rows"][0] = PATTERNED.rows[listing["classes"][0, 0]][:4].reshape(2, 2)
    with pytest.raises(ValueError, match="expected listed classes that differ within an episode, got some twice"):
        EpisodeList(PATTERNED, listing)


def test_a_list_ends():
    saved = EpisodeList(SMALL, Episodes(images=SMALL, split="test", **SMALLER).listing(4))
    assert len(saved.draw([3])) == 1
    with pytest.raises(ValueError, match="expected indices below 4, the length of the list, got 4"):
        saved.draw([0, 4])


# ---- what cannot be drawn


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "val"}, "expected a split among train, validation, test, got 'val'"),
        ({"way": 1}, "expected way an integer >= 2, got 1"),
        ({"shot": 0}, "expected shot an integer >= 1, got 0"),
        ({"queries": 0}, "expected queries an integer >= 1, got 0"),
        ({"shot": -5}, "expected shot an integer >= 1, got -5"),
        ({"seed": -1}, "expected seed an integer >= 0, got -1"),
        ({"seed": 2**63}, "expected seed an integer >= 0, got 9223372036854775808"),
        ({"way": 7}, "expected way of at most 6, the classes of the images, got 7"),
        (
            {"shot": 3, "queries": 4},
            "expected at least 7 images of each class, for 3 shots and 4 queries, got 6 of class 'class 2'",
        ),
        ({"within_groups": True}, "expected images with groups for episodes within groups, got images without"),
        (
            {"within_groups": True, "images": GROUPED, "way": 7},
            "expected way of at most 6, the classes of the largest group, got 7",
        ),
        (
            {"augmentation": Augmentation(flip=True)},
            "expected an augmentation of the split train only, got one of test",
        ),
        (
            {"split": "train", "augmentation": Augmentation(rotate_classes=True)},
            "expected square images for rotated classes, got 1 x 2 pixels",
        ),
        ({"split": "train", "augmentation": Augmentation(crop=1)}, "expected a crop below 1 pixels"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        Episodes(**{"images": SMALL, "split": "test", **SMALLER} | options)
