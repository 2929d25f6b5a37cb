"""Heads, and residual blocks that are left out at random, against NumPy."""

import keras
import numpy as np
import pytest
from scipy.special import erf, softmax

from conf.errors import BadSpec
from conf.schema import ModelSpec, Pooling
from trainer.models import build_model

SHAPE = (8, 16, 3)
RATE = 0.6


def images(count: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 255, (count, *SHAPE)).astype(np.float32)


def dense(model: keras.Model, name: str, x: np.ndarray) -> np.ndarray:
    layer = model.get_layer(name)
    return x @ layer.kernel.numpy() + layer.bias.numpy()


@pytest.mark.parametrize("pooling", Pooling)
def test_a_head_is_pooling_hidden_layers_and_a_linear_layer(pooling):
    keras.utils.set_random_seed(1)
    model = build_model(ModelSpec(pooling=pooling, hidden=[40, 30], options={"dense": 0}), (16, 16, 3), 4)
    inside = keras.Model(model.input, model.get_layer("relu3").output)
    pixels = np.random.default_rng(3).uniform(0, 255, (6, 16, 16, 3)).astype(np.float32)
    maps = inside(pixels).numpy()
    pooled = {
        Pooling.avg: maps.mean((1, 2)),
        Pooling.max: maps.max((1, 2)),
        Pooling.flatten: maps.reshape(6, -1),
    }[pooling]
    hidden = np.maximum(dense(model, "head_hidden1", pooled), 0)
    logits = dense(model, "logits", np.maximum(dense(model, "head_hidden2", hidden), 0))
    np.testing.assert_allclose(model(pixels), logits, rtol=1e-4, atol=1e-5)
    assert logits.std(0).max() > 1e-3


def test_a_family_of_keras_pools_as_it_is_asked():
    with keras.StatelessScope(initialize_variables=False):
        for pooling, width in ((Pooling.avg, 1280), (Pooling.max, 1280), (Pooling.flatten, 4 * 1280)):
            model = build_model(ModelSpec(name="mobilenetv2", pooling=pooling, hidden=[9]), (64, 64, 3), 4)
            assert model.get_layer("head_hidden1").kernel.shape == (width, 9)
        model = build_model(ModelSpec(name="vit", pooling=Pooling.max, options={"patch": 8}), (16, 16, 3), 4)
        assert model.get_layer("head_max_pool").input.shape == (None, 4, 192)


def transformer(rate: float = RATE) -> keras.Model:
    """A ViT whose blocks do something: their outputs are drawn wide."""
    keras.utils.set_random_seed(1)
    model = build_model(ModelSpec(name="vit", stochastic_depth=rate, options={"patch": 8}), SHAPE, 4)
    random = np.random.default_rng(2)
    for variable in model.trainable_variables:
        if len(variable.shape) < 3:
            variable.assign(variable.numpy() + random.normal(0, 0.1, variable.shape))
    return model


def norm(layer: keras.Layer, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * layer.gamma.numpy() + layer.beta.numpy()


def attention(layer: keras.Layer, x: np.ndarray) -> np.ndarray:
    def project(part: keras.Layer) -> np.ndarray:
        return np.einsum("bnw,whd->bhnd", x, part.kernel.numpy()) + part.bias.numpy()[None, :, None]

    query, key, value = (project(part) for part in (layer.query_dense, layer.key_dense, layer.value_dense))
    weights = softmax(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]), -1)
    out = layer.output_dense
    return np.einsum("bhnd,hdw->bnw", weights @ value, out.kernel.numpy()) + out.bias.numpy()


def by_numpy(model: keras.Model, pixels: np.ndarray, kept: dict[str, np.ndarray]) -> np.ndarray:
    """The ViT of the papers, its residual branches times `kept`: one factor an image."""
    layer = model.get_layer
    patches = (pixels / 127.5 - 1).reshape(len(pixels), 1, 8, 2, 8, 3).swapaxes(2, 3).reshape(len(pixels), 2, -1)
    x = patches @ layer("patches").kernel.numpy().reshape(-1, 192) + layer("patches").bias.numpy()
    tokens = layer("places")
    first = np.broadcast_to(tokens.class_token.numpy(), (len(x), 1, 192))
    x = np.concatenate([first, x], 1) + tokens.places.numpy()
    for number in range(12):
        block = f"block{number}"
        branch = attention(layer(f"{block}_attention"), norm(layer(f"{block}_norm1"), x))
        x = x + branch * kept.get(f"{block}_add1_drop", np.ones(len(x)))[:, None, None]
        hidden = dense(model, f"{block}_hidden", norm(layer(f"{block}_norm2"), x))
        branch = dense(model, f"{block}_out", 0.5 * hidden * (1 + erf(hidden / np.sqrt(2))))
        x = x + branch * kept.get(f"{block}_add2_drop", np.ones(len(x)))[:, None, None]
    return dense(model, "logits", norm(layer("norm"), x)[:, 0])


def test_stochastic_depth_leaves_out_whole_branches_as_numpy_does():
    model, pixels = transformer(), images(200)
    drops = {layer.name: layer for layer in model.layers if layer.name.endswith("_drop")}
    # The first block always stays; further ones are left out more often, up to the rate.
    wanted = {f"block{n}_add{branch}_drop": RATE * n / 11 for n in range(1, 12) for branch in (1, 2)}
    assert {name: layer.rate for name, layer in drops.items()} == pytest.approx(wanted)
    seen = keras.Model(model.input, [[layer.input, layer.output] for layer in drops.values()] + [model.output])
    *branches, logits = seen(pixels, training=True)
    kept = {}
    for name, (before, after) in zip(drops, branches, strict=True):
        left = (after.numpy() != 0).any((1, 2))
        kept[name] = left / (1 - wanted[name])
        np.testing.assert_allclose(after, before * kept[name][:, None, None], rtol=1e-5)
        deviation = np.sqrt(wanted[name] * (1 - wanted[name]) / len(pixels))
        assert abs((1 - left.mean()) - wanted[name]) < 4.5 * deviation
    np.testing.assert_allclose(logits, by_numpy(model, pixels, kept), rtol=1e-3, atol=1e-3)
    unchanged = by_numpy(model, pixels, {})
    np.testing.assert_allclose(model(pixels, training=False), unchanged, rtol=1e-3, atol=1e-3)
    assert np.abs(logits.numpy() - unchanged).max() > 0.1


def test_what_is_left_out_goes_on_from_where_a_checkpoint_was_taken():
    model, pixels = transformer(), images(8)
    seeds = [variable for variable in model.variables if "seed_generator" in variable.path]
    model(pixels, training=True)
    saved = [seed.numpy() for seed in seeds]
    then, later = model(pixels, training=True).numpy(), model(pixels, training=True).numpy()
    for seed, value in zip(seeds, saved, strict=True):
        seed.assign(value)
    np.testing.assert_array_equal(model(pixels, training=True), then)
    assert np.abs(then - later).max() > 1e-3
    assert len({variable.path for variable in seeds}) == len(seeds) == 22


def test_a_family_without_blocks_of_its_own_refuses_stochastic_depth():
    with pytest.raises(BadSpec, match=r"trainer\.model\.stochastic_depth=0\.1 - resnet50 has no .* one of vit"):
        build_model(ModelSpec(name="resnet50", stochastic_depth=0.1), (32, 32, 3), 4)
