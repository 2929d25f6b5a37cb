"""What an example weighs and what a mixed one costs, against Keras and NumPy."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from conf.errors import BadSpec
from conf.schema import DataSpec, JobSpec, Loss, Oversample, Remainder, TrainerSpec
from data_pipeline.manifest import ImageSizes, Manifest, Split
from trainer.objective import Objective, class_weights, main_labels, make_objective
from trainer.session import Lengths, lengths

CLASSES = 7


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "label": random.integers(0, CLASSES, 50).astype(np.int32),
        "label2": random.integers(0, CLASSES, 50).astype(np.int32),
        "mix": random.uniform(0.4, 1, 50).astype(np.float32),
        "mask": (np.arange(50) < 45).astype(np.float32),
        "weight": np.ones(50, np.float32),
        "weight2": np.ones(50, np.float32),
    }


def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(50, CLASSES)).astype(np.float32)


def targets(batch: dict[str, np.ndarray]) -> np.ndarray:
    one, other = (keras.utils.to_categorical(batch[name], CLASSES) for name in ("label", "label2"))
    return batch["mix"][:, None] * one + (1 - batch["mix"][:, None]) * other


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mixed_example_costs_what_keras_says_of_mixed_targets(batch: dict[str, np.ndarray], smoothing: float) -> None:
    reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    expected = reference(targets(batch), logits()) * batch["mask"]
    np.testing.assert_allclose(Objective(CLASSES, smoothing).weighted(batch, logits()), expected, rtol=1e-5)


def test_the_gradient_of_a_mixed_example_is_that_of_mixed_targets(batch: dict[str, np.ndarray]) -> None:
    """With weights the targets do not add up to one, which TensorFlow's fused loss does not expect."""
    weights = tuple(0.5 + 0.3 * number for number in range(CLASSES))
    batch["weight2"] = np.linspace(0.5, 2, 50, dtype=np.float32)
    found = tf.Variable(logits())
    with tf.GradientTape() as tape:
        loss = Objective(CLASSES, class_weights=weights).weighted(batch, found)
    probabilities = np.exp(logits()) / np.exp(logits()).sum(1, keepdims=True)
    expected = 0
    for label, share, weight in (("label", batch["mix"], "weight"), ("label2", 1 - batch["mix"], "weight2")):
        one = keras.utils.to_categorical(batch[label], CLASSES)
        factor = share * np.array(weights)[batch[label]] * batch[weight] * batch["mask"]
        expected = expected + factor[:, None] * (probabilities - one)
    np.testing.assert_allclose(tape.gradient(loss, found), expected, atol=1e-6)
    assert np.abs(expected).max() > 0.1


def test_accuracy_counts_the_label_with_the_larger_share(batch: dict[str, np.ndarray]) -> None:
    largest = targets(batch).argmax(1)
    np.testing.assert_array_equal(main_labels({n: tf.constant(v) for n, v in batch.items()}), largest)
    del batch["mix"]
    np.testing.assert_array_equal(main_labels(batch), batch["label"])


def manifest(classes: list[str], counts: list[int]) -> Manifest:
    sizes = ImageSizes(8, 8, 8, 8, 1, 1)
    return Manifest("here", "pets", classes, {"train": Split(sum(counts), counts, [])}, sizes, 0, "0")


def test_weights_are_given_by_the_name_of_the_class(batch: dict[str, np.ndarray]) -> None:
    data = manifest(["cat", "dog", "7"], [10, 30, 20])
    assert class_weights(TrainerSpec(), data) is None
    assert class_weights(TrainerSpec(class_weights={"dog": 2, 7: 0.5}), data) == (1.0, 2.0, 0.5)
    assert class_weights(TrainerSpec(class_weights="balanced"), data) == (2.0, 60 / 90, 1.0)
    own = Objective(CLASSES, class_weights=tuple(range(CLASSES)))
    del batch["mix"]
    ratio = own.weighted(batch, logits()) / replace(own, class_weights=None).losses(batch["label"], logits())
    np.testing.assert_allclose(ratio, batch["label"] * batch["mask"], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_focal_loss_of_a_recipe_is_that_of_keras(batch: dict[str, np.ndarray], smoothing: float) -> None:
    trainer = TrainerSpec(loss=Loss.focal, focal_gamma=1.5, focal_alpha=0.7, label_smoothing=smoothing)
    reference = keras.losses.CategoricalFocalCrossentropy(0.7, 1.5, True, smoothing, reduction="none")
    expected = reference(keras.utils.to_categorical(batch["label"], CLASSES), logits())
    found = make_objective(trainer, manifest(list("abcdefg"), [1] * CLASSES)).losses(batch["label"], logits())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_unknown_class_is_refused_with_the_nearest() -> None:
    data = manifest(["cat", "dog"], [1, 1])
    with pytest.raises(BadSpec, match=r"trainer\.class_weights\.cats=2\.0 - the data has no .*did you mean cat\?"):
        make_objective(TrainerSpec(class_weights={"cats": 2.0, "dog": 1.0}), data)


def test_an_oversampled_epoch_has_as_many_steps_as_it_has_places() -> None:
    job = JobSpec(data=DataSpec(remainder=Remainder.pad), trainer=TrainerSpec(epochs=3, global_batch_size=8))
    data = manifest(["cat", "dog", "eel"], [10, 30, 0])
    assert lengths(job, data) == Lengths(15, 5, (15,))
    job.data.oversample = Oversample.balanced
    assert lengths(job, data) == Lengths(24, 8, (24,))
