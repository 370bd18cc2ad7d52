"""What a run is described by, and when a folder goes on with it."""

import json
import os
import resource
import time
from dataclasses import replace

import numpy as np
import pytest

from convergence import checkpoints
from convergence.recipes import RECIPES
from convergence.training import TrainingFailed, load, train
from convergence.training.plan import Plan
from convergence.training.run_folder import RunFolder, described_run, fingerprint
from problems.few_shot import Augmentation, Conv4
from tests.convergence.training.small import NETWORK, PLAN, RECIPE, assert_same_run, go_on, started, tiny, tiny_splits


def test_a_description_is_json_and_tells_recipes_apart():
    plan = Plan(iterations=1, augmentation=Augmentation(flip=True))
    found = {
        name: json.dumps(described_run(recipe, tiny_splits(), Conv4(2), plan, {})) for name, recipe in RECIPES.items()
    }
    assert len(set(found.values())) == len(RECIPES)


def test_a_fingerprint_changes_with_names_labels_and_bytes():
    images = tiny_splits()["train"]
    other_bytes, other_labels = images.images.copy(), images.labels.copy()
    other_bytes[5, 3, 3, 0] ^= 1
    other_labels[:6] = 1
    other_labels[6:12] = 0
    others = (
        replace(images, images=other_bytes),
        replace(images, labels=other_labels),
        replace(images, names=("a", *images.names[1:])),
    )
    prints = [fingerprint(each)["sha256"] for each in (images, *others)]
    assert len(set(prints)) == 4
    assert fingerprint(images) == fingerprint(replace(images, images=np.array(images.images)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch": 3}, "plan.batch = 2"),
        ({"seed": 1}, "plan.seed = 0"),
        ({"bn": "support"}, "plan.bn = 'task'"),
        ({"recipe": RECIPES["protonet"]}, "recipe.method.type = 'MemoryReduced'"),
        ({"recipe": RECIPE.varied(cg_steps=3)}, "recipe.method.cg_steps = 2"),
        ({"recipe": RECIPE.with_head(ridge=0.5)}, "recipe.head.ridge = 1.0"),
        ({"augmentation": Augmentation(crop=2)}, "plan.augmentation = None"),
        ({"labels": {"data": "glyphs"}}, "labels.data = None"),
    ],
)
def test_a_run_of_another_config_is_refused_by_the_first_difference(change, named, tmp_path):
    tiny(2, out=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=f"expected {named}, as in .*checkpoint.pt, got "):
        tiny(4, out=tmp_path, resume=True, **change)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_of_another_network_or_of_other_images_is_refused(tmp_path):
    tiny(2, out=tmp_path)
    with pytest.raises(ValueError, match=r"expected network.channels = 2, as in .*, got 3"):
        load(tmp_path, RECIPE, tiny_splits(), embedding=Conv4(3))
    swapped = {**tiny_splits(), "train": tiny_splits()["test"]}
    with pytest.raises(ValueError, match=r"expected images.train.sha256 = "):
        load(tmp_path, RECIPE, swapped, embedding=NETWORK)
    with pytest.raises(ValueError, match=r"expected a checkpoint of this architecture, .*block1.conv.weight"):
        train(RECIPE, tiny_splits(), embedding=Conv4(3), iterations=4, start=tiny(2).state, **PLAN)


def test_how_often_checkpoints_are_written_does_not_matter(tmp_path):
    tiny(3, out=tmp_path)
    assert tiny(4, out=tmp_path, resume=True, checkpoint_every=1).iteration == 4


def test_a_run_of_a_release_whose_plan_had_fewer_fields_goes_on_and_is_loaded(tmp_path):
    tiny(3, out=tmp_path)
    config, state = checkpoints.read(tmp_path / "checkpoint.pt")
    for later in ("autocast", "channels_last", "compile", "resident", "ahead"):
        del config["plan"][later]
    checkpoints.write(tmp_path / "checkpoint.pt", config, state)
    assert_same_run(tiny(3), load(tmp_path, RECIPE, tiny_splits(), embedding=NETWORK))
    with pytest.raises(ValueError, match=r"expected plan\.autocast = False, as in"):
        tiny(5, out=tmp_path, resume=True, autocast=True)
    assert_same_run(tiny(5), tiny(5, out=tmp_path, resume=True))


def test_a_run_that_lost_patience_goes_on_with_more_of_it(tmp_path):
    options = {"out": tmp_path, "validate_every": 1, "learning_rate": 1e-12}  # all validations alike
    assert (tiny(9, patience=1, **options).iteration, tiny(9, patience=3, resume=True, **options).iteration) == (2, 4)
    assert tiny(5, resume=True, **options).iteration == 5


def test_a_folder_without_an_iteration_is_begun_anew(tmp_path):
    with pytest.raises(TrainingFailed, match="in iteration 1"):
        tiny(4, out=tmp_path, optimizer="sgd", learning_rate=3e38)
    assert_same_run(tiny(2), tiny(2, out=tmp_path))
    tiny(0, out=tmp_path / "none")
    assert_same_run(tiny(2), tiny(2, out=tmp_path / "none"))


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    process = started(go_on, tmp_path, 100000)
    try:
        while not (tmp_path / "metrics.jsonl").exists():
            time.sleep(0.01)
        partial = tmp_path / ".checkpoint.pt.1.partial"
        partial.touch()
        for resume in (False, True):
            with pytest.raises(ValueError, match=f"expected .* for one process alone, got process {process.pid} at wo"):
                tiny(100000, out=tmp_path, resume=resume)
        assert partial.exists()
    finally:
        process.kill()
        process.join()
    done = len(checkpoints.read(tmp_path / "checkpoint.pt")[1]["metrics"])
    assert tiny(done + 1, out=tmp_path, resume=True).iteration == done + 1
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_folder_is_free_again_after_an_error(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.locked():
        assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())
        with pytest.raises(ValueError, match=f"got process {os.getpid()} at work"):
            tiny(1, out=tmp_path)
    with pytest.raises(TrainingFailed):
        tiny(4, out=tmp_path, optimizer="sgd", learning_rate=3e38)
    assert tiny(1, out=tmp_path).iteration == 1
    assert not (tmp_path / ".lock").exists()


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path):
    folder = RunFolder(tmp_path)
    tiny(2, out=tmp_path)
    before = folder.metrics.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, hard))
    try:
        with pytest.raises(OSError, match=r"expected room to write .*metrics.jsonl, got .* is intact: make room"):
            folder.append({"iteration": 3, "loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.metrics.read_bytes() == before


def test_room_and_a_checkpoint_are_spoken_of_where_there_is_a_lack_and_one(tmp_path):
    with pytest.raises(OSError, match=r"^expected to be able to write .*metrics.jsonl, got No such file or directory$"):
        RunFolder(tmp_path / "none").append({"iteration": 1})


def test_a_folder_is_begun_once_and_resumed_where_there_is_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=f"expected a checkpoint to resume from in {tmp_path}, got none"):
        tiny(2, out=tmp_path, resume=True)
    tiny(2, out=tmp_path)
    with pytest.raises(ValueError, match=r"expected a folder without a run, or resume, .*checkpoint.pt, metrics.jsonl"):
        tiny(2, out=tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="expected a folder for the run, got the file"):
        tiny(2, out=file)


@pytest.mark.parametrize("text", ["", "[]", '{"labels": null, "plan": [1]}'])
def test_config_json_is_for_people_alone(text, tmp_path):
    run = tiny(1, out=tmp_path)
    (tmp_path / "config.json").write_text(text)
    assert load(tmp_path, RECIPE, tiny_splits(), embedding=NETWORK).plan == run.plan
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match=r"expected a checkpoint .*checkpoint.pt, got no such file"):
        load(tmp_path, RECIPE, tiny_splits(), embedding=NETWORK)


def test_the_config_says_what_was_trained(tmp_path):
    tiny(1, out=tmp_path, labels={"mine": 3})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["labels"] == {"mine": 3}
    assert config["plan"]["way"] == 3
    assert config["network"] == {"type": "Conv4", "channels": 2, "checkpointed": False}
    assert config["versions"].keys() == {"memory-reduced-meta-learning", "torch", "numpy"}
