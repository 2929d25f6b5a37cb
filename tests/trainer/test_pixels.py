"""How pixels are normalised, against the modes of keras.applications, on a photograph."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras.applications.imagenet_utils import preprocess_input
from sklearn.datasets import load_sample_images

from conf.errors import BadSpec
from conf.schema import ModelSpec, Pixels
from trainer.models import build_model

REFERENCES: list[tuple[Pixels, Callable[[np.ndarray], np.ndarray]]] = [
    (Pixels.unit, lambda image: image / 255),
    (Pixels.signed, lambda image: preprocess_input(image.copy(), mode="tf")),
    (Pixels.imagenet, lambda image: preprocess_input(image.copy(), mode="torch")),
]
#: A family, and the last layer before its network.
FAMILIES = {"convnet": "conv1", "vit": "patches", "resnet50": "conv1_pad", "mobilenetv2": "Conv1"}


@pytest.mark.parametrize("family", ["convnet", "mobilenetv2"])
@pytest.mark.parametrize(("pixels", "reference"), REFERENCES, ids=[pixels.name for pixels, _ in REFERENCES])
def test_a_model_normalises_as_keras_applications(
    family: str, pixels: Pixels, reference: Callable[[np.ndarray], np.ndarray]
) -> None:
    image = load_sample_images().images[0][None, 100:132, 200:232].astype(np.float32)
    model = build_model(ModelSpec(name=family, pixels=pixels), (32, 32, 3), 4)
    seen = keras.Model(model.input, model.get_layer(FAMILIES[family]).input)(image)
    np.testing.assert_allclose(seen, reference(image), atol=1e-5)
    assert model(image).shape == (1, 4)


def test_own_is_what_it_was_before_there_was_a_choice() -> None:
    image = load_sample_images().images[1][None, :32, :32].astype(np.float32)
    for family, mode in (("resnet50", "caffe"), ("vit", "tf")):
        options = {"patch": 16} if family == "vit" else {}
        model = build_model(ModelSpec(name=family, options=options), (32, 32, 3), 4)
        seen = keras.Model(model.input, model.get_layer(FAMILIES[family]).input)(image)
        np.testing.assert_allclose(seen, preprocess_input(image.copy(), mode=mode), atol=1e-4)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadSpec, match=r"trainer\.model\.pixels=unit - efficientnetb0 normalises inside"):
        build_model(ModelSpec(name="efficientnetb0", pixels=Pixels.unit), (32, 32, 3), 4)
    with pytest.raises(BadSpec, match=r"trainer\.model\.pixels=imagenet - .*these images are grey"):
        build_model(ModelSpec(pixels=Pixels.imagenet), (8, 8, 1), 4)
    # A network for colour images sees grey ones in three equal colours.
    assert build_model(ModelSpec(name="mobilenetv2", pixels=Pixels.imagenet), (32, 32, 1), 4).input_shape[-1] == 1
