"""The manifest of a checkpoint: which files belong to it, how long they are and their checksums.

    checkpoints/step_00000120/manifest.json                    written last, and only if absent
    checkpoints/step_00000120/attempt_02-<nonce>-state.json    the small state: counters, position, best metrics
    checkpoints/step_00000120/attempt_02-<nonce>-0000.safetensors ...    the tensors

Readers trust only what a manifest names. File names are of one save alone, so that nobody writes over anybody's file.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from conf.errors import BadSpec
from storage.names import UNFINISHED
from storage.run_dir import RunDir, checkpoint_name

FORMAT = "convoy-checkpoint"
VERSION = 1
_ATTEMPT = re.compile(r"attempt_(\d+)-")
#: A file of the checkpoint's own folder, and no other.
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CRCS = range(1 << 32)


@dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint; its name is inside the checkpoint's folder."""

    name: str
    size: int
    crc32c: int


@dataclass(frozen=True)
class Manifest:
    """What makes a checkpoint one."""

    step: int
    attempt: int
    nonce: str
    state: FileEntry
    tensors: tuple[FileEntry, ...]
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation before it

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file that it names."""
        return (self.state, *self.tensors)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def dumped(self) -> bytes:
        """The manifest as JSON."""
        return (json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=2) + "\n").encode()


def manifest_name(step: int) -> str:
    """The name of a checkpoint's manifest in the run directory."""
    return f"{checkpoint_name(step)}/manifest.json"


def file_name(attempt: int, nonce: str, part: str) -> str:
    """The name of one file in the checkpoint's folder."""
    return f"attempt_{attempt:02d}-{nonce}-{part}"


def attempt_of(name: str) -> int | None:
    """The attempt that wrote a file of a checkpoint; None for other files."""
    match = _ATTEMPT.match(name.rpartition("/")[2])
    return int(match[1]) if match else None


def read_manifest(run_dir: RunDir, step: int) -> Manifest:
    """The manifest of a step. NotStored, or ValueError if it is none; BadSpec if a newer Convoy wrote it."""
    name = manifest_name(step)
    try:
        loaded = json.loads(run_dir.store.get(name))
        if loaded["format"] != FORMAT:
            raise ValueError(f"{name} has the format {loaded['format']!r}, not {FORMAT!r}")
        if loaded["version"] > VERSION:
            law = f"{name} has format version {loaded['version']}, and this Convoy reads versions up to {VERSION}"
            raise BadSpec.of("run_id", run_dir.run_id, law, "go on with the newer Convoy, or begin a new run_id")
        state, tensors = _checked(loaded["state"]), tuple(_checked(entry) for entry in loaded["tensors"])
        if type(loaded["step"]) is not int or type(loaded["attempt"]) is not int:
            raise ValueError(f"{name} is not a manifest: its step or its attempt is no number")
        metrics = {str(key): float(value) for key, value in loaded.get("metrics", {}).items()}
        return Manifest(loaded["step"], loaded["attempt"], str(loaded["nonce"]), state, tensors, metrics)
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{name} is not a manifest: {error!r}") from error


def _checked(loaded: dict[str, Any]) -> FileEntry:
    """What a manifest says of one file; ValueError where that cannot be: nothing outside of its folder is read."""
    entry = FileEntry(**loaded)
    if not (isinstance(entry.name, str) and _FILE.fullmatch(entry.name) and not entry.name.endswith(UNFINISHED)):
        raise ValueError(f"{entry.name!r} is no name of a file in a checkpoint's folder")
    if type(entry.size) is not int or entry.size < 0 or type(entry.crc32c) is not int or entry.crc32c not in _CRCS:
        raise ValueError(f"{entry.name} cannot have {entry.size!r} bytes with the crc32c {entry.crc32c!r}")
    return entry
