"""Convert arrays to the JSON of a REST predict response, with the line breaks of TensorFlow Serving's writer."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import numpy as np
from tensorflow.core.framework import types_pb2

from serving.engine.tensors import dtype_name
from serving.errors import invalid_argument
from serving.rest.json_text import INDENT, decimals, quoted

FLOATS = (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE)
INTEGERS = (
    types_pb2.DT_INT8,
    types_pb2.DT_INT16,
    types_pb2.DT_INT32,
    types_pb2.DT_INT64,
    types_pb2.DT_UINT8,
    types_pb2.DT_UINT32,
    types_pb2.DT_UINT64,
)
JSON_TYPES = {*FLOATS, *INTEGERS, types_pb2.DT_BOOL, types_pb2.DT_STRING}
LARGE_JSON_RESULT = 4096  # bytes; writing a number as text takes about a microsecond

Outputs = dict[str, tuple[int, np.ndarray]]  # {name: (DataType, array)}


def encode_json(text: str) -> bytes:
    """Encode JSON text; bytes of the request that were not UTF-8 (surrogate escapes) are restored."""
    return text.encode("utf-8", "surrogateescape")


def row_json(outputs: Outputs) -> str:
    """Return {"predictions": [...]}: a value per example, or an object if there are several outputs."""
    count = _batch_size(outputs)
    several = len(outputs) > 1
    columns = {
        name: _texts(name, data_type, array, count, array.shape[1:], 3 if several else 2, one_line=True)
        for name, (data_type, array) in outputs.items()
    }
    if not count:
        return f'{{\n{INDENT}"predictions": []\n}}'
    if not several:
        rows = "[" + ", ".join(next(iter(columns.values())))
    else:
        rows = "[" + ",".join(
            f"\n{INDENT * 2}{{\n{_members(dict(zip(columns, row, strict=True)), 3)}\n{INDENT * 2}}}"
            for row in zip(*columns.values(), strict=True)
        )
    return f'{{\n{INDENT}"predictions": {rows}\n{INDENT}]\n}}'


def columnar_json(outputs: Outputs) -> str:
    """Return {"outputs": ...}: the value of the only output, or an object with a value for each."""
    level = 2 if len(outputs) > 1 else 1
    values = {
        name: _texts(name, data_type, array, 1, array.shape, level, one_line=False)[0]
        for name, (data_type, array) in outputs.items()
    }
    if len(outputs) > 1:
        value = f"{{\n{_members(values, 2)}\n{INDENT}}}"
    else:
        value = next(iter(values.values()))
    return f'{{\n{INDENT}"outputs": {value}\n}}'


def _members(values: dict[str, str], level: int) -> str:
    return ",\n".join(f"{INDENT * level}{quoted(name)}: {value}" for name, value in values.items())


def _batch_size(outputs: Outputs) -> int:
    """Return the size of the first axis, which all outputs must share."""
    count = None
    for name, (_, array) in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if count is not None and count != array.shape[0]:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {count}"
            )
        count = array.shape[0]
    return count or 0


def _texts(
    name: str,
    data_type: int,
    array: np.ndarray,
    count: int,
    shape: Sequence[int],
    level: int,
    one_line: bool,
) -> list[str]:
    """Return the JSON of each of `count` values of `shape`; `level`: their nesting depth in the document."""
    texts = _leaves(name, data_type, array.ravel(), level + len(shape))
    for axis in reversed(range(len(shape))):
        inner = "" if one_line else "\n" + INDENT * (level + axis + 1)
        outer = "" if one_line else "\n" + INDENT * (level + axis)
        comma = ", " if one_line else "," + inner
        size, lists = shape[axis], count * math.prod(shape[:axis])
        texts = [
            f"[{inner}{comma.join(texts[i * size : (i + 1) * size])}{outer}]" if size else "[]" for i in range(lists)
        ]
    return texts


def _leaves(name: str, data_type: int, values: np.ndarray, level: int) -> list[str]:
    """Return the JSON of each element [n]."""
    if data_type in FLOATS:
        return decimals(values)
    if data_type in INTEGERS:
        return list(map(str, values.tolist()))
    if data_type == types_pb2.DT_BOOL:
        return ["true" if value else "false" for value in values.tolist()]
    check_json_type(data_type)
    if name.endswith("_bytes"):  # this suffix marks bytes
        return [_base64_object(value, level) for value in values]
    return [quoted(value.decode("utf-8", "surrogateescape")) for value in values]


def check_json_type(data_type: int) -> None:
    """Raise INVALID_ARGUMENT for a DataType that JSON cannot represent."""
    if data_type not in JSON_TYPES:
        raise invalid_argument(f"Failed to write JSON value for tensor type: {dtype_name(data_type)}")


def _base64_object(value: bytes, level: int) -> str:
    text = base64.b64encode(value).decode()
    return f'{{\n{INDENT * (level + 1)}"b64": "{text}"\n{INDENT * level}}}'
