"""Streams of the client: repeated calls over gRPC, server-sent events over REST, closing early."""

import json
import threading

import numpy as np
import pytest
from client_helpers import (
    BlockingClient,
    Failure,
    grpc_server,
    http_server,
    metadata_json,
    metadata_of,
    reply,
    tensors_of,
)
from serving_helpers import wait_until

from serving.client import Client, Tensors
from serving.client.errors import (
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from serving.client.rest import ServerSentEventParser
from serving.client.wire import decode

INPUTS = {"word": ["w"], "step": [2]}
SIGNATURE = (
    {"word": (7, [-1]), "step": (1, [-1]), "state": (1, [-1, 2])},
    {"text": (7, [-1]), "state": (1, [-1, 2])},
    "stream",
)
SIGNATURE_JSON = (
    {"word": ("DT_STRING", [-1]), "step": ("DT_FLOAT", [-1]), "state": ("DT_FLOAT", [-1, 2])},
    {"text": ("DT_STRING", [-1]), "state": ("DT_FLOAT", [-1, 2])},
    "stream",
)


@pytest.fixture(params=[Client, BlockingClient], ids=["sync", "async"])
def client_class(request):
    return request.param


def texts(pieces):
    return [piece["text"].tolist() for piece in pieces]


class Model:
    """A signature that counts its calls in its state, as gRPC serves it."""

    def __init__(self, fail_at=None, version=3):
        self.fail_at, self.version, self.specs = fail_at, version, []

    def __call__(self, method, message, headers):
        if method == "GetModelMetadata":
            return metadata_of(*SIGNATURE)
        spec = message.model_spec
        self.specs.append((spec.version.value if spec.HasField("version") else None, spec.version_label))
        if len(self.specs) == self.fail_at:
            raise Failure("RESOURCE_EXHAUSTED", "enough")
        inputs = {name: decode(tensor) for name, tensor in message.inputs.items()}
        assert inputs.keys() == {"word", "step", "state"}
        state = inputs["state"] + np.stack([np.ones_like(inputs["step"]), inputs["step"]], axis=1)
        words = [word + b"%d" % calls for word, calls in zip(inputs["word"], inputs["state"][:, 0], strict=True)]
        return tensors_of({"text": np.array(words, object), "state": state}, self.version)


def test_each_call_continues_from_the_previous_state(client_class):
    model = Model()
    with grpc_server(model) as address, client_class(address) as client:
        pieces = list(client.stream("m", {"word": ["v", "w"], "step": [1, 2]}, steps=3))
    assert texts(pieces) == [[b"v0", b"w0"], [b"v1", b"w1"], [b"v2", b"w2"]]
    assert all(piece.keys() == {"text"} for piece in pieces)


def test_all_calls_use_the_same_version(client_class):
    model = Model(version=3)
    with grpc_server(model) as address, client_class(address) as client:
        list(client.stream("m", INPUTS, steps=3, label="stable"))
    assert model.specs == [(None, "stable"), (3, ""), (3, "")]


def test_calls_are_lazy_and_stop_after_close(client_class):
    model = Model()
    with grpc_server(model) as address, client_class(address) as client:
        pieces = client.stream("m", INPUTS, steps=100)
        assert texts([next(pieces), next(pieces)]) == [[b"w0"], [b"w1"]]
        pieces.close()
        assert next(pieces, None) is None
        assert len(model.specs) == 2


def test_an_error_follows_the_outputs_of_earlier_calls(client_class):
    with grpc_server(Model(fail_at=3)) as address, client_class(address) as client:
        pieces = client.stream("m", INPUTS, steps=9)
        assert texts([next(pieces), next(pieces)]) == [[b"w0"], [b"w1"]]
        with pytest.raises(ResourceExhausted, match="enough"):
            next(pieces)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_must_be_positive(client_class, steps):
    with client_class("localhost:1") as client, pytest.raises(InvalidArgument, match="it must be 1 or more"):
        list(client.stream("m", INPUTS, steps=steps))


def test_a_signature_without_state_cannot_stream(client_class):
    metadata = metadata_of({"x": (1, [-1])}, {"y": (1, [-1])}, "plain")
    with (
        grpc_server(lambda *call: metadata) as address,
        client_class(address) as client,
        pytest.raises(InvalidArgument, match="'plain' of 'm' has no 'state'"),
    ):
        list(client.stream("m", {"x": [1.0]}, steps=2, signature="plain"))


@pytest.mark.parametrize("shape", [[], [-1, -1]])
def test_a_state_of_unknown_size_is_rejected(client_class, shape):
    metadata = metadata_of({"state": (1, shape)}, {"state": (1, shape)}, "stream")
    with (
        grpc_server(lambda *call: metadata) as address,
        client_class(address) as client,
        pytest.raises(InvalidArgument, match="has no size"),
    ):
        list(client.stream("m", {}, steps=2))


def test_the_server_rejects_an_unknown_signature(client_class):
    def answer(method, message, headers):
        if method == "GetModelMetadata":
            return metadata_of(*SIGNATURE)
        raise Failure("FAILED_PRECONDITION", f'Serving signature key "{message.model_spec.signature_name}" not found.')

    with (
        grpc_server(answer) as address,
        client_class(address) as client,
        pytest.raises(FailedPrecondition, match='key "other" not found'),
    ):
        list(client.stream("m", INPUTS, steps=2, signature="other"))


class EventServer:
    """A REST server that returns metadata, and for :stream the response that `write(handler)` sends."""

    def __init__(self, write):
        self.write, self.paths, self.bodies = write, [], []

    def __call__(self, handler, body):
        self.paths.append(handler.path)
        if handler.path.endswith("/metadata"):
            reply(handler, metadata_json(*SIGNATURE_JSON))
            return
        self.bodies.append(json.loads(body))
        self.write(handler)


def start(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True


def event(number):
    return b'data: {"text": ["w%d"]}\n\n' % number


DONE_EVENT = b"event: done\ndata: {}\n\n"


def test_one_request_returns_all_events(client_class):
    def write(handler):
        start(handler)
        handler.wfile.write(event(0) + event(1) + DONE_EVENT)

    server = EventServer(write)
    with http_server(server) as address, client_class(address) as client:
        pieces = list(client.stream("m", INPUTS, steps=2, version=3))
    assert texts(pieces) == [[b"w0"], [b"w1"]]
    assert server.paths == ["/v1/models/m/versions/3/metadata", "/v1/models/m/versions/3:stream"]
    assert server.bodies == [{"signature_name": "stream", "inputs": {"word": ["w"], "step": [2.0]}, "steps": 2}]


def test_events_are_delivered_as_they_arrive(client_class):
    """The server sends the second event only when the client has received the first."""
    arrived = threading.Event()

    def write(handler):
        start(handler)
        handler.wfile.write(event(0))
        if arrived.wait(30):
            handler.wfile.write(event(1) + DONE_EVENT)

    with http_server(EventServer(write)) as address, client_class(address) as client:
        pieces = client.stream("m", INPUTS, steps=2)
        assert texts([next(pieces)]) == [[b"w0"]]
        arrived.set()
        assert texts(pieces) == [[b"w1"]]


def test_closing_a_stream_cancels_its_request(client_class):
    broken = threading.Event()

    def write(handler):
        start(handler)
        try:
            while not broken.wait(0.01):
                handler.wfile.write(event(0))
        except OSError:
            broken.set()

    with http_server(EventServer(write)) as address, client_class(address) as client:
        pieces = client.stream("m", INPUTS, steps=10_000)
        next(pieces)
        assert not broken.is_set()
        pieces.close()
        wait_until(broken.is_set)


def test_an_error_event_raises(client_class):
    def write(handler):
        start(handler)
        handler.wfile.write(event(0) + b'event: error\ndata: {"error": "enough", "code": "RESOURCE_EXHAUSTED"}\n\n')

    with http_server(EventServer(write)) as address, client_class(address) as client:
        pieces = client.stream("m", INPUTS, steps=2)
        assert texts([next(pieces)]) == [[b"w0"]]
        with pytest.raises(ResourceExhausted, match="enough"):
            next(pieces)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (event(0), Unavailable, "ended the stream before it was done"),
        (b"", Unavailable, "ended the stream before it was done"),
        (b"data: <html>\n\n", Unknown, "not this model's: message: <html>"),
        (b'data: {"other": ["w"]}\n\n', Unknown, '{"other": ["w"]}'),
        (b"data: [1]\n\n", Unknown, "[1]"),
        (b"event: error\ndata: [1]\n\n", Unknown, "[1]"),
    ],
)
def test_invalid_events_raise(client_class, content, kind, message):
    def write(handler):
        start(handler)
        handler.wfile.write(content)

    with http_server(EventServer(write)) as address, client_class(address) as client, pytest.raises(kind) as caught:
        list(client.stream("m", INPUTS, steps=2))
    assert message in caught.value.message


def test_a_rejected_stream_raises_the_servers_error(client_class):
    def write(handler):
        reply(handler, {"error": "the text is too long"}, 400)

    with (
        http_server(EventServer(write)) as address,
        client_class(address) as client,
        pytest.raises(InvalidArgument, match="the text is too long"),
    ):
        list(client.stream("m", INPUTS, steps=2))


def test_a_stream_is_retried_before_its_first_event(client_class):
    def write(handler):
        if len(server.bodies) < 3:
            reply(handler, {"error": "the queue is full"}, 503)
            return
        start(handler)
        handler.wfile.write(event(0) + DONE_EVENT)

    server = EventServer(write)
    with http_server(server) as address, client_class(address) as client:
        assert texts(client.stream("m", INPUTS, steps=1)) == [[b"w0"]]


def test_a_server_without_streams_gets_predict_requests(client_class):
    """TensorFlow Serving, for example, has no streams over REST; the state keeps its exact floats."""
    third = np.float32(1 / 3)

    def write(handler):
        if handler.path.endswith(":stream"):
            reply(handler, {"error": f"Malformed request: POST {handler.path}"}, 400)
            return
        inputs = server.bodies[-1]["inputs"]
        calls, total = inputs["state"][0]
        assert total == calls * float(third)
        state = [[calls + 1, (calls + 1) * float(third)]]
        reply(handler, {"outputs": {"text": [f"{inputs['word'][0]}{calls:.0f}"], "state": state}})

    server = EventServer(write)
    with http_server(server) as address, client_class(address) as client:
        pieces = list(client.stream("m", INPUTS, steps=3))
    assert texts(pieces) == [[b"w0"], [b"w1"], [b"w2"]]
    assert server.paths[1:] == ["/v1/models/m:stream", *["/v1/models/m:predict"] * 3]


def read(chunks) -> list[Tensors | None]:
    events = ServerSentEventParser("nowhere")
    outputs = {"text": {"dtype": "string", "shape": [-1]}}
    return [piece for chunk in chunks for piece in events.feed(chunk, outputs)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_chunks_of_events_may_end_anywhere(end):
    body = b': comment\nid: 7\ndata: {"text":\ndata:["\xc3\xa9\xff"]}\n\n\n' + event(1) + DONE_EVENT
    body = body.replace(b"\n", end)
    whole = read([body])
    assert [None if piece is None else piece["text"].tolist() for piece in whole] == [[b"\xc3\xa9\xff"], [b"w1"], None]
    for size in range(1, len(body)):
        pieces = read([body[start : start + size] for start in range(0, len(body), size)])
        assert [piece and piece["text"].tolist() for piece in pieces] == [
            piece and piece["text"].tolist() for piece in whole
        ]
