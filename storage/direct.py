"""Files that take what lies on pages of memory straight to the disk, past the system's cache.

Through the cache every byte is copied once more, by a core that training wants, into pages that push others out; the
sync at the end then waits for all of it. Past it (O_DIRECT, Linux) the disk reads the memory itself, while the next
piece is made. Whoever has no such disk, or bytes that lie anywhere, writes through the cache as ever.
"""

import errno
import fcntl
import os
from collections.abc import Sequence

import numpy as np

#: What disks and file systems want the address, the place in the file and the length to be multiples of.
BLOCK_BYTES = 4096
#: Less is not worth a wait for the disk.
SMALLEST_BYTES = 1 << 20
#: How a file system says that it does not do this.
_REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)
_DIRECT = getattr(os, "O_DIRECT", 0)


class Output:
    """Writes buffers to the end of a new file, one after the other."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        self._is_direct = False
        self._may_be_direct = bool(_DIRECT)
        self.size = 0
        self.num_direct_bytes = 0

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Write them all."""
        if len(buffers) == 1:
            view = memoryview(buffers[0]).cast("B")
            rest = view[self._write_direct(view) :]
            if not rest:
                return
            buffers = [rest]
        self._go_direct(False)
        written = os.writev(self._descriptor, buffers)
        self.size += sum(map(len, buffers))
        for buffer in buffers:
            if written >= len(buffer):
                written -= len(buffer)
                continue
            left = memoryview(buffer)[written:]  # a full disk or a signal: what is left, piece by piece
            written = 0
            while left:
                left = left[os.write(self._descriptor, left) :]

    def _write_direct(self, view: memoryview) -> int:
        """Write as much of it as may go past the cache; how many bytes that was."""
        length = len(view) // BLOCK_BYTES * BLOCK_BYTES
        if not self._may_be_direct or length < SMALLEST_BYTES or not self._lies_well(view):
            return 0
        done = 0
        try:
            self._go_direct(True)
            while done < length:
                done += os.write(self._descriptor, view[done:length])
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self._may_be_direct = False
        self.size += done
        self.num_direct_bytes += done
        return done

    def _lies_well(self, view: memoryview) -> bool:
        address = np.frombuffer(view, np.uint8).ctypes.data
        return address % BLOCK_BYTES == self.size % BLOCK_BYTES == 0

    def _go_direct(self, wanted: bool) -> None:
        if wanted != self._is_direct:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, self._flags | (_DIRECT if wanted else 0))
            self._is_direct = wanted
