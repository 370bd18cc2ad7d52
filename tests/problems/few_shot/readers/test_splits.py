"""The published lists are complete and disjoint."""

import pytest

from problems.few_shot.readers.splits import CIFAR_FS, CLASSES, FC100, MINI_IMAGENET, SUPERCLASSES, split_named


def test_the_lists_have_the_published_sizes_and_no_class_twice():
    assert [len(CIFAR_FS[split]) for split in ("train", "validation", "test")] == [64, 16, 20]
    assert len(set(CLASSES)) == 100
    assert [len(FC100[split]) for split in ("train", "validation", "test")] == [12, 4, 4]
    assert sorted(name for names in FC100.values() for name in names) == sorted(SUPERCLASSES)
    assert len(set(MINI_IMAGENET["validation"]) | set(MINI_IMAGENET["test"])) == 36


def test_fc100_is_named_as_in_its_paper():
    assert set(FC100["validation"]) == {
        "large_carnivores",
        "large_omnivores_and_herbivores",
        "non-insect_invertebrates",
        "small_mammals",
    }
    assert set(FC100["test"]) == {"aquatic_mammals", "insects", "medium_mammals", "people"}


def test_val_is_validation():
    assert split_named("val") == split_named("validation") == "validation"
    with pytest.raises(ValueError, match="expected a split named train, val, validation or test, got 'Test'"):
        split_named("Test")
