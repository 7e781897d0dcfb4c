"""tensorflow.ProfilerService: what TensorFlow's operations do for a while, for TensorBoard's profiler.

A profile is sent back and not kept: a client does not choose files of the server.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import message_factory
from tensorflow.python.profiler.internal import _pywrap_profiler

from serving.errors import StatusError, invalid_argument
from serving.settings.configuration import POOL, add_proto

SERVICE = "tensorflow.ProfilerService"
MOST_MILLISECONDS = 600_000

add_proto("profiler")
ProfileRequest, ProfileResponse, TerminateRequest, TerminateResponse = (
    message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"tensorflow.{name}"))
    for name in ("ProfileRequest", "ProfileResponse", "TerminateRequest", "TerminateResponse")
)


class Profiler:
    """One profile at a time: TensorFlow has one recorder."""

    def __init__(self) -> None:
        self._running: asyncio.Event | None = None  # set: end now

    async def profile(self, request: Any) -> Any:
        """Record for `duration_ms`, or until Terminate."""
        if not 0 < request.duration_ms <= MOST_MILLISECONDS:
            raise invalid_argument(
                f"duration_ms is {request.duration_ms}; it must be from 1 to {MOST_MILLISECONDS} milliseconds."
            )
        if self._running is not None:
            raise StatusError("ALREADY_EXISTS", "Another profile is being recorded: try again when it has ended.")
        self._running = asyncio.Event()
        try:
            xspace = await self._record(self._running, request.duration_ms / 1000)
        except RuntimeError as error:
            raise StatusError("UNAVAILABLE", f"A profile cannot be recorded: {error}") from None
        finally:
            self._running = None
        response: Any = ProfileResponse(xspace=xspace, empty_trace=not xspace)
        if xspace:
            response.tool_data.add(name="xplane.pb", data=xspace)
        return response

    @staticmethod
    async def _record(ended: asyncio.Event, seconds: float) -> bytes:
        """A serialized XSpace, which TensorFlow gives as a file alone."""
        with tempfile.TemporaryDirectory() as directory:
            session = _pywrap_profiler.ProfilerSession()
            session.start(directory, {})
            try:
                await asyncio.wait_for(ended.wait(), seconds)
            except TimeoutError:
                pass
            finally:
                await asyncio.shield(asyncio.to_thread(session.export_to_tb))
            return b"".join(path.read_bytes() for path in Path(directory).rglob("*.xplane.pb"))

    async def terminate(self, request: Any) -> Any:
        """End the profile that is being recorded, if there is one."""
        if self._running is not None:
            self._running.set()
        return TerminateResponse()
