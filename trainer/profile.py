"""A trace of some steps for TensorBoard's profiler, in tensorboard/plugins/profile of the run directory.

The chief's alone. Each of the steps is a call of the compiled loop of its own, so that the trace tells them apart.
"""

import logging
from collections.abc import Iterator

import tensorflow as tf

from storage import run_dir as names
from storage.run_dir import RunDir
from trainer.channel import Channel
from trainer.loop import Progress, RunSteps
from trainer.parts import Batch

log = logging.getLogger(__name__)
#: What a step is called in the trace.
STEP = "convoy_step"
FOLDER = f"{names.TENSORBOARD}/plugins/profile"


class Profile:
    """Traces the steps from `first` up to `last`, which is not traced itself. `close` ends a trace that is going on."""

    def __init__(self, first: int, last: int, run: RunDir | None, channel: Channel):
        self._first, self._last, self._run, self._channel = first, last, run, channel
        self._from: int | None = None  # the step that the trace at hand began with

    def ends(self) -> range:
        """Where calls of the compiled loop have to end."""
        return range(self._first, self._last + 1)

    def around(self, run_steps: RunSteps, progress: Progress) -> RunSteps:
        """The same step, traced where it is one of those."""

        def run(batches: Iterator[Batch], num_steps: int, stop: bool) -> tf.Tensor:
            if self._run is None or not self._first <= progress.step < self._last:
                return run_steps(batches, num_steps, stop)
            if self._from is None:
                self._begin(progress.step)
            with tf.profiler.experimental.Trace(STEP, step_num=progress.step, _r=1):
                totals = run_steps(batches, num_steps, stop)
                totals.numpy()  # the step is over when it has been computed
            if progress.step + num_steps >= self._last:
                self.close(progress.step + num_steps)
            return totals

        return run

    def _begin(self, step: int) -> None:
        assert self._run is not None
        self._from = step
        tf.profiler.experimental.start(str(self._run.local(names.TENSORBOARD)))

    def close(self, step: int | None = None) -> None:
        """Write the trace, and bring it where the run is kept."""
        if self._from is None or self._run is None:
            return
        first, self._from = self._from, None
        tf.profiler.experimental.stop()
        self._run.publish(FOLDER)
        details = {"first": first, "last": self._last if step is None else step}
        self._channel.say("event", event="profiled", details=details)
