"""Server-sent events: what becomes of a stream, whatever its model or its client do. No server, no graph."""

import asyncio
import json

import numpy as np
import pytest
from rest_helpers import Model, api_of, chunks_of, in_main_thread, request, signature_of
from tensorflow.core.framework import types_pb2

from serving.errors import StatusError
from serving.rest import api as rest_api
from serving.rest import stream as rest_stream

FLOAT, HALF, STRING = types_pb2.DT_FLOAT, types_pb2.DT_HALF, types_pb2.DT_STRING
TARGET = "/v1/models/m:stream"
STEPS = 4


def counting(failure=None, at=STEPS):
    """A model that counts its runs in its state, and fails at one of them."""

    def answer(feeds):
        count = feeds["state:0"]
        if failure is not None and count[0] == at:
            raise failure
        return [count + 1, count]  # the outputs in the order of their names

    signature = signature_of("stream", {"x": FLOAT, "state": FLOAT}, {"state": FLOAT, "y": FLOAT})
    return Model(signature, answer)


def ask(x=(0.5,), steps=STEPS):
    return request("POST", TARGET, {"inputs": {"x": list(x)}, "steps": steps})


def events_of(chunks):
    """[(event, data)]"""
    read = []
    for chunk in chunks:
        lines = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if line)
        read.append((lines.get("event", "message"), json.loads(lines["data"])))
    return read


def test_a_stream_is_told_of_when_it_has_ended():
    model = counting()
    api, log = api_of(model)

    async def run():
        reply = await api.handle(ask())
        assert (log.ended, model.in_use) == ([], 1)
        return await chunks_of(reply)

    chunks = asyncio.run(run())
    assert events_of(chunks) == [*(("message", {"y": [float(n)]}) for n in range(STEPS)), ("done", {})]
    assert log.ended == [("stream", "OK", sum(map(len, chunks)))]
    assert model.in_use == 0


def test_a_failure_on_the_way_is_the_last_event_and_in_the_log():
    api, log = api_of(counting(StatusError("OUT_OF_RANGE", "too far"), at=2))

    async def run():
        return await chunks_of(await api.handle(ask()))

    events = events_of(asyncio.run(run()))
    assert events[2:] == [("error", {"error": "too far", "code": "OUT_OF_RANGE"})]
    assert [code for _, code, _ in log.ended] == ["OUT_OF_RANGE"]


def test_a_fault_of_the_server_on_the_way_is_in_the_log():
    model = counting(ZeroDivisionError(), at=2)
    api, log = api_of(model)

    async def run():
        await chunks_of(await api.handle(ask()))

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
    assert [code for _, code, _ in log.ended] == ["INTERNAL"]
    assert model.in_use == 0


@pytest.mark.parametrize("read", [0, 2])
def test_a_client_that_leaves_is_told_of_and_lets_go_of_the_version(read):
    model = counting()
    api, log = api_of(model)

    async def run():
        reply = await api.handle(ask())
        for _ in range(read):
            await anext(reply.body)
        await reply.body.aclose()
        return list(log.ended), model.in_use

    ended, in_use = asyncio.run(run())
    assert [code for _, code, _ in ended] == ["CANCELLED"]
    assert in_use == 0


@pytest.mark.parametrize("data_type", [HALF, types_pb2.DT_BFLOAT16, types_pb2.DT_COMPLEX64])
def test_outputs_without_a_form_in_json_are_refused_before_anything_runs(data_type):
    def answer(feeds):
        raise AssertionError("it must not run")

    signature = signature_of("stream", {"x": FLOAT, "state": FLOAT}, {"state": FLOAT, "y": data_type})
    api, log = api_of(Model(signature, answer))
    reply = asyncio.run(api.handle(ask()))
    name = {HALF: "half", types_pb2.DT_BFLOAT16: "bfloat16", types_pb2.DT_COMPLEX64: "complex64"}[data_type]
    assert reply.status == 400
    assert json.loads(reply.body) == {"error": f"Failed to write JSON value for tensor type: {name}"}
    assert [code for _, code, _ in log.ended] == ["INVALID_ARGUMENT"]


def test_a_state_may_be_of_a_type_without_a_form_in_json():
    signature = signature_of("stream", {"x": FLOAT, "state": HALF}, {"state": HALF, "y": FLOAT})
    api, _ = api_of(Model(signature, lambda feeds: [feeds["state:0"], feeds["x:0"]]))

    async def run():
        return await chunks_of(await api.handle(ask()))

    assert events_of(asyncio.run(run()))[0] == ("message", {"y": [0.5]})


@pytest.mark.parametrize(("length", "on_loop"), [(1, True), (20_000, False)])
def test_large_requests_are_read_by_a_thread(monkeypatch, length, on_loop):
    where = []
    for module, name in ((rest_api, "parse"), (rest_stream, "_first_arrays")):
        function = getattr(module, name)

        def noting(*arguments, function=function):
            where.append(in_main_thread())
            return function(*arguments)

        monkeypatch.setattr(module, name, noting)
    signature = signature_of("stream", {"x": FLOAT, "state": FLOAT}, {"state": FLOAT, "y": FLOAT})
    api, _ = api_of(Model(signature, lambda feeds: [feeds["state:0"], np.sum(feeds["x:0"], axis=1)]))

    async def run():
        return await chunks_of(await api.handle(request("POST", TARGET, {"inputs": {"x": [[0.5] * length]}})))

    assert events_of(asyncio.run(run()))[0] == ("message", {"y": [0.5 * length]})
    assert where == [on_loop, on_loop]
