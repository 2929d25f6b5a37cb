"""Families of models against what was published of them and against keras.applications.

Models are built without their weights where only their shape counts; `make models` does the same for all of them.
"""

import importlib
from types import FunctionType

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from conf import families
from conf.errors import BadSpec
from conf.schema import BatchNormSync, ModelSpec, Pooling
from trainer.batch_norm import batch_norms
from trainer.models import build_model
from trainer.models.application import backbone_of

#: Parameters with the head of 1000 classes: keras.io/api/applications, which rounds, and the papers.
PUBLISHED = {
    "xception": 22_910_480,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "resnet50": 25_636_712,
    "resnet50v2": 25_613_800,
    "resnet101": 44_707_176,
    "resnet101v2": 44_675_560,
    "resnet152": 60_419_944,
    "resnet152v2": 60_380_648,
    "inceptionv3": 23_851_784,
    "inceptionresnetv2": 55_873_736,
    "mobilenet": 4_253_864,
    "mobilenetv2": 3_538_984,
    "mobilenetv3small": 2_554_968,
    "mobilenetv3large": 5_507_432,
    "densenet121": 8_062_504,
    "densenet169": 14_307_880,
    "densenet201": 20_242_984,
    "nasnetmobile": 5_326_716,
    "nasnetlarge": 88_949_818,
    "efficientnetb0": 5_330_571,
    "efficientnetb1": 7_856_239,
    "efficientnetb2": 9_177_569,
    "efficientnetb3": 12_320_535,
    "efficientnetb4": 19_466_823,
    "efficientnetb5": 30_562_527,
    "efficientnetb6": 43_265_143,
    "efficientnetb7": 66_658_687,
    "efficientnetv2b0": 7_200_312,
    "efficientnetv2b1": 8_212_124,
    "efficientnetv2b2": 10_178_374,
    "efficientnetv2b3": 14_467_622,
    "efficientnetv2s": 21_612_360,
    "efficientnetv2m": 54_431_388,
    "efficientnetv2l": 119_027_848,
    "convnexttiny": 28_589_128,
    "convnextsmall": 50_223_688,
    "convnextbase": 88_591_464,
    "convnextlarge": 197_767_336,
    "convnextxlarge": 350_196_968,
}
#: One of each family and of each way to normalise pixels.
SOME = [
    "xception",
    "vgg16",
    "resnet50",
    "resnet50v2",
    "inceptionv3",
    "mobilenet",
    "mobilenetv2",
    "mobilenetv3small",
    "densenet121",
    "nasnetmobile",
    "efficientnetb0",
    "efficientnetv2b0",
    "efficientnetv2s",
    "convnexttiny",
]
#: What of the published head is more than a pooling and a linear layer.
HEADS = {
    "vgg16": {"pooling": Pooling.flatten, "hidden": [4096, 4096]},
    "vgg19": {"pooling": Pooling.flatten, "hidden": [4096, 4096]},
    "mobilenetv3small": {"hidden": [1024]},
    "mobilenetv3large": {"hidden": [1280]},
}


def shapes_only() -> keras.StatelessScope:
    """A scope in which no variable gets a value, or memory."""
    return keras.StatelessScope(initialize_variables=False)


def of_keras(name: str, **options: object) -> keras.Model:
    backbone = backbone_of(name)
    assert backbone is not None
    return backbone(weights=None, **options)


def check_count(name: str) -> None:
    """Ours, Keras's own with its head, and what was published."""
    side = families.known()[name].image_size
    spec = ModelSpec(name=name, batch_norm=BatchNormSync.synchronized, **HEADS.get(name, {}))
    with shapes_only():
        model = build_model(spec, (side, side, 3), 1000)
        theirs = of_keras(name)
    assert model.count_params() == PUBLISHED[name] == theirs.count_params()
    assert model.output_shape == (None, 1000) and model.input_shape == (None, side, side, 3)
    # The size it was designed for is Keras's default, but for MobileNetV3, which has none.
    assert theirs.input_shape in (model.input_shape, (None, None, None, 3))
    assert all(layer.synchronized for layer in batch_norms(model))
    assert len(batch_norms(model)) == len(batch_norms(theirs))


def check_smallest(name: str) -> None:
    """What we say is the smallest image is what Keras says."""
    smallest = families.known()[name].min_image_size
    with shapes_only():
        assert build_model(ModelSpec(name=name), (smallest, smallest, 3), 5).output_shape == (None, 5)
    with pytest.raises(BadSpec, match=rf"{name} cannot take images smaller than {smallest} pixels"):
        build_model(ModelSpec(name=name), (smallest - 1, smallest - 1, 3), 5)
    with pytest.raises(ValueError, match="at least"):
        of_keras(name, include_top=False, input_shape=(smallest - 1, smallest - 1, 3))


def check_pixels(name: str) -> None:
    """What its first convolution sees of a photograph: as Keras's model sees it behind Keras's `preprocess_input`."""
    side = families.known()[name].min_image_size
    image = load_sample_images().images[0][None, 100 : 100 + side, 200 : 200 + side].astype(np.float32)
    preprocess = importlib.import_module(backbone_of(name).__module__).preprocess_input
    with shapes_only():
        own = before_convolution(build_model(ModelSpec(name=name), (side, side, 3), 5))
        theirs = before_convolution(of_keras(name, include_top=False, input_shape=(side, side, 3)))
    assert not own.trainable_variables
    own, theirs = own(image), theirs(preprocess(image.copy()))
    np.testing.assert_allclose(own, theirs, atol=1e-4)
    assert np.ptp(own) > 0.5


def before_convolution(model: keras.Model) -> keras.Model:
    """The part of a model up to its first convolution."""
    first = next(layer for layer in model.layers if convolutions(layer))
    return keras.Model(model.input, first.input)


def convolutions(layer: keras.Layer) -> list[keras.Layer]:
    inside = [layer, *getattr(layer, "layers", [])]
    return [found for found in inside if isinstance(found, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)]


@pytest.mark.parametrize("name", SOME)
def test_a_model_has_as_many_parameters_as_was_published(name):
    check_count(name)


@pytest.mark.parametrize("name", ["xception", "inceptionv3", "mobilenetv2", "vgg16"])
def test_the_smallest_image_is_the_familys(name):
    check_smallest(name)


@pytest.mark.parametrize("name", [name for name in SOME if name not in ("densenet121", "nasnetmobile")])
def test_pixels_reach_the_network_as_keras_preprocesses_them(name):
    check_pixels(name)


def test_all_of_keras_applications_can_be_had_by_name():
    there = {name.lower() for name, found in vars(keras.applications).items() if isinstance(found, FunctionType)}
    assert there == set(PUBLISHED)
    assert set(families.known()) == {*PUBLISHED, "convnet", "vit"}


@pytest.mark.parametrize(("size", "published"), {"ti": 5_717_416, "s": 22_050_664, "b": 86_567_656}.items())
def test_a_vision_transformer_has_as_many_parameters_as_was_published(size, published):
    # Touvron et al. 2021, table 1, at 224 pixels with 1000 classes: 5 M, 22 M, 86 M.
    with shapes_only():
        assert (
            build_model(ModelSpec(name="vit", options={"size": size}), (224, 224, 3), 1000).count_params() == published
        )


def test_a_vision_transformer_takes_patches_of_any_size():
    def count(patch: int) -> int:
        with shapes_only():
            model = build_model(ModelSpec(name="vit", options={"size": "ti", "patch": patch}), (64, 64, 3), 10)
        return model.count_params()

    width = 192
    positions, pixels = (64 // 8) ** 2 - (64 // 16) ** 2, 3 * 16**2 - 3 * 8**2
    assert count(8) - count(16) == width * (positions - pixels)


def test_the_convnet_is_that_of_the_textbooks():
    # Chollet, Deep Learning with Python, listing 5.1 and 5.2: 93,322 parameters on MNIST.
    with shapes_only():
        model = build_model(ModelSpec(options={"padding": "valid"}), (28, 28, 1), 10)
    assert model.count_params() == 93_322
    widths = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert widths == [32, 64, 64]


def test_moving_statistics_move_as_fast_as_was_asked():
    with shapes_only():
        model = build_model(ModelSpec(name="mobilenetv2", batch_norm_momentum=0.9), (32, 32, 3), 4)
    assert {layer.momentum for layer in batch_norms(model)} == {0.9}
    model = build_model(ModelSpec(batch_norm_momentum=0.75, options={"batch_norm": True}), (16, 16, 3), 4)
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)
    seen = keras.Model(model.input, model.get_layer("norm1").input)(pixels).numpy()
    model(pixels, training=True)
    np.testing.assert_allclose(model.get_layer("norm1").moving_mean, 0.25 * seen.mean((0, 1, 2)), rtol=1e-3, atol=1e-6)
