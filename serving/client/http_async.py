"""HTTP transport of the client's REST requests with asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import httpcore

from serving.client.http import CONNECTION_LOST, FAILURES, BaseHttpTransport, ConnectionTrace
from serving.client.rest import HttpRequest, parse_response
from serving.client.types import Tls


class AsyncConnectionTrace(ConnectionTrace):
    """`ConnectionTrace` as a coroutine function."""

    async def __call__(self, event: str, details: Any) -> None:  # type: ignore[override]
        super().__call__(event, details)


class AsyncHttpTransport(BaseHttpTransport):
    """Sends requests over a connection pool of one event loop."""

    def __init__(self, address: str, token: str | None, tls: Tls | None) -> None:
        super().__init__(address, token, tls)
        self._pool = httpcore.AsyncConnectionPool(**self._options)

    async def send(self, request: HttpRequest, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                body = await self._begin(request)
                try:
                    content = b"".join([chunk async for chunk in body.chunks])
                finally:
                    await body.close()
        except FAILURES as error:
            raise self.failure(error, seconds) from None
        return parse_response(self._address, request, body.status, content)

    async def open(self, request: HttpRequest, seconds: float) -> AsyncHttpBody:
        try:
            async with asyncio.timeout(seconds):
                body = await self._begin(request)
                if body.status == 200:
                    return body
                try:
                    content = b"".join([chunk async for chunk in body.chunks])
                finally:
                    await body.close()
        except FAILURES as error:
            raise self.failure(error, seconds) from None
        parse_response(self._address, request, body.status, content)
        raise AssertionError("another status is a failure")

    async def close(self) -> None:
        await self._pool.aclose()

    async def _begin(self, request: HttpRequest) -> AsyncHttpBody:
        """Like HttpTransport.begin."""
        while True:
            trace = AsyncConnectionTrace()
            context = self._pool.stream(**self._arguments(request), extensions={"trace": trace})
            try:
                return AsyncHttpBody(self, context, await context.__aenter__())
            except CONNECTION_LOST:
                if trace.connected:
                    raise


class AsyncHttpBody:
    """A response whose body is not read yet."""

    def __init__(self, transport: AsyncHttpTransport, context: Any, response: httpcore.Response) -> None:
        self._transport, self._context = transport, context
        self.chunks = response.aiter_stream()
        self.status = response.status

    async def read(self, seconds: float) -> bytes:
        """Return the next bytes, b"" at the end."""
        try:
            async with asyncio.timeout(seconds):
                return await anext(self.chunks, b"")
        except FAILURES as error:
            raise self._transport.failure(error, seconds) from None

    async def close(self) -> None:
        """Cancel the request, unless the response was read to its end."""
        await self._context.__aexit__(None, None, None)
