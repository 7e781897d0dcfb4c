"""The messages of TensorFlow Serving's protocol that the client needs, without TensorFlow.

The wire format carries field numbers and types, not message names. So this module describes the messages in a
descriptor pool of their own: they cannot clash with TensorFlow's messages in the same process, and they need no
generated code that must match the installed protobuf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from serving.client.errors import failure
from serving.client.types import COMPOSITE, SPARSE
from serving.client.values import as_bytes
from serving.protocol import DTYPES

PACKAGE = "serving.client.wire"

# {message: {field: (number, type)}}. A type is a scalar, a message, "repeated T" or "map T" (with string keys).
# On the wire, packed numbers of fixed width look like one bytes field. If the field is declared as bytes, numpy reads
# and writes them at once, whereas `repeated float` needs a Python object for each number.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Dim": {"size": (1, "int64"), "name": (2, "string")},
    "TensorShape": {"dim": (2, "repeated Dim"), "unknown_rank": (3, "bool")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "repeated bytes"),
        "double_val": (6, "repeated bytes"),
        "int_val": (7, "repeated int32"),
        "string_val": (8, "repeated bytes"),
        "int64_val": (10, "repeated int64"),
        "bool_val": (11, "repeated bool"),
        "half_val": (13, "repeated int32"),
        "uint32_val": (16, "repeated uint32"),
        "uint64_val": (17, "repeated uint64"),
    },
    "Int64Value": {"value": (1, "int64")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Int64Value"),
        "signature_name": (3, "string"),
        "version_label": (4, "string"),
    },
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "map Tensor")},
    "PredictResponse": {"outputs": (1, "map Tensor"), "model_spec": (2, "ModelSpec")},
    "BytesList": {"value": (1, "repeated bytes")},
    "FloatList": {"value": (1, "bytes")},
    "Int64List": {"value": (1, "repeated int64")},
    "Feature": {"bytes_list": (1, "BytesList"), "float_list": (2, "FloatList"), "int64_list": (3, "Int64List")},
    "Features": {"feature": (1, "map Feature")},
    "Example": {"features": (1, "Features")},
    "ExampleList": {"examples": (1, "repeated Example")},
    "ExampleListWithContext": {"examples": (1, "repeated Example"), "context": (2, "Example")},
    "Input": {"example_list": (1, "ExampleList"), "example_list_with_context": (2, "ExampleListWithContext")},
    "ClassificationRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
    "Class": {"label": (1, "string"), "score": (2, "float")},
    "Classifications": {"classes": (1, "repeated Class")},
    "ClassificationResult": {"classifications": (1, "repeated Classifications")},
    "ClassificationResponse": {"result": (1, "ClassificationResult"), "model_spec": (2, "ModelSpec")},
    "RegressionRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
    "Regression": {"value": (1, "float")},
    "RegressionResult": {"regressions": (1, "repeated Regression")},
    "RegressionResponse": {"result": (1, "RegressionResult"), "model_spec": (2, "ModelSpec")},
    "GetModelMetadataRequest": {"model_spec": (1, "ModelSpec"), "metadata_field": (2, "repeated string")},
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "GetModelMetadataResponse": {"model_spec": (1, "ModelSpec"), "metadata": (2, "map Any")},
    "TypeSpec": {"type_spec_class_name": (3, "string")},
    "CompositeTensor": {"type_spec": (1, "TypeSpec")},
    "CooSparse": {"values_tensor_name": (1, "string")},
    "TensorInfo": {
        "name": (1, "string"),
        "dtype": (2, "int32"),
        "tensor_shape": (3, "TensorShape"),
        "coo_sparse": (4, "CooSparse"),
        "composite_tensor": (5, "CompositeTensor"),
    },
    "SignatureDef": {
        "inputs": (1, "map TensorInfo"),
        "outputs": (2, "map TensorInfo"),
        "method_name": (3, "string"),
    },
    "SignatureDefMap": {"signature_def": (1, "map SignatureDef")},
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec")},
    "Status": {"error_code": (1, "int32"), "error_message": (2, "string")},
    "ModelVersionStatus": {"version": (1, "int64"), "state": (2, "int32"), "status": (3, "Status")},
    "GetModelStatusResponse": {"model_version_status": (1, "repeated ModelVersionStatus")},
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int32")},
}

_Field = descriptor_pb2.FieldDescriptorProto


def _set_type(field: _Field, kind: str, parent: str) -> None:
    """Set the label and type of a field from its text, such as "repeated int64"."""
    if kind.startswith("map "):
        entry = "".join(word.capitalize() for word in field.name.split("_")) + "Entry"
        field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{parent}.{entry}"
        return
    field.label = _Field.LABEL_REPEATED if kind.startswith("repeated ") else _Field.LABEL_OPTIONAL
    kind = kind.removeprefix("repeated ")
    if kind in MESSAGES:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(_Field, f"TYPE_{kind.upper()}")


def _add_map_entry(message: descriptor_pb2.DescriptorProto, type_name: str, value: str) -> None:
    """Add the entry message `{key, value}` of a map field, which is a list of entries on the wire."""
    entry = message.nested_type.add(name=type_name.rpartition(".")[2])
    entry.options.map_entry = True
    for number, (name, kind) in enumerate((("key", "string"), ("value", value)), start=1):
        _set_type(entry.field.add(name=name, number=number), kind, message.name)


def _build() -> dict[str, Any]:
    """Return the message classes by name."""
    file = descriptor_pb2.FileDescriptorProto(name="serving/wire.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number)
            _set_type(field, kind, name)
            if kind.startswith("map "):
                _add_map_entry(message, field.type_name, kind.removeprefix("map "))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


CLASSES = _build()
DTYPE_NAMES = {number: name for name, number in DTYPES.items()}

# {dtype: field that holds its numbers} if they are not in tensor_content.
VALUE_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "uint8": "int_val",
    "int16": "int_val",
    "int8": "int_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "uint16": "int_val",
    "bfloat16": "half_val",
    "float16": "half_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
}
BITS = ("float16", "bfloat16")  # sent as integers that hold their bits


def encode(tensor: Any, name: str, array: np.ndarray) -> None:
    """Write an array into a Tensor message; numbers as raw memory, the fastest form on both sides."""
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype.kind == "O":
        tensor.dtype = DTYPES["string"]
        tensor.string_val.extend([as_bytes(name, value) for value in array.ravel()])
        return
    tensor.dtype = DTYPES[array.dtype.name]
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    tensor.tensor_content = little_endian.tobytes()


def decode(tensor: Any) -> np.ndarray:
    """Return the array of a Tensor message, with numbers as raw memory or a list; bfloat16 becomes float32.

    Raises: Unimplemented for dtypes outside DTYPES.
    """
    name, shape = dtype_name(tensor.dtype), _shape(tensor.tensor_shape) or []
    if name == "string":
        strings = np.empty(len(tensor.string_val), dtype=object)
        strings[:] = tensor.string_val
        return _reshape(strings, shape)
    if name not in VALUE_FIELDS:
        raise failure("UNIMPLEMENTED", f"the server returned {name}, which this client cannot decode")
    dtype = np.dtype(np.uint16 if name in BITS else name)
    field_values = getattr(tensor, VALUE_FIELDS[name])
    if tensor.tensor_content or name in ("float32", "float64"):
        content = tensor.tensor_content or b"".join(field_values)
        values = np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype)
    else:
        values = np.array(field_values, dtype=dtype)
    if name == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif name == "float16":
        values = values.view(np.float16)
    return _reshape(values, shape)


def _reshape(values: np.ndarray, shape: list[int]) -> np.ndarray:
    """Reshape the values; if the list is too short, repeat its last value."""
    missing = int(np.prod(shape)) - len(values)
    if missing > 0 and len(values):
        values = np.concatenate([values, np.repeat(values[-1:], missing)])
    return values.reshape(shape)


def describe(tensors: Any) -> dict[str, dict[str, Any]]:
    """Return {name: {"dtype", "shape"}} of a map of TensorInfo; shape None: any."""
    return {name: _describe(info) for name, info in tensors.items()}


def _describe(info: Any) -> dict[str, Any]:
    if info.HasField("composite_tensor"):
        return {"dtype": info.composite_tensor.type_spec.type_spec_class_name or COMPOSITE, "shape": None}
    return {
        "dtype": SPARSE if info.HasField("coo_sparse") else dtype_name(info.dtype),
        "shape": _shape(info.tensor_shape),
    }


def dtype_name(number: int) -> str:
    return DTYPE_NAMES.get(number, f"DataType({number})")


def _shape(shape: Any) -> list[int] | None:
    return None if shape.unknown_rank else [dim.size for dim in shape.dim]
