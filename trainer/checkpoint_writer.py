"""Checkpoints written in the background, while training goes on: at most one at a time, the next waits."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from storage.run_dir import RunDir
from trainer.checkpoint_image import CheckpointImage
from trainer.checkpoint_manifest import Manifest
from trainer.checkpoints import prune, remember, save_files
from trainer.retention import Retention, needed_by


class NotFinite(Exception):
    """What was to be saved is no number any more, so it is no checkpoint to go on from."""


class CheckpointWriter:
    """Saves in the background, one checkpoint at a time, and prunes after each.

    What goes wrong there is raised by the next `submit`, `wait` or `close`: NotFinite, too, before anything is written.
    """

    def __init__(
        self,
        run_dir: RunDir,
        attempt: int,
        keep: Retention | None = None,
        on_saved: Callable[[int], None] | None = None,
    ) -> None:
        """`on_saved` is called with the step, in the background thread, when a checkpoint is there for good."""
        self._run_dir, self._attempt, self._keep, self._on_saved = run_dir, attempt, keep or Retention(), on_saved
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._image = CheckpointImage()
        self._pending: Future[None] | None = None
        self._seen: dict[int, Manifest] = {}
        self.last_save_s = 0.0  # how long the newest save took

    @property
    def is_busy(self) -> bool:
        """Whether the next `submit` has to wait."""
        return self._pending is not None and not self._pending.done()

    def reserve(self, tensors: Mapping[str, Any]) -> None:
        """Make room in memory, in the background, for snapshots of such arrays, tensors or variables."""
        self.wait()
        self._pending = self._pool.submit(self._image.reserve, tensors)

    def submit(
        self,
        step: int,
        snapshot: Mapping[str, Any],
        state: dict[str, Any],
        metrics: Mapping[str, float] | None = None,
        first: Callable[[], None] | None = None,
    ) -> None:
        """Begin to save; waits while the one before is still being saved.

        Tensors in the host's memory are copied here and may change afterwards, those of devices may not. Of `state`, in
        which training goes on to count, this is the moment that is saved. `first` is called in the background before
        anything is written.
        """
        self.wait()
        self._image.hold(snapshot)
        self._pending = self._pool.submit(self._save, step, deepcopy(state), dict(metrics or {}), first)

    def remember(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note in the background what the evaluation of a step that is saved already has given since."""
        self.wait()
        self._pending = self._pool.submit(self._remember, step, dict(metrics))

    def wait(self) -> None:
        """Wait until what was submitted is saved."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for the last save and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            self._image.close()

    def _remember(self, step: int, metrics: Mapping[str, float]) -> None:
        remember(self._run_dir, step, metrics)
        self._seen.pop(step, None)

    def _save(
        self,
        step: int,
        state: dict[str, Any],
        metrics: Mapping[str, float],
        first: Callable[[], None] | None,
    ) -> None:
        if first:
            first()
        begun = time.monotonic()
        self._image.fetch()
        refuse_not_finite(step, self._image.arrays)
        save_files(self._run_dir, step, [[file] for file in self._image.files], state, self._attempt, metrics)
        self.last_save_s = time.monotonic() - begun
        if self._on_saved:
            self._on_saved(step)
        keep = replace(self._keep, needed=needed_by(state))
        for removed in prune(self._run_dir, keep, self._attempt, step, self._seen):
            self._seen.pop(removed, None)


def refuse_not_finite(step: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise NotFinite where an array holds infinities or what is no number."""
    for name, array in arrays.items():
        if array.dtype.kind not in "fV":  # V is bfloat16
            continue
        # A sum is made at the speed of memory, by this thread alone, and is finite all but always.
        with np.errstate(all="ignore"):
            total = array.sum()
        if not np.isfinite(total) and not np.isfinite(array).all():
            law = "a blow-up that no loss has shown yet"
            raise NotFinite(
                f"step {step} is not saved: {name} is not finite - {law} - a lower learning rate, or clip_norm"
            )
