"""What is refused before anything is started."""

import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import BadSpec
from data_pipeline.sources import folder
from launcher import early
from launcher.compose import compose
from storage.source_files import SOURCE_FILES, image_files, to_lines
from storage.store import open_store

HERE = Path(__file__).resolve().parents[2]


def photos(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def refusal(*words: str) -> str:
    with pytest.raises(BadSpec) as refused:
        early.check(compose(words).job)
    return str(refused.value)


def test_a_misspelt_model_is_refused_with_the_nearest():
    said = refusal("trainer.model.name=convnt")
    assert "trainer.model.name=convnt" in said and "did you mean convnet?" in said
    assert "no such model" in refusal("trainer.model.name=pixels")  # a file that families share is none


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("convnet options.filter=3", "filter=3 - convnet has no such option - did you mean filters?"),
        ("resnet50 options.alpha=2", "alpha=2 - resnet50 has no such option - resnet50 has no options of its own"),
        ("convnet options.filters=[8,many]", "filters=[8, 'many'] - must be a list of whole numbers"),
        ("convnet options.filters=[8,0]", "filters=[8, 0] - must be 1 or more, each"),
        ("convnet options.dense=-1", "dense=-1 - must be 0 or more"),
        ("convnet options.batch_norm=maybe", "batch_norm=maybe - must be true or false"),
        ("vit options.patch=0", "patch=0 - must be 1 or more"),
        ("vit options.size=3", "size=3 - must be text"),
        ("mobilenetv2 options.alpha=wide", "alpha=wide - must be a number"),
    ],
)
def test_an_option_that_the_family_cannot_take_is_refused(words, said):
    name, option = words.split()
    assert f"trainer.model.options.{said}" in refusal(f"trainer.model.name={name}", f"trainer.model.{option}")


def test_a_batch_that_this_machine_cannot_share_out_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = refusal("trainer.accumulation_steps=3")
    assert "multiple of 3 (1 workers x 1 replicas x 3 micro-batches) - nearest: 63, 66" in said
    assert "multiple of 7 (1 workers x 1 replicas x trainer.micro_batch=7)" in refusal("trainer.micro_batch=7")
    early.check(compose(["trainer.accumulation_steps=3", "trainer.global_batch_size=66"]).job)


def test_weights_with_nothing_there_are_refused(tmp_path):
    assert "trainer.model.weights=" in refusal(f"trainer.model.weights={tmp_path}/gone.h5")
    assert "there is nothing at this path" in refusal("trainer.model.weights=")
    (tmp_path / "there.h5").touch()
    early.check(compose([f"trainer.model.weights={tmp_path}/there.h5"]).job)
    early.check(compose(["trainer=mobilenetv2", "trainer.model.weights=imagenet"]).job)
    early.check(compose(["trainer.model.weights=gs://bucket/there.h5"]).job)


def test_images_and_splits_are_those_of_the_source():
    assert set(folder._SPLITS) == early.SPLITS


@pytest.mark.parametrize("data", ["folder", "csv", "npz", "mnist", "tfrecord"])
def test_a_path_with_nothing_there_is_refused(tmp_path, data):
    assert "there is nothing at this path" in refusal(f"data={data}", f"data.path={tmp_path}/gone")


def test_a_source_that_has_changed_since_it_was_prepared_is_refused(tmp_path):
    source, out = photos(tmp_path / "source", "cats/a.png", "dogs/b.png"), tmp_path / "out"
    store = open_store(str(out))
    store.put(SOURCE_FILES, to_lines(image_files(source)))
    words = ["data=folder", f"data.path={source}", f"data.out={out}"]
    early.check_source(compose(words).job)  # not prepared yet
    store.put("manifest.json", b"{}")
    early.check_source(compose(words).job)
    photos(source, "cats/c.png")
    with pytest.raises(BadSpec) as refused:
        early.check_source(compose(words).job)
    assert f"data.path={source} - it has changed since it was prepared into {out}: 1 file added" in str(refused.value)
    assert "data.out=ANOTHER" in str(refused.value)
    early.check_source(compose([*words, "data=tfrecord", f"data.path={out}"]).job)


def test_the_weight_of_a_class_that_the_prepared_set_has_not_is_refused(tmp_path):
    weights = "trainer.class_weights"
    words = ["data=folder", f"data.path={tmp_path}/gone", f"data.out={tmp_path}", f"{weights}={{cats: 2, dog: 1}}"]
    open_store(str(tmp_path)).put("manifest.json", b'{"classes": ["cat", "dog"]}')
    assert f"{weights}.cats=2.0 - the data has no class of this name, among its 2" in refusal(*words)
    early.check(compose([*words[:3], f"{weights}={{cat: 2, dog: 1}}"]).job)
    early.check(compose([*words[:3], f"{weights}=balanced"]).job)
    line = [sys.executable, "launcher/run.py", *words, f"storage.root={tmp_path}/runs"]
    done = subprocess.run(line, cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78 and "did you mean cat?" in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


def test_several_problems_are_told_at_once(tmp_path):
    said = refusal("trainer.model.name=x", "data=csv", f"data.path={tmp_path}/gone")
    assert "the job has 2 problems" in said


def test_a_folder_that_is_not_prepared_is_no_prepared_set(tmp_path):
    assert "manifest.json is missing" in refusal("data=tfrecord", f"data.path={tmp_path}")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "no folder below it has images"),
        (["a.jpg", "b.jpg"], "no folder below it has images"),
        (["cats/1.jpg", "dogs/notes.txt", ".hidden/1.jpg"], "the only folder with images in it is cats/"),
        (["train/cats/1.jpg", "test/cats/1.jpg"], "the only folder with images in it is cats/"),
    ],
)
def test_a_folder_without_two_classes_is_refused(tmp_path, files, said):
    assert said in refusal("data=folder", f"data.path={photos(tmp_path, *files)}")


@pytest.mark.parametrize(
    "files",
    [["cats/1.jpg", "dogs/deep/1.PNG"], ["train/cats/1.jpg", "train/dogs/1.jpg"], ["train/1.jpg", "other/1.jpg"]],
)
def test_a_folder_of_two_classes_is_taken(tmp_path, files):
    early.check(compose(["data=folder", f"data.path={photos(tmp_path, *files)}"]).job)


def test_a_source_that_is_prepared_already_may_be_gone(tmp_path):
    out = photos(tmp_path, "out/manifest.json") / "out"
    early.check(compose(["data=folder", f"data.path={tmp_path}/gone", f"data.out={out}"]).job)


@pytest.mark.parametrize("words", [["dry_run=true"], [], ["job=prepare"], ["job=prepare", "dry_run=true"]])
def test_the_command_refuses_without_starting_anything(tmp_path, words):
    line = [sys.executable, "launcher/run.py", "data=folder", "data.path=gone", f"storage.root={tmp_path}/runs", *words]
    done = subprocess.run(line, cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "there is nothing at this path" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
