"""Named tensors <-> the safetensors layout, without joining or copying what is large.

The layout is eight bytes of header length (little-endian), a JSON header {name: {dtype, shape, data_offsets}} and then
the tensors' bytes without gaps: https://github.com/huggingface/safetensors. The safetensors package reads these files;
it is not used for writing because it wants one joined copy, and not for reading because its numpy side lacks bfloat16.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

#: Tensors are shared out over files of about this size: while one is synced or uploaded the next is written.
FILE_BYTES = 64 << 20

_CODES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.int64): "I64",
    np.dtype(np.int32): "I32",
    np.dtype(np.int16): "I16",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint64): "U64",
    np.dtype(np.uint32): "U32",
    np.dtype(np.uint16): "U16",
    np.dtype(np.uint8): "U8",
    np.dtype(np.bool_): "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


def encoded(tensors: Mapping[str, Any]) -> list[bytes | memoryview]:
    """The file that holds `tensors` (numpy arrays or eager TensorFlow tensors), as buffers to write in turn."""
    arrays = {name: as_array(name, tensor) for name, tensor in tensors.items()}
    header, names = header_of(arrays)
    return [header, *(arrays[name].reshape(-1).view(np.uint8).data for name in names)]


def header_of(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, list[str]]:
    """What the file that holds these arrays begins with, and in which order they follow."""
    header, offset = {}, 0
    # Widest first: every tensor is aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    for name in names:
        array = arrays[name]
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names


def shared_out(arrays: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Their names in files of about FILE_BYTES, in the order of the names."""
    shares: list[list[str]] = [[]]
    size = 0
    for name in sorted(arrays):
        num_bytes = arrays[name].nbytes
        if shares[-1] and size + num_bytes > FILE_BYTES:
            shares.append([])
            size = 0
        shares[-1].append(name)
        size += num_bytes
    return shares


def decoded(data: memoryview) -> dict[str, np.ndarray]:
    """The tensors in a file's bytes, as read-only views of them. ValueError if they are not such a file."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        body, found = data[8 + length :], {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _placed(name, entry, body) for name, entry in found.items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is not that of a safetensors file: {error!r}") from error


def _placed(name: str, entry: dict[str, Any], body: memoryview) -> np.ndarray:
    """One tensor of a file; ValueError where its bytes are not there, or are not those of its dtype and shape."""
    (begin, end), dtype, shape = entry["data_offsets"], _DTYPES[entry["dtype"]], entry["shape"]
    numbers = (begin, end, *shape)
    if not all(type(number) is int and number >= 0 for number in numbers) or not begin <= end <= len(body):
        raise ValueError(f"{name}: shape {shape} at bytes {begin} to {end} of {len(body)}")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name}: {end - begin} bytes are not {dtype} of shape {shape}")
    return np.frombuffer(body[begin:end], np.uint8).view(dtype).reshape(shape)


def as_array(name: str, tensor: Any) -> np.ndarray:
    """The tensor as a contiguous little-endian array; not copied where it lies in this host's memory already."""
    try:
        array = tensor if isinstance(tensor, np.ndarray) else np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):  # a number, or bfloat16, for which the buffer protocol has no word
        array = np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)
    if array.dtype.newbyteorder("=") not in _CODES:
        raise TypeError(f"{name}: a checkpoint cannot hold {array.dtype} - it holds {', '.join(map(str, _CODES))}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
