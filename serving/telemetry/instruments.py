"""Counters, gauges and histograms, and their text format for Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

Labels: TypeAlias = tuple[str, ...]
# Clients choose the model names in their requests, whose number and length must not fill the memory.
MAX_CELLS = 5000
MAX_LABEL_LENGTH = 256
OTHER_LABEL = "(other)"  # label of all new values beyond MAX_CELLS


def exponential_bounds(scale: float, growth: float, count: int) -> tuple[float, ...]:
    """Return bounds of buckets: scale, scale * growth, ...; each computed from the previous one, like in TensorFlow."""
    bounds = [scale]
    while len(bounds) < count:
        bounds.append(bounds[-1] * growth)
    return tuple(bounds)


class Metric:
    """A named metric, with a cell of recorded values for each combination of label values."""

    kind = "untyped"

    def __init__(self, name: str, *labels: str) -> None:
        self.name, self.labels = name, labels
        self._cells: dict[Labels, Any] = {}
        self._lock = threading.Lock()

    def cells(self) -> dict[Labels, Any]:
        """Return a copy of the cells, sorted by labels."""
        with self._lock:
            return dict(sorted(self._cells.items()))

    def lines(self) -> Iterable[str]:
        """Yield the lines in Prometheus' text format."""
        for labels, value in self.cells().items():
            yield f"{prometheus_name(self.name)}{{{_pairs(self.labels, labels)}}} {value}"

    def _key(self, labels: Labels) -> Labels:
        """Return the key of a new cell. Lone surrogates in labels become "?". The caller holds the lock."""
        labels = tuple(label[:MAX_LABEL_LENGTH].encode("utf-8", "replace").decode() for label in labels)
        return labels if labels in self._cells or len(self._cells) < MAX_CELLS else (OTHER_LABEL,) * len(labels)


class Counter(Metric):
    """An integer that only increases."""

    kind = "counter"

    def add(self, amount: int, *labels: str) -> None:
        with self._lock:
            if labels not in self._cells:
                labels = self._key(labels)
                self._cells.setdefault(labels, 0)
            self._cells[labels] += amount

    def value(self) -> int:
        """Return the sum over all labels."""
        return sum(self.cells().values())


class Gauge(Counter):
    """An integer that goes up and down."""

    kind = "gauge"


class Histogram(Metric):
    """Counts the values between consecutive `bounds`, and sums all values.

    As in TensorFlow, a value that equals a bound belongs to the bucket above it.
    """

    kind = "histogram"

    def __init__(self, name: str, bounds: Sequence[float], *labels: str) -> None:
        super().__init__(name, *labels)
        self.bounds = bounds

    def observe(self, value: float, *labels: str) -> None:
        index = bisect_right(self.bounds, value)
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:  # a count for each bucket, one for values above all bounds, and the sum
                cell = self._cells.setdefault(self._key(labels), [0] * (len(self.bounds) + 1) + [0.0])
            cell[index] += 1
            cell[-1] += value

    def cells(self) -> dict[Labels, list[float]]:
        with self._lock:
            return {labels: list(cell) for labels, cell in sorted(self._cells.items())}

    def lines(self) -> Iterable[str]:
        name = prometheus_name(self.name)
        limits = [*map(_number, self.bounds), "+Inf"]
        for labels, (*counts, total) in self.cells().items():
            pairs = _pairs(self.labels, labels)
            bucket = f"{name}_bucket{{{pairs}{',' if pairs else ''}"
            cumulative = 0
            for limit, count in zip(limits, counts, strict=True):
                cumulative += int(count)
                yield f'{bucket}le="{limit}"}} {cumulative}'
            yield f"{name}_sum{{{pairs}}} {_number(total)}"
            yield f"{name}_count{{{pairs}}} {cumulative}"


class DerivedCounter(Counter):
    """A counter computed from a histogram: its number of values, or their sum."""

    def __init__(self, name: str, source: Histogram, read: Callable[[list[float]], float]) -> None:
        super().__init__(name, *source.labels)
        self._source, self._read = source, read

    def cells(self) -> dict[Labels, int]:
        return {labels: int(self._read(cell)) for labels, cell in self._source.cells().items()}


def count_of(cell: list[float]) -> float:
    return sum(cell[:-1])


def sum_of(cell: list[float]) -> float:
    return cell[-1]


def prometheus_name(name: str) -> str:
    return name.replace("/", ":")


def _pairs(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))


def _escape(value: str) -> str:
    """Escape newlines too, unlike TensorFlow Serving: a newline in a client's model name would break the whole text."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    """Format a number with six significant digits, like TensorFlow Serving."""
    return f"{value:.6g}"
