"""An example request of each signature of a model, to copy: with curl, and with serving.client."""

from __future__ import annotations

import base64
import json
import math
import os
import shlex
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import prediction_log_pb2

from serving.engine.encodings import composite_spec
from serving.engine.tensors import from_proto
from serving.errors import StatusError
from serving.models.storage import WARMUP_FILE, read_regular_file
from serving.protocol import DEFAULT_SIGNATURE, DTYPES

MAX_RECORDS, MAX_BYTES = 100, 4 * 1024 * 1024  # read from a file of warm-up requests
MAX_CHARACTERS = 20_000  # of a code example
MAX_LITERALS = 24  # elements that are written one by one
LINE_LENGTH = 75  # of Python code
STATE, STEPS = "state", 10  # of a signature that continues from its last call
DEFAULT_SIGNATURES = {"stream": "stream"}  # {method: signature}; other methods default to DEFAULT_SIGNATURE
METHODS = {"tensorflow/serving/classify": "classify", "tensorflow/serving/regress": "regress"}
DTYPE_NAMES = {number: name for name, number in DTYPES.items()}
NOT_IN_JSON = {"float16", "bfloat16", "uint16"}
# numpy has no bfloat16: the client converts objects to the dtype of the signature.
OBJECT_VALUES = {"string": "text", "bfloat16": 1.0}
BASE64_DECODE = "base64.b64decode"  # shorter for bytes whose literal has four characters each
SYNTHETIC_VALUES = {
    name: np.array(OBJECT_VALUES.get(name, 1), object if name in OBJECT_VALUES else name) for name in DTYPES
}


@dataclass(frozen=True)
class Addresses:
    """Addresses of the server, as a client writes them."""

    rest: str = "http://localhost:8501"
    grpc: str = "localhost:8500"


LOCAL = Addresses()


@dataclass(frozen=True)
class CodeExample:
    """The same request as curl command and Python code; "": the request cannot be written so."""

    curl: str
    python: str


@dataclass(frozen=True)
class Request:
    """Inputs of predict and stream, or examples {feature: value} of classify and regress."""

    method: str
    signature: str
    inputs: Mapping[str, np.ndarray]
    examples: tuple[Mapping[str, Any], ...] = ()
    is_synthetic: bool = False  # all elements of an input are equal

    @property
    def is_default(self) -> bool:
        return self.signature == DEFAULT_SIGNATURES.get(self.method, DEFAULT_SIGNATURE)


def code_examples(
    model: str, definitions: Mapping[str, Any], path: str, addresses: Addresses
) -> dict[str, CodeExample]:
    """Return {signature: example} of a loaded version: from its warm-up requests, or with synthetic values.

    Args:
        definitions: {signature: SignatureDef}.
        path: of the version's directory.
    """
    recorded: dict[str, Request] = {}
    for request in read_requests(path):
        definition = definitions.get(request.signature)
        if definition is not None:
            recorded.setdefault(request.signature, _as_examples(request, definition.method_name))
    examples = {}
    for name, definition in definitions.items():
        warmup = recorded.get(name)
        example = code_example(model, warmup, definition, addresses) if warmup else None
        if example is None or max(len(example.curl), len(example.python)) > MAX_CHARACTERS:
            synthetic = synthesize(name, definition)
            example = code_example(model, synthetic, definition, addresses) if synthetic else CodeExample("", "")
        examples[name] = example
    return examples


def dtype_of(info: Any) -> str:
    """Return the dtype of a TensorInfo by its numpy name; of a composite tensor its TypeSpec."""
    name = composite_spec(info) or DTYPE_NAMES.get(info.dtype)
    if name is None and info.dtype in types_pb2.DataType.values():
        name = types_pb2.DataType.Name(info.dtype).removeprefix("DT_").lower()
    return name or f"unknown ({info.dtype})"


def read_requests(path: str) -> Iterator[Request]:
    """Read the warm-up requests of a version. Skip unreadable ones: loading has reported them."""
    try:
        data = read_regular_file(os.path.join(path, WARMUP_FILE), MAX_BYTES)
    except OSError:
        return
    for _, record in zip(range(MAX_RECORDS), _records(data), strict=False):
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
            request = _read_log(log)
        except (DecodeError, StatusError):
            continue
        if request is not None:
            yield request


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a TFRecord file: length (8 bytes), checksum (4), record, checksum (4)."""
    start = 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        if start + 12 + length > len(data):
            return
        yield data[start + 12 : start + 12 + length]
        start += 16 + length


def _read_log(log: prediction_log_pb2.PredictionLog) -> Request | None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        predict = log.predict_log.request
        inputs = {name: _first_row(from_proto(value, name)) for name, value in sorted(predict.inputs.items())}
        return Request("predict", predict.model_spec.signature_name or DEFAULT_SIGNATURE, inputs)
    if kind in ("classify_log", "regress_log"):
        request = getattr(log, kind).request
        examples = request.input.example_list.examples[:1]
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        return Request(kind.removesuffix("_log"), name, {}, tuple(map(_features, examples))) if examples else None
    return None


def _first_row(array: np.ndarray) -> np.ndarray:
    return array[:1] if array.ndim else array


def _as_examples(request: Request, method_name: str) -> Request:
    """Convert a predict request of serialized tf.Examples to a classify or regress request."""
    method = METHODS.get(method_name)
    arrays = list(request.inputs.values())
    if request.method != "predict" or method is None or len(arrays) != 1 or arrays[0].dtype != object:
        return request
    try:
        examples = tuple(_features(Example.FromString(item)) for item in arrays[0].ravel())
    except DecodeError:
        return request
    return Request(method, request.signature, {}, examples)


def _features(example: Example) -> dict[str, Any]:
    features = {}
    for name, feature in sorted(example.features.feature.items()):
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        if kind == "float_list":
            values = [_shortest(np.float32(value)) for value in values]
        features[name] = values[0] if len(values) == 1 else values
    return features


def synthesize(name: str, definition: Any) -> Request | None:
    """Make a request of values that fit the signature; None if a client cannot send one of its inputs."""
    if definition.method_name in METHODS:
        return Request(METHODS[definition.method_name], name, {}, ({"FEATURE": 1.0},))
    inputs = {}
    for alias, info in sorted(definition.inputs.items()):
        value = SYNTHETIC_VALUES.get(dtype_of(info))
        if value is None:
            return None
        sizes = [dim.size for dim in info.tensor_shape.dim]
        shape = [1] if info.tensor_shape.unknown_rank else [_dimension(n, place) for place, n in enumerate(sizes)]
        try:
            inputs[alias] = np.broadcast_to(value, shape)
        except ValueError:  # it has more dimensions or elements than an array can have
            return None
    return Request("predict", name, inputs, is_synthetic=True)


def _dimension(size: int, place: int) -> int:
    """Return the size of an axis: if unknown, one row, and two along other axes."""
    return size if size >= 0 else 1 if place == 0 else 2


def code_example(model: str, request: Request, definition: Any, addresses: Addresses) -> CodeExample:
    """Write a request as code."""
    if request.method == "predict" and STATE in definition.inputs and STATE in definition.outputs:
        inputs = {name: array for name, array in request.inputs.items() if name != STATE}
        request = replace(request, method="stream", inputs=inputs)
    in_json = not any(dtype_of(info) in NOT_IN_JSON for info in definition.inputs.values())
    return CodeExample(
        curl=_curl(model, request, addresses.rest) if in_json else "",
        python=_python(model, request, addresses.rest if in_json else addresses.grpc),
    )


def _curl(model: str, request: Request, address: str) -> str:
    url = shlex.quote(f"{address}/v1/models/{quote(model, safe='', errors='replace')}:{request.method}")
    body: dict[str, Any] = {} if request.is_default else {"signature_name": request.signature}
    command = f"curl {url}"
    if request.method == "stream":
        body["steps"], command = STEPS, f"curl -N {url}"
    if request.examples:
        body["examples"] = [{name: _json_value(value) for name, value in e.items()} for e in request.examples]
    elif not _has_long_inputs(request):
        body["inputs"] = {name: _json_value(array) for name, array in request.inputs.items()}
    if request.examples or not _has_long_inputs(request):
        return f"{command} \\\n  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    inputs = ", ".join(f"{_literal(name)}: {_repetition(array)}" for name, array in request.inputs.items())
    before = _literal(body).removesuffix("}") + (", " if body else "")
    program = f'import json; print(json.dumps({before}"inputs": {{{inputs}}}}}))'
    return f"python3 -c {shlex.quote(program)} |\n  {command} -d @-"


def _has_long_inputs(request: Request) -> bool:
    return request.is_synthetic and any(array.size > MAX_LITERALS for array in request.inputs.values())


def _repetition(array: np.ndarray) -> str:
    """Return a Python expression of lists for an array of equal elements."""
    text = _literal(_elements(np.array(array.flat[0], array.dtype)))  # the whole array may not fit into memory
    for size in reversed(array.shape):
        text = f"[{text}] * {size}" if size > 1 or text.startswith("[") else f"[{text}]"
    return text


def _python(model: str, request: Request, address: str) -> str:
    arguments = [_literal(model)]
    if request.examples:
        arguments.append(_literal([dict(example) for example in request.examples]))
    else:
        values = {name: _input_literal(array, request.is_synthetic) for name, array in request.inputs.items()}
        arguments.append("{" + ", ".join(f"{_literal(name)}: {value}" for name, value in values.items()) + "}")
    if request.method == "stream":
        arguments.append(f"steps={STEPS}")
    if not request.is_default:
        arguments.append(f"signature={_literal(request.signature)}")
    call = f"client.{request.method}({', '.join(arguments)})"
    if len(call) > LINE_LENGTH:
        lines = "".join(f"        {argument},\n" for argument in arguments)
        call = f"client.{request.method}(\n{lines}    )"
    if request.method == "stream":
        block = f"    for outputs in {call}:\n        print(outputs)"
    else:
        block = f"    answer = {call}\nprint(answer)"
    imports = "import base64\n\n" if BASE64_DECODE in call else ""
    imports += "import numpy as np\n\n" if "np.ones" in call else ""
    imports += "from serving.client import Client\n\n"
    return f"{imports}with Client({_literal(address)}) as client:\n{block}"


def _input_literal(array: np.ndarray, is_synthetic: bool) -> str:
    """Return a Python expression for an input."""
    if is_synthetic and array.size > MAX_LITERALS and array.dtype != object:
        return f"np.ones({array.shape}, np.{array.dtype})"
    return _repetition(array) if is_synthetic and array.size > MAX_LITERALS else _literal(_elements(array))


def _elements(array: np.ndarray) -> Any:
    """Convert an array to nested lists."""
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind == "f":
        array = np.array([_shortest(value) for value in array.ravel()], np.float64).reshape(array.shape)
    return array.tolist()


def _shortest(value: Any) -> float:
    """Return the shortest decimal number that reads back as the same value of a smaller dtype."""
    return float(str(value))


def _json_value(value: Any) -> Any:
    """Convert a value for JSON; bytes that are not text become {"b64": ...}."""
    if isinstance(value, np.ndarray):
        return _json_value(_elements(value))
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        text = _text(value)
        return text if text is not None else {"b64": base64.b64encode(value).decode()}
    return value


def _text(value: bytes) -> str | None:
    """Decode bytes if all characters are printable, else return None."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.translate({ord("\n"): " ", ord("\t"): " "}).isprintable() else None


def _literal(value: Any) -> str:
    """Return a value as a Python literal."""
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bytes):
        text = _text(value)
        if text is not None:
            return _literal(text)
        coded = base64.b64encode(value).decode()
        return repr(value) if len(value) <= MAX_LITERALS else f'{BASE64_DECODE}("{coded}")'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)
