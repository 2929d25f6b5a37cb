"""Epochs in which rare classes come as often as the largest one. Pure NumPy.

Each class that has examples gets as many entries as the largest has examples: its examples again and again, the last
time perhaps some of them only. Which those are moves on from epoch to epoch, so that over the epochs each example of a
class comes equally often. The order of the entries is that of any epoch, a permutation of their numbers.
"""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.order import Places


class Oversampling:
    """The entries of an epoch, the first class's first. `labels` are those of the examples, [num_examples]."""

    def __init__(self, labels: NDArray[np.int32]):
        self._examples = np.argsort(labels, kind="stable")  # class after class
        counts = np.bincount(labels)
        present = counts > 0
        self._counts, self._starts = counts[present], (np.cumsum(counts) - counts)[present]
        self._per_class = int(counts.max(initial=0))
        self.num_entries = self._per_class * int(present.sum())

    def examples(self, epoch: int, entries: Places) -> tuple[Places, Places]:
        """The example of each entry in this epoch, and how often it came before, 0 the first time."""
        classes, turn = np.divmod(entries, self._per_class)
        counts = self._counts[classes]
        repetition, within = np.divmod(turn, counts)
        left_over = self._per_class % counts  # entries after the last whole round
        member = (within + (epoch % counts) * left_over) % counts
        return self._examples[self._starts[classes] + member], repetition
