"""Freed memory stays with a process that asked for it."""

import platform
import subprocess
import sys

import pytest

# A block as large as a batch's activations is freed and wanted again; the page faults of the later rounds are counted.
PROGRAM = """
import ctypes, resource, sys
from data_pipeline.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 20 << 20
def take_and_free():
    block = c.malloc(size)
    ctypes.memset(block, 1, size)
    c.free(block)
take_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    take_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that gives memory back")
def test_freed_memory_is_not_given_back():
    pages = (20 << 20) // 4096
    assert faults("kept") < pages / 10
    assert faults("default") > pages / 2
