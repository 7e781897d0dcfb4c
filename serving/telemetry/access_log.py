"""The access log: one line of JSON per request, written by a separate thread. Does not import TensorFlow.

A request never waits for the disk and never fails because of it: lines that cannot be written are lost and counted, and
the server's own log reports the failure once.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Protocol

from serving.errors import UsageError
from serving.telemetry.metrics import Metrics

log = logging.getLogger("serving")
STANDARD_ERROR = "-"
FLUSH_SECONDS = 0.1  # interval of writes
MAX_QUEUED_LINES = 50_000  # reached only if the disk hangs
LINES_PER_WRITE = 1000
MAX_TEXT_LENGTH = 256  # clients choose names, which must not fill the disk


class Request(Protocol):
    """The logged attributes of a request that has ended."""

    protocol: str  # "GRPC" or "REST"
    method: str  # its name in TensorFlow Serving: "Predict", "GetModelStatus"
    model: str
    version: int | None  # the version that ran; None if none did
    signature: str
    code: str  # name of the status code
    request_bytes: int
    response_bytes: int
    peer: str  # address of the client


FIELDS = tuple(Request.__annotations__)
values_of = attrgetter(*FIELDS)


class AccessLog:
    """Appends to a file or to standard error. Creates the file again after it was renamed or removed.

    Args:
        path: path of the file; "-" means standard error.
        metrics: counts the lost lines.
    Raises: UsageError if the file cannot be opened.
    """

    def __init__(self, path: str, metrics: Metrics) -> None:
        self._path, self._lost = path, metrics.access_log_lines_lost
        self._queue: queue.SimpleQueue[tuple[float, float, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._failing = False
        self._incomplete = False  # whether the last line in the file is incomplete
        try:
            self._file = _open(path)
        except OSError as error:
            raise UsageError(
                f"--access_log_file={path} cannot be written ({error.strerror}); it must be a file in an existing "
                "directory, or - for standard error."
            ) from None
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, request: Request, milliseconds: float) -> None:
        """Enqueue the line of a request that ends now and took `milliseconds`; do not block."""
        if self._closing.is_set() or self._queue.qsize() >= MAX_QUEUED_LINES:
            self._lost.add(1)
        else:
            self._queue.put((time.time(), milliseconds, values_of(request)))

    def close(self, seconds: float = 5.0) -> None:
        """Write the queued lines; give up after `seconds`, for example if the disk hangs."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        closed = False
        while not closed:
            queued = [self._queue.get()]
            if self._queue.qsize() < LINES_PER_WRITE:
                self._closing.wait(FLUSH_SECONDS)
            while len(queued) < LINES_PER_WRITE and not self._queue.empty():
                queued.append(self._queue.get())
            closed = None in queued
            lines = [_line(*entry) for entry in queued if entry is not None]
            if lines:
                self._append(lines)
        os.close(self._file)

    def _append(self, lines: list[bytes]) -> None:
        """Write lines; count those that cannot be written as lost. End an incomplete line before the next one."""
        data, written = b"", 0
        try:
            self._reopen_if_moved()
            data = b"\n" * self._incomplete + b"".join(lines)
            while written < len(data):
                written += os.write(self._file, memoryview(data)[written:])
        except OSError as error:
            self._lost.add(min(data.count(b"\n", written), len(lines)) if data else len(lines))
            if not self._failing:
                log.error("Lines of the access log are lost: %s: %s", self._path, error.strerror)
            self._failing = True
        else:
            if self._failing:
                log.warning("The access log can be written again: %s", self._path)
            self._failing = False
        if written:
            self._incomplete = not data.endswith(b"\n", 0, written)

    def _reopen_if_moved(self) -> None:
        """Open the path again if it no longer leads to the open file."""
        if self._path == STANDARD_ERROR:
            return
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                return
        except FileNotFoundError:
            pass
        new = _open(self._path)
        os.close(self._file)
        self._file, self._incomplete = new, False


def _open(path: str) -> int:
    """Return a file descriptor in append mode."""
    if path == STANDARD_ERROR:
        return os.dup(2)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def _line(seconds: float, milliseconds: float, values: tuple[Any, ...]) -> bytes:
    ended = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    truncated = (value[:MAX_TEXT_LENGTH] if isinstance(value, str) else value for value in values)
    entry = {"time": ended, "milliseconds": round(milliseconds, 3), **dict(zip(FIELDS, truncated, strict=True))}
    return json.dumps(entry).encode() + b"\n"  # ASCII only, so an incomplete line has no incomplete character
