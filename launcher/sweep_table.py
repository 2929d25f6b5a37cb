"""The table that a sweep ends in: its trials, the best first, for a person and for programs. Pure."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from conf.judge_rules import METRICS
from launcher.trial import Result, Trial

_REASON = 100


def ranked(found: Sequence[tuple[Trial, Result]], metric: str) -> list[tuple[Trial, Result]]:
    """The trials that succeeded by the metric, the best first; then the others by their number."""
    sign = 1 if metric.endswith("loss") else -1

    def place(row: tuple[Trial, Result]) -> tuple[int, float, int]:
        trial, result = row
        value = result.metrics.get(metric)
        if result.state != "succeeded" or value is None or value != value:
            return 1, 0.0, trial.number
        return 0, sign * value, trial.number

    return sorted(found, key=place)


def rows(found: Sequence[tuple[Trial, Result]]) -> list[dict[str, Any]]:
    """The table as plain values, for JSON."""
    return [
        {
            "trial": trial.number,
            "run_id": trial.run_id,
            "state": result.state,
            "values": trial.values,
            "metrics": dict(result.metrics),
            "step": result.step,
            "reason": result.reason,
        }
        for trial, result in found
    ]


def as_csv(found: Sequence[tuple[Trial, Result]]) -> str:
    """The table with a heading."""
    text = io.StringIO()
    keys = list(found[0][0].values) if found else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "run_id", "state", *METRICS, "step", *keys, "reason"])
    for trial, result in found:
        numbers = [result.metrics.get(metric, "") for metric in METRICS]
        values = [trial.values[key] for key in keys]
        writer.writerow([trial.number, trial.run_id, result.state, *numbers, result.step, *values, result.reason or ""])
    return text.getvalue()


def lines(found: Sequence[tuple[Trial, Result]], metric: str) -> list[str]:
    """The table for the screen."""
    first, second = metric, next(name for name in METRICS if name != metric)
    keys = list(found[0][0].values) if found else []
    short = [key.removeprefix("trainer.") for key in keys]
    cells = [["run_id", first, second, *short, ""]]
    for trial, result in found:
        numbers = [_number(result.metrics.get(name)) for name in (first, second)]
        cells.append([trial.run_id, *numbers, *(trial.values[key] for key in keys), _said(result)])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _said(result: Result) -> str:
    if result.state == "succeeded":
        return ""
    reason = result.reason or ""
    short = reason if len(reason) <= _REASON else f"{reason[:_REASON]}..."
    return f"{result.state}: {short}" if short else result.state


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
