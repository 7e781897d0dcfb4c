"""The web server of the page, in its own thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from demos.guard import App

MAX_CONNECTIONS = 200  # each may hold a body of guard.MAX_BODY bytes
STOP_SECONDS = 2  # for responses in progress at shutdown; an open page keeps a connection open


class Server(uvicorn.Server):
    """Uvicorn's server, with an event that is set when startup has succeeded or failed."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.startup_finished = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and serve it at ``sockets``."""
        try:
            await super().startup(sockets)
        finally:
            self.startup_finished.set()


@contextmanager
def serve_in_thread(app: App, listener: socket.socket) -> Iterator[None]:
    """Serve the application at a bound socket during a ``with``, whose body begins after the startup."""
    config = uvicorn.Config(
        app,
        http="h11",  # uvicorn's only parser that limits the size of headers
        ws="none",
        log_level="critical",  # otherwise every malformed or truncated request logs a line
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="page", daemon=True)
    thread.start()
    try:
        server.startup_finished.wait()
        yield
    finally:
        server.should_exit = True
        thread.join()
