"""Server-sent events: how streams end, also after errors and disconnections. No server, no graph."""

import asyncio
import json

import numpy as np
import pytest
from rest_helpers import FakeBackend, api_of, chunks_of, in_main_thread, request, signature_of
from tensorflow.core.framework import types_pb2

from serving.errors import StatusError
from serving.rest import api as rest_api
from serving.rest import stream as rest_stream

FLOAT, HALF, STRING = types_pb2.DT_FLOAT, types_pb2.DT_HALF, types_pb2.DT_STRING
TARGET = "/v1/models/m:stream"
STEPS = 4


def counting_backend(error=None, at=STEPS):
    """Return a backend that counts its runs in its state; run `at` raises `error`."""

    def answer(feeds):
        count = feeds["state:0"]
        if error is not None and count[0] == at:
            raise error
        return [count + 1, count]  # outputs in the order of their names

    signature = signature_of("stream", {"x": FLOAT, "state": FLOAT}, {"state": FLOAT, "y": FLOAT})
    return FakeBackend(signature, answer)


def stream_request(x=(0.5,), steps=STEPS):
    return request("POST", TARGET, {"inputs": {"x": list(x)}, "steps": steps})


def events_of(chunks):
    """[(event, data)]"""
    read = []
    for chunk in chunks:
        lines = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if line)
        read.append((lines.get("event", "message"), json.loads(lines["data"])))
    return read


def test_streams_are_logged_when_they_end():
    backend = counting_backend()
    api, log = api_of(backend)

    async def run():
        reply = await api.handle(stream_request())
        assert (log.ended, backend.in_use) == ([], 1)
        return await chunks_of(reply)

    chunks = asyncio.run(run())
    assert events_of(chunks) == [*(("message", {"y": [float(n)]}) for n in range(STEPS)), ("done", {})]
    assert log.ended == [("stream", "OK", sum(map(len, chunks)))]
    assert backend.in_use == 0


def test_an_error_is_the_last_event_and_logged():
    api, log = api_of(counting_backend(StatusError("OUT_OF_RANGE", "too far"), at=2))

    async def run():
        return await chunks_of(await api.handle(stream_request()))

    events = events_of(asyncio.run(run()))
    assert events[2:] == [("error", {"error": "too far", "code": "OUT_OF_RANGE"})]
    assert [code for _, code, _ in log.ended] == ["OUT_OF_RANGE"]


def test_internal_errors_are_logged():
    backend = counting_backend(ZeroDivisionError(), at=2)
    api, log = api_of(backend)

    async def run():
        await chunks_of(await api.handle(stream_request()))

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
    assert [code for _, code, _ in log.ended] == ["INTERNAL"]
    assert backend.in_use == 0


@pytest.mark.parametrize("read", [0, 2])
def test_a_disconnection_is_logged_and_releases_the_version(read):
    backend = counting_backend()
    api, log = api_of(backend)

    async def run():
        reply = await api.handle(stream_request())
        for _ in range(read):
            await anext(reply.body)
        await reply.body.aclose()
        return list(log.ended), backend.in_use

    ended, in_use = asyncio.run(run())
    assert [code for _, code, _ in ended] == ["CANCELLED"]
    assert in_use == 0


@pytest.mark.parametrize("data_type", [HALF, types_pb2.DT_BFLOAT16, types_pb2.DT_COMPLEX64])
def test_outputs_that_json_cannot_represent_are_refused_before_the_run(data_type):
    def answer(feeds):
        raise AssertionError("the signature must not run")

    signature = signature_of("stream", {"x": FLOAT, "state": FLOAT}, {"state": FLOAT, "y": data_type})
    api, log = api_of(FakeBackend(signature, answer))
    reply = asyncio.run(api.handle(stream_request()))
    name = {HALF: "half", types_pb2.DT_BFLOAT16: "bfloat16", types_pb2.DT_COMPLEX64: "complex64"}[data_type]
    assert reply.status == 400
    assert json.loads(reply.body) == {"error": f"Failed to write JSON value for tensor type: {name}"}
    assert [code for _, code, _ in log.ended] == ["INVALID_ARGUMENT"]


def test_the_state_may_have_a_type_that_json_cannot_represent():
    signature = signature_of("stream", {"x": FLOAT, "state": HALF}, {"state": HALF, "y": FLOAT})
    api, _ = api_of(FakeBackend(signature, lambda feeds: [feeds["state:0"], feeds["x:0"]]))

    async def run():
        return await chunks_of(await api.handle(stream_request()))

    assert events_of(asyncio.run(run()))[0] == ("message", {"y": [0.5]})


@pytest.mark.parametrize(("length", "on_loop"), [(1, True), (20_000, False)])
def test_large_requests_are_read_by_a_thread(monkeypatch, length, on_loop):
    calls = []
    for module, name in ((rest_api, "parse"), (rest_stream, "_first_arrays")):
        function = getattr(module, name)

        def recording(*arguments, function=function):
            calls.append(in_main_thread())
            return function(*arguments)

        monkeypatch.setattr(module, name, recording)
    signature = signature_of("stream", {"x": FLOAT, "state": FLOAT}, {"state": FLOAT, "y": FLOAT})
    api, _ = api_of(FakeBackend(signature, lambda feeds: [feeds["state:0"], np.sum(feeds["x:0"], axis=1)]))

    async def run():
        return await chunks_of(await api.handle(request("POST", TARGET, {"inputs": {"x": [[0.5] * length]}})))

    assert events_of(asyncio.run(run()))[0] == ("message", {"y": [0.5 * length]})
    assert calls == [on_loop, on_loop]
