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
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from serving.errors import UsageError

log = logging.getLogger("serving")
STANDARD_ERROR = "-"
GATHER_SECONDS = 0.1  # lines of this time are written together
MOST_WAITING = 50_000  # lines; more wait only for a disk that does not answer
LINES_PER_WRITE = 1000
LONGEST_TEXT = 256  # clients choose names; they must not fill the disk


class Access(NamedTuple):
    """A request that has ended."""

    protocol: str  # "GRPC" or "REST"
    method: str  # as the original names it: "Predict", "GetModelStatus"
    model: str
    version: int | None  # that answered; None if none did
    signature: str
    code: str  # the name of its status
    milliseconds: float
    request_bytes: int
    response_bytes: int
    peer: str  # address of the client


class AccessLog:
    """Appends to a file, or to standard error. A file that was renamed or removed is made anew.

    Args:
        path: of the file; "-" is standard error.
        count_lost: told of lines that are lost, from any thread.
    Raises: UsageError if the file cannot be opened.
    """

    def __init__(self, path: str, count_lost: Callable[[int], None]) -> None:
        self._path, self._count_lost = path, count_lost
        self._queue: queue.SimpleQueue[tuple[float, Access] | None] = queue.SimpleQueue()
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

    def write(self, access: Access) -> None:
        """Take a request down, with the present time. Returns at once."""
        if self._closing.is_set() or self._queue.qsize() >= MOST_WAITING:
            self._count_lost(1)
        else:
            self._queue.put((time.time(), access))

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
                self._closing.wait(GATHER_SECONDS)
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
            self._count_lost(min(data.count(b"\n", written), len(lines)) if data else len(lines))
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


def _line(seconds: float, access: Access) -> bytes:
    time_of = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    values = {
        name: value[:LONGEST_TEXT] if isinstance(value, str) else value for name, value in access._asdict().items()
    }
    values["milliseconds"] = round(access.milliseconds, 3)
    return json.dumps({"time": time_of, **values}).encode() + b"\n"  # all ASCII: half a character is harmless
