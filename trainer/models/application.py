"""What all families of keras.applications share: preprocessing, backbone, weights, head."""

from collections.abc import Callable
from pathlib import Path

import keras

from conf.errors import BadSpec
from conf.schema import ModelSpec
from trainer.models.head import add_head
from trainer.models.pixels import Normalisation, normalise, to_rgb

#: How Keras says that it could not fetch, or could not use, a file of weights.
WEIGHTS_ERRORS = (OSError, ValueError, TypeError, KeyError)


def build_application(
    backbone: Callable[..., keras.Model],
    preprocess: Normalisation,
    shape: tuple[int, int, int],
    num_classes: int,
    spec: ModelSpec,
) -> keras.Model:
    """`backbone` without its top, averaged over positions, under a new head; `preprocess` is its own normalisation."""
    pixels = keras.Input(shape, name="image")
    images = normalise(to_rgb(pixels), spec, preprocess)
    body = backbone(include_top=False, weights=None, input_tensor=images, pooling="avg")
    model = keras.Model(pixels, add_head(body.output, num_classes, spec.dropout), name=spec.name)
    if spec.weights != "none":
        _load(body, backbone, spec)
    return model


def _load(body: keras.Model, backbone: Callable[..., keras.Model], spec: ModelSpec) -> None:
    """Put pretrained weights into `body`, by the order of its layers."""
    if spec.weights != "imagenet" and not Path(spec.weights).is_file():
        law = "there is no such file of weights"
        raise BadSpec.of(
            "trainer.model.weights", spec.weights, law, "give none, imagenet, or the path of a .weights.h5 file"
        )
    try:
        donor = backbone(include_top=False, weights=spec.weights, pooling="avg")
        donated = donor.get_weights()
        own = [variable for variable in body.weights]
        if [tuple(v.shape) for v in own] != [w.shape for w in donated]:
            raise ValueError(f"{len(donated)} arrays for {len(own)} variables, or of other shapes")
        body.set_weights(donated)
    except WEIGHTS_ERRORS as error:
        law = f"these weights could not be loaded into {spec.name}: {str(error).splitlines()[0]}"
        cure = "trainer.model.weights=none trains from scratch; a path gives a local .weights.h5 file without its top"
        raise BadSpec.of("trainer.model.weights", spec.weights, law, cure) from error
