"""One HTTP connection: answers its requests in order, and refuses large bodies before they are read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, cast

from serving.rest.http.flow_control import SLOWEST_BYTES_PER_SECOND, FlowControl
from serving.rest.http.messages import Reply, Request
from serving.rest.http.parser import RequestParser
from serving.rest.http.writer import ReplyWriter

if TYPE_CHECKING:
    from serving.rest.http.server import HttpServer

log = logging.getLogger("serving")

MOST_AHEAD = 16  # requests that a client may send before the answer to the first
LINGER_SECONDS = 5.0  # to read on after a refusal: closing at once could discard it before the client reads it


class Connection(asyncio.Protocol):
    """Receives events of the event loop and of its parser, and runs the cycle from a request to its reply."""

    transport: asyncio.Transport
    _flow: FlowControl
    _writer: ReplyWriter

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self._parser = RequestParser(self, server.tls is not None)
        # Requests, and replies to refused ones, each with whether the connection stays open.
        self._waiting: deque[tuple[Request | Reply, bool]] = deque()
        self._answering: asyncio.Task[None] | None = None
        # Ignores further data; closes after the current requests; the client has closed its side.
        self.closing = self._draining = self._at_end = False
        self.request_begun()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by name
        self._flow = FlowControl(self.transport, self._server.timeout)
        self._writer = ReplyWriter(self.transport, self._flow, self._server.date)
        peer = transport.get_extra_info("peername")
        self._parser.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        self._server.connections.add(self)
        if self._server.stopping:  # it was accepted before, and is made only now
            self.close_when_idle()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self._parser.feed(data)
        if self._parser.awaits_body and self._answering is None:
            self._ask(self._parser.content_length)
        if len(self._waiting) > MOST_AHEAD:
            self._flow.pause_reading()

    def eof_received(self) -> bool:
        """A client may close its side after its request and still wait for the answer."""
        self.closing = self._at_end = True
        return self._answering is not None and self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self.closing = True
        self._flow.resume_writing()
        self._waiting.clear()
        self._parser.discard()
        self._parser.close()
        if self._answering is not None:
            self._answering.cancel()

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    # What the parser calls.

    def request_begun(self) -> None:
        self._late = time.monotonic() + self._server.timeout

    def headers_read(self, body_bytes: int, waits: bool) -> None:
        if body_bytes > self._server.most_bytes:
            self._ask(body_bytes)
        elif waits and self._answering is None:
            self._ask(body_bytes)
            if not self.closing:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def body_read(self, new: int, total: int) -> None:
        self._late += new / SLOWEST_BYTES_PER_SECOND
        if total > self._server.most_bytes:
            self._ask(total)

    def request_read(self, request: Request, keep_alive: bool) -> None:
        self._enqueue(request, keep_alive)

    def refuse(self, reply: Reply) -> None:
        """Send a reply after those of earlier requests, and close: the rest of the data cannot be parsed."""
        if self.closing:
            return
        self.closing = True
        self._parser.in_request = False
        self._parser.discard()  # what was read so far is not needed
        self.request_begun()
        self._enqueue(reply, False)

    def refusal(self, request: Request, body_bytes: int) -> Reply | None:
        return self._server.refuse(request, body_bytes)

    # What the server calls.

    def close_when_idle(self) -> None:
        """Close after the requests that have begun."""
        self._draining = True
        if self._answering is None and not self._parser.in_request:
            self.transport.close()

    def close_if_late(self, now: float) -> None:
        if self._answering is None and now > self._late:
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # the client does not read
            else:
                self.transport.close()

    # From a request to its reply.

    def _ask(self, size: int) -> None:
        """Refuse the request if a body of `size` bytes is not accepted."""
        self._parser.awaits_body = False
        reply = self.refusal(self._parser.request(), size)
        if reply is not None:
            self.refuse(reply)

    def _enqueue(self, request: Request | Reply, keep_alive: bool) -> None:
        self._waiting.append((request, keep_alive))
        if self._answering is None:
            self._answering = self._loop.create_task(self._run_cycles())

    async def _run_cycles(self) -> None:
        """Reply to the waiting requests in order, then restart the idle timeout."""
        seconds = self._server.timeout
        try:
            while self._waiting:
                request, keep_alive = self._waiting.popleft()
                if isinstance(request, Reply):
                    seconds = LINGER_SECONDS
                    await self._writer.write(request)
                    self._end_refused()
                elif not await self._reply_to(request, keep_alive):
                    self.closing = True
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
        self._flow.resume_reading()

    async def _reply_to(self, request: Request, keep_alive: bool) -> bool:
        """Call the handler and write its reply; return whether the connection stays open."""
        reply = await self._server.handler(request)
        if self.transport.is_closing():
            if not isinstance(reply.body, bytes):
                await reply.body.aclose()
            return False
        if isinstance(reply.body, bytes):
            last = self.closing or (self._draining and not self._parser.in_request)
            keep_alive = keep_alive and bool(self._waiting or not last)
            await self._writer.write(reply, request.method, request.version, keep_alive)
            return keep_alive
        await self._writer.stream(reply, reply.body)
        return False

    def _end_refused(self) -> None:
        """Close the sending side. Data of the client is read and dropped until it closes or times out."""
        if self._at_end or self.transport.is_closing():
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()
