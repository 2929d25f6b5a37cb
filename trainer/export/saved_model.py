"""A SavedModel with two signatures, proven on real examples before it is published.

serving_default  image: float32 [batch, height, width, channels], pixels 0..255
serve_bytes      encoded: string [batch], JPEG, PNG, BMP or GIF files of any size
Both give  probabilities: float32 [batch, classes]  and  label: string [batch].
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from conf.schema import Precision
from data_pipeline.images import decode, resize
from trainer.export.fresh import fresh_path, remove, replace_folder

#: Largest difference in a probability between the exported model, which is float32, and the one that was trained.
TOLERANCES = {Precision.float32: 1e-4, Precision.mixed_float16: 1e-2, Precision.mixed_bfloat16: 5e-2}


class ExportError(Exception):
    """The exported file does not do what the model does."""


class Served(tf.Module):
    """What is exported: pixels or files in, probabilities and labels out."""

    def __init__(self, model: keras.Model, classes: list[str]):
        super().__init__()
        self.model = model
        self.labels = tf.constant(classes)
        self.shape = model.input_shape[1:]

    def pixels(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Probabilities and labels of images that have the model's size."""
        probabilities = tf.nn.softmax(tf.cast(self.model(image, training=False), tf.float32))
        return {"probabilities": probabilities, "label": tf.gather(self.labels, tf.argmax(probabilities, -1))}

    def files(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        """Probabilities and labels of image files."""
        height, _, channels = self.shape
        images = tf.map_fn(
            lambda file: resize(decode(file, channels), height),
            encoded,
            fn_output_signature=tf.TensorSpec(self.shape, tf.float32),
        )
        return self.pixels(images)


def export(
    model: keras.Model, classes: list[str], folder: Path, images: np.ndarray, expected: np.ndarray, tolerance: float
) -> float:
    """Write `model` to `folder` and return the largest difference of a probability over `images`.

    The model must belong to TensorFlow's default strategy. `images` is float32 [n, height, width, channels], `expected`
    what the trained model says of them, float32 [n, classes]. Raises ExportError, and leaves what was in `folder`
    alone, where the written model differs by more than `tolerance`.
    """
    served = Served(model, classes)
    signatures = {
        "serving_default": tf.function(served.pixels).get_concrete_function(
            tf.TensorSpec([None, *served.shape], tf.float32, "image")
        ),
        "serve_bytes": tf.function(served.files).get_concrete_function(tf.TensorSpec([None], tf.string, "encoded")),
    }
    fresh = fresh_path(folder)
    try:
        tf.saved_model.save(served, str(fresh), signatures)
        difference = _difference(fresh, images, expected)
        if not difference <= tolerance:
            raise ExportError(
                f"the SavedModel's probabilities differ by {difference:.2g} from the model's, more than {tolerance:.2g}"
            )
        replace_folder(folder, fresh)
    finally:
        remove(fresh)
    return difference


def _difference(folder: Path, images: np.ndarray, expected: np.ndarray) -> float:
    loaded = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return float(np.abs(loaded(image=tf.constant(images))["probabilities"].numpy() - expected).max())
