"""How many corrupt examples a job may leave out of a split, counted over all of its workers.

Each worker's reader knows its own alone. What all of them left out follows from the sums that the compiled loop and an
evaluation bring home anyway: every worker comes to the same answer at the same step, and nothing more is exchanged.
"""

from collections.abc import Callable

from conf.schema import BadRecord, DataSpec
from data_pipeline.manifest import Manifest
from data_pipeline.records import CorruptRecord
from trainer.loop import Progress


def check(manifest: Manifest, split: str, data: DataSpec, lost: int) -> None:
    """CorruptRecord where more examples of a split were left out than `data.max_corrupt`."""
    if data.on_corrupt is BadRecord.skip and lost > data.max_corrupt:
        law = f"{lost} examples of {split} are corrupt, over all workers, and data.max_corrupt={data.max_corrupt}"
        cure = "events.jsonl names them; prepare the set again, or go on with a larger data.max_corrupt"
        raise CorruptRecord(f"{manifest.url}: {law} - {cure}")


class TrainingBudget:
    """What an epoch of the training has left out, looked at after every call of the compiled loop.

    An epoch sees an example once, so it never counts one twice; examples that come several times (`data.oversample`)
    count at least once. Of a call across the end of an epoch it is not known which of them lost what: only what one of
    them must have lost counts.
    """

    def __init__(self, manifest: Manifest, data: DataSpec, num_skipped: Callable[[Progress], int], progress: Progress):
        """`num_skipped` says how many examples of the window at hand were left out; `progress` is where it begins."""
        self._manifest, self._data, self._num_skipped = manifest, data, num_skipped
        self._total, self._epoch = self._skipped(progress), max(progress.step - 1, 0) // progress.steps_per_epoch
        self._most_places = 1
        if data.oversample is not None:
            counts = [count for count in manifest.splits["train"].class_counts if count]
            self._most_places = -(-max(counts) // min(counts))

    def __call__(self, progress: Progress) -> None:
        """Take in the last call."""
        before, self._total = self._total, self._skipped(progress)
        first = (progress.step - progress.loop_steps) // progress.steps_per_epoch
        last = (progress.step - 1) // progress.steps_per_epoch
        lost = self._total - before
        if first == last == self._epoch:
            lost += progress.lost
        lost = -(-lost // (last - first + 1))
        check(self._manifest, "train", self._data, -(-lost // self._most_places))
        progress.lost = lost if first == last else 0
        self._epoch = last

    def _skipped(self, progress: Progress) -> int:
        return progress.skipped + self._num_skipped(progress)
