"""Convert between TensorProto and NumPy arrays, with the tolerance and the format of TensorFlow's C++ runtime."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.dtypes import as_dtype

from serving.errors import invalid_argument
from serving.protocol import MAX_MESSAGE_BYTES

TensorProto: TypeAlias = tensor_pb2.TensorProto

# {DataType: field of its values}; tensor_content is the alternative for all but strings.
VALUE_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_UINT16: "int_val",
    types_pb2.DT_STRING: "string_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_HALF: "half_val",
    types_pb2.DT_BFLOAT16: "half_val",
    types_pb2.DT_COMPLEX64: "scomplex_val",
    types_pb2.DT_COMPLEX128: "dcomplex_val",
}
# Complex numbers are stored as pairs of real and imaginary parts.
COMPLEX_PARTS: dict[int, np.dtype[Any]] = {
    types_pb2.DT_COMPLEX64: np.dtype(np.float32),
    types_pb2.DT_COMPLEX128: np.dtype(np.float64),
}
HALF_DTYPES = (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16)  # half_val holds their bits as integers
HALF_BITS: np.dtype[Any] = np.dtype(np.uint16)

# Wire tags of float_val and double_val. Packed floats are raw memory, so tag, length and the bytes of an array are a
# valid field; appending Python floats one by one takes a hundred times as long.
PACKED_TAGS = {types_pb2.DT_FLOAT: b"\x2a", types_pb2.DT_DOUBLE: b"\x32"}


SLICE = 1 << 16  # values converted at once; between two slices other threads can take the GIL
STRING_BYTES = 64  # overhead of a string in arrays of NumPy and of the runtime, without its own bytes
MAX_TENSOR_BYTES = MAX_MESSAGE_BYTES  # limit of a tensor and of a message
MAX_REPEATED_BYTES = 16 * 1024 * 1024  # limit of the values and contexts that a request repeats

# The limit of NumPy's iterators. The runtime reads and writes string arrays with them and does not check for failure:
# an array of more dimensions would crash the process.
MAX_DIMENSIONS = 32


def dtype_name(dtype: int) -> str:
    """Return the name of a DataType in the runtime's messages: float, int32, string, half."""
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


@functools.cache
def numpy_dtype(dtype: int) -> np.dtype:
    """Return the NumPy dtype of a DataType; object for strings. TypeError for an invalid DataType."""
    return np.dtype(as_dtype(dtype).as_numpy_dtype)


def check_dimensions(count: int, alias: str) -> None:
    """Raise INVALID_ARGUMENT for a tensor of more than MAX_DIMENSIONS."""
    if count > MAX_DIMENSIONS:
        raise invalid_argument(f"{alias} has {count} dimensions; a tensor may have at most {MAX_DIMENSIONS}.")


def from_proto(proto: TensorProto, alias: str, max_bytes: int = MAX_TENSOR_BYTES) -> np.ndarray:
    """Return the array of input `alias`; INVALID_ARGUMENT for an invalid tensor or one above `max_bytes`."""
    check_dimensions(len(proto.tensor_shape.dim), alias)  # first, because multiplying very many sizes is slow
    try:
        return _decode(proto, max_bytes)
    except (ValueError, TypeError, KeyError, MemoryError, OverflowError):
        raise invalid_argument(f"tensor parsing error: {alias}") from None


def _decode(proto: TensorProto, max_bytes: int) -> np.ndarray:
    dtype = numpy_dtype(proto.dtype)
    if proto.tensor_shape.unknown_rank:
        raise ValueError("the rank is unknown")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if any(size < 0 for size in shape):
        raise ValueError("a dimension is unknown")
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = getattr(proto, VALUE_FIELDS[proto.dtype])
    size = math.prod(shape)
    if size * dtype.itemsize > max_bytes:
        raise ValueError("the tensor is too large")
    limit = 2 * size if proto.dtype in COMPLEX_PARTS else size
    return _fill(proto.dtype, dtype, values[:limit] if len(values) > limit else values, size).reshape(shape)


def repeated_bytes(protos: Iterable[TensorProto]) -> int:
    """Return the bytes of values that short lists repeat: a few bytes of a message may become gigabytes."""
    return sum(map(_repeated_bytes, protos))


def _repeated_bytes(proto: TensorProto) -> int:
    """Return the bytes for one tensor; 0 for an invalid tensor, which `from_proto` rejects."""
    field, dims = VALUE_FIELDS.get(proto.dtype), proto.tensor_shape.dim
    if field is None or proto.tensor_content or len(dims) > MAX_DIMENSIONS:
        return 0
    values = getattr(proto, field)
    count = len(values) // 2 if proto.dtype in COMPLEX_PARTS else len(values)
    missing = max(0, math.prod(max(0, dim.size) for dim in dims) - count)
    if proto.dtype != types_pb2.DT_STRING:
        return missing * numpy_dtype(proto.dtype).itemsize
    return missing * (STRING_BYTES + (len(values[-1]) if values else 0))


def _fill(data_type: int, dtype: np.dtype, values: Sequence[Any], size: int) -> np.ndarray:
    """Return an array [size]; the last value of a short list is repeated, an empty list becomes zeros."""
    strings, parts = data_type == types_pb2.DT_STRING, 2 if data_type in COMPLEX_PARTS else 1
    stored = HALF_BITS if data_type in HALF_DTYPES else COMPLEX_PARTS.get(data_type, dtype)
    count, rest = divmod(len(values), parts)
    if rest:
        raise ValueError("a complex number lacks its imaginary part")
    array = np.full(size, b"", object) if strings else np.zeros(parts * size, stored)
    for start in range(0, len(values), SLICE):
        part = values[start : start + SLICE] if len(values) > SLICE else values
        array[start : start + len(part)] = part if strings else _numbers(part, stored)
    array = array.view(dtype) if stored != dtype else array
    if count:
        array[count:] = array[count - 1]
    return array


def _numbers(values: Sequence[Any], dtype: np.dtype) -> np.ndarray:
    """Return a flat array; values outside the range of a small integer type wrap around, like a cast in C++."""
    if dtype.kind in "iu" and dtype.itemsize < 4:
        return np.fromiter(values, np.int64, len(values)).astype(dtype)
    return np.fromiter(values, dtype, len(values))


def to_proto(array: np.ndarray, data_type: int, proto: TensorProto, as_content: bool = False) -> None:
    """Write an array into `proto`: into float_val or another value field, or (`as_content`) into tensor_content."""
    proto.dtype = data_type
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if as_content and data_type != types_pb2.DT_STRING:
        proto.tensor_content = array.tobytes()
    elif data_type in PACKED_TAGS:
        data = array.tobytes()
        proto.MergeFromString(PACKED_TAGS[data_type] + _varint(len(data)) + data)
    elif data_type in VALUE_FIELDS:
        flat = array.ravel()
        if data_type in HALF_DTYPES or data_type in COMPLEX_PARTS:
            flat = flat.view(COMPLEX_PARTS.get(data_type, HALF_BITS))
        getattr(proto, VALUE_FIELDS[data_type]).extend(flat.tolist())
    else:
        proto.tensor_content = array.tobytes()


def _varint(number: int) -> bytes:
    """Encode a length as a protobuf varint: seven bits per byte, lowest bits first."""
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
