"""Replies as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from http import HTTPStatus

from serving.rest.http.flow_control import FlowControl
from serving.rest.http.messages import Reply

SMALL_BODY_BYTES = 4096  # a copy takes less time than a write of its own


class ReplyWriter:
    """Writes the replies of one connection, which end with TimeoutError if the client reads too slowly.

    `date` is the current value of the header of that name.
    """

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, date: Callable[[], bytes]) -> None:
        self._transport, self._flow, self._date = transport, flow, date

    async def write(self, reply: Reply, method: str = "", version: str = "", keep_alive: bool = False) -> None:
        """The reply to a request of this method and version of HTTP."""
        assert isinstance(reply.body, bytes)
        lines = [b"Content-Length: %d" % len(reply.body)]
        if not keep_alive:
            lines.append(b"Connection: close")
        elif version == "1.0":
            lines.append(b"Connection: keep-alive")
        head, body = self._head(reply, lines), b"" if method == "HEAD" else reply.body
        if len(body) < SMALL_BODY_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        await self._flow.drain(len(body))

    async def stream(self, reply: Reply, chunks: AsyncGenerator[bytes]) -> None:
        """Chunks as they come. The end of the body is the end of the connection, which HTTP/1.0 understands too."""
        self._transport.write(self._head(reply, [b"Cache-Control: no-store", b"Connection: close"]))
        async with aclosing(chunks):
            async for chunk in chunks:
                if self._transport.is_closing():
                    return
                self._transport.write(chunk)
                await self._flow.drain(len(chunk))
                await asyncio.sleep(0)  # chunks that are there at once hold nobody up

    def _head(self, reply: Reply, lines: list[bytes]) -> bytes:
        try:
            phrase = HTTPStatus(reply.status).phrase
        except ValueError:  # 499, which is nobody's standard
            phrase = "Client Closed Request"
        start = f"HTTP/1.1 {reply.status} {phrase}\r\nContent-Type: {reply.content_type}\r\n"
        start += "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        return b"%sDate: %s\r\n%s\r\n\r\n" % (start.encode("latin-1"), self._date(), b"\r\n".join(lines))
