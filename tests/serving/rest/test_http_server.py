"""The HTTP server on real sockets, with handlers without models. No TensorFlow."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from contextlib import asynccontextmanager, suppress

import pytest

from serving.rest.http.connection import Connection
from serving.rest.http.messages import Reply, Request
from serving.rest.http.parser import RequestParser
from serving.rest.http.server import HttpServer

SECONDS = 120.0  # timeout for a busy machine
MAX_BYTES = 1 << 20


async def echo_target(request: Request) -> Reply:
    return Reply(200, request.target.encode(), "text/plain")


def refuse_large(request: Request, size: int) -> Reply | None:
    return Reply(413, b"too large") if size > MAX_BYTES else None


@asynccontextmanager
async def running(handler=echo_target, refusal=refuse_large, timeout=SECONDS):
    """Run a server; yield (server, reader, writer), connected."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = HttpServer(handler, bound, timeout, MAX_BYTES, refusal)
    await server.start()
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    try:
        async with asyncio.timeout(SECONDS):
            yield server, reader, writer
    finally:
        writer.close()
        await server.stop(0)


def serve(talk, **options):
    """Return the result of `talk(reader, writer)`, connected to a server."""

    async def run():
        async with running(**options) as (_, reader, writer):
            return await talk(reader, writer)

    return asyncio.run(run())


async def read_answer(reader):
    """Return (status, {header: value}, body)."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    start, *lines = head.splitlines()[:-1]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(start.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


def ask(data, **options):
    """Send `data` and return the only reply."""

    async def talk(reader, writer):
        writer.write(data)
        return await read_answer(reader)

    return serve(talk, **options)


async def count_turns(turns):
    """Append an element in each iteration of the event loop."""
    while True:
        turns.append(None)
        await asyncio.sleep(0)


def test_pipelined_requests_do_not_block_other_connections():
    turns, seen, count = [], [], 300

    async def handler(request):
        seen.append(len(turns))
        return Reply(200)

    async def talk(reader, writer):
        counting = asyncio.create_task(count_turns(turns))
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * count)
        for _ in range(count):
            await read_answer(reader)
        counting.cancel()

    serve(talk, handler=handler)
    assert len(set(seen)) == count


def test_ready_chunks_do_not_block_other_connections():
    turns, seen, count = [], [], 300

    async def chunks():
        for _ in range(count):
            seen.append(len(turns))
            yield b"x"

    async def handler(request):
        return Reply(200, chunks())

    async def talk(reader, writer):
        counting = asyncio.create_task(count_turns(turns))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        data = await reader.read()
        counting.cancel()
        return data

    assert serve(talk, handler=handler).endswith(b"\r\n\r\n" + b"x" * count)
    assert len(set(seen)) == count


def test_an_error_while_streaming_closes_the_connection(caplog):
    async def chunks():
        yield b"one"
        raise ArithmeticError("an internal error")

    async def handler(request):
        return Reply(200, chunks())

    async def talk(reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        try:
            return await reader.read()
        except ConnectionError:
            return b""

    serve(talk, handler=handler)  # returns at once, not after a timeout
    assert "an internal error" in caplog.text


def test_trailers_are_not_headers():
    async def handler(request):
        return Reply(200, b",".join(sorted(request.headers)) + b" " + request.body)

    request = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    assert ask(request, handler=handler)[2] == b"transfer-encoding ab"


def test_headers_after_trailers_belong_to_the_next_request():
    async def handler(request):
        return Reply(200, b",".join(sorted(request.headers)))

    async def talk(reader, writer):
        writer.write(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: 1\r\n\r\nGET / HTTP/1.1\r\nB: 2\r\n\r\n"
        )
        return [(await read_answer(reader))[2] for _ in range(2)]

    assert serve(talk, handler=handler) == [b"transfer-encoding", b"b"]


def test_trailers_are_limited_like_headers():
    trailers = b"".join(b"name%d: %s\r\n" % (n, b"x" * 1000) for n in range(100))
    request = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + trailers + b"\r\n"
    assert ask(request)[0] == 431


@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
def test_100_continue_is_sent_once(offer):
    async def talk(reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n" + offer + b"\r\n")
        first = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x")
        return first, await read_answer(reader)

    first, (status, _, _) = serve(talk)
    assert (first, status) == (b"HTTP/1.1 100 Continue\r\n\r\n", 200)


@pytest.mark.parametrize(
    ("start", "connection"),
    [
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", "keep-alive"),
        (b"GET / HTTP/1.0\r\n", "close"),
        (b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n", None),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n", "close"),
        (b"GET / HTTP/1.1\r\n", None),
    ],
)
def test_keep_alive(start, connection):
    async def talk(reader, writer):
        writer.write(start + b"\r\n")
        _, headers, _ = await read_answer(reader)
        if headers.get("connection") == "close":
            assert await reader.read() == b""
        else:
            writer.write(b"GET /again HTTP/1.1\r\n\r\n")
            assert (await read_answer(reader))[2] == b"/again"
        return headers.get("connection")

    assert serve(talk) == connection


def require_authorization(request, size):
    return None if b"authorization" in request.headers else Reply(401, b"no token")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked", b"Content-Length: 100\r\nExpect: 100-continue"]
)
def test_requests_are_refused_before_their_body_is_read(framing):
    status, headers, body = ask(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n", refusal=require_authorization)
    assert (status, headers["connection"], body) == (401, "close", b"no token")


def test_complete_requests_skip_the_early_check():
    calls = []

    def refusal(request, size):
        calls.append((request.method, request.target, request.body, size))

    async def talk(reader, writer):
        writer.write(b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")
        await read_answer(reader)
        writer.write(b"POST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\n")
        while not calls:
            await asyncio.sleep(0.01)
        writer.write(b"x")
        await asyncio.sleep(0.01)
        writer.write(b"x")
        return (await read_answer(reader))[0]

    assert serve(talk, refusal=refusal) == 200
    assert calls == [("POST", "/b", b"", 2)]


def test_closed_connections_are_freed(monkeypatch):
    """Also without garbage collection, which runs only now and then."""
    references = []

    class TrackedConnection(Connection):
        def connection_made(self, transport):
            references.append(weakref.ref(self))
            super().connection_made(transport)

    monkeypatch.setattr("serving.rest.http.server.Connection", TrackedConnection)

    async def talk(reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf")
        while not references or not references[0]()._parser._body:
            await asyncio.sleep(0.01)
        writer.close()
        while references[0]() is not None:
            await asyncio.sleep(0.01)

    gc.disable()
    try:
        serve(talk)
    finally:
        gc.enable()


def test_idle_connections_hold_no_body():
    bodies = []

    async def handler(request):
        bodies.append(len(request.body))
        return Reply(200)

    async def talk(reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
        await read_answer(reader)
        parsers = [each for each in gc.get_objects() if isinstance(each, RequestParser) and each._body]
        return bodies, parsers

    assert serve(talk, handler=handler) == ([100_000], [])


def test_streams_are_closed_if_the_client_disconnects():
    ended, streams = [], []  # `streams` refers to them, so garbage collection does not close them

    async def chunks():
        try:
            yield b""
            yield b"x"
        finally:
            ended.append(True)

    async def run():
        async def handler(request):
            streams.append(stream := chunks())
            await anext(stream)
            for connection in server.connections:
                connection.transport.abort()
            return Reply(200, stream)

        async with running(handler=handler) as (server, reader, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(ConnectionError):
                await reader.read()
            return list(ended)

    assert asyncio.run(run()) == [True]


def test_refused_clients_do_not_delay_the_stop(monkeypatch):
    monkeypatch.setattr("serving.rest.http.connection.LINGER_SECONDS", 100 * SECONDS)

    async def run():
        async with running() as (server, reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\nthe start" % (2 * MAX_BYTES))
            status = (await read_answer(reader))[0]
            await server.stop(100 * SECONDS)
            return status

    assert asyncio.run(run()) == 413
