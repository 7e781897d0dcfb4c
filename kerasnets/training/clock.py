"""The time of a run and the mean loss of its steps."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kerasnets.tasks.protocol import Metrics


class Clock:
    """Measures the time of a run, including before interruptions, and the mean loss between reports.

    Attributes: since the last report (after a report: of it) loss: mean; weight_per_second: weight of the loss, such as
        tokens without padding, per second; data_wait: share of the time, 0 to 1, in which the step waited for data.
    """

    def __init__(self) -> None:
        self.earlier_seconds, self.start_time = 0.0, time.monotonic()
        self.loss = float("nan")
        self.weight_per_second = self.data_wait = 0.0
        self.reset()

    def reset(self) -> None:
        self.report_start = time.monotonic()
        self.wait_seconds, self.count, self.total, self.weight = 0.0, 0, 0.0, 0.0

    def seconds(self) -> float:
        return round(self.earlier_seconds + time.monotonic() - self.start_time, 1)

    def state(self) -> np.ndarray:
        """-> float64 [6], for `restore`."""
        report_seconds = time.monotonic() - self.report_start
        return np.array([self.seconds(), report_seconds, self.wait_seconds, self.count, self.total, self.weight])

    def restore(self, state: np.ndarray) -> None:
        self.start_time = time.monotonic()
        self.earlier_seconds, report_seconds, self.wait_seconds, count, self.total, self.weight = map(float, state)
        self.report_start, self.count = self.start_time - report_seconds, int(count)

    def exclude_pause(self) -> None:
        """Start the time of the next report now, after a validation."""
        self.report_start = time.monotonic()

    def time_wait(self, get: Callable) -> Any:
        """Call `get`, and count its time as waiting for data."""
        start = time.monotonic()
        value = get()
        self.wait_seconds += time.monotonic() - start
        return value

    def add(self, loss: float, weight: float) -> None:
        self.count, self.total, self.weight = self.count + 1, self.total + loss, self.weight + weight
        self.loss = self.total / max(self.weight, 1e-9)
        seconds = time.monotonic() - self.report_start
        self.weight_per_second, self.data_wait = self.weight / seconds, self.wait_seconds / seconds

    def report(self, examples_per_step: float, weight_unit: str) -> tuple[float, Metrics]:
        """-> mean loss and timings since the last report."""
        seconds = time.monotonic() - self.report_start
        values = {
            "seconds": self.seconds(),
            "step_seconds": round(seconds, 3),
            "examples_per_second": round(self.count * examples_per_step / seconds, 1),
            f"{weight_unit}_per_second": round(self.weight / seconds, 1),
            "data_wait": round(self.wait_seconds / seconds, 4),
        }
        loss = self.loss
        self.reset()
        return loss, values
