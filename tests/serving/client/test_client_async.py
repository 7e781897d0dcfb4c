"""AsyncClient: concurrent requests and streams in one thread, and cancellation."""

import asyncio
import inspect
import threading
from contextlib import aclosing

import numpy as np
import pytest
from client_helpers import (
    STATUS_JSON,
    grpc_server,
    http_server,
    metadata_of,
    reply,
    status_message,
    status_server,
    tensors_of,
)

from serving.client import AsyncClient, Client
from serving.client.errors import NotFound, Unavailable
from serving.client.wire import decode

PUBLIC = [name for name in dir(Client) if not name.startswith("_")]


def test_both_clients_have_the_same_methods():
    assert [name for name in dir(AsyncClient) if not name.startswith("_")] == PUBLIC
    for name in (*PUBLIC, "__init__"):
        ours, theirs = inspect.signature(getattr(Client, name)), inspect.signature(getattr(AsyncClient, name))
        assert ours.parameters == theirs.parameters


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_requests_run_concurrently(protocol):
    """The server responds only when all eight requests have arrived."""
    barrier = threading.Barrier(8)

    async def ask(address):
        async with AsyncClient(address) as client:
            return await asyncio.gather(*(client.status("m") for _ in range(8)))

    with status_server(protocol, lambda headers: barrier.wait(30)) as address:
        answers = asyncio.run(ask(address))
    assert [[version.state for version in versions] for versions in answers] == [["AVAILABLE"]] * 8


def test_cancelling_a_coroutine_cancels_its_rest_request():
    arrived, broken = threading.Event(), threading.Event()

    def answer(handler, body):
        arrived.set()
        if not handler.rfile.read(1):  # the other side has closed
            broken.set()

    async def cancel(address):
        async with AsyncClient(address) as client:
            task = asyncio.create_task(client.status("m"))
            await asyncio.to_thread(arrived.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(broken.wait, 30)

    with http_server(answer) as address:
        asyncio.run(cancel(address))
    assert broken.is_set()


def test_cancelling_a_coroutine_cancels_its_grpc_request():
    arrived, ended = threading.Event(), threading.Event()

    def answer(method, message, headers, context):
        context.add_callback(ended.set)
        arrived.set()
        ended.wait(30)
        return status_message()

    async def cancel(address):
        async with AsyncClient(address) as client:
            task = asyncio.create_task(client.status("m", timeout=600))
            await asyncio.to_thread(arrived.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(ended.wait, 30)

    with grpc_server(answer, with_context=True) as address:
        asyncio.run(cancel(address))
    assert ended.is_set()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_client_works_after_a_cancelled_request(protocol):
    first = threading.Event()
    hold = threading.Event()

    def decide(headers):
        if not first.is_set():
            first.set()
            hold.wait(30)

    async def main(address):
        async with AsyncClient(address) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.status("m")
            hold.set()
            return [version.version for version in await client.status("m")]

    with status_server(protocol, decide) as address:
        assert asyncio.run(main(address)) == [1]


def test_backoff_does_not_block_other_coroutines():
    """One request is retried until another coroutine has run."""
    ready = threading.Event()

    def answer(handler, body):
        if ready.is_set():
            reply(handler, STATUS_JSON)
        else:
            reply(handler, {"error": "not yet"}, 503)

    async def become_ready():
        await asyncio.sleep(0.2)
        ready.set()

    async def main(address):
        async with AsyncClient(address, retries=10**6) as client:
            versions, _ = await asyncio.gather(client.status("m", timeout=30), become_ready())
            return [version.version for version in versions]

    with http_server(answer) as address:
        assert asyncio.run(main(address)) == [1]


def counting_model(method, message, headers):
    """Signature `stream` of a model that appends the number of the call."""
    if method == "GetModelMetadata":
        tensors = {"word": (7, [-1]), "state": (1, [-1, 1])}
        return metadata_of(tensors, {"text": (7, [-1]), "state": (1, [-1, 1])}, "stream")
    state, word = decode(message.inputs["state"]), decode(message.inputs["word"])
    return tensors_of({"text": np.array([word[0] + b"%d" % state[0, 0]], object), "state": state + 1})


def test_streams_run_concurrently():
    async def read(client, word):
        return [piece["text"][0] async for piece in client.stream("m", {"word": [word]}, steps=5)]

    async def main(address):
        async with AsyncClient(address) as client:
            return await asyncio.gather(read(client, "a"), read(client, "b"))

    with grpc_server(counting_model) as address:
        a, b = asyncio.run(main(address))
    assert (a, b) == ([b"a%d" % n for n in range(5)], [b"b%d" % n for n in range(5)])


def test_a_stream_can_be_closed_early():
    async def main(address):
        async with AsyncClient(address) as client, aclosing(client.stream("m", {"word": ["a"]}, steps=10**4)) as pieces:
            async for piece in pieces:
                return piece["text"][0]

    with grpc_server(counting_model) as address:
        assert asyncio.run(main(address)) == b"a0"


def test_one_failure_does_not_affect_other_requests():
    def answer(handler, body):
        if handler.path.endswith("missing"):
            reply(handler, {"error": "Could not find any versions of model missing"}, 404)
        else:
            reply(handler, STATUS_JSON)

    async def main(address):
        async with AsyncClient(address) as client:
            names = ["a", "missing", "b"]
            return await asyncio.gather(*(client.status(name) for name in names), return_exceptions=True)

    with http_server(answer) as address:
        a, missing, b = asyncio.run(main(address))
    assert isinstance(missing, NotFound) and a == b


def test_a_client_can_be_created_outside_an_event_loop():
    client = AsyncClient("127.0.0.1:1", retries=0)

    async def main():
        async with client:
            with pytest.raises(Unavailable):
                await client.status("m", timeout=60)

    asyncio.run(main())
