"""The one scaling that Keras puts into EfficientNets (V1) with ImageNet weights, and into no others."""

from collections.abc import Mapping, Sequence

import numpy as np

from conf import families
from conf.schema import ModelSpec
from trainer.models.pixels import DEVIATION_RGB
from trainer.pretrained.matching import Layers, Path, Stored

#: Of the variables of a Normalization layer: mean, variance, count.
VARIANCE = "1"


def folded(layers: Layers, spec: ModelSpec) -> Layers:
    """`layers` with that scaling taken into the variance of the normalisation before it, where the file has it.

    Keras divides the normalised pixels by the root of ImageNet's deviations once more, with a second Rescaling layer
    (keras/src/applications/efficientnet.py). Our EfficientNets are the same network whatever their weights.
    """
    if families.known()[spec.name].module != "efficientnet":
        return layers
    return {
        path: _scaled(arrays) if _is_normalisation(path) and _scalings_beside(path, list(layers)) > 1 else arrays
        for path, arrays in layers.items()
    }


def _is_normalisation(path: Path) -> bool:
    return path[-1].rstrip("0123456789") in ("normalization", "normalization_")


def _scalings_beside(path: Path, paths: Sequence[Path]) -> int:
    return sum(other[:-1] == path[:-1] and other[-1].startswith("rescaling") for other in paths)


def _scaled(arrays: Mapping[str, Stored]) -> Mapping[str, Stored]:
    variance = arrays[VARIANCE]
    return {**arrays, VARIANCE: Stored(variance.shape, lambda: variance.read() * np.array(DEVIATION_RGB, np.float32))}
