"""The client over REST: write and parse TensorFlow Serving's JSON in its columnar format."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from serving.client.calls import RequestWithParser
from serving.client.errors import failure
from serving.client.types import COMPOSITE, SPARSE, Classification, Metadata, ModelSpec, Tensors, VersionStatus
from serving.client.values import Features, as_bytes
from serving.protocol import DTYPES, INIT_OPERATION

# {HTTP status: code}; 400 also stands for FAILED_PRECONDITION and OUT_OF_RANGE, 500 for UNKNOWN, DATA_LOSS.
HTTP_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",
    421: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
# Statuses that a proxy in front of a model server returns, with pages of its own.
PROXY_STATUSES = {401, 403, 413, 429, 502, 503, 504}

# {name in the metadata JSON: name here}
JSON_DTYPES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"} | {
    f"DT_{name.upper()}": name for name in DTYPES
}


@dataclass(frozen=True)
class HttpRequest:
    """A request: the path below the address, and a body if it is a POST. `is_json`: the response must be JSON."""

    path: str
    body: bytes | None = None
    is_json: bool = True

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


class RestFormat:
    """Requests and responses as JSON."""

    describes_outputs = False

    def __init__(self, address: str) -> None:
        self.address = address

    def predict(self, spec: ModelSpec, signature: str, inputs: Tensors) -> HttpRequest:
        return _post(spec, "predict", {"signature_name": signature, "inputs": _columns(inputs)})

    def read_predict(self, response: Any, outputs: Mapping[str, Any]) -> Tensors | None:
        values = response["outputs"]
        if len(outputs) == 1:  # the JSON omits the name of a single output
            values = {next(iter(outputs)): values}
        return _read_columns(values, outputs)

    def read_version(self, response: Any) -> int | None:
        return None

    def classify(
        self, spec: ModelSpec, signature: str, examples: list[Features], context: Features | None
    ) -> RequestWithParser:
        return _post(spec, "classify", _examples(signature, examples, context)), self._read_classify

    def _read_classify(self, response: Any) -> list[list[Classification]]:
        return [
            [Classification(label, float(np.float32(score))) for label, score in row] for row in response["results"]
        ]

    def regress(
        self, spec: ModelSpec, signature: str, examples: list[Features], context: Features | None
    ) -> RequestWithParser:
        return _post(spec, "regress", _examples(signature, examples, context)), self._read_regress

    def _read_regress(self, response: Any) -> np.ndarray:
        return np.array(response["results"], np.float32)

    def metadata(self, spec: ModelSpec) -> RequestWithParser:
        return HttpRequest(f"{_path(spec)}/metadata"), self._read_metadata

    def _read_metadata(self, response: Any) -> Metadata:
        signatures = response["metadata"]["signature_def"]["signature_def"]
        return {
            name: {
                side: {alias: _describe(info) for alias, info in signature[side].items()}
                for side in ("inputs", "outputs")
            }
            for name, signature in signatures.items()
            if name != INIT_OPERATION
        }

    def status(self, spec: ModelSpec) -> RequestWithParser:
        return HttpRequest(_path(spec)), self._read_status

    def _read_status(self, response: Any) -> list[VersionStatus]:
        return [
            VersionStatus(int(s["version"]), s["state"], s["status"]["error_code"], s["status"]["error_message"])
            for s in response["model_version_status"]
        ]

    def models(self) -> RequestWithParser:
        return HttpRequest("/v1/models"), self._read_models

    def _read_models(self, response: Any) -> dict[str, dict[int, str]]:
        return {
            model["name"]: {int(version["version"]): version["state"] for version in model["versions"]}
            for model in response["models"]
        }

    def ready(self) -> RequestWithParser:
        return HttpRequest("/readyz", is_json=False), lambda response: True

    def stream(
        self, spec: ModelSpec, signature: str, inputs: Tensors, steps: int
    ) -> tuple[HttpRequest, ServerSentEventParser]:
        body = {"signature_name": signature, "inputs": _columns(inputs), "steps": steps}
        return _post(spec, "stream", body), ServerSentEventParser(self.address)


class ServerSentEventParser:
    """Parser of server-sent events (HTML standard) that hold outputs; a chunk of the body may end anywhere."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._buffer = b""
        self._event = "message"
        self._data: list[str] = []

    def feed(self, chunk: bytes, outputs: Mapping[str, Any]) -> Iterator[Tensors | None]:
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.rstrip(b"\r").decode("utf-8", "surrogateescape").partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._event = value
            elif field == "data":
                self._data.append(value)
            elif not field and not value and self._data:
                event, data = self._event, "\n".join(self._data)
                self._event = "message"
                self._data.clear()
                yield self._read(event, data, outputs)

    def _read(self, event: str, data: str, outputs: Mapping[str, Any]) -> Tensors | None:
        if event == "done":
            return None
        try:
            values = json.loads(data)
            tensors = None if event == "error" else _read_columns(values, outputs)
            if tensors is None:
                error, code = values["error"], values.get("code", "UNKNOWN")
        except (LookupError, TypeError, ValueError, AttributeError):
            text = f"{self._address} sent an event that is not this model's: {event}: {data[:200]}"
            raise failure("UNKNOWN", text) from None
        if tensors is None:
            raise failure(code, str(error))
        return tensors


def parse_response(address: str, request: HttpRequest, status: int, content: bytes) -> Any:
    """Parse the JSON of a response. Bytes that are not UTF-8 become surrogate escapes.

    Raises: ServingError of the status, with the server's text.
    """
    if status == 200 and not request.is_json:
        return None
    text = content.decode("utf-8", "surrogateescape")
    try:
        response = json.loads(text)
    except ValueError:
        excerpt = text.encode("utf-8", "replace").decode()[:200]
        if status in PROXY_STATUSES:
            raise failure(HTTP_CODES[status], f"HTTP status {status} from {address}: {excerpt}") from None
        if not request.is_json:
            raise failure("UNIMPLEMENTED", f"{address} has no {request.path}: HTTP status {status}") from None
        raise failure("UNKNOWN", f"{address} is not a model server: {excerpt}") from None
    if status == 200:
        return response
    message = response.get("error", text) if isinstance(response, dict) else text
    raise failure(HTTP_CODES.get(status, "UNKNOWN"), str(message))


def _post(spec: ModelSpec, verb: str, body: dict[str, Any]) -> HttpRequest:
    return HttpRequest(f"{_path(spec)}:{verb}", json.dumps(body).encode())


def _path(spec: ModelSpec) -> str:
    path = f"/v1/models/{quote(spec.name, safe='')}"
    if spec.version is not None:
        return f"{path}/versions/{spec.version}"
    if spec.label is not None:
        return f"{path}/labels/{quote(spec.label, safe='')}"
    return path


def _describe(info: dict[str, Any]) -> dict[str, Any]:
    """Return {"dtype", "shape"} of a TensorInfo; shape None: any. The JSON omits messages that are not set."""
    if "composite_tensor" in info:
        return {"dtype": info["composite_tensor"]["type_spec"]["type_spec_class_name"] or COMPOSITE, "shape": None}
    return {
        "dtype": SPARSE if "coo_sparse" in info else JSON_DTYPES.get(info["dtype"], info["dtype"]),
        "shape": _shape(info.get("tensor_shape", {"unknown_rank": False, "dim": []})),
    }


def _shape(shape: dict[str, Any]) -> list[int] | None:
    return None if shape["unknown_rank"] else [int(dim["size"]) for dim in shape["dim"]]


def _examples(signature: str, examples: list[Features], context: Features | None) -> dict[str, Any]:
    def to_json(example: Features) -> dict[str, list]:
        return {
            name: [leaf if isinstance(leaf, (int, float)) else _text(name, leaf) for leaf in leaves]
            for name, leaves in example.items()
        }

    body = {"signature_name": signature, "examples": [to_json(example) for example in examples]}
    return body if context is None else body | {"context": to_json(context)}


def _columns(inputs: Tensors) -> dict[str, Any]:
    return {name: _to_json(name, array) for name, array in inputs.items()}


def _to_json(name: str, array: np.ndarray) -> Any:
    """Return an array as nested lists; bytes, which JSON lacks, as {"b64": ...}."""
    if array.dtype.kind != "O":
        return array.tolist()
    return _map_leaves(lambda value: _text(name, value), array.tolist())


def _text(name: str, value: Any) -> Any:
    return value if isinstance(value, str) else {"b64": base64.b64encode(as_bytes(name, value)).decode()}


def _read_columns(values: Any, outputs: Mapping[str, Any]) -> Tensors | None:
    """Convert {name: nested lists} to arrays; None if they are not the outputs that the metadata describes."""
    if not isinstance(values, dict) or values.keys() != outputs.keys():
        return None
    return {name: _from_json(values[name], **tensor) for name, tensor in outputs.items()}


def _from_json(value: Any, dtype: str, shape: list[int] | None) -> np.ndarray:
    """Convert nested lists to an array. If a list is empty, the axes below it come from the signature's shape."""

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
