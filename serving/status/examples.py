"""A request for each signature of a model, to copy: with curl, and with serving.client."""

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

MOST_RECORDS, MOST_BYTES = 100, 4 * 1024 * 1024  # of the warm-up requests that are looked at
LONGEST = 20_000  # characters of a request that is shown
FEW = 24  # numbers that are written one by one
LINE = 75
STATE, STEPS = "state", 10  # of a signature that goes on from where its last call ended
DEFAULTS = {"stream": "stream"}  # signatures that methods use if none is named; of others DEFAULT_SIGNATURE
METHODS = {"tensorflow/serving/classify": "classify", "tensorflow/serving/regress": "regress"}
NAMES = {number: name for name, number in DTYPES.items()}
NOT_IN_JSON = {"float16", "bfloat16", "uint16"}
# numpy has no bfloat16 of its own: as an object, the client gives the number the dtype that the signature asks for.
OBJECTS = {"string": "text", "bfloat16": 1.0}
DECODE = "base64.b64decode"  # for bytes that would take four times as many characters
MADE_UP = {name: np.array(OBJECTS.get(name, 1), object if name in OBJECTS else name) for name in DTYPES}


@dataclass(frozen=True)
class Addresses:
    """Where the server answers, as a client writes it."""

    rest: str = "http://localhost:8501"
    grpc: str = "localhost:8500"


LOCAL = Addresses()


@dataclass(frozen=True)
class Shown:
    """The same request in two ways; "" where there is none."""

    curl: str
    python: str


@dataclass(frozen=True)
class Request:
    """Inputs of predict and stream, or examples {feature: value} of classify and regress."""

    method: str
    signature: str
    inputs: Mapping[str, np.ndarray]
    examples: tuple[Mapping[str, Any], ...] = ()
    made_up: bool = False  # every input holds one value throughout

    @property
    def is_default(self) -> bool:
        return self.signature == DEFAULTS.get(self.method, DEFAULT_SIGNATURE)


def show_all(model: str, definitions: Mapping[str, Any], path: str, addresses: Addresses) -> dict[str, Shown]:
    """{signature: request} of a loaded version: from its warm-up requests, or made up of values that fit.

    Args:
        definitions: {signature: SignatureDef}.
        path: of the version's directory.
    """
    recorded: dict[str, Request] = {}
    for request in read_requests(path):
        definition = definitions.get(request.signature)
        if definition is not None:
            recorded.setdefault(request.signature, _as_examples(request, definition.method_name))
    shown = {}
    for name, definition in definitions.items():
        found = recorded.get(name)
        known = show(model, found, definition, addresses) if found else None
        if known is None or max(len(known.curl), len(known.python)) > LONGEST:
            made = make_up(name, definition)
            known = show(model, made, definition, addresses) if made else Shown("", "")
        shown[name] = known
    return shown


def dtype_of(info: Any) -> str:
    """The dtype of a TensorInfo, as numpy names it; of a composite tensor its TypeSpec."""
    known = composite_spec(info) or NAMES.get(info.dtype)
    if known is None and info.dtype in types_pb2.DataType.values():
        known = types_pb2.DataType.Name(info.dtype).removeprefix("DT_").lower()
    return known or f"unknown ({info.dtype})"


def read_requests(path: str) -> Iterator[Request]:
    """Requests that a version is warmed up with; what cannot be read is left out: the load has told of it."""
    try:
        data = read_regular_file(os.path.join(path, WARMUP_FILE), MOST_BYTES)
    except OSError:
        return
    for _, record in zip(range(MOST_RECORDS), _records(data), strict=False):
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
            request = _read_log(log)
        except (DecodeError, StatusError):
            continue
        if request is not None:
            yield request


def _records(data: bytes) -> Iterator[bytes]:
    """Of a TFRecord file: length (8 bytes), checksum (4), the record, checksum (4)."""
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
        asked = getattr(log, kind).request
        examples = asked.input.example_list.examples[:1]
        name = asked.model_spec.signature_name or DEFAULT_SIGNATURE
        return Request(kind.removesuffix("_log"), name, {}, tuple(map(_features, examples))) if examples else None
    return None


def _first_row(array: np.ndarray) -> np.ndarray:
    return array[:1] if array.ndim else array


def _as_examples(request: Request, method_name: str) -> Request:
    """A predict request whose input holds serialized tf.Examples, as what it is to people."""
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
            values = [_short(np.float32(value)) for value in values]
        features[name] = values[0] if len(values) == 1 else values
    return features


def make_up(name: str, definition: Any) -> Request | None:
    """A request of values that fit the signature; None if it has an input that no client can send."""
    if definition.method_name in METHODS:
        return Request(METHODS[definition.method_name], name, {}, ({"FEATURE": 1.0},))
    inputs = {}
    for alias, info in sorted(definition.inputs.items()):
        value = MADE_UP.get(dtype_of(info))
        if value is None:
            return None
        sizes = [dim.size for dim in info.tensor_shape.dim]
        shape = [1] if info.tensor_shape.unknown_rank else [_size(n, place) for place, n in enumerate(sizes)]
        try:
            inputs[alias] = np.broadcast_to(value, shape)
        except ValueError:  # it has more dimensions or elements than an array can have
            return None
    return Request("predict", name, inputs, made_up=True)


def _size(size: int, place: int) -> int:
    """One row, two of what else is free."""
    return size if size >= 0 else 1 if place == 0 else 2


def show(model: str, request: Request, definition: Any, addresses: Addresses) -> Shown:
    """The request as people write it."""
    if request.method == "predict" and STATE in definition.inputs and STATE in definition.outputs:
        inputs = {name: array for name, array in request.inputs.items() if name != STATE}
        request = replace(request, method="stream", inputs=inputs)
    in_json = not any(dtype_of(info) in NOT_IN_JSON for info in definition.inputs.values())
    return Shown(
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
        body["examples"] = [{name: _plain(value) for name, value in e.items()} for e in request.examples]
    elif not _is_long(request):
        body["inputs"] = {name: _plain(array) for name, array in request.inputs.items()}
    if request.examples or not _is_long(request):
        return f"{command} \\\n  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    inputs = ", ".join(f"{_literal(name)}: {_repeated(array)}" for name, array in request.inputs.items())
    before = _literal(body).removesuffix("}") + (", " if body else "")
    program = f'import json; print(json.dumps({before}"inputs": {{{inputs}}}}}))'
    return f"python3 -c {shlex.quote(program)} |\n  {command} -d @-"


def _is_long(request: Request) -> bool:
    return request.made_up and any(array.size > FEW for array in request.inputs.values())


def _repeated(array: np.ndarray) -> str:
    """A Python expression of lists for an array of one value."""
    text = _literal(_elements(np.array(array.flat[0], array.dtype)))  # the whole may be larger than the memory
    for size in reversed(array.shape):
        text = f"[{text}] * {size}" if size > 1 or text.startswith("[") else f"[{text}]"
    return text


def _python(model: str, request: Request, address: str) -> str:
    arguments = [_literal(model)]
    if request.examples:
        arguments.append(_literal([dict(example) for example in request.examples]))
    else:
        values = {name: _value(array, request.made_up) for name, array in request.inputs.items()}
        arguments.append("{" + ", ".join(f"{_literal(name)}: {value}" for name, value in values.items()) + "}")
    if request.method == "stream":
        arguments.append(f"steps={STEPS}")
    if not request.is_default:
        arguments.append(f"signature={_literal(request.signature)}")
    call = f"client.{request.method}({', '.join(arguments)})"
    if len(call) > LINE:
        lines = "".join(f"        {argument},\n" for argument in arguments)
        call = f"client.{request.method}(\n{lines}    )"
    if request.method == "stream":
        block = f"    for outputs in {call}:\n        print(outputs)"
    else:
        block = f"    answer = {call}\nprint(answer)"
    imports = "import base64\n\n" if DECODE in call else ""
    imports += "import numpy as np\n\n" if "np.ones" in call else ""
    imports += "from serving.client import Client\n\n"
    return f"{imports}with Client({_literal(address)}) as client:\n{block}"


def _value(array: np.ndarray, made_up: bool) -> str:
    """A Python expression for an input."""
    if made_up and array.size > FEW and array.dtype != object:
        return f"np.ones({array.shape}, np.{array.dtype})"
    return _repeated(array) if made_up and array.size > FEW else _literal(_elements(array))


def _elements(array: np.ndarray) -> Any:
    """Nested lists."""
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind == "f":
        array = np.array([_short(value) for value in array.ravel()], np.float64).reshape(array.shape)
    return array.tolist()


def _short(value: Any) -> float:
    """The shortest decimal number that stands for one of few bits."""
    return float(str(value))


def _plain(value: Any) -> Any:
    """As JSON has it; bytes that are no text as {"b64": ...}."""
    if isinstance(value, np.ndarray):
        return _plain(_elements(value))
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        text = _text(value)
        return text if text is not None else {"b64": base64.b64encode(value).decode()}
    return value


def _text(value: bytes) -> str | None:
    """Bytes that people can read, as text."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.translate({ord("\n"): " ", ord("\t"): " "}).isprintable() else None


def _literal(value: Any) -> str:
    """As Python writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bytes):
        text = _text(value)
        if text is not None:
            return _literal(text)
        coded = base64.b64encode(value).decode()
        return repr(value) if len(value) <= FEW else f'{DECODE}("{coded}")'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)
