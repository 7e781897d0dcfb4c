"""What reaches the page: requests for its own host names, from its own pages, for what it uses, of bounded size.

Gradio answers any ``Host``, so that a foreign name which resolves to this machine (DNS rebinding) would make the page
part of a foreign web site. It also keeps files that anybody uploads, and fetches and hands out others; this page does
none of that, and those routes are closed.
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
MAX_BODY = 11_000_000  # bytes: a picture of pictures.MAX_BYTES in base64, and what is around it
MAX_VALUES = 20_000  # commas and brackets: a megabyte of them would become tens of megabytes of Python objects
MAX_DISCARDED = 64_000_000  # bytes of a refused body that are read, so that the client gets to read the sentence
PART_SECONDS = 30.0  # for the next part of a body to arrive
# What the page's browser and Gradio's clients ask for. No uploads, files, proxies, component functions or direct runs.
ROUTES = {
    "GET": r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info/?|app_id/?|heartbeat/[^/]+|queue/(data|status)|call/(v2/)?[^/]+/[^/]+)",
    "POST": r"/gradio_api/(queue/join|call/(v2/)?[^/]+|cancel|reset)/?",
}
ROUTES["HEAD"] = ROUTES["OPTIONS"] = f"{ROUTES['GET']}|{ROUTES['POST']}"


class Refused(Exception):
    """A request that does not reach the page: its HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class AllowedHosts:
    """The names by which a page is asked that listens on ``host``: those of this machine, ``host`` and ``others``.

    A page that listens on every address may also be asked by any IP address, which no foreign name can resolve to.
    """

    def __init__(self, host: str, others: Iterable[str] = ()) -> None:
        self.any_address = host in ("0.0.0.0", "::")
        own = socket.gethostname() if self.any_address else host
        self.names = {name.lower() for name in (*LOOPBACK, own, *others)}

    def check(self, host: str, origin: str | None) -> None:
        """Raise ``Refused`` for a foreign ``Host`` header, and for a foreign ``Origin`` (of the page that asks)."""
        name = host_name(host)
        if name not in self.names and not (self.any_address and is_address(name)):
            raise Refused(
                403, f"The host name {host[:100]!r} is not one of this page's: open it by its own name, or start it "
                "with --allowed-hosts and that name.",
            )  # fmt: skip
        if origin is not None and not self.allows_origin(host, origin):
            raise Refused(
                403, f"Pages of {origin[:100]!r} may not use this one: open it by its own name, or start it with "
                "--allowed-hosts and the name of that origin.",
            )  # fmt: skip

    def allows_origin(self, host: str, origin: str) -> bool:
        """Whether ``SCHEME://NAME:PORT`` is this very page or one of its names; ``null`` is neither."""
        place = origin.partition("://")[2].lower()
        return place == host.lower() or host_name(place) in self.names


def host_name(host: str) -> str:
    """``NAME:PORT`` or ``[IPv6]:PORT`` -> the name in lower case, without brackets; nothing for what is neither."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\s\[\]:@/]+))(?::[0-9]*)?", host.lower())
    return match[1] or match[2] if match else ""


def is_address(name: str) -> bool:
    """Whether a host name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """An ASGI application around the page's own. Refusals are ``{"error": SENTENCE}``, as Gradio's own errors are."""

    def __init__(self, app: App, hosts: AllowedHosts) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand on what may reach the page, with its whole body; answer anything else with a sentence."""
        if scope["type"] == "http":
            body = parts(receive)
            try:
                self.check(scope)
                if scope["method"] == "POST":
                    receive = replay(await read_body(body), receive)
            except Refused as refused:
                await discard_rest(body)
                await answer(refused, send)
                return
        await self.app(scope, receive, send)

    def check(self, scope: Message) -> None:
        """Raise ``Refused`` for a foreign host, an announced body that is too large, and a route that is closed."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self.hosts.check(headers.get(b"host", ""), headers.get(b"origin"))
        length = headers.get(b"content-length", "")
        if length.isdecimal() and int(length) > MAX_BODY:
            raise too_large()
        if not re.fullmatch(ROUTES.get(scope["method"], ""), scope["path"]):
            raise Refused(404, "There is nothing here: this page takes no files and hands none out.")


async def parts(receive: Receive) -> AsyncIterator[bytes]:
    """The parts of a body as they come; ``Refused`` where it does not come to its end."""
    more = True
    while more:
        try:
            async with asyncio.timeout(PART_SECONDS):
                message = await receive()
        except TimeoutError:
            raise Refused(408, f"The request stopped for {PART_SECONDS:.0f} seconds; send it again.") from None
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request was not sent to its end; send it again.")
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def read_body(body: AsyncIterator[bytes]) -> bytes:
    """The whole body of a request; ``Refused`` where it is too large or has too many values."""
    content, values = bytearray(), 0
    async for part in body:
        content += part
        values += sum(part.count(mark) for mark in b",[{")
        if len(content) > MAX_BODY or values > MAX_VALUES:
            raise too_large()
    return bytes(content)


async def discard_rest(body: AsyncIterator[bytes]) -> None:
    """Read what a refused client still sends, up to a limit: one that cannot send to the end reads no answer."""
    size = 0
    with contextlib.suppress(Refused):
        async for part in body:
            size += len(part)
            if size > MAX_DISCARDED:
                return


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives a body that was read already, and then what comes after it."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return unread.pop() if unread else await receive()

    return replayed


def too_large() -> Refused:
    """The refusal of a body."""
    return Refused(
        413, f"This is too much for one request: at most {MAX_BODY / 1e6:.0f} MB and {MAX_VALUES} values are taken; "
        "choose a smaller picture or a shorter text.",
    )  # fmt: skip


async def answer(refused: Refused, send: Send) -> None:
    """Send a refusal, and end the connection: its body may not have been read to the end."""
    content = json.dumps({"error": str(refused)}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
