"""tensorflow.ProfilerService: record TensorFlow's operations for TensorBoard's profiler.

A profile is returned and not stored: a client must not choose files on the server.
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
MAX_MILLISECONDS = 600_000

add_proto("profiler")
ProfileRequest, ProfileResponse, TerminateRequest, TerminateResponse = (
    message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"tensorflow.{name}"))
    for name in ("ProfileRequest", "ProfileResponse", "TerminateRequest", "TerminateResponse")
)


class Profiler:
    """Records one profile at a time: TensorFlow has one recorder."""

    def __init__(self) -> None:
        self._stop: asyncio.Event | None = None  # ends the current profile

    async def profile(self, request: Any) -> Any:
        """Record for `duration_ms`, or until Terminate."""
        if not 0 < request.duration_ms <= MAX_MILLISECONDS:
            raise invalid_argument(
                f"duration_ms is {request.duration_ms}; it must be from 1 to {MAX_MILLISECONDS} milliseconds."
            )
        if self._stop is not None:
            raise StatusError("ALREADY_EXISTS", "Another profile is being recorded: try again when it has ended.")
        self._stop = asyncio.Event()
        try:
            xspace = await self._record(self._stop, request.duration_ms / 1000)
        except RuntimeError as error:
            raise StatusError("UNAVAILABLE", f"A profile cannot be recorded: {error}") from None
        finally:
            self._stop = None
        response: Any = ProfileResponse(xspace=xspace, empty_trace=not xspace)
        if xspace:
            response.tool_data.add(name="xplane.pb", data=xspace)
        return response

    @staticmethod
    async def _record(stop: asyncio.Event, seconds: float) -> bytes:
        """Return a serialized XSpace; TensorFlow can only write it to a file."""
        with tempfile.TemporaryDirectory() as directory:
            session = _pywrap_profiler.ProfilerSession()
            session.start(directory, {})
            try:
                await asyncio.wait_for(stop.wait(), seconds)
            except TimeoutError:
                pass
            finally:
                await asyncio.shield(asyncio.to_thread(session.export_to_tb))
            return b"".join(path.read_bytes() for path in Path(directory).rglob("*.xplane.pb"))

    async def terminate(self, request: Any) -> Any:
        """End the current profile, if there is one."""
        if self._stop is not None:
            self._stop.set()
        return TerminateResponse()
