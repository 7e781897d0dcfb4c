"""What the status page shows of a model's requests: how long they took, and how many came of late."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from serving.telemetry.instruments import MAX_CELLS, MAX_LABEL_LENGTH, OTHER_LABEL

RECENT_SECONDS = 60


@dataclass(frozen=True)
class Latency:
    """How long successful requests took: `counts[i]` below `bounds[i]` microseconds, the last above all of them."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Microseconds that `share` (0 to 1) of the requests stayed below, interpolated in their bucket."""
        rank, below = share * self.count, 0
        for index, count in enumerate(self.counts):
            if count and below + count >= rank:
                low = self.bounds[index - 1] if index else 0.0
                high = self.bounds[index] if index < len(self.bounds) else low
                return low + (high - low) * (rank - below) / count
            below += count
        return None


class RecentRequests:
    """How many requests each of the last seconds saw, by model."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds: dict[str, deque[list[int]]] = {}  # of [second, requests]; seconds without any are left out
        self._lock = threading.Lock()

    def add(self, model: str) -> None:
        second = int(self._clock())
        with self._lock:
            seconds = self._seconds.get(model)
            if seconds is None:
                known = len(self._seconds) < MAX_CELLS and len(model) <= MAX_LABEL_LENGTH
                seconds = self._seconds.setdefault(model if known else OTHER_LABEL, deque(maxlen=RECENT_SECONDS + 1))
            if seconds and seconds[-1][0] == second:
                seconds[-1][1] += 1
            else:
                seconds.append([second, 1])

    def counts(self, model: str) -> list[int]:
        """Requests in each of the last RECENT_SECONDS whole seconds, the oldest first."""
        now = int(self._clock())
        with self._lock:
            seen = {entry[0]: entry[1] for entry in self._seconds.get(model, ())}
        return [seen.get(second, 0) for second in range(now - RECENT_SECONDS, now)]
