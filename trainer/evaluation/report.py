"""From counts to `report/metrics.json`."""

from typing import Any

from trainer.evaluation.counts import Counts


def metrics(split: str, step: int, classes: list[str], counts: Counts, skipped_examples: int = 0) -> dict[str, Any]:
    """The report of an evaluation, ready for JSON: split, num_examples, its scores, and what each class reached.

    `skipped_examples` are those of the split which were left out because they are corrupt.
    """
    return {
        "split": split,
        "step": step,
        "num_examples": counts.num_examples,
        "skipped_examples": skipped_examples,
        **counts.scores,
        "per_class": per_class(classes, counts),
        "confusion_matrix": counts.confusion.tolist(),
    }


def per_class(classes: list[str], counts: Counts) -> dict[str, dict[str, float | int]]:
    """Precision, recall, F1 and number of examples of each class; 0 where there is nothing to divide by."""
    support = counts.confusion.sum(axis=1)
    columns = zip(classes, counts.precision, counts.recall, counts.f1, support, strict=True)
    return {
        name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "num_examples": int(number)}
        for name, precision, recall, f1, number in columns
    }
