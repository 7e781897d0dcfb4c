"""No hostile request stops, blocks or fills the server of the three exported models.

Every signature gets, over gRPC and REST, requests with invalid or extreme ranks, shapes, sizes, repetitions, nesting,
lengths of strings and dtypes. The requests are the same in every run. Each gets a code that fits its error, within
limits of memory and of the time without a reply to other clients; valid requests in between get their usual answers.
KERASNETS_HOSTILE_REQUESTS (default 4): number of requests of each kind for a signature.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from survival_helpers import (
    ANSWER_SECONDS,
    MAX_BLOCKED_SECONDS,
    MAX_MEMORY_BYTES,
    ServerMonitor,
    attempt,
    read_answer,
    request_bytes,
)
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import classification_pb2, predict_pb2

from kerasnets.verify import golden_answers
from serving.client import Client

REQUESTS = int(os.environ.get("KERASNETS_HOSTILE_REQUESTS", "4"))
SEED = 11

CODES = {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE"}
STATUSES = {200, 400, 413, 429, 431, 501}
PREDICT, CLASSIFY = (f"/tensorflow.serving.PredictionService/{name}" for name in ("Predict", "Classify"))
TASKS = ("image_classification", "text_generation", "translation")


class HostileRequests:
    """Makes random hostile requests for one signature of a model."""

    def __init__(self, rng: random.Random, model: str, signature: str, inputs: dict[str, np.ndarray]) -> None:
        self.rng, self.model, self.signature, self.inputs = rng, model, signature, inputs
        self.target = rng.choice(sorted(inputs))  # the hostile input

    def tensors(self) -> dict[str, tensor_pb2.TensorProto]:
        """Return the valid inputs, one row of each."""
        return {name: tensor_of(value[:1]) for name, value in self.inputs.items()}

    def with_tensor(self, tensor: tensor_pb2.TensorProto) -> tuple[str, bytes]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.model, self.signature
        for name, each in {**self.tensors(), self.target: tensor}.items():
            request.inputs[name].CopyFrom(each)
        return PREDICT, request.SerializeToString()

    def with_shape(self, sizes: list[int]) -> tuple[str, bytes]:
        """Send the first value of the input in another shape."""
        tensor = tensor_of(self.inputs[self.target][:1].ravel()[:1])
        tensor.tensor_shape.ClearField("dim")
        for size in sizes:
            tensor.tensor_shape.dim.add(size=size)
        return self.with_tensor(tensor)

    def body(self, value: str) -> bytes:
        """Return the row form or the columnar form with `value`, JSON text, for the input."""
        others = {name: as_json(array[:1].tolist()) for name, array in self.inputs.items() if name != self.target}
        if self.rng.random() < 0.5:
            columns = {**others, self.target: f"[{value}]"}
            values = f'"inputs": {{{members(columns)}}}'
        else:
            rows = {**{name: text[1:-1] for name, text in others.items()}, self.target: value}
            values = f'"instances": [{{{members(rows)}}}]'
        return f'{{"signature_name": "{self.signature}", {values}}}'.encode()

    # gRPC requests: (method, message)

    def rank(self) -> tuple[str, bytes]:
        return self.with_shape([self.rng.choice([0, 1, 1, 1])] * self.rng.choice([33, 40, 64, 65, 254, 255, 2_000]))

    def long_shape(self) -> tuple[str, bytes]:
        return self.with_shape([2**62] * self.rng.choice([300, 20_000, 60_000]))

    def shape(self) -> tuple[str, bytes]:
        sizes = [0, 1, 2, -1, 2**31, 2**40, 2**62, 2**63 - 1]
        return self.with_shape(self.rng.choices(sizes, k=self.rng.randint(1, 5)))

    def repeated(self) -> tuple[str, bytes]:
        count = self.rng.choice([1_500, 100_000, 2**21, 2**31])
        if self.inputs[self.target].dtype.kind != "O":
            return self.with_shape([count, *self.inputs[self.target].shape[1:]])
        tensor = tensor_of(np.array([self.text(500_000)], object))
        tensor.tensor_shape.dim[0].size = count
        return self.with_tensor(tensor)

    def dtype(self) -> tuple[str, bytes]:
        tensor = tensor_pb2.TensorProto()
        tensor.dtype = self.rng.randint(0, 40) + self.rng.choice([0, 0, 100])
        tensor.tensor_shape.dim.add(size=self.rng.randint(0, 2))
        tensor.tensor_content = self.rng.randbytes(self.rng.choice([0, 1, 2, 4, 8, 16]))
        return self.with_tensor(tensor)

    def string(self) -> tuple[str, bytes]:
        return self.with_tensor(tensor_of(np.array([self.text(self.rng.choice(LENGTHS))], object)))

    def context(self) -> tuple[str, bytes]:
        """Classify a thousand empty examples with one large context; most signatures are not classifiers."""
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = self.model, self.signature
        with_context = request.input.example_list_with_context
        with_context.context.features.feature[self.target].bytes_list.value.append(self.text(500_000))
        for _ in range(1_000):
            with_context.examples.add()
        return CLASSIFY, request.SerializeToString()

    def names(self) -> tuple[str, bytes]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.model, self.signature
        for number in range(20_000):
            request.inputs[f"{number}"].dtype = types_pb2.DT_FLOAT
        request.output_filter.extend([self.target] * 20_000)
        return PREDICT, request.SerializeToString()

    # REST requests: bodies

    def nested(self) -> bytes:
        depth = self.rng.choice([32, 33, 64, 500, 100_000])
        return self.body("[" * depth + self.valid() + "]" * depth)

    def nested_objects(self) -> bytes:
        depth = self.rng.choice([1, 30, 500, 100_000])
        return self.body('{"b64": ' * depth + self.valid() + "}" * depth)

    def many(self) -> bytes:
        """Send very many short values."""
        return self.body("[" + ", ".join([self.rng.choice(["[]", "0", '""', "{}", "[[0]]"])] * 100_000) + "]")

    def number(self) -> bytes:
        return self.body(self.rng.choice(["1" * 1_000_000, "0." + "1" * 1_000_000, "1e999", "-0", "NaN", "true"]))

    def json_string(self) -> bytes:
        return self.body(as_json(self.text(self.rng.choice(LENGTHS))))

    def encoded(self) -> bytes:
        text = base64.b64encode(self.text(self.rng.choice(LENGTHS))).decode()
        return self.body(json.dumps({"b64": self.rng.choice([text, text[:-1], " ".join(text[:10_000]), "*"])}))

    def keys(self) -> bytes:
        return self.body("{" + ", ".join(f'"{n}": 0' for n in range(50_000)) + "}")

    def cut(self) -> bytes:
        return self.body("[" + "[], " * 100_000)

    def valid(self) -> str:
        return as_json(self.inputs[self.target][:1].tolist())[1:-1]

    def text(self, length: int) -> bytes:
        """Return about `length` bytes: one word, words, four-byte characters, noise, or an animated GIF."""
        if self.target == "image_bytes" and self.rng.random() < 0.5:
            return animated_gif(min(1_500, length // 300))
        unit = self.rng.choice([b"a", b"word ", "😀".encode(), self.rng.randbytes(1_000)])
        return unit * (length // len(unit))


LENGTHS = [0, 1, 1_000, 20_000, 300_000, 3_000_000]
GRPC_KINDS = ["rank", "long_shape", "shape", "repeated", "dtype", "string", "context", "names"]
REST_KINDS = ["nested", "nested_objects", "many", "number", "json_string", "encoded", "keys", "cut"]


def animated_gif(frames: int) -> bytes:
    """Return a GIF of 300 x 300 pixels and some hundred bytes per frame."""

    def save(colors: list[int]) -> bytes:
        file = io.BytesIO()
        first, *others = [Image.new("P", (300, 300), color) for color in colors]
        first.save(file, "GIF", save_all=True, append_images=others, optimize=False)
        return file.getvalue().removesuffix(b";")

    start, longer = save([0, 1, 2]), save([0, 1, 2, 1, 2])
    return start + longer[len(start) :] * (frames // 2) + b";"


def tensor_of(array: np.ndarray) -> tensor_pb2.TensorProto:
    tensor = tensor_pb2.TensorProto()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype.kind == "O":
        tensor.dtype = types_pb2.DT_STRING
        tensor.string_val.extend(array.ravel().tolist())
    else:
        tensor.dtype = getattr(
            types_pb2, {"float32": "DT_FLOAT"}.get(array.dtype.name, f"DT_{array.dtype.name.upper()}")
        )
        field = {"float32": "float_val", "int32": "int_val", "int64": "int64_val"}[array.dtype.name]
        getattr(tensor, field).extend(array.ravel().tolist())
    return tensor


def as_json(value: Any) -> str:
    """Return the JSON of rows; bytes that are not text as base64."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        if not isinstance(value, bytes):
            return value
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}

    return json.dumps(plain(value))


def members(values: dict[str, str]) -> str:
    return ", ".join(f'"{name}": {text}' for name, text in values.items())


def requests(rng: random.Random, model: str, golden: list[Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (signature, kind, request); a request is (method, message), or a body."""
    for _ in range(REQUESTS):
        for signature, inputs, _ in golden:
            for kind in GRPC_KINDS + REST_KINDS:
                yield signature, kind, getattr(HostileRequests(rng, model, signature, inputs), kind)()


def assert_valid_requests_succeed(client: Client, model: str, golden: list[Any]) -> None:
    for signature, inputs, expected in golden:
        answer = client.predict(model, inputs, signature)
        for name, value in expected.items():
            if value.dtype.kind == "O":
                assert answer[name].tolist() == value.tolist()
            else:
                np.testing.assert_allclose(answer[name], value, atol=1e-4)


@pytest.mark.parametrize("model", TASKS)
def test_hostile_requests(model, served_models):
    golden = golden_answers(served_models.models_dir / model / "1")
    monitor, rng = ServerMonitor(served_models.pid, served_models.rest, model), random.Random(f"{SEED} {model}")
    problems = []
    with Client(served_models.grpc) as client, grpc.insecure_channel(served_models.grpc) as channel:
        assert_valid_requests_succeed(client, model, golden)
        initial = monitor.resident()

        def send(request: tuple[str, bytes] | bytes) -> str | int:
            if isinstance(request, tuple):
                return channel.unary_unary(request[0]).future(request[1], timeout=ANSWER_SECONDS).code().name
            with socket.create_connection(monitor.address, ANSWER_SECONDS) as connection:
                connection.sendall(request_bytes("POST", f"/v1/models/{model}:predict", request))
                return read_answer(connection)[0]

        for signature, kind, request in requests(rng, model, golden):
            before = monitor.resident()
            monitor.reset_peak()
            try:
                outcome, blocked = attempt(monitor, lambda request=request: send(request))
            except OSError:
                outcome = "UNAVAILABLE"
            assert outcome != "UNAVAILABLE", f"{signature} {kind} stopped the server"
            memory = monitor.peak() - before
            if outcome not in CODES | STATUSES or blocked > MAX_BLOCKED_SECONDS or memory > MAX_MEMORY_BYTES:
                problems.append(f"{signature} {kind}: {outcome}, {blocked:.2f} s, {memory / 2**20:.0f} MiB")
        assert_valid_requests_succeed(client, model, golden)
    if monitor.resident() - initial > MAX_MEMORY_BYTES:
        problems.append(f"{(monitor.resident() - initial) / 2**20:.0f} MiB are not released")
    assert not problems, "\n".join(problems)
