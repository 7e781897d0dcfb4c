"""From the JSON of a REST predict request to arrays; row form ("instances") or columnar form ("inputs")."""

from __future__ import annotations

import base64
import binascii
import math
import string
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2

from serving.engine.servable import Input, Signature
from serving.engine.tensors import MAX_DIMENSIONS, dtype_name
from serving.errors import StatusError, invalid_argument
from serving.rest.json_text import debug, type_name

STRING = types_pb2.DT_STRING
FLOATS = (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE)
INT32_RANGE = (-(2**31), 2**31 - 1)
# Ranges of integer literals. Small types are then cast unchecked, like in TensorFlow Serving.
INTEGER_RANGES = {
    types_pb2.DT_INT8: INT32_RANGE,
    types_pb2.DT_INT16: INT32_RANGE,
    types_pb2.DT_INT32: INT32_RANGE,
    types_pb2.DT_UINT8: INT32_RANGE,
    types_pb2.DT_INT64: (-(2**63), 2**63 - 1),
    types_pb2.DT_UINT32: (0, 2**32 - 1),
    types_pb2.DT_UINT64: (0, 2**64 - 1),
}
# {DataType: Python types of JSON values that it takes}
ACCEPTED = {
    **dict.fromkeys(FLOATS, frozenset({int, float})),
    **dict.fromkeys(INTEGER_RANGES, frozenset({int})),
    types_pb2.DT_BOOL: frozenset({bool}),
    STRING: frozenset({str}),
}


@dataclass(frozen=True)
class RestRequest:
    """Arrays by input name, and the form in which the answer is expected."""

    arrays: dict[str, np.ndarray]
    row_form: bool


def signature_name(document: dict[str, Any]) -> str:
    """Signature that the request names, or ""."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {debug(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def read_request(document: dict[str, Any], signature: Signature) -> RestRequest:
    """Arrays of all inputs of the signature."""
    if not signature.inputs:
        raise invalid_argument(f"Failed to get input map for signature: {signature.name}")
    if "instances" not in document:
        if "inputs" not in document:
            raise invalid_argument("Missing 'inputs' or 'instances' key")
        return RestRequest(read_columns(document["inputs"], signature.inputs), row_form=False)
    complaint = None
    if "inputs" in document:
        complaint = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
    elif not isinstance(document["instances"], list):
        complaint = "Expecting 'instances' to be an list/array"
    elif not document["instances"]:
        complaint = "No values in 'instances' array"
    if complaint:
        raise invalid_argument(f"JSON Value: {debug(document)} {complaint}")
    return RestRequest(_rows(document["instances"], signature.inputs), row_form=True)


def read_columns(inputs: Any, wanted: dict[str, Input]) -> dict[str, np.ndarray]:
    """The columnar form: one value for the only input, or an object with a value for each."""
    if not isinstance(inputs, dict) or is_base64(inputs):
        if len(wanted) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required "
                "as per tensorinfo_map"
            )
        inputs = {next(iter(wanted)): inputs}
    arrays = {}
    for name, info in wanted.items():
        if name not in inputs:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = to_array(inputs[name], info)
    return arrays


def _rows(instances: list[Any], wanted: dict[str, Input]) -> dict[str, np.ndarray]:
    """The row form: a list of values of the only input, or of objects with just the names of the inputs."""
    if len(wanted) > 1 and not isinstance(instances[0], dict):
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    objects = _is_object(instances[0])
    if objects and all(_is_object(row) and row.keys() == wanted.keys() for row in instances):
        columns = {name: [row[name] for row in instances] for name in wanted}
    elif not objects:
        columns = {next(iter(wanted)): instances}
    else:
        columns = {}
    arrays = {name: _regular(column, wanted[name]) for name, column in columns.items()}
    if arrays and all(array is not None for array in arrays.values()):
        return arrays  # type: ignore[return-value]
    return _rows_one_by_one(instances, wanted, objects)


def _rows_one_by_one(instances: list[Any], wanted: dict[str, Input], objects: bool) -> dict[str, np.ndarray]:
    """As `_rows`, row after row: slower, and finds the first fault."""
    shapes: dict[str, list[int]] = {}  # of a row
    leaves: dict[str, list[Any]] = {name: [] for name in wanted}  # of all rows: arrays would take far more memory
    for index, row in enumerate(instances):
        if objects and not _is_object(row):
            raise invalid_argument(f"Expecting object but got list at item {index} of input list")
        if not objects and _is_object(row):
            raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
        for name, value in row.items() if objects else [(next(iter(wanted)), row)]:
            try:
                of_row = _leaves_of_row(name, value, wanted, shapes)
                leaves[name] += of_row
            except StatusError as error:
                key = f" key: {name}" if objects else ""
                raise invalid_argument(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: {error}"
                ) from None
        if objects and row.keys() != wanted.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {debug(row)} "
                f"keys must be equal to: {','.join(sorted(wanted))}"
            )
    return {name: _array(leaves[name], info).reshape([len(instances), *shapes[name]]) for name, info in wanted.items()}


def _leaves_of_row(name: str, value: Any, wanted: dict[str, Input], shapes: dict[str, list[int]]) -> list[Any]:
    """The leaves of one row, which must look like the first row."""
    if name not in wanted:
        raise invalid_argument(f"JSON object: does not have named input: {name}")
    shape, leaves = _shape_and_leaves(value, wanted[name].data_type)
    first = shapes.setdefault(name, shape)
    if math.prod(first) != math.prod(shape):
        raise invalid_argument(f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}")
    if first != shape:
        raise invalid_argument(f"Expecting shape {_brackets(first)} but got: {_brackets(shape)}")
    return leaves


def _brackets(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def to_array(value: Any, info: Input) -> np.ndarray:
    """Array of one JSON value, a scalar or evenly nested lists."""
    shape, leaves = _shape_and_leaves(value, info.data_type)
    return _array(leaves, info).reshape(shape)


def _shape_and_leaves(value: Any, data_type: int) -> tuple[list[int], list[Any]]:
    shape = _shape(value)
    leaves = _even_leaves(value, shape, data_type)
    if leaves is None:
        leaves = []
        _collect(value, 0, shape, data_type, leaves)
    return shape, leaves


def _shape(value: Any) -> list[int]:
    """Lengths along the first elements."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) > MAX_DIMENSIONS:
        raise invalid_argument(f"JSON Value has {len(shape)} dimensions, expected at most {MAX_DIMENSIONS}")
    return shape


def _regular(value: Any, info: Input) -> np.ndarray | None:
    """The array if lists are even and all leaves plain values of the right type, else None."""
    shape = _shape(value)
    leaves = _even_leaves(value, shape, info.data_type)
    return None if leaves is None else _array(leaves, info).reshape(shape)


def _even_leaves(value: Any, shape: list[int], data_type: int) -> list[Any] | None:
    """The leaves of a value if they are as `_regular` takes them, else None; no Python loop over them."""
    leaves = [value]
    for size in shape:
        if set(map(type, leaves)) - {list} or set(map(len, leaves)) - {size}:
            return None
        leaves = list(chain.from_iterable(leaves))
    if set(map(type, leaves)) - ACCEPTED.get(data_type, frozenset()):
        return None
    if leaves and data_type in INTEGER_RANGES:
        low, high = INTEGER_RANGES[data_type]
        if min(leaves) < low or max(leaves) > high:
            return None
    return leaves


def _array(leaves: list[Any], info: Input) -> np.ndarray:
    """Array [n] of values that fit the dtype; integers of small types wrap around."""
    if info.data_type == STRING:
        array = np.empty(len(leaves), object)
        array[:] = [_bytes(leaf) for leaf in leaves]
        return array
    if info.data_type in FLOATS:
        numbers = np.array(leaves, np.float64)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            return numbers.astype(info.dtype)
    if INTEGER_RANGES.get(info.data_type) == INT32_RANGE:
        return np.array(leaves, np.int32).astype(info.dtype)
    return np.array(leaves, info.dtype)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _collect(value: Any, level: int, shape: list[int], data_type: int, leaves: list[Any]) -> None:
    """Append the leaves of a value in order; the first that is out of place or of the wrong type raises."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {debug(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        leaves.append(_leaf(value, data_type))
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _collect(item, level + 1, shape, data_type, leaves)


def _leaf(value: Any, data_type: int) -> Any:
    """A value that the dtype takes; for strings also {"b64": ...}."""
    if isinstance(value, dict) and data_type == STRING:
        return _from_base64(value)
    if data_type not in ACCEPTED and not isinstance(value, dict):
        raise StatusError("UNIMPLEMENTED", f"Conversion of JSON Value: {debug(value)} to type: {dtype_name(data_type)}")
    low, high = INTEGER_RANGES.get(data_type, (0, 0))
    if type(value) not in ACCEPTED.get(data_type, ()) or (data_type in INTEGER_RANGES and not low <= value <= high):
        raise invalid_argument(
            f"JSON Value: {debug(value)} Type: {type_name(value)} is not of expected type: {dtype_name(data_type)}"
        )
    return value


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: Any) -> bool:
    """{"b64": "..."} and nothing else in it."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _from_base64(value: dict[str, Any]) -> bytes:
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {debug(value)} not formatted correctly for base64 data")
    try:
        text = value["b64"].encode("ascii").translate(None, string.whitespace.encode()).rstrip(b"=")
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None
