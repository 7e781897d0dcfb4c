"""The access log: a line of JSON for every request, written by a thread of its own. No TensorFlow.

A request never waits for the disk and never fails because of it: what cannot be written is lost, counted, and said once
on the server's own log.
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
FLUSH_SECONDS = 0.1  # lines of this time are written together
MAX_QUEUED_LINES = 50_000  # lines; more wait only for a disk that does not answer
LINES_PER_WRITE = 1000
MAX_TEXT_LENGTH = 256  # clients choose names; they must not fill the disk


class Request(Protocol):
    """What is known of a request that has ended."""

    protocol: str  # "GRPC" or "REST"
    method: str  # the name in TensorFlow Serving: "Predict", "GetModelStatus"
    model: str
    version: int | None  # that answered; None if none did
    signature: str
    code: str  # the name of its status
    request_bytes: int
    response_bytes: int
    peer: str  # address of the client


FIELDS = tuple(Request.__annotations__)
values_of = attrgetter(*FIELDS)


class AccessLog:
    """Appends to a file, or to standard error. A file that was renamed or removed is made anew.

    Args:
        path: of the file; "-" is standard error.
        metrics: count the lines that are lost.
    Raises: UsageError if the file cannot be opened.
    """

    def __init__(self, path: str, metrics: Metrics) -> None:
        self._path, self._lost = path, metrics.access_log_lines_lost
        self._queue: queue.SimpleQueue[tuple[float, float, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._failing = False
        self._torn = False  # the last line in the file is not whole
        try:
            self._file = _open(path)
        except OSError as error:
            raise UsageError(
                f"--access_log_file={path} cannot be written ({error.strerror}): "
                "give a file in a directory that exists, or - for standard error."
            ) from None
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, request: Request, milliseconds: float) -> None:
        """Take down a request that ends now and took `milliseconds`. Returns at once."""
        if self._closing.is_set() or self._queue.qsize() >= MAX_QUEUED_LINES:
            self._lost.add(1)
        else:
            self._queue.put((time.time(), milliseconds, values_of(request)))

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits; a disk that does not answer is given up after `seconds`."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        closed = False
        while not closed:
            waiting = [self._queue.get()]
            if self._queue.qsize() < LINES_PER_WRITE:
                self._closing.wait(FLUSH_SECONDS)
            while len(waiting) < LINES_PER_WRITE and not self._queue.empty():
                waiting.append(self._queue.get())
            closed = None in waiting
            lines = [_line(*entry) for entry in waiting if entry is not None]
            if lines:
                self._append(lines)
        os.close(self._file)

    def _append(self, lines: list[bytes]) -> None:
        """Write lines, or lose those that cannot be written; half a line gets its end before the next one."""
        data, written = b"", 0
        try:
            self._open_anew()
            data = b"\n" * self._torn + b"".join(lines)
            while written < len(data):
                written += os.write(self._file, memoryview(data)[written:])
        except OSError as error:
            self._lost.add(min(data.count(b"\n", written), len(lines)) if data else len(lines))
            if not self._failing:
                log.error("Lines of the access log are lost: %s: %s", self._path, error.strerror)
            self._failing = True
        else:
            if self._failing:
                log.warning("The access log is written again: %s", self._path)
            self._failing = False
        if written:
            self._torn = not data.endswith(b"\n", 0, written)

    def _open_anew(self) -> None:
        """Follow the path, if it leads elsewhere now."""
        if self._path == STANDARD_ERROR:
            return
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                return
        except FileNotFoundError:
            pass
        new = _open(self._path)
        os.close(self._file)
        self._file, self._torn = new, False


def _open(path: str) -> int:
    """A descriptor; what is written goes to the end, wherever that is by then."""
    if path == STANDARD_ERROR:
        return os.dup(2)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def _line(seconds: float, milliseconds: float, values: tuple[Any, ...]) -> bytes:
    ended = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    short = (value[:MAX_TEXT_LENGTH] if isinstance(value, str) else value for value in values)
    entry = {"time": ended, "milliseconds": round(milliseconds, 3), **dict(zip(FIELDS, short, strict=True))}
    return json.dumps(entry).encode() + b"\n"  # all of it ASCII: half a character is harmless
