"""What an evaluation counted, and the scores that follow from it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """What an evaluation counted. `confusion` is int64 [classes, classes], a row for each true class."""

    loss_sum: float
    confusion: np.ndarray

    @property
    def num_examples(self) -> int:
        """Examples that were measured."""
        return int(self.confusion.sum())

    @property
    def loss(self) -> float:
        """Mean loss of an example."""
        return self.loss_sum / max(self.num_examples, 1)

    @property
    def accuracy(self) -> float:
        """Share of the examples that were classified right."""
        return float(np.trace(self.confusion)) / max(self.num_examples, 1)

    @property
    def precision(self) -> np.ndarray:
        """Of each class: the share of what was taken for it that was right; 0 where nothing was. float64 [classes]."""
        return _share(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        """Of each class: the share of its examples that was found; 0 where it has none. float64 [classes]."""
        return _share(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def f1(self) -> np.ndarray:
        """Of each class: the harmonic mean of precision and recall; 0 where both are. float64 [classes]."""
        return _share(2 * np.diag(self.confusion), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have examples: each class weighs the same, however rare it is."""
        return _mean(self.recall[self.confusion.sum(axis=1) > 0])

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have examples or were answered, as scikit-learn's `f1_score(average="macro")`."""
        return _mean(self.f1[self.confusion.sum(axis=0) + self.confusion.sum(axis=1) > 0])

    @property
    def scores(self) -> dict[str, float]:
        """Every score of the whole split, by its name."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
        }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
