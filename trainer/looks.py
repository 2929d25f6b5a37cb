"""What TensorBoard shows of a training beside its curves, drawn at points of the same steps in any run of the job."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.util import tensor_util

from trainer.curves import Curves
from trainer.glance import on_host
from trainer.loop import Progress
from trainer.session import Session

#: The parts of a step's time, as they are drawn.
TIMES = ("input_wait", "compute", "reduce", "checkpoint", "evaluation")
#: Parts of a histogram's range, as many as TensorBoard's own summaries have.
BUCKETS = 30
Arrays = Mapping[str, NDArray[np.float32]]


class Looks:
    """Draws what `trainer.tensorboard` asks for. Due where a point of the curves is; before the point is drawn."""

    def __init__(self, session: Session, curves: Curves):
        self._session, self._curves, self._asked = session, curves, session.job.trainer.tensorboard
        self._spent = session.ledger.parts()

    def __call__(self, progress: Progress) -> None:
        """Draw what is due at this step."""
        asked, step = self._asked, progress.step
        if step % self._session.job.trainer.log_every_steps:
            return  # the end of a training, between two points
        point = step // self._session.job.trainer.log_every_steps
        values: dict[str, float] = {}
        if asked.times:
            values |= self._times()
        if asked.memory:
            values |= memory()
        if _is_due(asked.norms, point) or _is_due(asked.histograms, point):
            values |= self._weights(step, point)
        if _is_due(asked.images, point):
            self._draw_images(step)
        if values:
            self._curves.scalars(step, values)

    def _times(self) -> dict[str, float]:
        """Seconds a step of each part, since the last point; the first call of the loop, which compiles, left out."""
        now, before = self._session.ledger.parts(), self._spent
        self._spent = now
        steps = max(now["steps"] - before["steps"], 1.0)
        return {f"time/{name}_s": (now[name] - before[name]) / steps for name in TIMES}

    def _weights(self, step: int, point: int) -> dict[str, float]:
        """Histograms of weights and gradients, drawn; their norms, to be drawn."""
        weights = {weight.path: on_host(weight.value) for weight in self._session.model.weights}
        gradients = self._session.glance.gradients if self._session.glance else {}
        if _is_due(self._asked.histograms, point):
            for kind, arrays in (("weights", weights), ("gradients", gradients)):
                for name, array in arrays.items():
                    self._curves.write(step, histogram_pb(f"{kind}/{name}", array))
        if not _is_due(self._asked.norms, point):
            return {}
        return norms("weight_norm", weights) | norms("gradient_norm", gradients)

    def _draw_images(self, step: int) -> None:
        images = self._session.glance.images if self._session.glance else None
        if images is not None:
            self._curves.write(step, images_pb("images", images))


def norms(kind: str, arrays: Arrays) -> dict[str, float]:
    """The 2-norm of each array and, as `all`, of all together."""
    squares = {name: float(np.sum(np.square(array.astype(np.float64)))) for name, array in arrays.items()}
    if not squares:
        return {}
    each = {f"{kind}/{name}": square**0.5 for name, square in squares.items()}
    return each | {f"{kind}/all": sum(squares.values()) ** 0.5}


def memory() -> dict[str, float]:
    """Bytes: of this process on the host, and of each GPU in use now and at most since the start."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = {"memory/host_bytes": float(pages * os.sysconf("SC_PAGE_SIZE"))}
    for number, _ in enumerate(tf.config.list_logical_devices("GPU")):
        info = tf.config.experimental.get_memory_info(f"GPU:{number}")
        found |= {f"memory/gpu{number}_bytes": info["current"], f"memory/gpu{number}_peak_bytes": info["peak"]}
    return found


def histogram_pb(tag: str, array: NDArray[np.float32]) -> summary_pb2.Summary:
    """How many elements lie in each of some equal parts of their range, as TensorBoard's histogram plugin takes them.

    What is no number has no place in it; the norm shows that there is one.
    """
    counts, edges = np.histogram(array[np.isfinite(array)].astype(np.float64), BUCKETS)
    buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    about = histogram_metadata.create_summary_metadata(display_name="", description="")
    value = summary_pb2.Summary.Value(tag=tag, metadata=about, tensor=tensor_util.make_tensor_proto(buckets))
    return summary_pb2.Summary(value=[value])


def images_pb(tag: str, images: NDArray[np.float32]) -> summary_pb2.Summary:
    """Images of pixels 0..255 as TensorBoard's image plugin takes them: width, height, then one PNG each."""
    height, width = images.shape[1:3]
    strings = [str(width).encode(), str(height).encode(), *map(_png, images)]
    about = image_metadata.create_summary_metadata(display_name="", description="")
    value = summary_pb2.Summary.Value(tag=tag, metadata=about, tensor=tensor_util.make_tensor_proto(strings))
    return summary_pb2.Summary(value=[value])


def _png(pixels: NDArray[np.float32]) -> bytes:
    whole = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(whole[..., 0] if whole.shape[-1] == 1 else whole).save(file, "PNG")
    return file.getvalue()


def _is_due(every: int, point: int) -> bool:
    return every > 0 and point % every == 0
