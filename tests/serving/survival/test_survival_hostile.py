"""One hostile request neither ends, freezes nor fills the server of the three exported models.

Every signature gets, over gRPC and REST, requests with what is wrong in ranks, shapes, sizes, repetitions, nesting,
lengths of strings and dtypes. The requests are the same in every run. Each is answered with a code that says what is
wrong, within bounds of memory and of the time in which nobody else is answered; requests of good clients in between are
answered as always. KERASNETS_HOSTILE_REQUESTS (4 if it is not set) is how many of each kind a signature gets.
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
from survival_helpers import ANSWER_SECONDS, MOST_BLOCKED, MOST_MEMORY, Watched, attempt, read_answer, request_bytes
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


class Hostile:
    """Makes requests for one signature of a model; `dice` decides."""

    def __init__(self, dice: random.Random, model: str, signature: str, inputs: dict[str, np.ndarray]) -> None:
        self.dice, self.model, self.signature, self.inputs = dice, model, signature, inputs
        self.target = dice.choice(sorted(inputs))  # the input with something wrong

    def tensors(self) -> dict[str, tensor_pb2.TensorProto]:
        """The valid inputs, one row of each."""
        return {name: tensor_of(value[:1]) for name, value in self.inputs.items()}

    def with_tensor(self, tensor: tensor_pb2.TensorProto) -> tuple[str, bytes]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.model, self.signature
        for name, each in {**self.tensors(), self.target: tensor}.items():
            request.inputs[name].CopyFrom(each)
        return PREDICT, request.SerializeToString()

    def shaped(self, sizes: list[int]) -> tuple[str, bytes]:
        """The first value of the input, in another shape."""
        tensor = tensor_of(self.inputs[self.target][:1].ravel()[:1])
        tensor.tensor_shape.ClearField("dim")
        for size in sizes:
            tensor.tensor_shape.dim.add(size=size)
        return self.with_tensor(tensor)

    def body(self, value: str) -> bytes:
        """The row form or the columnar form with `value`, JSON text, for the input."""
        others = {name: as_json(array[:1].tolist()) for name, array in self.inputs.items() if name != self.target}
        if self.dice.random() < 0.5:
            columns = {**others, self.target: f"[{value}]"}
            given = f'"inputs": {{{members(columns)}}}'
        else:
            rows = {**{name: text[1:-1] for name, text in others.items()}, self.target: value}
            given = f'"instances": [{{{members(rows)}}}]'
        return f'{{"signature_name": "{self.signature}", {given}}}'.encode()

    # gRPC: method and message

    def rank(self) -> tuple[str, bytes]:
        return self.shaped([self.dice.choice([0, 1, 1, 1])] * self.dice.choice([33, 40, 64, 65, 254, 255, 2_000]))

    def long_shape(self) -> tuple[str, bytes]:
        return self.shaped([2**62] * self.dice.choice([300, 20_000, 60_000]))

    def shape(self) -> tuple[str, bytes]:
        sizes = [0, 1, 2, -1, 2**31, 2**40, 2**62, 2**63 - 1]
        return self.shaped(self.dice.choices(sizes, k=self.dice.randint(1, 5)))

    def repeated(self) -> tuple[str, bytes]:
        count = self.dice.choice([1_500, 100_000, 2**21, 2**31])
        if self.inputs[self.target].dtype.kind != "O":
            return self.shaped([count, *self.inputs[self.target].shape[1:]])
        tensor = tensor_of(np.array([self.text(500_000)], object))
        tensor.tensor_shape.dim[0].size = count
        return self.with_tensor(tensor)

    def dtype(self) -> tuple[str, bytes]:
        tensor = tensor_pb2.TensorProto()
        tensor.dtype = self.dice.randint(0, 40) + self.dice.choice([0, 0, 100])
        tensor.tensor_shape.dim.add(size=self.dice.randint(0, 2))
        tensor.tensor_content = self.dice.randbytes(self.dice.choice([0, 1, 2, 4, 8, 16]))
        return self.with_tensor(tensor)

    def string(self) -> tuple[str, bytes]:
        return self.with_tensor(tensor_of(np.array([self.text(self.dice.choice(LENGTHS))], object)))

    def context(self) -> tuple[str, bytes]:
        """Classify: one large context for a thousand empty examples; most signatures are no classifiers."""
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = self.model, self.signature
        listed = request.input.example_list_with_context
        listed.context.features.feature[self.target].bytes_list.value.append(self.text(500_000))
        for _ in range(1_000):
            listed.examples.add()
        return CLASSIFY, request.SerializeToString()

    def names(self) -> tuple[str, bytes]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.model, self.signature
        for number in range(20_000):
            request.inputs[f"{number}"].dtype = types_pb2.DT_FLOAT
        request.output_filter.extend([self.target] * 20_000)
        return PREDICT, request.SerializeToString()

    # REST: a body

    def nested(self) -> bytes:
        depth = self.dice.choice([32, 33, 64, 500, 100_000])
        return self.body("[" * depth + self.valid() + "]" * depth)

    def nested_objects(self) -> bytes:
        depth = self.dice.choice([1, 30, 500, 100_000])
        return self.body('{"b64": ' * depth + self.valid() + "}" * depth)

    def many(self) -> bytes:
        """Of something short very much."""
        return self.body("[" + ", ".join([self.dice.choice(["[]", "0", '""', "{}", "[[0]]"])] * 100_000) + "]")

    def number(self) -> bytes:
        return self.body(self.dice.choice(["1" * 1_000_000, "0." + "1" * 1_000_000, "1e999", "-0", "NaN", "true"]))

    def json_string(self) -> bytes:
        return self.body(as_json(self.text(self.dice.choice(LENGTHS))))

    def encoded(self) -> bytes:
        text = base64.b64encode(self.text(self.dice.choice(LENGTHS))).decode()
        return self.body(json.dumps({"b64": self.dice.choice([text, text[:-1], " ".join(text[:10_000]), "*"])}))

    def keys(self) -> bytes:
        return self.body("{" + ", ".join(f'"{n}": 0' for n in range(50_000)) + "}")

    def cut(self) -> bytes:
        return self.body("[" + "[], " * 100_000)

    def valid(self) -> str:
        return as_json(self.inputs[self.target][:1].tolist())[1:-1]

    def text(self, length: int) -> bytes:
        """Bytes of about this length: one word, words, characters of four bytes, noise, or an image that moves."""
        if self.target == "image_bytes" and self.dice.random() < 0.5:
            return moving_image(min(1_500, length // 300))
        unit = self.dice.choice([b"a", b"word ", "😀".encode(), self.dice.randbytes(1_000)])
        return unit * (length // len(unit))


LENGTHS = [0, 1, 1_000, 20_000, 300_000, 3_000_000]
OVER_GRPC = ["rank", "long_shape", "shape", "repeated", "dtype", "string", "context", "names"]
OVER_REST = ["nested", "nested_objects", "many", "number", "json_string", "encoded", "keys", "cut"]


def moving_image(frames: int) -> bytes:
    """A GIF of 300 x 300 pixels and some hundred bytes a frame."""

    def saved(colors: list[int]) -> bytes:
        file = io.BytesIO()
        first, *others = [Image.new("P", (300, 300), color) for color in colors]
        first.save(file, "GIF", save_all=True, append_images=others, optimize=False)
        return file.getvalue().removesuffix(b";")

    start, longer = saved([0, 1, 2]), saved([0, 1, 2, 1, 2])
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
    """JSON of rows; strings that are no text as base64."""

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


def requests(dice: random.Random, model: str, golden: list[Any]) -> Iterator[tuple[str, str, Any]]:
    """A signature, a kind and a request for it: method and message, or a body."""
    for _ in range(REQUESTS):
        for signature, inputs, _ in golden:
            for kind in OVER_GRPC + OVER_REST:
                yield signature, kind, getattr(Hostile(dice, model, signature, inputs), kind)()


def assert_good_clients_are_answered(client: Client, model: str, golden: list[Any]) -> None:
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
    watched, dice = Watched(served_models.pid, served_models.rest, model), random.Random(f"{SEED} {model}")
    problems = []
    with Client(served_models.grpc) as client, grpc.insecure_channel(served_models.grpc) as channel:
        assert_good_clients_are_answered(client, model, golden)
        rest = watched.resident()

        def send(request: tuple[str, bytes] | bytes) -> str | int:
            if isinstance(request, tuple):
                return channel.unary_unary(request[0]).future(request[1], timeout=ANSWER_SECONDS).code().name
            with socket.create_connection(watched.address, ANSWER_SECONDS) as connection:
                connection.sendall(request_bytes("POST", f"/v1/models/{model}:predict", request))
                return read_answer(connection)[0]

        for signature, kind, request in requests(dice, model, golden):
            before = watched.resident()
            watched.forget_peak()
            try:
                outcome, blocked = attempt(watched, lambda request=request: send(request))
            except OSError:
                outcome = "UNAVAILABLE"
            assert outcome != "UNAVAILABLE", f"{signature} {kind} ended the server"
            memory = watched.peak() - before
            if outcome not in CODES | STATUSES or blocked > MOST_BLOCKED or memory > MOST_MEMORY:
                problems.append(f"{signature} {kind}: {outcome}, {blocked:.2f} s, {memory / 2**20:.0f} MiB")
        assert_good_clients_are_answered(client, model, golden)
    if watched.resident() - rest > MOST_MEMORY:
        problems.append(f"{(watched.resident() - rest) / 2**20:.0f} MiB are not given back")
    assert not problems, "\n".join(problems)
