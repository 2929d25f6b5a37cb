"""Where the prepared examples of a job are. Pure: the launcher and the data pipeline both ask it."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conf.errors import BadSpec, Problem
from conf.schema import DataSpec, Encoding, JobSpec

#: The name of data that is prepared already: data.path is the prepared set itself.
PREPARED = "tfrecord"


def data_url(job: JobSpec) -> str:
    """The URL of the prepared set that `job` reads, whether it exists or not."""
    data = job.data
    if data.name == PREPARED:
        if data.path is None:
            raise BadSpec.of("data.path", None, "data=tfrecord reads a prepared set", "say where: data.path=URL")
        return data.path
    if data.out is not None:
        return data.out
    return f"{job.storage.root.rstrip('/')}/_data/{data.name}-{data_digest(data, job.seed)}"


def data_digest(data: DataSpec, seed: int) -> str:
    """A short digest of everything that decides which bytes are prepared."""
    decides: dict[str, Any] = {
        "name": data.name,
        "path": _absolute(data.path),
        "split": asdict(data.split),
        "num_shards": data.num_shards,
        "shard_bytes": data.shard_bytes,
        "max_side": data.max_side,
        "on_bad_file": data.on_bad_file.name,
        "seed": seed,
    }
    if data.examples_per_class is not None:
        decides["examples_per_class"] = data.examples_per_class
    if data.verify:
        decides["verify"] = True
    if data.encoding is not Encoding.files:
        decides["encoding"] = data.encoding.name
    if data.name == "synthetic":
        decides["drawn"] = [data.num_examples, data.num_classes, data.image_size, data.channels]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def local_source(data: DataSpec) -> Path | None:
    """The path on this machine that the job reads images from; None for prepared, drawn and published data."""
    if data.name == PREPARED or data.path is None or "://" in data.path:
        return None
    return Path(data.path).expanduser().absolute()


def source_changed(data: DataSpec, url: str, changed: str) -> Problem:
    """What a job is told whose data was prepared from a source that is not as it was."""
    law = f"it has changed since it was prepared into {url}: {changed}"
    cure = f"prepare it anew with data.out=ANOTHER, or remove {url}; as it was then it is data=tfrecord data.path={url}"
    return Problem("data.path", data.path, law, cure)


def _absolute(path: str | None) -> str | None:
    if path is None or "://" in path:
        return path
    return os.path.abspath(os.path.expanduser(path))
