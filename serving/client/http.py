"""HTTP transport of the client's REST requests over keep-alive connections, and its base for asyncio."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import httpcore

from serving.client.errors import ServingError, deadline_exceeded, unavailable
from serving.client.rest import HttpRequest, parse_response
from serving.client.types import Tls

MAX_KEEPALIVE_CONNECTIONS = 32
WRITE_SIZE = 2**20  # bytes per write: each partial write copies the rest of the buffer


class Clock:
    """One deadline for all reads and writes of a request, in place of a timeout for each."""

    def __init__(self, seconds: float) -> None:
        self.set(seconds)

    def set(self, seconds: float) -> None:
        self.seconds, self._end = seconds, time.monotonic() + seconds

    def left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class TimedStream(httpcore.NetworkStream):
    """A network stream that takes a Clock as its timeout."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: Any = None) -> bytes:
        return self._stream.read(max_bytes, timeout.left())

    def write(self, buffer: bytes, timeout: Any = None) -> None:
        for start in range(0, len(buffer), WRITE_SIZE):
            self._stream.write(buffer[start : start + WRITE_SIZE], timeout.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: Any = None
    ) -> httpcore.NetworkStream:
        return TimedStream(self._stream.start_tls(ssl_context, server_hostname, timeout.left()))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class TimedBackend(httpcore.NetworkBackend):
    """Network backend that opens TimedStreams."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: Any = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return TimedStream(self._backend.connect_tcp(host, port, timeout.left(), local_address, socket_options))


class ConnectionTrace:
    """Records whether a request opened a connection or reused one that the server may have closed."""

    def __init__(self) -> None:
        self.connected = False

    def __call__(self, event: str, details: Any) -> None:
        self.connected |= event == "connection.connect_tcp.started"


# An invalid host raises ValueError.
# With asyncio, httpcore does not wrap TLS alerts, such as a request for a certificate.
CONNECTION_LOST = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError, ssl.SSLError)
FAILURES = (
    *CONNECTION_LOST,
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    TimeoutError,
    ValueError,
)


class BaseHttpTransport:
    """Base of the sync and async transports: options, headers, and the mapping of failures."""

    def __init__(self, address: str, token: str | None, tls: Tls | None) -> None:
        self._address = address
        self._headers = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]
        if token:
            self._headers.append(("Authorization", f"Bearer {token}"))
        self._options: dict[str, Any] = {
            "ssl_context": _ssl_context(tls or Tls()) if address.startswith("https://") else None,
            "max_connections": None,
            "max_keepalive_connections": MAX_KEEPALIVE_CONNECTIONS,
        }

    def _arguments(self, request: HttpRequest) -> dict[str, Any]:
        try:
            url = httpcore.URL(self._address + request.path)
        except ValueError as error:
            raise unavailable(self._address, str(error)) from None
        return {"method": request.method, "url": url, "headers": self._headers, "content": request.body}

    def failure(self, error: Exception, seconds: float) -> ServingError:
        """Return the exception to raise for one of FAILURES."""
        timed_out = isinstance(error, (httpcore.TimeoutException, TimeoutError))
        if timed_out and not isinstance(error, httpcore.ConnectTimeout):
            return deadline_exceeded(self._address, seconds)
        return unavailable(self._address, str(error) or type(error).__name__)


class HttpTransport(BaseHttpTransport):
    """Sends requests over a connection pool that threads may share."""

    def __init__(self, address: str, token: str | None, tls: Tls | None) -> None:
        super().__init__(address, token, tls)
        self._pool = httpcore.ConnectionPool(**self._options, network_backend=TimedBackend())

    def send(self, request: HttpRequest, seconds: float) -> Any:
        with closing(HttpBody(self, request, seconds)) as body:
            return parse_response(self._address, request, body.status, body.read_all())

    def open(self, request: HttpRequest, seconds: float) -> HttpBody:
        body = HttpBody(self, request, seconds)
        if body.status == 200:
            return body
        with closing(body):
            parse_response(self._address, request, body.status, body.read_all())
        raise AssertionError("another status is a failure")

    def close(self) -> None:
        self._pool.close()

    def begin(self, request: HttpRequest, clock: Clock) -> Any:
        """Send a request; return the context of the response and the response, once its headers have arrived.

        If the server has closed a keep-alive connection, the request is sent again over another one.
        """
        timeout = {"connect": clock, "read": clock, "write": clock}
        while True:
            trace = ConnectionTrace()
            context = self._pool.stream(**self._arguments(request), extensions={"timeout": timeout, "trace": trace})
            try:
                return context, context.__enter__()
            except CONNECTION_LOST:
                if trace.connected:
                    raise


class HttpBody:
    """A response whose body is not read yet."""

    def __init__(self, transport: HttpTransport, request: HttpRequest, seconds: float) -> None:
        self._transport, self._clock = transport, Clock(seconds)
        try:
            self._context, self._response = transport.begin(request, self._clock)
        except FAILURES as error:
            raise transport.failure(error, seconds) from None
        self._chunks = self._response.iter_stream()
        self.status: int = self._response.status

    def read(self, seconds: float) -> bytes:
        """Return the next bytes, b"" at the end."""
        self._clock.set(seconds)
        return self._next()

    def read_all(self) -> bytes:
        """Return the whole body, within the remaining time of the request."""
        return b"".join(iter(self._next, b""))

    def close(self) -> None:
        """Cancel the request, unless the response was read to its end."""
        self._context.__exit__(None, None, None)

    def _next(self) -> bytes:
        try:
            return next(self._chunks, b"")
        except FAILURES as error:
            raise self._transport.failure(error, self._clock.seconds) from None


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.authority)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
