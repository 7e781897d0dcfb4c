"""HTTP/1.1 on the event loop: connections, limits and time limits. What requests mean is the handler's business.

Bytes are parsed by httptools (the parser of Node.js). A connection that sends slower than it should, or nothing, is
closed; a body that is too large is refused before it is read.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple, cast

import httptools

from serving.errors import UsageError

log = logging.getLogger("serving")

MAX_HEADER_BYTES = 64 * 1024  # request line and headers
SLOWEST_BYTES_PER_SECOND = 16 * 1024  # a body that comes slower keeps memory and a connection for too long
MOST_AHEAD = 16  # requests that a client may send before the answer to the first
BACKLOG = 1024

Headers = dict[bytes, bytes]


class Request(NamedTuple):
    """One request; header names are lower case, `target` is path and query as sent."""

    method: str
    target: str
    headers: Headers
    body: bytes | bytearray
    peer: str


@dataclass(frozen=True)
class Reply:
    """An answer; a body that is an iterator is sent in chunks as they come."""

    status: int
    body: bytes | AsyncGenerator[bytes] = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Reply]]


@dataclass
class HttpServer:
    """Answers at a bound socket.

    `refuse` says what to answer to a body of so many bytes; `timeout` is in seconds: for the headers of a request, and
    for the rest at the slowest rate.
    """

    handler: Handler
    bound: socket.socket
    timeout: float
    most_bytes: int
    refuse: Callable[[int], Reply]
    tls: ssl.SSLContext | None = None
    connections: set[Connection] = field(default_factory=set)
    _date: tuple[int, bytes] = (0, b"")

    async def start(self) -> None:
        """Returns when the port answers; UsageError if another program has taken it."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self, loop), sock=self.bound, ssl=self.tls, backlog=BACKLOG
            )
        except OSError as error:
            host, port = self.bound.getsockname()[:2]
            raise UsageError(
                f"--rest_api_port={port} cannot be used at {host} ({error.strerror}): give another port."
            ) from None
        self._sweeper = loop.create_task(self._sweep())

    async def stop(self, grace_seconds: float) -> None:
        """Accept no more; requests in flight get `grace_seconds` to end, then connections are cut."""
        self._server.close()
        self._sweeper.cancel()
        end = time.monotonic() + grace_seconds
        for connection in list(self.connections):
            connection.close_when_idle()
        while self.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.transport.abort()

    def date(self) -> bytes:
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, formatdate(now, usegmt=True).encode()
        return self._date[1]

    async def _sweep(self) -> None:
        """Close what has been idle or slow for too long: one look a second instead of a timer for each connection."""
        while True:
            await asyncio.sleep(min(1.0, self.timeout))
            now = time.monotonic()
            for connection in list(self.connections):
                connection.close_if_late(now)


class Connection(asyncio.Protocol):
    """One connection; requests that a client sends ahead are answered one after the other."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request, bool]] = deque()  # with: may the connection be used further
        self._answering: asyncio.Task[None] | None = None
        self._closing = self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._begin()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by name
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # to another protocol, which nobody here speaks
            self._refuse(Reply(400))
        except httptools.HttpParserError:
            self._refuse(Reply(400))
        if len(self._waiting) > MOST_AHEAD and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """A client may close its side after its request and still wait for the answer."""
        self._closing = True
        return self._answering is not None and self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._closing = True
        self._writable.set()
        self._waiting.clear()
        if self._answering is not None:
            self._answering.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value
        self._count_header(len(name) + len(value))

    def on_headers_complete(self) -> None:
        length = self._headers.get(b"content-length", b"0")
        if int(length) > self._server.most_bytes:
            self._refuse(self._server.refuse(int(length)))
        elif self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._closing:
            return
        self._body += body
        self._late += len(body) / SLOWEST_BYTES_PER_SECOND
        if len(self._body) > self._server.most_bytes:
            self._refuse(self._server.refuse(len(self._body)))

    def on_message_complete(self) -> None:
        if self._closing:
            return
        method, target = self._parser.get_method().decode("latin-1"), self._target.decode("latin-1")
        request = Request(method, target, self._headers, self._body, self._peer)
        self._waiting.append((request, self._parser.should_keep_alive()))
        if self._answering is None:
            self._answering = self._loop.create_task(self._answer())

    # What the server calls.

    def close_when_idle(self) -> None:
        self._closing = True
        if self._answering is None:
            self.transport.close()

    def close_if_late(self, now: float) -> None:
        if self._answering is None and now > self._late:
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # the client does not read
            else:
                self.transport.close()

    def _begin(self) -> None:
        self._target, self._header_bytes = b"", 0
        self._headers: Headers = {}
        self._body = bytearray()
        self._late = time.monotonic() + self._server.timeout

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES and not self._closing:
            self._refuse(Reply(431))

    def _refuse(self, reply: Reply) -> None:
        """Answer and close: what follows cannot be read as requests."""
        if self._closing:
            return
        self._closing = True
        self._begin()
        assert isinstance(reply.body, bytes)
        self.transport.write(self._head(reply, [b"Connection: close", b"Content-Length: %d" % len(reply.body)]))
        self.transport.write(reply.body)
        self.transport.close()

    async def _answer(self) -> None:
        """Answer what waits; afterwards the connection may be idle until it is late."""
        try:
            while self._waiting:
                request, goes_on = self._waiting.popleft()
                reply = await self._server.handler(request)
                if self.transport.is_closing():
                    return
                goes_on = goes_on and bool(self._waiting or not self._closing)
                if isinstance(reply.body, bytes):
                    self._write(reply, reply.body, request.method, goes_on)
                else:
                    await self._stream(reply, reply.body)
                    goes_on = False
                if not goes_on:
                    self._closing = True
                    self.transport.close()
                    return
            self._late = time.monotonic() + self._server.timeout
            if self._paused:
                self._paused = False
                self.transport.resume_reading()
        finally:
            self._answering = None

    def _write(self, reply: Reply, body: bytes, method: str, goes_on: bool) -> None:
        lines = [b"Content-Length: %d" % len(body)]
        if not goes_on:
            lines.append(b"Connection: close")
        head = self._head(reply, lines)
        if method == "HEAD":
            body = b""
        self.transport.write(head + body if len(body) < 4096 else head)
        if len(body) >= 4096:
            self.transport.write(body)

    async def _stream(self, reply: Reply, chunks: AsyncGenerator[bytes]) -> None:
        """Chunks as they come. The end of the body is the end of the connection, which HTTP/1.0 understands too."""
        self.transport.write(self._head(reply, [b"Cache-Control: no-store", b"Connection: close"]))
        async with aclosing(chunks):
            async for chunk in chunks:
                if self.transport.is_closing():
                    return
                self.transport.write(chunk)
                await asyncio.wait_for(self._writable.wait(), self._server.timeout)

    def _head(self, reply: Reply, lines: list[bytes]) -> bytes:
        try:
            phrase = HTTPStatus(reply.status).phrase
        except ValueError:  # 499, which is nobody's standard
            phrase = "Client Closed Request"
        start = f"HTTP/1.1 {reply.status} {phrase}\r\nContent-Type: {reply.content_type}\r\n"
        start += "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        return b"%sDate: %s\r\n%s\r\n\r\n" % (start.encode("latin-1"), self._server.date(), b"\r\n".join(lines))
