"""`python launcher/run.py`, from real images to an evaluated, exported model."""

import glob
import tempfile

import numpy as np
import psutil
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from conf.files import load_job
from data_pipeline.manifest import load_manifest


@pytest.fixture(scope="module")
def finished(convoy):
    """The job that a new user runs first: nothing but the defaults."""
    before = set(glob.glob(f"{tempfile.gettempdir()}/convoy*"))
    said = convoy.run("run_id=first")
    left = set(glob.glob(f"{tempfile.gettempdir()}/convoy*")) - before
    processes = [p.cmdline() for p in psutil.process_iter() if str(convoy.runs) in " ".join(safe_cmdline(p))]
    return said, left, processes


def safe_cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_digits_are_learnt(finished, convoy):
    report = convoy.json("first", "report/metrics.json")
    assert report["split"] == "test" and report["num_examples"] == 179
    assert report["accuracy"] >= 0.97
    confusion = np.array(report["confusion_matrix"])
    assert confusion.sum() == 179 and report["accuracy"] == pytest.approx(np.trace(confusion) / 179)
    assert sum(row["num_examples"] for row in report["per_class"].values()) == 179


def test_the_last_lines_say_what_was_reached_and_what_to_type_next(finished):
    said, _, _ = finished
    accuracy = said[said.index("test accuracy") :]
    for words in ("report/metrics.json", "export/saved_model", "tensorboard --logdir", "job=evaluate run_id=first"):
        assert words in accuracy
    assert "examples/s" in said and "ETA" in said and "loss" in said


def test_nothing_is_left_behind(finished):
    _, files, processes = finished
    assert not files and not processes


def test_the_run_directory_tells_everything(finished, convoy):
    run = convoy.runs / "first"
    job = load_job((run / "job.yaml").read_text(), "job.yaml")
    assert job.trainer.name == "convnet" and job.data.name == "digits" and job.run_id == "first"
    outcome = convoy.json("first", "outcome.json")
    assert outcome["state"] == "succeeded" and outcome["step"] == 380 and outcome["attempts"] == 1
    assert {"attempt_started", "first_step", "evaluated", "checkpoint_saved", "exported"} <= {
        event["kind"] for event in convoy.events("first")
    }
    assert all({"time", "kind", "attempt", "rank", "details"} <= event.keys() for event in convoy.events("first"))
    assert (run / "attempts" / "01" / "rank_0.log").exists()
    assert (run / "checkpoints" / "step_00000380" / "manifest.json").exists()


def test_the_saved_model_classifies_images_it_is_given(finished, convoy):
    """Run by TensorFlow alone, on all digits, as pixels and as PNG files."""
    served = tf.saved_model.load(str(convoy.runs / "first" / "export" / "saved_model"))
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.float32)
    found = served.signatures["serving_default"](image=tf.constant(pixels))["label"].numpy().astype(int)
    assert (found == labels).mean() > 0.97
    files = tf.constant([tf.io.encode_png(image.astype(np.uint8)).numpy() for image in pixels[:50]])
    assert (served.signatures["serve_bytes"](encoded=files)["label"].numpy().astype(int) == found[:50]).all()


def test_curves_are_there_for_training_and_validation(finished, convoy):
    for split, steps in (("train", 380 // 10), ("validation", 20)):
        curves = EventAccumulator(str(convoy.runs / "first" / "tensorboard" / split), {"tensors": 0})
        curves.Reload()
        assert {"loss", "accuracy", "learning_rate", "examples_per_s", "step_time_s"} <= set(curves.Tags()["tensors"])
        assert len(curves.Tensors("loss")) == steps
    train = EventAccumulator(str(convoy.runs / "first" / "tensorboard" / "train"))
    train.Reload()
    assert b"global_batch_size: 64" in train.Tensors("job")[0].tensor_proto.string_val[0]


def test_a_finished_run_started_again_does_nothing(finished, convoy):
    before = (convoy.runs / "first" / "events.jsonl").read_text()
    assert "finished" in convoy.run("run_id=first")
    assert (convoy.runs / "first" / "events.jsonl").read_text() == before


def test_a_run_with_another_job_is_refused_and_shows_the_difference(finished, convoy):
    said = convoy.run("run_id=first", "trainer.global_batch_size=32", expect=78)
    assert "trainer.global_batch_size" in said and "64" in said and "32" in said


def test_data_is_prepared_once(finished, convoy):
    said, _, _ = finished
    assert "preparing" in said
    manifest = load_manifest(str(next((convoy.runs / "_data").iterdir())))
    assert {split: value.num_examples for split, value in manifest.splits.items()} == {
        "train": 1259,
        "validation": 359,
        "test": 179,
    }
    again = convoy.run("run_id=second", "trainer.steps=3", "trainer.export_at_end=false")
    assert "preparing" not in again
    assert convoy.json("second", "outcome.json")["step"] == 3


def test_evaluate_and_export_work_on_a_run(finished, convoy):
    (convoy.runs / "first" / "report" / "metrics.json").rename(convoy.runs / "before.json")
    convoy.run("job=evaluate", "run_id=first")
    report = convoy.json("first", "report/metrics.json")
    assert report == convoy.json(".", "before.json")
    assert {event.get("task") for event in convoy.events("first") if event["attempt"] > 1} == {"evaluate"}
    assert {event.get("task") for event in convoy.events("first") if event["attempt"] == 1} == {None, "evaluate"}
    convoy.run("job=export", "run_id=second")
    assert (convoy.runs / "second" / "export" / "saved_model" / "saved_model.pb").exists()
