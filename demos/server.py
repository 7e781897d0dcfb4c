"""The page's web server, in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from demos.guard import App

MAX_CONNECTIONS = 200  # at once; each may hold a body of guard.MAX_BODY bytes
STOP_SECONDS = 2  # for answers in progress when it ends; an open page keeps a connection for as long as it is open


class Server(uvicorn.Server):
    """Uvicorn's server, and an event that is set when it answers or has ended."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and answer at ``sockets``."""
        try:
            await super().startup(sockets)
        finally:
            self.settled.set()


@contextmanager
def running(app: App, listener: socket.socket) -> Iterator[None]:
    """Answer at a bound socket for the time of a ``with``, whose body begins when the application has started."""
    config = uvicorn.Config(
        app,
        http="h11",  # the one of uvicorn's parsers that limits the size of headers
        ws="none",
        log_level="critical",  # else every malformed or truncated request writes a line
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="page", daemon=True)
    thread.start()
    try:
        server.settled.wait()
        yield
    finally:
        server.should_exit = True
        thread.join()
