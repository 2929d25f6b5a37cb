"""A SavedModel with two signatures, proven on real examples before it is published.

serving_default  image: float32 [batch, height, width, channels], pixels 0..255
serve_bytes      encoded: string [batch], JPEG, PNG, BMP or GIF files of any size
Both give  probabilities: float32 [batch, classes]  and  label: string [batch].
"""

import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data_pipeline.images import decode, resize

#: Largest difference in a probability between the exported model and the trained one.
TOLERANCE = 1e-4


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


def export(model: keras.Model, classes: list[str], folder: Path, examples: np.ndarray) -> float:
    """Write `model` to `folder` and return the largest difference of a probability over `examples`.

    The model must belong to TensorFlow's default strategy. `examples` is float32 [n, height, width, channels]. Raises
    ExportError, and leaves nothing in `folder`, where the written model differs by more than TOLERANCE.
    """
    served = Served(model, classes)
    signatures = {
        "serving_default": tf.function(served.pixels).get_concrete_function(tf.TensorSpec([None, *served.shape], tf.float32, "image")),
        "serve_bytes": tf.function(served.files).get_concrete_function(tf.TensorSpec([None], tf.string, "encoded")),
    }
    fresh = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    tf.saved_model.save(served, str(fresh), signatures)
    difference = _difference(fresh, served, examples)
    if not difference <= TOLERANCE:
        shutil.rmtree(fresh)
        raise ExportError(f"the SavedModel's probabilities differ by {difference:.2g} from the model's, more than {TOLERANCE:.2g}")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return difference


def _difference(folder: Path, served: Served, examples: np.ndarray) -> float:
    loaded = tf.saved_model.load(str(folder)).signatures["serving_default"]
    exported = loaded(image=tf.constant(examples))["probabilities"]
    return float(tf.reduce_max(tf.abs(exported - served.pixels(tf.constant(examples))["probabilities"])))
