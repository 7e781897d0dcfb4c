"""The client's REST transport: the columnar form of TensorFlow Serving's JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import urllib3

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

# {HTTP status: code}; 400 also stands for FAILED_PRECONDITION and OUT_OF_RANGE, 500 for UNKNOWN, DATA_LOSS.
HTTP_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

# {name in the metadata JSON: name here}
JSON_DTYPES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"} | {
    f"DT_{name.upper()}": name for name in DTYPES
}


class RestTransport:
    """Requests over a pool of kept-alive connections, which threads may share."""

    def __init__(self, address: str, metadata: Callable[..., Metadata]) -> None:
        self._address = address.rstrip("/")
        self._metadata = metadata  # cached, for the dtypes and names that the JSON of an answer lacks
        self._pool = urllib3.PoolManager(maxsize=32, retries=False)

    def predict(self, spec: ModelSpec, signature: str, inputs: Tensors, timeout: float) -> Tensors:
        columns = {name: _to_json(name, array) for name, array in inputs.items()}
        body = {"signature_name": signature, "inputs": columns}
        answer = self._request("POST", f"{_path(spec)}:predict", timeout, body)
        for fresh in (False, True):  # what is cached may describe a version that has been replaced
            outputs = self._metadata(spec, timeout, fresh).get(signature, {}).get("outputs", {})
            values = answer["outputs"]
            if len(outputs) == 1:  # a single output comes without its name
                values = {next(iter(outputs)): values}
            if isinstance(values, dict) and values.keys() == outputs.keys():
                return {name: _from_json(values[name], **tensor) for name, tensor in outputs.items()}
        raise ServingError("INTERNAL", f"the answer has other outputs than the metadata of '{spec.name}' says")

    def metadata(self, spec: ModelSpec, timeout: float) -> Metadata:
        answer = self._request("GET", f"{_path(spec)}/metadata", timeout)
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        return {
            name: {"inputs": _describe(signature["inputs"]), "outputs": _describe(signature["outputs"])}
            for name, signature in signatures.items()
            if name != INIT_OPERATION
        }

    def status(self, spec: ModelSpec, timeout: float) -> list[VersionStatus]:
        answer = self._request("GET", _path(spec), timeout)
        return [
            VersionStatus(int(s["version"]), s["state"], s["status"]["error_code"], s["status"]["error_message"])
            for s in answer["model_version_status"]
        ]

    def close(self) -> None:
        self._pool.clear()

    def _request(self, method: str, path: str, timeout: float, body: Any = None) -> Any:
        """The parsed JSON of an answer. Bytes that are not UTF-8 survive as surrogate escapes."""
        data = None if body is None else json.dumps(body).encode()
        try:
            response = self._pool.request(method, f"{self._address}/v1/models/{path}", body=data, timeout=timeout)
        except urllib3.exceptions.ReadTimeoutError:
            raise ServingError("DEADLINE_EXCEEDED", f"no answer within {timeout} s from {self._address}") from None
        except urllib3.exceptions.HTTPError as error:
            raise unavailable(self._address, str(error)) from None
        text = response.data.decode("utf-8", "surrogateescape")
        try:
            answer = json.loads(text)
        except ValueError:
            raise ServingError("UNKNOWN", f"{self._address} is no model server: {text[:200]}") from None
        if response.status != 200:
            code = HTTP_CODES.get(response.status, "UNKNOWN")
            raise ServingError(code, answer.get("error", text))
        return answer


def _path(spec: ModelSpec) -> str:
    path = quote(spec.name, safe="")
    if spec.version is not None:
        return f"{path}/versions/{spec.version}"
    if spec.label is not None:
        return f"{path}/labels/{quote(spec.label, safe='')}"
    return path


def _describe(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {"dtype": JSON_DTYPES.get(info["dtype"], info["dtype"]), "shape": _shape(info["tensor_shape"])}
        for name, info in tensors.items()
    }


def _shape(shape: dict[str, Any]) -> list[int] | None:
    return None if shape["unknown_rank"] else [int(dim["size"]) for dim in shape["dim"]]


def _to_json(name: str, array: np.ndarray) -> Any:
    """Nested lists of an array; bytes, which JSON has not, as {"b64": ...}."""
    if array.dtype.kind != "O":
        return array.tolist()

    def leaf(value: Any) -> Any:
        if isinstance(value, str):
            return value
        return {"b64": base64.b64encode(as_bytes(name, value)).decode()}

    return _map_leaves(leaf, array.tolist())


def _from_json(value: Any, dtype: str, shape: list[int] | None) -> np.ndarray:
    """Array of nested lists. Where a list is empty, the signature's shape tells the axes below it."""

    def leaf(value: Any) -> bytes:
        if isinstance(value, dict):
            return base64.b64decode(value["b64"])
        return value.encode("utf-8", "surrogateescape")

    if dtype == "string":
        array = np.array(_map_leaves(leaf, value), dtype=object)
    else:
        array = np.array(value, dtype=dtype)
    if array.size == 0 and shape is not None:
        missing = [max(size, 0) for size in shape[array.ndim :]]
        return array.reshape([*array.shape, *missing])
    return array


def _map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list):
        return [_map_leaves(function, item) for item in value]
    return function(value)
