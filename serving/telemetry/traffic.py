"""Latencies and recent counts of a model's requests, for the status page."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from serving.telemetry.instruments import MAX_CELLS, MAX_LABEL_LENGTH, OTHER_LABEL

RECENT_SECONDS = 60


@dataclass(frozen=True)
class Latency:
    """Latencies of successful requests: `counts[i]` are below `bounds[i]` microseconds, the last above all bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, fraction: float) -> float | None:
        """Return the quantile `fraction` (0 to 1) in microseconds, interpolated in a bucket; None without requests."""
        rank, below = fraction * self.count, 0
        for index, count in enumerate(self.counts):
            if count and below + count >= rank:
                low = self.bounds[index - 1] if index else 0.0
                high = self.bounds[index] if index < len(self.bounds) else low
                return low + (high - low) * (rank - below) / count
            below += count
        return None


class RecentRequests:
    """Counts the requests per model and second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds: dict[str, deque[list[int]]] = {}  # [second, requests]; no entry without requests
        self._lock = threading.Lock()

    def add(self, model: str) -> None:
        second = int(self._clock())
        with self._lock:
            seconds = self._seconds.get(model)
            if seconds is None:
                fits = len(self._seconds) < MAX_CELLS and len(model) <= MAX_LABEL_LENGTH
                seconds = self._seconds.setdefault(model if fits else OTHER_LABEL, deque(maxlen=RECENT_SECONDS + 1))
            if seconds and seconds[-1][0] == second:
                seconds[-1][1] += 1
            else:
                seconds.append([second, 1])

    def counts(self, model: str) -> list[int]:
        """Return the number of requests in each of the last RECENT_SECONDS whole seconds, oldest first."""
        now = int(self._clock())
        with self._lock:
            recent = {entry[0]: entry[1] for entry in self._seconds.get(model, ())}
        return [recent.get(second, 0) for second in range(now - RECENT_SECONDS, now)]
