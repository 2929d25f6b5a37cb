"""The trained weights in formats that others read, written by the chief into the run directory."""

from typing import Any

import keras
import tensorflow as tf

from conf.errors import BadSpec
from conf.schema import KerasFormat
from storage import run_dir as names
from storage.run_dir import RunDir
from trainer.export import saved_model
from trainer.export.fresh import fresh_path, remove
from trainer.models.constants import refresh
from trainer.session import Session


def export(session: Session, run: RunDir, split: str) -> None:
    """Write the weights at hand as a SavedModel; the chief alone."""
    session.channel.say("progress", phase="exporting")
    with session.averaged():
        weights = [_host_value(variable) for variable in session.model.weights]
    keras.mixed_precision.set_global_policy("float32")
    model = session.new_model()
    model.set_weights(weights)
    refresh(model)
    folder = run.local(names.SAVED_MODEL)
    images = session.examples(split)
    with session.averaged():
        expected = session.model(images, training=False)
    expected = tf.nn.softmax(tf.cast(expected, tf.float32)).numpy()
    tolerance = saved_model.TOLERANCES[session.job.trainer.precision]
    difference = saved_model.export(model, session.manifest.classes, folder, images, expected, tolerance)
    run.publish(names.SAVED_MODEL)
    session.channel.say("event", event="exported", details={"format": "saved_model", "largest_difference": difference})


def keras_file(session: Session, run: RunDir) -> None:
    """Write the weights at hand in the Keras format that the job asks for; the chief alone."""
    kind = session.job.checkpoints.export
    if kind is None:
        raise BadSpec.of("checkpoints.export", None, "there is nothing to export", "checkpoints.export=keras")
    name = names.KERAS_FILES[kind.name]
    path = run.local(name)
    fresh = fresh_path(path)  # Keras goes by how a name ends
    try:
        with session.averaged():
            if kind is KerasFormat.keras:
                session.model.save(fresh)
            else:
                session.model.save_weights(fresh)
        fresh.replace(path)
    finally:
        remove(fresh)
    run.publish(name)
    session.channel.say("event", event="exported", details={"format": kind.name})


def _host_value(variable: Any) -> Any:
    copies = getattr(variable.value, "values", None)
    return (copies[0] if isinstance(copies, tuple) else variable.value).numpy()
