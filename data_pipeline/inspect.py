"""A prepared set shown to a person: `python -m data_pipeline.inspect --job URL`.

A table, a contact sheet of every class, and, where `data.augment` is set, one of augmented versions. Imports TensorFlow
for the last alone.
"""

import argparse
import importlib
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from conf.augment_rules import mixes
from conf.data_url import data_url
from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC, DONE, FAILED
from conf.files import load_job
from conf.schema import AugmentSpec, JobSpec
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.order import Places
from data_pipeline.progress import Progress, send
from data_pipeline.records import CorruptRecord
from data_pipeline.samples import Part, find_examples, is_placeholder, part_with, read_records
from data_pipeline.sheets import Tile, draw_sheet, in_rows, picture, pixels_picture, png_bytes
from data_pipeline.summary import class_table, summary
from storage.store import Store, StoreError, open_store

TABLE, AUGMENTED = "table.txt", "augmented.png"
COLUMNS = 8
#: Classes shown on the screen; the file has all of them.
_SHOWN = 40
_STRANGE = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 60
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inspection:
    """What came of it: the lines for the screen, and the URLs of the files."""

    lines: list[str]
    sheets: list[str]


def inspect(job: JobSpec) -> Inspection:
    """Write the sheets of the job's prepared set; what to show of it."""
    manifest = load_manifest(data_url(job))
    split = job.inspect.split
    if split not in manifest.splits:
        known = ", ".join(manifest.splits)
        raise BadSpec.of("inspect.split", split, "the set has no such split", f"it has {known}")
    store = open_store(job.inspect.out or f"{job.storage.root.rstrip('/')}/inspect-{manifest.name}-{manifest.digest}")
    about, classes = summary(manifest), class_table(manifest)
    store.put(TABLE, "\n".join([*about, "", *classes, ""]).encode())
    names = list(_class_sheets(store, job, manifest))
    if job.data.augment != AugmentSpec():
        names.append(_augmented_sheet(store, job, manifest))
    more = len(classes) - 1 - _SHOWN
    shown = [*classes[: _SHOWN + 1], *([f"... and {more} more classes in {store.url}/{TABLE}"] if more > 0 else [])]
    return Inspection([*about, "", *shown], [f"{store.url}/{name}" for name in names])


def _class_sheets(store: Store, job: JobSpec, manifest: Manifest) -> Iterator[str]:
    """Write a sheet for each class; their names."""
    split, per_class = job.inspect.split, job.inspect.examples
    part = part_with(manifest, split, per_class)
    reader = part.reader(job.data)
    examples = find_examples(reader, manifest.num_classes, per_class)
    progress = Progress(len(examples))
    for label, numbers in enumerate(examples):
        records = read_records(reader, numbers)
        tiles = [Tile(picture(record), record.key) for record in records if not is_placeholder(record)]
        count = manifest.splits[split].class_counts[label]
        title = f"{manifest.classes[label]} - {len(tiles)} of {count} in {split} - {manifest.name}"
        name = sheet_name(label, manifest)
        store.put(name, png_bytes(draw_sheet(title, in_rows(tiles, COLUMNS), job.inspect.tile)))
        progress.advance(1)
        yield name


def sheet_name(label: int, manifest: Manifest) -> str:
    """The file of a class: its number, and its name as far as it may stand in a file's."""
    digits = len(str(manifest.num_classes - 1))
    return f"class_{label:0{digits}d}_{_STRANGE.sub('_', manifest.classes[label])[:_LONGEST_NAME]}.png"


def _augmented_sheet(store: Store, job: JobSpec, manifest: Manifest) -> str:
    """Write the sheet of augmented versions, an example a row: as it is, then as the epochs 0, 1, ... change it."""
    part, examples = augmented_examples(job, manifest)
    keys = [record.key for record in read_records(part.reader(job.data), examples)]
    # TensorFlow takes seconds to import, and the rest does without.
    seen = importlib.import_module("data_pipeline.versions").versions(job, part, examples, job.inspect.draws)
    rows = []
    for row, key in enumerate(keys):
        labels = [key, *(f"epoch {epoch}" for epoch in range(len(seen) - 1))]
        rows.append([Tile(pixels_picture(images[row]), text) for images, text in zip(seen, labels, strict=True)])
    changed = ", ".join(f"{name}={value}" for name, value in vars(job.data.augment).items() if value != _off(name))
    # Two rows each are put together; in training an example finds another partner in every epoch.
    pairs = " (mixed in pairs of rows)" if mixes(job.data.augment) else ""
    title = f"augmented, seed {job.seed}{pairs}: {changed}"
    store.put(AUGMENTED, png_bytes(draw_sheet(title, rows, job.inspect.tile)))
    return AUGMENTED


def augmented_examples(job: JobSpec, manifest: Manifest) -> tuple[Part, Places]:
    """The examples that the sheet of augmented versions shows: the first of every class in turn, then the second."""
    per_class = -(-job.inspect.rows // manifest.num_classes)
    part = part_with(manifest, "train", per_class)
    found = find_examples(part.reader(job.data), manifest.num_classes, per_class)
    in_turn = (number for turn in itertools.zip_longest(*found) for number in turn if number is not None)
    return part, np.array(list(itertools.islice(in_turn, job.inspect.rows)), np.int64)


def _off(name: str) -> object:
    return getattr(AugmentSpec(), name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the prepared set of the job that is described at a URL; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.inspect", description=inspect.__doc__)
    parser.add_argument("--job", required=True, metavar="URL", help="the job.yaml that says which data")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, _, name = asked.job.rpartition("/")
    try:
        found = inspect(load_job(open_store(folder or ".").get(name).decode(), asked.job))
    except BadSpec as error:
        return _failed("bad_spec", str(error), BAD_SPEC)
    except CorruptRecord as error:
        return _failed("bad_data", str(error), FAILED)
    except (StoreError, OSError) as error:
        return _failed("infrastructure", str(error), FAILED)
    send({"kind": "event", "event": "inspected", "details": {"lines": found.lines, "sheets": found.sheets}})
    _log.info("%s", "\n".join([*found.lines, *found.sheets]))
    return DONE


def _failed(kind: str, message: str, exit_code: int) -> int:
    send({"kind": "error", "error_kind": kind, "message": message})
    _log.error("%s", message)
    return exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # TensorFlow's threads may still read; see data_pipeline/pipeline.py
