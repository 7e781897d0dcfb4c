"""HTTP server: accepts connections, and closes those that are idle or slow for too long."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate

from serving.errors import UsageError
from serving.rest.http.connection import Connection
from serving.rest.http.messages import Reply, Request

BACKLOG = 1024

Handler = Callable[[Request], Awaitable[Reply]]


@dataclass
class HttpServer:
    """HTTP server on a bound socket.

    `refusal(request, size)` is called before a body is read, which has at least `size` bytes (0: not known yet); it
    returns the reply that refuses the request, or None. It must refuse more than `max_bytes`. `timeout`: seconds for
    the headers of a request, and for the rest beside the time at the slowest rate.
    """

    handler: Handler
    sock: socket.socket
    timeout: float
    max_bytes: int
    refusal: Callable[[Request, int], Reply | None]
    tls: ssl.SSLContext | None = None
    connections: set[Connection] = field(default_factory=set)
    stopping: bool = False
    _date: tuple[int, bytes] = (0, b"")

    async def start(self) -> None:
        """Open the port; raise UsageError if another program uses it."""
        loop = asyncio.get_running_loop()
        # Connections inherit it; otherwise closing connections would block the port for the next server for a minute.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._server = await loop.create_server(
                lambda: Connection(self, loop), sock=self.sock, ssl=self.tls, backlog=BACKLOG
            )
        except OSError as error:
            host, port = self.sock.getsockname()[:2]
            raise UsageError(
                f"--rest_api_port={port} cannot be used at {host} ({error.strerror}): give another port."
            ) from None
        self._sweeper = loop.create_task(self._sweep())

    async def stop(self, grace_seconds: float) -> None:
        """Stop accepting; requests in flight get `grace_seconds` to end, then connections are aborted."""
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
        """Close connections idle or slow for too long: one check per second instead of a timer per connection."""
        while True:
            await asyncio.sleep(min(1.0, self.timeout))
            now = time.monotonic()
            for connection in list(self.connections):
                connection.close_if_late(now)
