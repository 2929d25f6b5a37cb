"""Curves as TensorBoard's own reader finds them."""

from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Step and value of each point of the event files in a folder."""
    found = EventAccumulator(str(folder), {"tensors": 0})
    found.Reload()
    return [(point.step, float(tensor_util.make_ndarray(point.tensor_proto))) for point in found.Tensors(tag)]
