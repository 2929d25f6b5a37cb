"""Rematerialisation: gradients, statistics and masks are those of a model differentiated as a whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from conf.schema import ModelSpec, Rematerialize, TrainerSpec
from trainer.batch_norm import batch_norms
from trainer.model_parts import blocks_of, part_of, train_only
from trainer.models import block_pattern, build_model
from trainer.segmented import SegmentedModel, segmented_model
from trainer.segments import cut

SIDE, CLASSES, BATCH = 32, 5, 6
MODELS = {
    "convnet": ModelSpec(dropout=0.4, options={"filters": [8, 8], "batch_norm": True}),
    "vit": ModelSpec("vit", dropout=0.2, stochastic_depth=0.4, options={"size": "ti", "patch": 16}),
    "mobilenetv2": ModelSpec("mobilenetv2", dropout=0.3),
}
Found = tuple[list[np.ndarray], list[np.ndarray], float]


def built(spec: ModelSpec) -> keras.Model:
    keras.utils.clear_session()
    keras.utils.set_random_seed(5)
    model = build_model(spec, (SIDE, SIDE, 3), CLASSES)
    for norm in batch_norms(model):  # which else would all begin alike
        norm.gamma.assign(np.random.default_rng(1).uniform(0.5, 1.5, norm.gamma.shape).astype(np.float32))
    return model


def example() -> tuple[tf.Tensor, tf.Tensor]:
    generator = np.random.default_rng(3)
    pixels = generator.uniform(0, 255, (BATCH, SIDE, SIDE, 3)).astype(np.float32)
    return tf.constant(pixels), tf.constant(generator.integers(0, CLASSES, BATCH))


def by_keras(model: keras.Model) -> Found:
    """Gradients, variables that do not train, and loss, of a tape round the model as Keras calls it."""
    images, labels = example()
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    return [g.numpy() for g in gradients], [v.numpy() for v in model.non_trainable_variables], float(loss)


def by_segments(model: keras.Model, segmented: SegmentedModel) -> Found:
    images, labels = example()

    def loss_of(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return loss, loss

    variables = [variable.value for variable in model.trainable_variables]
    gradients, _, loss = segmented.differentiate(images, loss_of, variables)
    return [g.numpy() for g in gradients], [v.numpy() for v in model.non_trainable_variables], float(loss)


@pytest.mark.parametrize(("name", "frozen"), [*((name, False) for name in MODELS), ("convnet", True)])
def test_gradients_statistics_and_masks_are_those_of_one_pass(name, frozen):
    found = []
    for ours in (False, True):
        model, spec = built(MODELS[name]), MODELS[name]
        blocks = blocks_of(model, block_pattern(spec))
        if frozen:
            train_only(model, part_of(blocks, 1, "part"))
        begun = [variable.numpy() for variable in model.non_trainable_variables]
        segmented = segmented_model(TrainerSpec(rematerialize=Rematerialize.blocks), model, blocks)
        found.append(by_segments(model, segmented) if ours else by_keras(model))
    (expected, states, loss), (gradients, own_states, own_loss) = found
    assert own_loss == pytest.approx(loss, rel=1e-6)
    assert len(gradients) == len(expected) > 2
    largest = max(np.abs(value).max() for value in expected)
    for value, own in zip(expected, gradients, strict=True):
        assert np.abs(own - value).max() <= 1e-5 * max(np.abs(value).max(), 1e-3 * largest)
    # What dropout draws from, and the statistics, have moved: once.
    moved = [not np.array_equal(before, after) for before, after in zip(begun, states, strict=True)]
    assert any(moved)
    for expected_state, own in zip(states, own_states, strict=True):
        np.testing.assert_allclose(own, expected_state, rtol=1e-5, atol=1e-7)


def test_every_layer_is_in_one_segment():
    model = built(MODELS["mobilenetv2"])
    blocks = blocks_of(model)
    segments = cut(model, [[block] for block in blocks])
    named = [layer.name for s in segments for layer in s.body.layers if not isinstance(layer, keras.layers.InputLayer)]
    own = [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert sorted(named) == sorted(own)
    assert len(segments) == len(blocks) == 19
    # One tensor goes from block to block: nothing else has to be kept.
    assert all(len(segment.inputs) == 1 and len(segment.outputs) == 1 for segment in segments)
