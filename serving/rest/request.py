"""Convert the JSON of a REST predict request to arrays; row form ("instances") or columnar form ("inputs")."""

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
# Ranges of integer literals. As in TensorFlow Serving, small types are then cast unchecked.
INTEGER_RANGES = {
    types_pb2.DT_INT8: INT32_RANGE,
    types_pb2.DT_INT16: INT32_RANGE,
    types_pb2.DT_INT32: INT32_RANGE,
    types_pb2.DT_UINT8: INT32_RANGE,
    types_pb2.DT_INT64: (-(2**63), 2**63 - 1),
    types_pb2.DT_UINT32: (0, 2**32 - 1),
    types_pb2.DT_UINT64: (0, 2**64 - 1),
}
# {DataType: Python types of its JSON values}
ACCEPTED_TYPES = {
    **dict.fromkeys(FLOATS, frozenset({int, float})),
    **dict.fromkeys(INTEGER_RANGES, frozenset({int})),
    types_pb2.DT_BOOL: frozenset({bool}),
    STRING: frozenset({str}),
}


@dataclass(frozen=True)
class RestRequest:
    """Arrays by input name, and the form of the reply."""

    arrays: dict[str, np.ndarray]
    row_form: bool


def signature_name(document: dict[str, Any]) -> str:
    """Return the signature that the request names, or ""."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {debug(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def read_request(document: dict[str, Any], signature: Signature) -> RestRequest:
    """Convert the values of all inputs of the signature."""
    if not signature.inputs:
        raise invalid_argument(f"Failed to get input map for signature: {signature.name}")
    if "instances" not in document:
        if "inputs" not in document:
            raise invalid_argument("Missing 'inputs' or 'instances' key")
        return RestRequest(read_columns(document["inputs"], signature.inputs), row_form=False)
    problem = None
    if "inputs" in document:
        problem = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
    elif not isinstance(document["instances"], list):
        problem = "Expecting 'instances' to be an list/array"
    elif not document["instances"]:
        problem = "No values in 'instances' array"
    if problem:
        raise invalid_argument(f"JSON Value: {debug(document)} {problem}")
    return RestRequest(_rows(document["instances"], signature.inputs), row_form=True)


def read_columns(inputs: Any, specs: dict[str, Input]) -> dict[str, np.ndarray]:
    """Read the columnar form: one value for the only input, or an object with a value for each."""
    if not isinstance(inputs, dict) or is_base64(inputs):
        if len(specs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required "
                "as per tensorinfo_map"
            )
        inputs = {next(iter(specs)): inputs}
    arrays = {}
    for name, info in specs.items():
        if name not in inputs:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = to_array(inputs[name], info)
    return arrays


def _rows(instances: list[Any], specs: dict[str, Input]) -> dict[str, np.ndarray]:
    """Read the row form: a list of values of the only input, or of objects with exactly the names of the inputs."""
    if len(specs) > 1 and not isinstance(instances[0], dict):
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    objects = _is_object(instances[0])
    if objects and all(_is_object(row) and row.keys() == specs.keys() for row in instances):
        columns = {name: [row[name] for row in instances] for name in specs}
    elif not objects:
        columns = {next(iter(specs)): instances}
    else:
        columns = {}
    arrays = {name: _regular_array(column, specs[name]) for name, column in columns.items()}
    if arrays and all(array is not None for array in arrays.values()):
        return arrays  # type: ignore[return-value]
    return _rows_one_by_one(instances, specs, objects)


def _rows_one_by_one(instances: list[Any], specs: dict[str, Input], objects: bool) -> dict[str, np.ndarray]:
    """Read the row form row by row: slower, but finds the first error."""
    shapes: dict[str, list[int]] = {}  # of a row
    leaves: dict[str, list[Any]] = {name: [] for name in specs}  # of all rows: arrays would take far more memory
    for index, row in enumerate(instances):
        if objects and not _is_object(row):
            raise invalid_argument(f"Expecting object but got list at item {index} of input list")
        if not objects and _is_object(row):
            raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
        for name, value in row.items() if objects else [(next(iter(specs)), row)]:
            try:
                row_leaves = _leaves_of_row(name, value, specs, shapes)
                leaves[name] += row_leaves
            except StatusError as error:
                key = f" key: {name}" if objects else ""
                raise invalid_argument(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: {error}"
                ) from None
        if objects and row.keys() != specs.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {debug(row)} "
                f"keys must be equal to: {','.join(sorted(specs))}"
            )
    return {name: _array(leaves[name], info).reshape([len(instances), *shapes[name]]) for name, info in specs.items()}


def _leaves_of_row(name: str, value: Any, specs: dict[str, Input], shapes: dict[str, list[int]]) -> list[Any]:
    """Return the leaves of one row, which must have the shape of the first row."""
    if name not in specs:
        raise invalid_argument(f"JSON object: does not have named input: {name}")
    shape, leaves = _shape_and_leaves(value, specs[name].data_type)
    first = shapes.setdefault(name, shape)
    if math.prod(first) != math.prod(shape):
        raise invalid_argument(f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}")
    if first != shape:
        raise invalid_argument(f"Expecting shape {_brackets(first)} but got: {_brackets(shape)}")
    return leaves


def _brackets(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def to_array(value: Any, info: Input) -> np.ndarray:
    """Convert one JSON value, a scalar or regularly nested lists."""
    shape, leaves = _shape_and_leaves(value, info.data_type)
    return _array(leaves, info).reshape(shape)


def _shape_and_leaves(value: Any, data_type: int) -> tuple[list[int], list[Any]]:
    shape = _shape(value)
    leaves = _regular_leaves(value, shape, data_type)
    if leaves is None:
        leaves = []
        _collect_leaves(value, 0, shape, data_type, leaves)
    return shape, leaves


def _shape(value: Any) -> list[int]:
    """Return the lengths of the lists along the first elements."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) > MAX_DIMENSIONS:
        raise invalid_argument(f"JSON Value has {len(shape)} dimensions, expected at most {MAX_DIMENSIONS}")
    return shape


def _regular_array(value: Any, info: Input) -> np.ndarray | None:
    """Return the array if lists are regular and all leaves plain values of the right type, else None."""
    shape = _shape(value)
    leaves = _regular_leaves(value, shape, info.data_type)
    return None if leaves is None else _array(leaves, info).reshape(shape)


def _regular_leaves(value: Any, shape: list[int], data_type: int) -> list[Any] | None:
    """Return the leaves of a value that `_regular_array` accepts, else None; without a Python loop over them."""
    leaves = [value]
    for size in shape:
        if set(map(type, leaves)) - {list} or set(map(len, leaves)) - {size}:
            return None
        leaves = list(chain.from_iterable(leaves))
    if set(map(type, leaves)) - ACCEPTED_TYPES.get(data_type, frozenset()):
        return None
    if leaves and data_type in INTEGER_RANGES:
        low, high = INTEGER_RANGES[data_type]
        if min(leaves) < low or max(leaves) > high:
            return None
    return leaves


def _array(leaves: list[Any], info: Input) -> np.ndarray:
    """Return an array [n] of values that fit the dtype; integers of small types wrap around."""
    if info.data_type == STRING:
        array = np.empty(len(leaves), object)
        array[:] = [_bytes(leaf) for leaf in leaves]
        return array
    if info.data_type in FLOATS:
        numbers = np.array(leaves, np.float64)
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite
            return numbers.astype(info.dtype)
    if INTEGER_RANGES.get(info.data_type) == INT32_RANGE:
        return np.array(leaves, np.int32).astype(info.dtype)
    return np.array(leaves, info.dtype)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _collect_leaves(value: Any, level: int, shape: list[int], data_type: int, leaves: list[Any]) -> None:
    """Append the leaves of a value in order; raise for the first that is misplaced or of the wrong type."""
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
        _collect_leaves(item, level + 1, shape, data_type, leaves)


def _leaf(value: Any, data_type: int) -> Any:
    """Check a value against the dtype; decode {"b64": ...} of strings."""
    if isinstance(value, dict) and data_type == STRING:
        return _from_base64(value)
    if data_type not in ACCEPTED_TYPES and not isinstance(value, dict):
        raise StatusError("UNIMPLEMENTED", f"Conversion of JSON Value: {debug(value)} to type: {dtype_name(data_type)}")
    low, high = INTEGER_RANGES.get(data_type, (0, 0))
    if type(value) not in ACCEPTED_TYPES.get(data_type, ()) or (
        data_type in INTEGER_RANGES and not low <= value <= high
    ):
        raise invalid_argument(
            f"JSON Value: {debug(value)} Type: {type_name(value)} is not of expected type: {dtype_name(data_type)}"
        )
    return value


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: Any) -> bool:
    """Return whether a value is {"b64": "..."} without other keys."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _from_base64(value: dict[str, Any]) -> bytes:
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {debug(value)} not formatted correctly for base64 data")
    try:
        text = value["b64"].encode("ascii").translate(None, string.whitespace.encode()).rstrip(b"=")
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None
