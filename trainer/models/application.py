"""What all families of keras.applications share: preprocessing, backbone, head, and where their weights come from."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from conf.errors import BadSpec
from conf.schema import ModelSpec, Pooling
from storage.staging import temporary_folder
from trainer.models.head import add_head, pool
from trainer.models.pixels import Normalisation, normalise, to_rgb


def backbone_of(name: str) -> Callable[..., keras.Model] | None:
    """The function of keras.applications whose name, in lower case, is `name`; None if there is none."""
    module = keras.applications
    found = {known.lower(): getattr(module, known) for known in dir(module) if callable(getattr(module, known))}
    return found.get(name)


def build_application(
    own: Normalisation, shape: tuple[int, int, int], num_classes: int, spec: ModelSpec, **options: Any
) -> keras.Model:
    """The backbone that `spec` names, without its top, under a new head; `own` is its normalisation of pixels.

    `options` go to the function of keras.applications.
    """
    backbone = backbone_of(spec.name)
    if backbone is None:
        raise AssertionError(f"keras.applications has no {spec.name}")
    pixels = keras.Input(shape, name="image")
    images = normalise(to_rgb(pixels), spec, own)
    pooling = spec.pooling or Pooling.avg
    # ConvNeXt normalises behind its pooling, so that is left to the family where it can.
    pooled = None if pooling is Pooling.flatten else pooling.name
    body = backbone(include_top=False, weights=None, input_tensor=images, pooling=pooled, **options)
    features = body.output if pooled else pool(body.output, pooling)
    return keras.Model(pixels, add_head(features, num_classes, spec), name=spec.name)


def imagenet(spec: ModelSpec) -> keras.Model:
    """A backbone of its own with the weights that Keras has for it, downloaded once a host.

    Raises BadSpec where Keras has none, or cannot get them.
    """
    backbone = backbone_of(spec.name)
    if backbone is None:
        law = f"Keras has no ImageNet weights of {spec.name}"
        raise BadSpec.of("trainer.model.weights", spec.weights, law, "trainer.model.weights=none, or a file or run")
    try:
        # Keras downloads to the very place that others read from, so one worker of a host goes first.
        with _locked(temporary_folder()):
            return backbone(include_top=False, weights="imagenet", **spec.options)
    except Exception as error:  # Keras says that a download failed with a plain Exception
        law = f"the ImageNet weights of {spec.name} cannot be had: {(str(error).splitlines() or [repr(error)])[0]}"
        cure = "connect this host to the net, give a file of weights by its path or URL, or trainer.model.weights=none"
        raise BadSpec.of("trainer.model.weights", spec.weights, law, cure) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of the host at a time; no file is left of it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
