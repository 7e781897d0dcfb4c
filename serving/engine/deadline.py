"""Deadline of a request."""

from __future__ import annotations

import time

from serving.errors import StatusError


class Deadline:
    """Passes after `seconds` (None: never), or when the request is cancelled because the client disconnected."""

    __slots__ = ("cancelled", "end")

    def __init__(self, seconds: float | None = None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds
        self.cancelled = False

    def seconds_left(self) -> float | None:
        """Return the remaining seconds (> 0) or None for no limit; raise DEADLINE_EXCEEDED if the deadline passed."""
        left = None if self.end is None else self.end - time.monotonic()
        if self.cancelled or (left is not None and left <= 0):
            raise StatusError("DEADLINE_EXCEEDED", "Timed out waiting for notification")
        return left
