"""CIFAR-10 and CIFAR-100 as they are published: the archive or its folder, the python or the binary version.

The python version is a pickle. It is never unpickled: its opcodes are read as data, and nothing in it can run.
"""

import itertools
import pickletools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conf.errors import BadSpec
from data_pipeline.arrays import Arrays

_PIXELS = 3 * 32 * 32
_TEN = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_HUNDRED = {"train": ["train"], "test": ["test"]}
_NUMBERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"})
_STRINGS = frozenset(
    {
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINBYTES",
        "SHORT_BINBYTES",
    }
)


def read_cifar(path: Path, num_classes: int) -> tuple[Arrays, list[str] | None]:
    """The arrays of the archive or folder at `path`, and the names of its classes where they are with it."""
    parts, label = (_TEN, "labels") if num_classes == 10 else (_HUNDRED, "fine_labels")
    try:
        files = dict(_files(path))
        arrays = {}
        for split, names in parts.items():
            read = [_batch(files, name, label, num_classes) for name in names]
            arrays[split] = (np.concatenate([images for images, _ in read]), np.concatenate([y for _, y in read]))
        return arrays, _names(files, num_classes)
    except (OSError, EOFError, ValueError, KeyError, IndexError, tarfile.TarError) as error:
        law = f"this is no CIFAR-{num_classes} archive: {error}"
        raise BadSpec.of("data.path", path, law, "give cifar-*.tar.gz as it is published, or its folder") from error


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The name and bytes of each file that may be a part of CIFAR."""
    wanted = {name for parts in (_TEN, _HUNDRED) for names in parts.values() for name in names}
    wanted |= {f"{name}.bin" for name in wanted}
    wanted |= {"meta", "batches.meta", "batches.meta.txt", "fine_label_names.txt"}
    if path.is_dir():
        yield from ((file.name, file.read_bytes()) for file in sorted(path.rglob("*")) if file.name in wanted)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            file = archive.extractfile(member) if name in wanted and member.isfile() else None
            if file is not None:
                yield name, file.read()


def _batch(files: dict[str, bytes], name: str, label: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 32, 32, 3] and labels of one file."""
    if name in files:
        values = _opcodes(files[name])
        longest = max((value for value in values if isinstance(value, str)), key=len)
        pixels = np.frombuffer(longest.encode("latin-1"), np.uint8).reshape(-1, _PIXELS)
        labels = _numbers(values, label)
    elif f"{name}.bin" in files:
        rows = np.frombuffer(files[f"{name}.bin"], np.uint8).reshape(-1, _PIXELS + (1 if num_classes == 10 else 2))
        pixels, labels = rows[:, -_PIXELS:], rows[:, -_PIXELS - 1].tolist()
    else:
        raise ValueError(f"{name} is missing")
    if len(pixels) != len(labels):
        raise ValueError(f"{name} has {len(pixels)} images and {len(labels)} labels")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.asarray(labels, np.int64)


def _opcodes(data: bytes) -> list[str | int]:
    """The strings and numbers of a pickle, in order, without the machinery between them."""
    values: list[str | int] = []
    for opcode, argument, _ in pickletools.genops(data):
        if isinstance(argument, int) and opcode.name in _NUMBERS:
            values.append(argument)
        elif isinstance(argument, str | bytes) and opcode.name in _STRINGS:
            values.append(argument if isinstance(argument, str) else argument.decode("latin-1"))
    return values


def _numbers(values: list[str | int], name: str) -> list[int]:
    """The list of numbers that follows the key `name`."""
    numbers: list[int] = []
    for value in itertools.islice(values, values.index(name) + 1, None):
        if not isinstance(value, int):
            break
        numbers.append(value)
    return numbers


def _names(files: dict[str, bytes], num_classes: int) -> list[str] | None:
    text = files.get("batches.meta.txt" if num_classes == 10 else "fine_label_names.txt")
    if text is not None:
        return text.decode().split()
    meta = files.get("batches.meta" if num_classes == 10 else "meta")
    if meta is None:
        return None
    values = _opcodes(meta)
    start = values.index("label_names" if num_classes == 10 else "fine_label_names")
    names = [value for value in values[start + 1 :] if isinstance(value, str)][:num_classes]
    return names if len(names) == num_classes else None
