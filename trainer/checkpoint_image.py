"""What is to be saved, copied at once into memory that stays, where it lies as its files will.

A snapshot by reference costs nothing until training goes on. Then TensorFlow copies every variable that the next update
changes, into memory that it asks the system for and gives back after the save, page by page. Copied by several threads
into memory that the process has already, the same bytes cost less; and each file begins at a page, so the disk can take
it from there without a copy through the system's cache (`storage.direct`).

What lies on a device stays there by reference, where such a copy costs next to nothing, and is fetched in the
background.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from trainer.checkpoint_tensors import as_array, header_of, shared_out

#: Where a file begins: no system has larger pages by itself.
_PAGE_BYTES = 64 << 10
_SMALLEST_PAGE_BYTES = 4096
#: So much a thread copies before it takes the next piece.
_PIECE_BYTES = 4 << 20
#: Two or three of a host's cores take up its whole memory bandwidth.
_MOST_COPIERS = 4

_Spec = tuple[np.dtype, tuple[int, ...]]


class CheckpointImage:
    """The tensors of one snapshot at a time. Memory grows to the largest of them and stays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}  # views of the copies
        self.files: list[memoryview] = []  # the safetensors files, each in one piece
        self._specs: dict[str, _Spec] = {}
        self._memory = np.empty(0, np.uint8)
        self._far: dict[str, Any] = {}
        self._copiers = min(_MOST_COPIERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(max(self._copiers - 1, 1), thread_name_prefix="checkpoint-copy")

    def reserve(self, tensors: Mapping[str, Any]) -> None:
        """Have the memory for arrays, tensors or variables like these before the first `hold` wants it.

        A system that has to make room for large pages takes its time.
        """
        self._lay_out({name: _spec_of(tensor) for name, tensor in tensors.items()})

    def hold(self, tensors: Mapping[str, Any]) -> None:
        """Copy numpy arrays and eager tensors of this host's memory; those of devices must not change until `fetch`."""
        self._far = {name: tensor for name, tensor in tensors.items() if _is_far(tensor)}
        here = {name: as_array(name, tensor) for name, tensor in tensors.items() if name not in self._far}
        self._lay_out({name: _spec_of(tensor) for name, tensor in (here | self._far).items()})
        self._copy(here)

    def fetch(self) -> None:
        """Copy what lies on devices, and let go of it."""
        while self._far:
            name, tensor = self._far.popitem()
            np.copyto(self.arrays[name], as_array(name, tensor))

    def close(self) -> None:
        """End the threads that copy, and let go of the memory as far as nobody else holds it."""
        self._pool.shutdown()
        self.arrays, self.files, self._specs, self._memory = {}, [], {}, np.empty(0, np.uint8)

    def _lay_out(self, specs: dict[str, _Spec]) -> None:
        """Give every tensor its place, where they are others than last time."""
        if specs == self._specs:
            return
        blank = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, (dtype, shape) in specs.items()}
        headers = [header_of({name: blank[name] for name in share}) for share in shared_out(blank)]
        lengths = [len(header) + sum(blank[name].nbytes for name in names) for header, names in headers]
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length + -length % _PAGE_BYTES)
        self.arrays, self.files, self._specs = {}, [], {}
        if len(self._memory) < starts[-1]:
            self._memory = np.empty(0, np.uint8)  # before there is more: the old and the new may be too much
            self._memory = _new_memory(starts[-1])
        for (header, names), start, length in zip(headers, starts, lengths, strict=False):
            file = self._memory[start : start + length]
            file[: len(header)] = np.frombuffer(header, np.uint8)
            self.files.append(file.data)
            place = len(header)
            for name in names:
                raw = file[place : place + blank[name].nbytes]
                self.arrays[name] = raw.view(blank[name].dtype).reshape(blank[name].shape)
                place += len(raw)
        self._specs = specs

    def _copy(self, sources: Mapping[str, np.ndarray]) -> None:
        queue = iter(list(self._pieces(sources)))  # each thread takes the next one, so that none waits long for another

        def work() -> None:
            for target, source in queue:
                np.copyto(target, source)

        helpers = [self._pool.submit(work) for _ in range(self._copiers - 1)]
        work()
        for helper in helpers:
            helper.result()

    def _pieces(self, sources: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for name, array in sources.items():
            if array.nbytes <= _PIECE_BYTES:
                yield self.arrays[name], array
                continue
            target, source = (each.reshape(-1).view(np.uint8) for each in (self.arrays[name], array))
            for start in range(0, len(source), _PIECE_BYTES):
                yield target[start : start + _PIECE_BYTES], source[start : start + _PIECE_BYTES]


def _is_far(tensor: Any) -> bool:
    """Whether it is a tensor in the memory of a device."""
    return "CPU" not in getattr(tensor, "backing_device", "CPU")


def _spec_of(tensor: Any) -> _Spec:
    return np.dtype(getattr(tensor.dtype, "as_numpy_dtype", tensor.dtype)), tuple(tensor.shape)


def _new_memory(num_bytes: int) -> np.ndarray:
    region = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # a system without large pages
        region.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(region, np.uint8)
    memory[::_SMALLEST_PAGE_BYTES] = 0  # now the system gives it
    return memory
