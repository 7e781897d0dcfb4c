"""One HTTP connection: replies to its requests in order, and refuses large bodies before they are read."""

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

MAX_PIPELINED = 16  # requests that a client may send ahead of their replies
LINGER_SECONDS = 5.0  # of reading after a refusal: closing at once could discard it before the client reads it


class Connection(asyncio.Protocol):
    """Handles events of the event loop and of its parser, and runs the cycle from a request to its reply."""

    transport: asyncio.Transport
    _flow: FlowControl
    _writer: ReplyWriter

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self._parser = RequestParser(self, server.tls is not None)
        # Requests, and replies to refused ones, each with whether the connection stays open.
        self._queue: deque[tuple[Request | Reply, bool]] = deque()
        self._reply_task: asyncio.Task[None] | None = None
        # Ignores further data; closes after the current requests; the client has closed its side.
        self.closing = self._draining = self._eof = False
        self.request_begun()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from it
        self._flow = FlowControl(self.transport, self._server.timeout)
        self._writer = ReplyWriter(self.transport, self._flow, self._server.date)
        peer = transport.get_extra_info("peername")
        self._parser.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        self._server.connections.add(self)
        if self._server.stopping:  # accepted before the stop
            self.close_when_idle()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self._parser.feed(data)
        if self._parser.awaits_body and self._reply_task is None:
            self._check_body(self._parser.content_length)
        if len(self._queue) > MAX_PIPELINED:
            self._flow.pause_reading()

    def eof_received(self) -> bool:
        """A client may close its side after its request and still wait for the reply."""
        self.closing = self._eof = True
        return self._reply_task is not None and self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self.closing = True
        self._flow.resume_writing()
        self._queue.clear()
        self._parser.discard()
        self._parser.close()
        if self._reply_task is not None:
            self._reply_task.cancel()

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    # Called by the parser.

    def request_begun(self) -> None:
        self._deadline = time.monotonic() + self._server.timeout

    def headers_read(self, body_bytes: int, waits: bool) -> None:
        if body_bytes > self._server.max_bytes:
            self._check_body(body_bytes)
        elif waits and self._reply_task is None:
            self._check_body(body_bytes)
            if not self.closing:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def body_read(self, new: int, total: int) -> None:
        self._deadline += new / SLOWEST_BYTES_PER_SECOND
        if total > self._server.max_bytes:
            self._check_body(total)

    def request_read(self, request: Request, keep_alive: bool) -> None:
        self._enqueue(request, keep_alive)

    def refuse(self, reply: Reply) -> None:
        """Send a reply after those of earlier requests, and close: further data cannot be parsed."""
        if self.closing:
            return
        self.closing = True
        self._parser.in_request = False
        self._parser.discard()
        self.request_begun()
        self._enqueue(reply, False)

    def refusal(self, request: Request, body_bytes: int) -> Reply | None:
        return self._server.refusal(request, body_bytes)

    # Called by the server.

    def close_when_idle(self) -> None:
        """Close after the requests in progress."""
        self._draining = True
        if self._reply_task is None and not self._parser.in_request:
            self.transport.close()

    def close_if_late(self, now: float) -> None:
        if self._reply_task is None and now > self._deadline:
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # the client does not read
            else:
                self.transport.close()

    # From a request to its reply.

    def _check_body(self, size: int) -> None:
        """Refuse the request if a body of `size` bytes is not accepted."""
        self._parser.awaits_body = False
        reply = self.refusal(self._parser.request(), size)
        if reply is not None:
            self.refuse(reply)

    def _enqueue(self, request: Request | Reply, keep_alive: bool) -> None:
        self._queue.append((request, keep_alive))
        if self._reply_task is None:
            self._reply_task = self._loop.create_task(self._run_cycles())

    async def _run_cycles(self) -> None:
        """Reply to the queued requests in order, then restart the idle timeout."""
        seconds = self._server.timeout
        try:
            while self._queue:
                request, keep_alive = self._queue.popleft()
                if isinstance(request, Reply):
                    seconds = LINGER_SECONDS
                    await self._writer.write(request)
                    self._close_refused()
                elif not await self._reply_to(request, keep_alive):
                    self.closing = True
                    self.transport.close()
                    return
                if self._queue:  # let other connections run between two requests
                    await asyncio.sleep(0)
        except TimeoutError:  # the client does not read
            self.transport.abort()
        except Exception:  # an error of this server; the client must notice it
            log.exception("Cannot send a reply")
            self.transport.abort()
        finally:
            self._reply_task = None
            self._deadline = time.monotonic() + seconds
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
            keep_alive = keep_alive and bool(self._queue or not last)
            await self._writer.write(reply, request.method, request.version, keep_alive)
            return keep_alive
        await self._writer.stream(reply, reply.body)
        return False

    def _close_refused(self) -> None:
        """Close the sending side. Read and drop the client's data until it closes or times out."""
        if self._eof or self.transport.is_closing():
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()
