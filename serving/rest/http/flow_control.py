"""Flow control: read and write at the speed of the slower side."""

from __future__ import annotations

import asyncio

SLOWEST_BYTES_PER_SECOND = 16 * 1024  # slower clients hold memory and a connection for too long


class FlowControl:
    """Flow control of one connection. `timeout`: seconds that a client gets beside the time at the slowest rate."""

    def __init__(self, transport: asyncio.Transport, timeout: float) -> None:
        self._transport, self._timeout = transport, timeout
        self._reading_paused = False
        self._writable = asyncio.Event()
        self._writable.set()

    def pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def drain(self, size: int) -> None:
        """Wait until the client has read most of the `size` bytes written; raise TimeoutError if it is too slow."""
        if not self._writable.is_set():
            async with asyncio.timeout(self._timeout + size / SLOWEST_BYTES_PER_SECOND):
                await self._writable.wait()
