"""What can be seen to be wrong before anything is started: data that is not there, names of no model or class."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from conf import class_weights, rules
from conf.data_url import PREPARED, data_url, local_source, source_changed
from conf.errors import BadSpec, Problem
from conf.schema import DataSpec, JobSpec, ModelSpec
from launcher.drive import needs_data, resolved
from launcher.gate import planned_placement
from launcher.plan import read_manifest
from storage.data_dir import MANIFEST
from storage.source_files import IMAGE_SUFFIXES, changes

#: What the source `folder` takes for splits (data_pipeline/sources/folder.py).
SPLITS = frozenset({"train", "validation", "valid", "val", "test"})


def check(job: JobSpec) -> None:
    """Raise BadSpec with what a look at this machine shows."""
    problems = [problem] if (problem := rules.model_problem(job.trainer.model)) else []
    # Hosts of a running cluster may see other disks than this one does.
    if job.cluster.address is None:
        problems += _weights(job.trainer.model)
    if job.cluster.address is None and needs_data(job):
        problems += _source(job.data)
    problems += _weighed_classes(job)
    if problems:
        raise BadSpec(problems)
    # How many replicas there are on this machine is known by now, and with it whether the batch can be shared out.
    placement, _ = planned_placement(job.cluster)
    if placement is not None:
        rules.check(resolved(job, placement))


def check_source(job: JobSpec) -> None:
    """Raise BadSpec where the job's data is prepared already from a source that has changed since."""
    problem = changed_source(job)
    if problem:
        raise BadSpec([problem])


def changed_source(job: JobSpec) -> Problem | None:
    """What is wrong where the job's data is prepared already, and its source is not what it was then."""
    source = local_source(job.data)
    if source is None or needs_data(job):
        return None
    changed = changes(data_url(job), source)
    return source_changed(job.data, data_url(job), changed) if changed else None


def _weights(model: ModelSpec) -> Iterator[Problem]:
    if model.weights in ("none", "imagenet") or "://" in model.weights:
        return
    path = Path(model.weights).expanduser().absolute()
    if not model.weights or not os.path.exists(path):
        law = f"there is nothing at this path ({path})"
        yield Problem("trainer.model.weights", model.weights, law, "none, imagenet, a file of weights or a run")


def _weighed_classes(job: JobSpec) -> list[Problem]:
    """Weights of classes that a set which is prepared already does not have."""
    weights = job.trainer.class_weights
    if not isinstance(weights, dict):
        return []
    try:
        manifest = read_manifest(data_url(job))
    except (ValueError, TypeError):  # who reads the set says what is wrong with it
        return []
    return [] if manifest is None else class_weights.unknown(weights, manifest.get("classes", []))


def _source(data: DataSpec) -> Iterator[Problem]:
    if data.path is None or "://" in data.path:
        return
    path = Path(data.path).expanduser().absolute()
    if not os.path.exists(path):  # False too where we may not look
        yield Problem("data.path", data.path, f"there is nothing at this path ({path})", "give one that exists")
    elif data.name == PREPARED:
        law = f"there is no prepared set here: {MANIFEST} is missing"
        yield Problem("data.path", data.path, law, "give the folder that job=prepare wrote, or prepare it again")
    elif data.name == "folder":
        yield from _folder(data, path)


def _folder(data: DataSpec, path: Path) -> Iterator[Problem]:
    if not path.is_dir():
        yield Problem("data.path", data.path, "this is a file, not a folder", "give the folder above it")
        return
    try:
        classes = list(itertools.islice(_classes(path), 2))
    except OSError as error:
        law = f"this folder cannot be read: {error.strerror or error}"
        yield Problem("data.path", data.path, law, "mend its permissions")
        return
    if len(classes) < 2:
        found = f"the only folder with images in it is {classes[0]}/" if classes else "no folder below it has images"
        law = f"{found}, and a classifier needs two classes"
        yield Problem("data.path", data.path, law, "one folder a class, with images in it: DIR/class/image.jpg")


def _classes(root: Path) -> Iterator[str]:
    """The classes below `root`, each once, as soon as its first image is seen."""
    names = _folders(root)
    splits = [root / name for name in names] if "train" in names and set(names) <= SPLITS else [root]
    seen = set()
    for split in splits:
        for name in _folders(split):
            if name not in seen and _has_image(split / name):
                seen.add(name)
                yield name


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _has_image(folder: Path) -> bool:
    return any(
        os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )
