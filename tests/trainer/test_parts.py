"""The smaller parts, each against an independent reference."""

import json
import os
import threading
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from conf.errors import BadSpec
from conf.judge_rules import METRICS
from conf.schema import BatchNormSync, ModelSpec, OptimizerSpec, Precision, TrainerSpec
from data_pipeline.order import BatchShape
from storage.store import open_store
from tests.trainer.arithmetic import Case, batches, by_convoy, new_model
from trainer import precision
from trainer.averages import WeightAverages
from trainer.batch_norm import averaging, batch_norms
from trainer.channel import Pipes
from trainer.clipping import clipped
from trainer.curves import Curves
from trainer.evaluation.counts import Counts
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.report import metrics
from trainer.export.saved_model import ExportError, export
from trainer.models import build_model
from trainer.objective import Objective, balanced_weights
from trainer.optimizers import make_optimizer
from trainer.state import TrainingState
from trainer.step import TrainingStep


def test_losses_equal_keras():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(40, 7)).astype(np.float32), random.integers(0, 7, 40).astype(np.int32)
    for smoothing in (0.0, 0.2):
        reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
        expected = reference(keras.utils.to_categorical(labels, 7), logits)
        np.testing.assert_allclose(Objective(7, smoothing).losses(labels, logits), expected, rtol=1e-5)


def test_balanced_weights_equal_scikit_learn():
    labels = np.repeat([0, 1, 3], [5, 20, 2])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(np.array(balanced_weights([5, 20, 0, 2]))[[0, 1, 3]], expected)
    assert balanced_weights([5, 20, 0, 2])[2] == 0


def test_a_report_equals_scikit_learn():
    random = np.random.default_rng(1)
    true = random.integers(0, 4, 300)
    found = np.where(random.random(300) < 0.6, true, random.integers(0, 3, 300))
    confusion = np.zeros((5, 5), np.int64)  # nothing is or is taken for the fifth
    np.add.at(confusion, (true, found), 1)
    report = metrics("test", 5, list("abcde"), Counts(150.0, confusion))
    columns = precision_recall_fscore_support(true, found, zero_division=0)
    for number, name in enumerate("abcd"):
        row = report["per_class"][name]
        assert [row["precision"], row["recall"], row["f1"], row["num_examples"]] == pytest.approx(
            [c[number] for c in columns]
        )
    assert report["num_examples"] == 300 and report["loss"] == 0.5
    assert report["accuracy"] == pytest.approx((true == found).mean())
    assert report["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, found))
    assert report["macro_f1"] == pytest.approx(f1_score(true, found, average="macro"))
    assert {f"validation_{name}" for name in Counts(1.0, confusion).scores} == set(METRICS)


@pytest.mark.parametrize(("short", "lanes"), [(0, 1), (13, 1), (13, 4)])
def test_an_evaluation_counts_each_real_example_once(short, lanes):
    """Against Keras's own evaluate on the examples alone, without padding."""
    case = Case(OptimizerSpec(name="adam", learning_rate=0.01), short=short)
    model = by_convoy(case, tf.distribute.get_strategy(), 0, 1)
    elements = list(batches(case, BatchShape(32), range(1)))
    dataset = tf.data.Dataset.from_tensor_slices({name: np.stack([e[name] for e in elements]) for name in elements[0]})
    counts = Evaluator(tf.distribute.get_strategy(), model, 10, lanes).measure(dataset, len(elements), lambda _: None)
    images = np.concatenate([e["image"][e["mask"] > 0] for e in elements])
    labels = np.concatenate([e["label"][e["mask"] > 0] for e in elements])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert counts.num_examples == 320 - short == len(labels)
    assert counts.loss == pytest.approx(loss, rel=1e-5) and counts.accuracy == pytest.approx(accuracy)
    assert 0.2 < counts.accuracy < 1


def test_models_are_found_by_name_and_refuse_what_they_cannot_take():
    with pytest.raises(BadSpec, match="did you mean xception"):
        build_model(ModelSpec(name="xcepton"), (96, 96, 3), 10)
    with pytest.raises(BadSpec, match=r"options.filter=3 - convnet has no such option - did you mean filters"):
        build_model(ModelSpec(options={"filter": 3}), (8, 8, 1), 10)
    with pytest.raises(BadSpec, match=r"padding=valid leaves nothing of images of 8 pixels for convolution 3"):
        build_model(ModelSpec(options={"padding": "valid"}), (8, 8, 1), 10)
    with pytest.raises(BadSpec, match=r"data\.image_size=70"):
        build_model(ModelSpec(name="xception"), (70, 70, 3), 10)


def test_an_export_that_differs_is_refused_and_the_old_one_stays(tmp_path):
    model = build_model(ModelSpec(), (8, 8, 1), 3)
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 1)).astype(np.float32)
    expected = keras.ops.softmax(model(images)).numpy()
    assert export(model, list("abc"), tmp_path / "model", images, expected, 1e-5) < 1e-5
    with pytest.raises(ExportError, match="differ by"):
        export(model, list("abc"), tmp_path / "model", images, expected[:, ::-1], 1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_step_that_overflows_changes_nothing_but_the_scale():
    precision.set_policy(Precision.mixed_float16)
    model = new_model(Case())
    precision.set_policy(Precision.float32)
    optimizer = make_optimizer(TrainerSpec(), 10)
    optimizer.build(model.trainable_variables)
    scale = precision.LossScale()
    scale.scale.assign(1e30)
    strategy = tf.distribute.get_strategy()
    averages = WeightAverages(strategy, model, 0.9)
    averages.follow(model.trainable_variables)
    objective = Objective(10)
    step = TrainingStep(strategy, model, optimizer, objective, OptimizerSpec(), loss_scale=scale, averages=averages)
    before = [variable.numpy() for variable in (*model.trainable_variables, *optimizer.variables)]
    averaged = {name: variable.numpy() for name, variable in averages.variables.items()}
    first = next(batches(Case(), BatchShape(32), range(1)))
    iterator = iter(tf.data.Dataset.from_tensors(first).repeat())
    step.run(iterator, tf.constant(1), tf.constant(0.0, tf.float64))
    after = [variable.numpy() for variable in (*model.trainable_variables, *optimizer.variables)]
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(np.array_equal(averaged[name], variable) for name, variable in averages.variables.items())
    assert float(scale.scale) == pytest.approx(5e29)
    scale.scale.assign(1024.0)
    step.run(iterator, tf.constant(1), tf.constant(0.0, tf.float64))
    assert optimizer.iterations.numpy() == 1 and float(scale.scale) == 1024.0
    assert averages.variables["ema_updates"].numpy() == 1


def test_a_snapshot_does_not_change_while_training_goes_on():
    model = new_model(Case(batch_norm=BatchNormSync.average))
    optimizer = make_optimizer(TrainerSpec(), 10)
    optimizer.build(model.trainable_variables)
    state = TrainingState(model, optimizer, None)
    before = {name: variable.numpy() for name, variable in state.variables().items()}
    snapshot = state.snapshot()
    for variable in state.variables().values():
        variable.assign(variable + tf.ones_like(variable))
    assert all(np.array_equal(snapshot[name].numpy(), value) for name, value in before.items())
    state.restore(before, "step 0")
    assert all(np.array_equal(variable.numpy(), before[name]) for name, variable in state.variables().items())


def test_a_layer_that_keeps_constants_sees_what_was_restored():
    pixels = keras.Input((2, 2, 3))
    normalised = keras.layers.Normalization(name="normalization")(pixels)
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(normalised))
    optimizer = make_optimizer(TrainerSpec(), 10)
    optimizer.build(model.trainable_variables)
    state = TrainingState(model, optimizer, None)
    stored = {name: variable.numpy() for name, variable in state.variables().items()}
    stored |= {"model/normalization/mean": np.float32([1, 2, 3]), "model/normalization/variance": np.float32([4, 4, 9])}
    state.restore(stored, "step 1")
    np.testing.assert_allclose(model(np.full((1, 2, 2, 3), 5.0))[0], [2, 1.5, 2 / 3], rtol=1e-5)


def test_a_checkpoint_of_another_model_is_refused_with_names_and_shapes():
    model = new_model(Case())
    optimizer = make_optimizer(TrainerSpec(), 10)
    optimizer.build(model.trainable_variables)
    state = TrainingState(model, optimizer, None)
    stored = {name: variable.numpy() for name, variable in state.variables().items()}
    stored["model/logits/kernel"] = np.zeros((16, 11), np.float32)
    with pytest.raises(BadSpec, match=r"model/logits/kernel has shape \(16, 11\), not \(16, 10\)"):
        state.restore(stored, "step 7")


def test_batch_norm_is_averaged_over_replicas_not_taken_from_the_first():
    """Two replicas that saw different numbers; the mean is what NumPy says."""
    model = new_model(Case(batch_norm=BatchNormSync.average))
    assert averaging(tf.distribute.get_strategy(), model)() is None
    assert len(batch_norms(model)) == 2


def test_curves_of_a_dead_attempt_are_forgotten_beyond_the_restored_step(tmp_path):
    first = Curves(tmp_path, 0)
    for step in (10, 20, 30):
        first.scalars(step, {"loss": float(step)})
    first.close()
    second = Curves(tmp_path, 20)
    second.scalars(30, {"loss": -30.0})
    second.close()
    found = EventAccumulator(str(tmp_path), {"tensors": 0})
    found.Reload()
    points = [(point.step, point.tensor_proto.float_val[0]) for point in found.Tensors("loss")]
    assert points == [(10, 10.0), (20, 20.0), (30, -30.0)]


def test_the_pipes_carry_words_both_ways(tmp_path):
    control_out, control_in = os.pipe()
    progress_out, progress_in = os.pipe()
    channel = Pipes(control_out, progress_in, partial(open_store(str(tmp_path)).put, "deep/stacks"))
    channel.say("progress", step=3)
    line = json.loads(os.read(progress_out, 1000))
    assert line["kind"] == "progress" and line["step"] == 3 and not channel.stop_requested
    os.write(control_in, b"dump stacks\nstop\n")
    wait_until(lambda: channel.stop_requested)
    assert "test_the_pipes_carry_words_both_ways" in (tmp_path / "deep" / "stacks").read_text()


def wait_until(condition) -> None:
    tick = threading.Event()
    for _ in range(500):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it did not happen")


def test_limits_of_a_gradient_hold_one_after_the_other():
    gradients = [np.array([3.0, -4.0], np.float32), np.array([100.0], np.float32)]
    norm = tf.linalg.global_norm(gradients)
    cut = [np.array([3.0, -4.0]), np.array([5.0])]
    found = clipped(gradients, OptimizerSpec(clip_value=5.0, clip_norm=1.0), norm)
    for one, expected in zip(found, cut, strict=True):
        np.testing.assert_allclose(one, expected / np.sqrt(50), rtol=1e-6)
