"""The client's gRPC transport."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from serving.client import (
    DTYPES,
    INIT_OPERATION,
    Metadata,
    ModelSpec,
    ServingError,
    Tensors,
    VersionStatus,
    as_bytes,
    unavailable,
)
from serving.errors import CODE_NAMES
from serving.wire import CLASSES

DTYPE_NAMES = {number: name for name, number in DTYPES.items()}
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}

# {dtype: field that holds its numbers} when they do not come as tensor_content.
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
    "float16": "half_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
}

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),  # feature maps outgrow the default of 4 MiB
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is for the web, not for this server
    ("grpc.initial_reconnect_backoff_ms", 200),  # a server that is just starting is found soon
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class GrpcTransport:
    """Requests over one channel, which threads may share."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._predict = self._method("PredictionService", "Predict")
        self._get_metadata = self._method("PredictionService", "GetModelMetadata")
        self._get_status = self._method("ModelService", "GetModelStatus")

    def predict(self, spec: ModelSpec, signature: str, inputs: Tensors, timeout: float) -> Tensors:
        request = CLASSES["PredictRequest"]()
        _fill_spec(request.model_spec, spec)
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            encode(request.inputs[name], name, array)
        response = self._call(self._predict, request, timeout)
        return {name: decode(tensor) for name, tensor in response.outputs.items()}

    def metadata(self, spec: ModelSpec, timeout: float) -> Metadata:
        request = CLASSES["GetModelMetadataRequest"](metadata_field=["signature_def"])
        _fill_spec(request.model_spec, spec)
        response = self._call(self._get_metadata, request, timeout)
        signatures = CLASSES["SignatureDefMap"].FromString(response.metadata["signature_def"].value)
        return {
            name: {"inputs": _describe(signature.inputs), "outputs": _describe(signature.outputs)}
            for name, signature in signatures.signature_def.items()
            if name != INIT_OPERATION
        }

    def status(self, spec: ModelSpec, timeout: float) -> list[VersionStatus]:
        request = CLASSES["GetModelStatusRequest"]()
        _fill_spec(request.model_spec, spec)
        response = self._call(self._get_status, request, timeout)
        return [
            VersionStatus(s.version, STATES[s.state], CODE_NAMES[s.status.error_code], s.status.error_message)
            for s in response.model_version_status
        ]

    def close(self) -> None:
        self._channel.close()

    def _method(self, service: str, name: str) -> grpc.UnaryUnaryMultiCallable:
        return self._channel.unary_unary(
            f"/tensorflow.serving.{service}/{name}",
            request_serializer=CLASSES[f"{name}Request"].SerializeToString,
            response_deserializer=CLASSES[f"{name}Response"].FromString,
        )

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code, message = error.code().name, error.details()
            if code == "UNAVAILABLE":
                raise unavailable(self._address, message) from None
            raise ServingError(code, message) from None


def _fill_spec(message: Any, spec: ModelSpec) -> None:
    message.name = spec.name
    if spec.version is not None:
        message.version.value = spec.version
    elif spec.label is not None:
        message.version_label = spec.label


def _describe(tensors: Any) -> dict[str, dict[str, Any]]:
    return {
        name: {"dtype": _dtype_name(info.dtype), "shape": _shape(info.tensor_shape)} for name, info in tensors.items()
    }


def _dtype_name(number: int) -> str:
    return DTYPE_NAMES.get(number, f"DataType({number})")


def _shape(shape: Any) -> list[int] | None:
    return None if shape.unknown_rank else [dim.size for dim in shape.dim]


def encode(tensor: Any, name: str, array: np.ndarray) -> None:
    """Write an array into a Tensor message: numbers as raw memory, the fastest form on both sides."""
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype.kind == "O":
        tensor.dtype = DTYPES["string"]
        tensor.string_val.extend([as_bytes(name, value) for value in array.ravel()])
    else:
        tensor.dtype = DTYPES[array.dtype.name]
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        tensor.tensor_content = np.ascontiguousarray(little_endian).tobytes()


def decode(tensor: Any) -> np.ndarray:
    """Array of a Tensor message, whose numbers may be raw memory or a list."""
    name, shape = _dtype_name(tensor.dtype), _shape(tensor.tensor_shape)
    if name == "string":
        strings = np.empty(len(tensor.string_val), dtype=object)
        strings[:] = tensor.string_val
        return strings.reshape(shape)
    if name not in VALUE_FIELDS:
        raise ServingError("UNIMPLEMENTED", f"the server answered with {name}, which this client cannot read")
    dtype = np.dtype(name)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    values = getattr(tensor, VALUE_FIELDS[name])
    if name in ("float32", "float64"):
        return np.frombuffer(b"".join(values), dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    if name == "float16":
        return np.array(values, dtype=np.uint16).view(np.float16).reshape(shape)
    return np.array(values, dtype=dtype).reshape(shape)
