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
from typing import cast

import httptools

from serving.errors import UsageError
from serving.rest.messages import Headers, Reply, Request

log = logging.getLogger("serving")

MAX_HEADER_BYTES = 64 * 1024  # request line and headers
SLOWEST_BYTES_PER_SECOND = 16 * 1024  # a body that comes slower keeps memory and a connection for too long
MOST_AHEAD = 16  # requests that a client may send before the answer to the first
LINGER_SECONDS = 5.0  # for what a client still sends after a refusal: closing at once would take the refusal from it
BACKLOG = 1024
DONE_HEADERS = (b"upgrade", b"expect")  # what has been dealt with when headers are read a second time

Handler = Callable[[Request], Awaitable[Reply]]


@dataclass
class HttpServer:
    """Answers at a bound socket.

    `refuse` is asked about a request before its body is read, which has so many bytes or more (0: not known yet), and
    says what to answer instead, or None; it refuses more than `most_bytes`. `timeout` is in seconds: for the headers of
    a request, and for the rest at the slowest rate.
    """

    handler: Handler
    bound: socket.socket
    timeout: float
    most_bytes: int
    refuse: Callable[[Request, int], Reply | None]
    tls: ssl.SSLContext | None = None
    connections: set[Connection] = field(default_factory=set)
    stopping: bool = False
    _date: tuple[int, bytes] = (0, b"")

    async def start(self) -> None:
        """Returns when the port answers; UsageError if another program has taken it."""
        loop = asyncio.get_running_loop()
        # Connections inherit it; else those that are closing would keep the port from the next server for a minute.
        self.bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
        self.stopping = True
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

    _body: bytearray  # of the request that is being read

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self._parser = httptools.HttpRequestParser(self)
        # Requests, and what is refused without looking; with: may the connection be used further.
        self._waiting: deque[tuple[Request | Reply, bool]] = deque()
        self._answering: asyncio.Task[None] | None = None
        # Looks at no more data; ends after what has begun; does not read just now; the client has closed its side.
        self._closing = self._draining = self._paused = self._at_end = False
        self._begun = False  # a request that has not been read to its end
        self._keeps_old = False  # the last request was of HTTP/1.0, and its client wants to use the connection further
        self._kept = 0  # bytes that the parser keeps to itself, of a header that has not ended
        self._writable = asyncio.Event()
        self._writable.set()
        self._begin()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by name
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        self._server.connections.add(self)
        if self._server.stopping:  # it was accepted before, and is made only now
            self.close_when_idle()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._kept += len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError:
            self._refuse(Reply(400))
        if self._kept > MAX_HEADER_BYTES:
            self._refuse(Reply(431))
        if self._body_awaited and self._answering is None:
            self._ask(int(self._headers.get(b"content-length", b"0")))
        if len(self._waiting) > MOST_AHEAD and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """A client may close its side after its request and still wait for the answer."""
        self._closing = self._at_end = True
        return self._answering is not None and self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._closing = True
        self._writable.set()
        self._waiting.clear()
        self._begin()
        del self._parser  # it refers to this object, which would stay until the next search for garbage
        if self._answering is not None:
            self._answering.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._begin()
        self._begun = True

    def on_url(self, url: bytes) -> None:
        self._kept = 0
        self._target += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._kept = 0
        if self._in_headers:  # after the body come trailers, which those before this server have not looked at
            name = name.lower()
            # Of Host there has to be one: a second must not hide the first.
            joined = name == b"host" and name in self._headers
            self._headers[name] = b"%s, %s" % (self._headers[name], value) if joined else value
        self._count_header(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._kept = 0
        self._in_headers, self._body_awaited = False, True
        length = int(self._headers.get(b"content-length", b"0"))
        if length > self._server.most_bytes:
            self._ask(length)
        elif self._answering is None and self._headers.get(b"expect", b"").lower() == b"100-continue":
            self._ask(length)
            if not self._closing:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._kept = 0
        if self._closing:
            return
        self._body += body
        self._late += len(body) / SLOWEST_BYTES_PER_SECOND
        if len(self._body) > self._server.most_bytes:
            self._ask(len(self._body))

    def on_message_complete(self) -> None:
        if self._closing or self._parser.should_upgrade():  # then it comes again, see _feed
            return
        goes_on = self._parser.should_keep_alive()
        self._keeps_old = goes_on and b"connection" in self._headers and self._parser.get_http_version() == "1.0"
        request = self._request(self._body)
        self._body = bytearray()  # an idle connection keeps nothing
        self._begun = self._body_awaited = False
        self._enqueue(request, goes_on)

    # What the server calls.

    def close_when_idle(self) -> None:
        """Close after the requests that have begun."""
        self._draining = True
        if self._answering is None and not self._begun:
            self.transport.close()

    def close_if_late(self, now: float) -> None:
        if self._answering is None and now > self._late:
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # the client does not read
            else:
                self.transport.close()

    def _feed(self, data: bytes) -> bytes:
        """Give data to the parser; returns what has to follow.

        A request that offers another protocol is taken as one that does not. The parser ends after its headers, body or
        not: another one reads them again without the offer, and goes on.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._parser.get_method() == b"CONNECT":
                self._refuse(self._server.refuse(self._request(bytearray()), 0) or Reply(400))
                return b""
            version = self._parser.get_http_version().encode()
            start = b"%s %s HTTP/%s" % (self._parser.get_method(), self._target, version)
            headers = [b"%s: %s" % header for header in self._headers.items() if header[0] not in DONE_HEADERS]
            self._parser = httptools.HttpRequestParser(self)
            return b"\r\n".join([start, *headers, b"\r\n"]) + data[offer.args[0] :]
        return b""

    def _begin(self) -> None:
        self._target, self._header_bytes = b"", 0
        self._headers: Headers = {}
        self._body = bytearray()
        self._in_headers, self._body_awaited = True, False  # awaited: nobody has asked whether it may come
        self._late = time.monotonic() + self._server.timeout

    def _request(self, body: bytearray) -> Request:
        method, target = self._parser.get_method().decode("latin-1"), self._target.decode("latin-1")
        version, secured = self._parser.get_http_version(), self._server.tls is not None
        return Request(method, target, self._headers, body, self._peer, version, secured)

    def _ask(self, size: int) -> None:
        """Whether a body of so many bytes may come."""
        self._body_awaited = False
        reply = self._server.refuse(self._request(bytearray()), size)
        if reply is not None:
            self._refuse(reply)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES and not self._closing:
            self._refuse(Reply(431))

    def _refuse(self, reply: Reply) -> None:
        """Answer, after what came before, and close: what follows cannot be read as requests."""
        if self._closing:
            return
        self._closing, self._begun = True, False
        self._begin()  # what was read so far is not needed
        self._enqueue(reply, False)

    def _enqueue(self, request: Request | Reply, goes_on: bool) -> None:
        self._waiting.append((request, goes_on))
        if self._answering is None:
            self._answering = self._loop.create_task(self._answer())

    async def _answer(self) -> None:
        """Answer what waits; afterwards the connection may be idle until it is late."""
        seconds = self._server.timeout
        try:
            while self._waiting:
                request, goes_on = self._waiting.popleft()
                if isinstance(request, Reply):
                    seconds = LINGER_SECONDS
                    await self._write(request, "", False)
                    self._end_refused()
                elif not await self._answer_one(request, goes_on):
                    self._closing = True
                    self.transport.close()
                    return
                if self._waiting:  # other connections have their turn between two requests of this one
                    await asyncio.sleep(0)
        except TimeoutError:  # the client does not read
            self.transport.abort()
        except Exception:  # a fault of this server, of which the client has to learn somehow
            log.exception("An answer broke off")
            self.transport.abort()
        finally:
            self._answering = None
            self._late = time.monotonic() + seconds
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    async def _answer_one(self, request: Request, goes_on: bool) -> bool:
        """Whether the connection may be used further."""
        reply = await self._server.handler(request)
        if self.transport.is_closing():
            if not isinstance(reply.body, bytes):
                await reply.body.aclose()
            return False
        if isinstance(reply.body, bytes):
            last = self._closing or (self._draining and not self._begun)
            goes_on = goes_on and bool(self._waiting or not last)
            await self._write(reply, request.method, goes_on)
            return goes_on
        await self._stream(reply, reply.body)
        return False

    def _end_refused(self) -> None:
        """Send no more. What the client sends is read, until it closes or is late."""
        if self._at_end or self.transport.is_closing():
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    async def _write(self, reply: Reply, method: str, goes_on: bool) -> None:
        assert isinstance(reply.body, bytes)
        lines = [b"Content-Length: %d" % len(reply.body)]
        if not goes_on:
            lines.append(b"Connection: close")
        elif self._keeps_old:
            lines.append(b"Connection: keep-alive")
        head, body = self._head(reply, lines), b"" if method == "HEAD" else reply.body
        self.transport.write(head + body if len(body) < 4096 else head)
        if len(body) >= 4096:
            self.transport.write(body)
        await self._drain(len(body))

    async def _stream(self, reply: Reply, chunks: AsyncGenerator[bytes]) -> None:
        """Chunks as they come. The end of the body is the end of the connection, which HTTP/1.0 understands too."""
        self.transport.write(self._head(reply, [b"Cache-Control: no-store", b"Connection: close"]))
        async with aclosing(chunks):
            async for chunk in chunks:
                if self.transport.is_closing():
                    return
                self.transport.write(chunk)
                await self._drain(len(chunk))
                await asyncio.sleep(0)  # chunks that are there at once hold nobody up

    async def _drain(self, size: int) -> None:
        """Wait until the client has read most of what was written, `size` bytes; TimeoutError if it is too slow."""
        if not self._writable.is_set():
            async with asyncio.timeout(self._server.timeout + size / SLOWEST_BYTES_PER_SECOND):
                await self._writable.wait()

    def _head(self, reply: Reply, lines: list[bytes]) -> bytes:
        try:
            phrase = HTTPStatus(reply.status).phrase
        except ValueError:  # 499, which is nobody's standard
            phrase = "Client Closed Request"
        start = f"HTTP/1.1 {reply.status} {phrase}\r\nContent-Type: {reply.content_type}\r\n"
        start += "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        return b"%sDate: %s\r\n%s\r\n\r\n" % (start.encode("latin-1"), self._server.date(), b"\r\n".join(lines))
