"""Parse bytes into requests with httptools (the parser of Node.js), and limit the size of the headers."""

from __future__ import annotations

from typing import Protocol

import httptools

from serving.rest.http.messages import Headers, Reply, Request

MAX_HEADER_BYTES = 64 * 1024  # request line and headers
HANDLED_HEADERS = (b"upgrade", b"expect")  # of headers that are parsed a second time


class Listener(Protocol):
    """The connection, notified by its parser."""

    closing: bool  # ignores further data

    def request_begun(self) -> None: ...

    def headers_read(self, body_bytes: int, waits: bool) -> None:
        """The headers announce a body of `body_bytes` (0: none, or of unknown length); `waits`: the client waits for
        100 Continue before sending it."""

    def body_read(self, new: int, total: int) -> None:
        """`new` bytes of the body have arrived, `total` so far."""

    def request_read(self, request: Request, keep_alive: bool) -> None: ...

    def refuse(self, reply: Reply) -> None:
        """The data is not a valid request."""

    def refusal(self, request: Request, body_bytes: int) -> Reply | None:
        """Return the reply if the request is refused without its body, else None."""


class RequestParser:
    """Parses the requests of one connection. httptools calls the methods whose names begin with `on_`."""

    _body: bytearray  # of the current request

    def __init__(self, listener: Listener, secured: bool) -> None:
        self._listener, self._secured = listener, secured
        self._parser = httptools.HttpRequestParser(self)
        self.peer = ""
        self.in_request = False  # a request has begun and is not complete
        self._buffered = 0  # bytes that httptools buffers, of an incomplete header
        self.discard()

    def discard(self) -> None:
        """Drop the current request."""
        self._target, self._header_bytes = b"", 0
        self._headers: Headers = {}
        self._body = bytearray()
        self._in_headers = True
        self.awaits_body = False  # not yet checked whether it is accepted

    def close(self) -> None:
        """Break the reference cycles, which would keep the connection until the next garbage collection."""
        del self._parser, self._listener

    def feed(self, data: bytes) -> None:
        self._buffered += len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError:
            self._listener.refuse(Reply(400))
        if self._buffered > MAX_HEADER_BYTES:
            self._listener.refuse(Reply(431))

    def _feed(self, data: bytes) -> bytes:
        """Feed data to httptools; return the data to feed next.

        An offer of another protocol (Upgrade) is ignored. httptools stops after the headers of such a request: another
        parser reads them again without the offer, and continues with the body.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._parser.get_method() == b"CONNECT":
                self._listener.refuse(self._listener.refusal(self.request(), 0) or Reply(400))
                return b""
            version = self._parser.get_http_version().encode()
            start = b"%s %s HTTP/%s" % (self._parser.get_method(), self._target, version)
            headers = [b"%s: %s" % header for header in self._headers.items() if header[0] not in HANDLED_HEADERS]
            self._parser = httptools.HttpRequestParser(self)
            return b"\r\n".join([start, *headers, b"\r\n"]) + data[offer.args[0] :]
        return b""

    def request(self, body: bytes | bytearray = b"") -> Request:
        """Return the request as far as it has been read."""
        method, target = self._parser.get_method().decode("latin-1"), self._target.decode("latin-1")
        version = self._parser.get_http_version()
        return Request(method, target, self._headers, body, self.peer, version, self._secured)

    @property
    def content_length(self) -> int:
        return int(self._headers.get(b"content-length", b"0"))

    def on_message_begin(self) -> None:
        self.discard()
        self.in_request = True
        self._listener.request_begun()

    def on_url(self, url: bytes) -> None:
        self._buffered = 0
        self._target += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._buffered = 0
        if self._in_headers:  # ignore trailers after the body: proxies do not check them
            name = name.lower()
            # There must be one Host: a second must not hide the first.
            joined = name == b"host" and name in self._headers
            self._headers[name] = b"%s, %s" % (self._headers[name], value) if joined else value
        self._count_header(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._buffered = 0
        self._in_headers, self.awaits_body = False, True
        waits = self._headers.get(b"expect", b"").lower() == b"100-continue"
        self._listener.headers_read(self.content_length, waits)

    def on_body(self, body: bytes) -> None:
        self._buffered = 0
        if self._listener.closing:
            return
        self._body += body
        self._listener.body_read(len(body), len(self._body))

    def on_message_complete(self) -> None:
        if self._listener.closing or self._parser.should_upgrade():  # an upgrade is parsed again, see _feed
            return
        request, keep_alive = self.request(self._body), self._parser.should_keep_alive()
        self._body = bytearray()  # idle connections hold no body
        self.in_request = self.awaits_body = False
        self._listener.request_read(request, keep_alive)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES and not self._listener.closing:
            self._listener.refuse(Reply(431))
