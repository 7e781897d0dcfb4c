"""Guard the page: accept only requests for its host names, from its origins, for routes in use, of bounded size.

Gradio accepts any ``Host``, so a foreign name that resolves to this machine (DNS rebinding) would make the page part of
a foreign web site. Gradio also stores uploads from anybody, and fetches and serves other files. The page needs none of
this, so those routes are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

# ASGI's types.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_BODY = 11_000_000  # bytes: an image of images.MAX_BYTES in base64, and the JSON around it
MAX_VALUES = 20_000  # commas and brackets: a megabyte of them would become tens of megabytes of Python objects
MAX_DISCARDED = 64_000_000  # bytes read of a rejected body, so that the client reads the error
CHUNK_TIMEOUT = 30.0  # seconds until the next chunk of a body arrives
# The routes of browsers and Gradio's clients. No uploads, files, proxies, component functions or direct runs.
ROUTES = {
    "GET": r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info/?|app_id/?|heartbeat/[^/]+|queue/(data|status)|call/(v2/)?[^/]+/[^/]+)",
    "POST": r"/gradio_api/(queue/join|call/(v2/)?[^/]+|cancel|reset)/?",
}
ROUTES["HEAD"] = ROUTES["OPTIONS"] = f"{ROUTES['GET']}|{ROUTES['POST']}"


class RejectedRequest(Exception):
    """A request that the page does not receive: the HTTP status and the message of its response."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class AllowedHosts:
    """Allowed host names of a page that listens on ``host``: those of this machine, ``host`` and ``others``.

    A page that listens on all addresses also allows every IP address, which cannot be the target of DNS rebinding.
    """

    def __init__(self, host: str, others: Iterable[str] = ()) -> None:
        self.any_address = host in ("0.0.0.0", "::")
        own = socket.gethostname() if self.any_address else host
        self.names = {name.lower() for name in (*LOOPBACK, own, *others)}

    def check(self, host: str, origin: str | None) -> None:
        """Raise ``RejectedRequest`` for a foreign ``Host`` header or a foreign ``Origin`` (of the requesting page)."""
        name = host_name(host)
        if name not in self.names and not (self.any_address and is_address(name)):
            raise RejectedRequest(
                403, f"The host name {host[:100]!r} is not allowed; open the page under its own name, or start it with "
                "--allowed-hosts and that name.",
            )  # fmt: skip
        if origin is not None and not self.allows_origin(host, origin):
            raise RejectedRequest(
                403, f"The origin {origin[:100]!r} is not allowed; open the page under its own name, or start it with "
                "--allowed-hosts and the name of that origin.",
            )  # fmt: skip

    def allows_origin(self, host: str, origin: str) -> bool:
        """Return whether ``SCHEME://NAME:PORT`` is this page or has an allowed name; ``null`` is neither."""
        authority = origin.partition("://")[2].lower()
        return authority == host.lower() or host_name(authority) in self.names


def host_name(host: str) -> str:
    """Return the name of ``NAME:PORT`` or ``[IPv6]:PORT`` in lower case, without brackets; "" for other texts."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\s\[\]:@/]+))(?::[0-9]*)?", host.lower())
    return match[1] or match[2] if match else ""


def is_address(name: str) -> bool:
    """Return whether a host name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware around the page. Errors are ``{"error": SENTENCE}``, as those of Gradio."""

    def __init__(self, app: App, hosts: AllowedHosts) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass an accepted request with its whole body to the page; respond to others with an error."""
        if scope["type"] == "http":
            body = body_chunks(receive)
            try:
                self.check(scope)
                if scope["method"] == "POST":
                    receive = replay(await read_body(body), receive)
            except RejectedRequest as error:
                await discard_rest(body)
                await send_error(error, send)
                return
        await self.app(scope, receive, send)

    def check(self, scope: Message) -> None:
        """Raise ``RejectedRequest`` for a foreign host, a Content-Length that is too large, or a closed route."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self.hosts.check(headers.get(b"host", ""), headers.get(b"origin"))
        length = headers.get(b"content-length", "")
        if length.isdecimal() and int(length) > MAX_BODY:
            raise too_large()
        if not re.fullmatch(ROUTES.get(scope["method"], ""), scope["path"]):
            raise RejectedRequest(404, "Not found: this page neither accepts nor serves files.")


async def body_chunks(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the chunks of a body as they arrive.

    Raises: RejectedRequest if the body is incomplete.
    """
    more = True
    while more:
        try:
            async with asyncio.timeout(CHUNK_TIMEOUT):
                message = await receive()
        except TimeoutError:
            raise RejectedRequest(408, f"No data arrived for {CHUNK_TIMEOUT:.0f} seconds; send it again.") from None
        if message["type"] == "http.disconnect":
            raise RejectedRequest(400, "The request is incomplete; send it again.")
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def read_body(body: AsyncIterator[bytes]) -> bytes:
    """Return the whole body of a request.

    Raises: RejectedRequest if it is too large or has too many values.
    """
    content, values = bytearray(), 0
    async for chunk in body:
        content += chunk
        values += sum(chunk.count(mark) for mark in b",[{")
        if len(content) > MAX_BODY or values > MAX_VALUES:
            raise too_large()
    return bytes(content)


async def discard_rest(body: AsyncIterator[bytes]) -> None:
    """Read the rest of a rejected body, up to a limit: a client that cannot finish sending reads no response."""
    size = 0
    with contextlib.suppress(RejectedRequest):
        async for chunk in body:
            size += len(chunk)
            if size > MAX_DISCARDED:
                return


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that first returns a body that has been read, then the messages after it."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return receive_again


def too_large() -> RejectedRequest:
    """Return the error for a body that is too large."""
    return RejectedRequest(
        413, f"The request is too large; it may have at most {MAX_BODY / 1e6:.0f} MB and {MAX_VALUES} values. Choose a "
        "smaller image or a shorter text.",
    )  # fmt: skip


async def send_error(error: RejectedRequest, send: Send) -> None:
    """Send an error and close the connection, because the body may not have been read completely."""
    content = json.dumps({"error": str(error)}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
