"""From counts to `report/metrics.json`."""

from typing import Any

import numpy as np

from trainer.evaluation.evaluator import Counts


def metrics(split: str, step: int, classes: list[str], counts: Counts, skipped_examples: int = 0) -> dict[str, Any]:
    """The report of an evaluation, ready for JSON: split, num_examples, accuracy, loss, and what each class reached.

    `skipped_examples` are those of the split which were left out because they are corrupt.
    """
    return {
        "split": split,
        "step": step,
        "num_examples": counts.num_examples,
        "skipped_examples": skipped_examples,
        "accuracy": counts.accuracy,
        "loss": counts.loss,
        "per_class": per_class(classes, counts.confusion),
        "confusion_matrix": counts.confusion.tolist(),
    }


def per_class(classes: list[str], confusion: np.ndarray) -> dict[str, dict[str, float | int]]:
    """Precision, recall, F1 and number of examples of each class; 0 where there is nothing to divide by."""
    right = np.diag(confusion).astype(float)
    support, found = confusion.sum(axis=1), confusion.sum(axis=0)
    table = {}
    for number, name in enumerate(classes):
        precision = float(right[number] / found[number]) if found[number] else 0.0
        recall = float(right[number] / support[number]) if support[number] else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        table[name] = {"precision": precision, "recall": recall, "f1": f1, "num_examples": int(support[number])}
    return table
