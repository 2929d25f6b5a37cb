"""The files that a prepared set was made of, as they were then, so that a change of them is noticed.

Beside the manifest lies SOURCE_FILES, a line of JSON for each file: [name, bytes, mtime in ns, mark or null]. Names
are relative to the source, with forward slashes. Images that the source did not use are listed too, so that what was
there then can be compared with what is there now by names alone.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from storage.store import NotStored, open_store

SOURCE_FILES = "source_files.jsonl"
#: Files whose name ends like this are looked for below a source that is a folder.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
#: Of files that have the same size and another time, as many are read as this; if those are the same, so are the rest.
_READ_BYTES = 256 << 20
_SHOWN = 3
_JPEG = b"\xff\xd8"
_PIECE_BYTES = 4096


class FileState(NamedTuple):
    """One file: its size, its time of change and, where it was read, the mark of its contents."""

    num_bytes: int
    mtime_ns: int
    mark: int | None = None


#: name relative to the source -> its state
FileStates = dict[str, FileState]


def image_files(root: Path) -> FileStates:
    """Every image below a folder, hidden ones left out; nothing when `root` is no folder."""
    found = _walk(str(root), "") if root.is_dir() else ()
    return {name: _state_of(entry) for name, entry in found}


def image_names(root: str) -> list[str]:
    """The names of all images below a folder, as `image_files` knows them, without looking at the files."""
    return [name for name, _ in _walk(root, "")]


def file_state(path: str | os.PathLike[str]) -> FileState | None:
    """The state of one file; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileState(found.st_size, found.st_mtime_ns)


def _state_of(entry: "os.DirEntry[str]") -> FileState:
    try:
        found = entry.stat()
    except OSError:  # a link that leads nowhere is named when it is read
        return FileState(0, 0)
    return FileState(found.st_size, found.st_mtime_ns)


def content_mark(data: bytes) -> int:
    """A checksum (crc32c) by which other contents of the same size are told.

    Of a JPEG beginning, middle and end are enough, at a tenth of the cost: another picture is another stream of bits
    from its first different pixel on, and hardly ever as long. Of anything else it is of all bytes.
    """
    if data[:2] != _JPEG or len(data) <= 4 * _PIECE_BYTES:
        return int(google_crc32c.value(data))
    middle = len(data) // 2
    crc = google_crc32c.value(data[:_PIECE_BYTES])
    crc = google_crc32c.extend(crc, data[middle : middle + _PIECE_BYTES])
    return int(google_crc32c.extend(crc, data[-_PIECE_BYTES:]))


def to_lines(files: Mapping[str, FileState]) -> bytes:
    """What SOURCE_FILES holds."""
    return finished_lines(line_starts(files), [files[name].mark for name in sorted(files)])


def line_starts(files: Mapping[str, FileState]) -> list[str]:
    """Each of its lines up to the mark, in the order of names."""
    lines = []
    for name in sorted(files):
        num_bytes, mtime_ns, _ = files[name]
        # What json.dumps makes of a string; of a line at once it takes ten times as long.
        lines.append(f"[{encode_basestring_ascii(name)}, {num_bytes}, {mtime_ns}, ")
    return lines


def finished_lines(starts: Iterable[str], marks: Iterable[int | None]) -> bytes:
    """All of it, from the beginning and the mark of each line."""
    return "".join([f"{start}{'null' if mark is None else mark}]\n" for start, mark in zip(starts, marks)]).encode()


def changes(url: str, source: Path) -> str | None:
    """What is different at `source` since the set at `url` was prepared from it, in words.

    None when nothing is, when the source is gone, and when the set does not know what it was made of.
    """
    root = source if source.is_dir() else source.parent
    if not source.exists():
        return None
    try:
        before = _from_lines(open_store(url).get(SOURCE_FILES))
    except (NotStored, ValueError, TypeError):
        return None
    now = image_files(root) if source.is_dir() else {}
    now |= {name: state for name in before if name not in now and (state := file_state(root / name))}
    if before and not before.keys() & now.keys():
        return None  # such as a disk that is not mounted
    differs = [name for name in before.keys() & now.keys() if now[name][:2] != before[name][:2]]
    changed = [name for name in differs if now[name].num_bytes != before[name].num_bytes]
    touched = sorted(set(differs) - set(changed))
    changed += [] if _same_content(root, touched, before) else touched
    return _in_words(
        {"added": now.keys() - before.keys(), "removed": before.keys() - now.keys(), "changed": changed},
    )


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Each image with its name."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(name)
            elif name[name.rfind(".") :].lower() in IMAGE_SUFFIXES:
                yield prefix + name, entry
    for name in folders:
        yield from _walk(f"{folder}/{name}", f"{prefix}{name}/")


def _from_lines(text: bytes) -> FileStates:
    rows = (json.loads(line) for line in text.splitlines())
    return {str(name): FileState(*state) for name, *state in rows}


def _same_content(root: Path, names: Iterable[str], before: FileStates) -> bool:
    left = _READ_BYTES
    for name in names:
        left -= before[name].num_bytes
        if left < 0:
            return True
        try:
            if content_mark((root / name).read_bytes()) != before[name].mark:
                return False
        except OSError:
            return False
    return True


def _in_words(names: Mapping[str, Iterable[str]]) -> str | None:
    """Such as `12 files added (a.jpg, b.jpg, c.jpg, ...), 1 changed (d.jpg)`."""
    words: list[str] = []
    for what, found in names.items():
        listed = sorted(found)
        if listed:
            files = "" if words else (" file" if len(listed) == 1 else " files")
            shown = ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
            words.append(f"{len(listed)}{files} {what} ({shown})")
    return ", ".join(words) or None
