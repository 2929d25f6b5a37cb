"""TensorBoard's files: scalars and text, as one curve across any number of restarts.

Written with TensorBoard's own writer, without TensorFlow. A restart says from which step on it goes, so that
TensorBoard forgets what a dead attempt had drawn beyond it.
"""

import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

from trainer.far_events import FarEvents


class Curves:
    """One run of TensorBoard: a folder such as tensorboard/train, on this machine or in a far store."""

    def __init__(self, folder: Path | FarEvents, from_step: int):
        self._writer = EventFileWriter(str(folder)) if isinstance(folder, Path) else folder
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        # TensorBoard forgets this step and what lies beyond it; the values of from_step itself stand.
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=from_step + 1, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One point on each curve."""
        metadata = scalar_metadata.create_summary_metadata(display_name="", description="")
        points = [
            summary_pb2.Summary.Value(
                tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(np.float32(value))
            )
            for tag, value in values.items()
        ]
        self._add(step, points)

    def text(self, tag: str, words: str) -> None:
        """A text in Markdown, at step 0."""
        metadata = text_metadata.create_summary_metadata(display_name="", description="")
        tensor = tensor_util.make_tensor_proto([words])
        self._add(0, [summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])

    def write(self, step: int, summary: summary_pb2.Summary) -> None:
        """What a plugin of TensorBoard has put together."""
        self._add(step, list(summary.value))

    def flush(self) -> None:
        """Put what was drawn on the disk, or begin to upload it; see `wait`."""
        self._writer.flush()

    def wait(self) -> None:
        """Wait until what was flushed is where the run is kept. StoreError if it cannot be brought there."""
        if isinstance(self._writer, FarEvents):
            self._writer.wait()

    def close(self) -> None:
        """Write the rest and end."""
        self._writer.close()

    def _add(self, step: int, values: list[summary_pb2.Summary.Value]) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values))
        self._writer.add_event(event)
