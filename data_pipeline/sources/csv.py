"""A table of images: path,label[,split][,weight], with a header; paths are relative to the table."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from conf.errors import BadSpec, Problem
from conf.schema import DataSpec
from data_pipeline.sources import ALL, Example, Source, local_source

_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_COLUMNS = frozenset({"path", "label", "split", "weight"})
_SHOWN = 10


def examples(data: DataSpec, seed: int) -> Source:
    """One example a row. Labels are names, sorted; when all of them are numbers they are sorted as numbers."""
    table = local_source(data, "a .csv file")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_header(reader.fieldnames or [], data)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadSpec.of("data.path", data.path, f"this table cannot be read: {error}", "write UTF-8 CSV") from error
    problems = [problem for number, row in rows for problem in _problems(number, row, table)]
    if problems:
        raise BadSpec(problems[:_SHOWN])
    names = {row["label"].strip() for _, row in rows}
    classes = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    labels = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[Example]] = {}
    for _, row in rows:
        name = row["path"].strip()
        example = Example(table.parent / name, labels[row["label"].strip()], name, float(row.get("weight") or 1.0))
        splits.setdefault(_SPLITS[row["split"].strip()] if row.get("split") else ALL, []).append(example)
    return Source(classes, splits, [table])


def _check_header(names: Sequence[str], data: DataSpec) -> None:
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown or not {"path", "label"} <= set(names):
        law = f"its first line is {','.join(names)}"
        raise BadSpec.of("data.path", data.path, law, "begin with the header path,label[,split][,weight]")


def _problems(number: int, row: dict[str, str], table: Path) -> list[Problem]:
    def problem(law: str, cure: str) -> Problem:
        return Problem("data.path", f"{table.name}:{number}", law, cure)

    if None in row or None in row.values():
        return [problem("the row has not as many cells as the header", "quote what has commas in it")]
    found = []
    if not row["path"].strip() or not row["label"].strip():
        found.append(problem("path or label is empty", "fill it in"))
    elif not (table.parent / row["path"].strip()).is_file():
        found.append(problem(f"there is no file {row['path'].strip()}", "paths are relative to the table"))
    if "split" in row and row["split"].strip() not in _SPLITS:
        found.append(problem(f"split is {row['split']!r}", "train, validation or test, in every row or in none"))
    if row.get("weight") and not _is_weight(row["weight"]):
        found.append(problem(f"weight is {row['weight']!r}", "a number, 0 or more"))
    return found


def _is_weight(text: str) -> bool:
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False
