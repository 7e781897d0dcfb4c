"""Write replies as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from http import HTTPStatus

from serving.rest.http.flow_control import FlowControl
from serving.rest.http.messages import Reply

SMALL_BODY_BYTES = 4096  # a copy is faster than a second write


class ReplyWriter:
    """Writes the replies of one connection; raises TimeoutError if the client reads too slowly.

    `date` returns the current value of the Date header.
    """

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, date: Callable[[], bytes]) -> None:
        self._transport, self._flow, self._date = transport, flow, date

    async def write(self, reply: Reply, method: str = "", version: str = "", keep_alive: bool = False) -> None:
        """Write the reply to a request with this method and HTTP version."""
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
        """Write chunks as they come, then close: the end of the connection ends the body, also for HTTP/1.0."""
        self._transport.write(self._head(reply, [b"Cache-Control: no-store", b"Connection: close"]))
        async with aclosing(chunks):
            async for chunk in chunks:
                if self._transport.is_closing():
                    return
                self._transport.write(chunk)
                await self._flow.drain(len(chunk))
                await asyncio.sleep(0)  # let other connections run between chunks

    def _head(self, reply: Reply, lines: list[bytes]) -> bytes:
        try:
            phrase = HTTPStatus(reply.status).phrase
        except ValueError:  # 499 is not standard
            phrase = "Client Closed Request"
        start = f"HTTP/1.1 {reply.status} {phrase}\r\nContent-Type: {reply.content_type}\r\n"
        start += "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        return b"%sDate: %s\r\n%s\r\n\r\n" % (start.encode("latin-1"), self._date(), b"\r\n".join(lines))
