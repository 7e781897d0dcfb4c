"""What the server counts and measures, and the text in which Prometheus reads it. No TensorFlow.

Names, labels and buckets are those of the original server, so that its dashboards and alerts work unchanged; what it
does not have is below /serving/. All methods may be called by any thread.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Labels: TypeAlias = tuple[str, ...]
# Clients choose the names of models in their requests: their number and length must not fill the memory.
MOST_CELLS = 5000
LONGEST_LABEL = 256
OTHER = "(other)"  # the label of what came after MOST_CELLS
RECENT_SECONDS = 60
# The original counts the first three; all of them are the load of a model.
COUNTED = frozenset({"Predict", "Classify", "Regress"})
LOAD = COUNTED | {"MultiInference", "stream"}
BATCH_THREADS = "batch_threads"  # the name that the original gives its pool


def exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    """Upper bounds of buckets: scale, scale * growth, ...; each the product of the one before, as TensorFlow has it."""
    bounds = [scale]
    while len(bounds) < count:
        bounds.append(bounds[-1] * growth)
    return tuple(bounds)


MICROSECONDS = exponential(10, 1.8, 33)  # to about 25 minutes
SIZES = exponential(1, 2, 14)


class Metric:
    """A name, and a cell of what was recorded for each set of values of its labels."""

    kind = "untyped"

    def __init__(self, name: str, *labels: str) -> None:
        self.name, self.labels = name, labels
        self._cells: dict[Labels, Any] = {}
        self._lock = threading.Lock()

    def cells(self) -> dict[Labels, Any]:
        """A copy, in the order of the labels."""
        with self._lock:
            return dict(sorted(self._cells.items()))

    def lines(self) -> Iterable[str]:
        """In Prometheus' text format."""
        for labels, value in self.cells().items():
            yield f"{_exported(self.name)}{{{_pairs(self.labels, labels)}}} {value}"

    def _key(self, labels: Labels) -> Labels:
        """Where something new is kept; the lock is held. Half of a character that needs two becomes "?"."""
        labels = tuple(label[:LONGEST_LABEL].encode("utf-8", "replace").decode() for label in labels)
        return labels if labels in self._cells or len(self._cells) < MOST_CELLS else (OTHER,) * len(labels)


class Counter(Metric):
    """A whole number that only grows."""

    kind = "counter"

    def add(self, amount: int, *labels: str) -> None:
        with self._lock:
            if labels not in self._cells:
                labels = self._key(labels)
                self._cells.setdefault(labels, 0)
            self._cells[labels] += amount

    def value(self) -> int:
        """The sum over all labels."""
        return sum(self.cells().values())


class Gauge(Counter):
    """A whole number that goes up and down."""

    kind = "gauge"


class Histogram(Metric):
    """How many values fell below each of `bounds`, and their sum.

    As in TensorFlow, a value that equals a bound counts as above it.
    """

    kind = "histogram"

    def __init__(self, name: str, bounds: Sequence[float], *labels: str) -> None:
        super().__init__(name, *labels)
        self.bounds = bounds

    def observe(self, value: float, *labels: str) -> None:
        index = bisect_right(self.bounds, value)
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:  # a count for each bucket, one for what is above all bounds, and the sum
                cell = self._cells.setdefault(self._key(labels), [0] * (len(self.bounds) + 1) + [0.0])
            cell[index] += 1
            cell[-1] += value

    def cells(self) -> dict[Labels, list[float]]:
        with self._lock:
            return {labels: list(cell) for labels, cell in sorted(self._cells.items())}

    def lines(self) -> Iterable[str]:
        name = _exported(self.name)
        limits = [*map(_number, self.bounds), "+Inf"]
        for labels, (*counts, total) in self.cells().items():
            pairs = _pairs(self.labels, labels)
            bucket = f"{name}_bucket{{{pairs}{',' if pairs else ''}"
            below = 0
            for limit, count in zip(limits, counts, strict=True):
                below += int(count)
                yield f'{bucket}le="{limit}"}} {below}'
            yield f"{name}_sum{{{pairs}}} {_number(total)}"
            yield f"{name}_count{{{pairs}}} {below}"


class Derived(Counter):
    """A counter that repeats what a histogram knows: its number of values, or their sum."""

    def __init__(self, name: str, source: Histogram, read: Callable[[list[float]], float]) -> None:
        super().__init__(name, *source.labels)
        self._source, self._read = source, read

    def cells(self) -> dict[Labels, int]:
        return {labels: int(self._read(cell)) for labels, cell in self._source.cells().items()}


def _count(cell: list[float]) -> float:
    return sum(cell[:-1])


def _sum(cell: list[float]) -> float:
    return cell[-1]


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
                known = len(self._seconds) < MOST_CELLS and len(model) <= LONGEST_LABEL
                seconds = self._seconds.setdefault(model if known else OTHER, deque(maxlen=RECENT_SECONDS + 1))
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


class Metrics:
    """All metrics of a server. Times are in microseconds.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        serving, core, saved_model = "/tensorflow/serving/", "/tensorflow/core/", "/tensorflow/cc/saved_model/"
        batching = serving + "batching_session/"
        self.request_count = Counter(serving + "request_count", "model_name", "status")
        self.request_latency = Histogram(serving + "request_latency", MICROSECONDS, "model_name", "API", "entrypoint")
        self.runtime_latency = Histogram(serving + "runtime_latency", MICROSECONDS, "model_name", "API", "runtime")
        self.request_example_counts = Histogram(serving + "request_example_counts", exponential(1, 2, 15), "model")
        self.request_example_count_total = Derived(
            serving + "request_example_count_total", self.request_example_counts, _sum
        )
        self.request_log_count = Counter(serving + "request_log_count", "model_name", "status_code")
        self.model_warmup_latency = Histogram(serving + "model_warmup_latency", MICROSECONDS, "model_path", "status")
        self.model_warmup_records_read = Counter(serving + "model_warmup_records_read", "model_path")
        self.queuing_latency = Histogram(batching + "queuing_latency", exponential(100, 1.2, 52), "thread_pool_name")
        self.input_batch_size = Histogram(batching + "input_batch_size", SIZES)
        self.processed_batch_size = Histogram(batching + "processed_batch_size", SIZES)
        self.padding_size = Histogram(batching + "padding_size", SIZES, "execution_batch_size")
        self.wrapped_run_count = Derived(batching + "wrapped_run_count", self.processed_batch_size, _count)
        self.load_attempt_count = Counter(saved_model + "load_attempt_count", "model_path", "status")
        self.load_latency = Counter(saved_model + "load_latency", "model_path")
        self.graph_run_time = Histogram(core + "graph_run_time_usecs_histogram", exponential(1000, 2, 20))
        self.graph_runs = Derived(core + "graph_runs", self.graph_run_time, _count)
        self.direct_session_runs = Derived(core + "direct_session_runs", self.graph_run_time, _count)
        self.graph_run_microseconds = Derived(core + "graph_run_time_usecs", self.graph_run_time, _sum)
        self.requests_in_flight = Gauge("/serving/requests_in_flight", "model_name")
        self.access_log_lines_lost = Counter("/serving/access_log_lines_lost")
        self._recent, self._clock, self._start = RecentRequests(clock), clock, clock()
        self._all = {metric.name: metric for metric in vars(self).values() if isinstance(metric, Metric)}

    def request(self, model: str, api: str, entrypoint: str, code: str, microseconds: float) -> None:
        """A request has ended.

        Args:
            api: "Predict", "GetModelStatus", and so on; one that does not run a model is not counted.
            entrypoint: "GRPC" or "REST".
            code: the name of its status, "OK" or another.
        """
        if api in LOAD:
            self._recent.add(model)
        if api in COUNTED:
            self.request_count.add(1, model, code)
            if code == "OK":
                self.request_latency.observe(
                    microseconds, model, api.lower() if entrypoint == "REST" else api, entrypoint
                )

    def started(self, model: str) -> None:
        """A request has begun; `finished` has to follow."""
        self.requests_in_flight.add(1, model)

    def finished(self, model: str) -> None:
        self.requests_in_flight.add(-1, model)

    def run(self, model: str, api: str, microseconds: float) -> None:
        """A model has answered a request: the time from feeding it to having its results."""
        self.runtime_latency.observe(microseconds, model, api, "TF1")

    def graph_run(self, microseconds: float) -> None:
        """A session has run a graph, for a request or a batch of them."""
        self.graph_run_time.observe(microseconds)

    def examples(self, model: str, count: int) -> None:
        """A request held `count` tf.Examples."""
        self.request_example_counts.observe(count, model)

    def warmup(self, path: str, status: str, microseconds: float, records: int) -> None:
        """A version has been warmed up; `status` is "OK" or "CODE: message". Without any records it was not."""
        if not records and status == "OK":
            return
        self.model_warmup_latency.observe(microseconds, path, status)
        self.model_warmup_records_read.add(records, path)

    def load(self, path: str, status: str, microseconds: float) -> None:
        """A SavedModel has been read, or it failed: `status` other than "OK"."""
        self.load_attempt_count.add(1, path, "success" if status == "OK" else "fail")
        self.load_latency.add(int(microseconds), path)

    def batch(self, queuing: Iterable[float], size: int, processed: int, sizes: Iterable[int]) -> None:
        """A batch runs: how long each of its requests waited, its size without and with padding, and theirs."""
        for microseconds in queuing:
            self.queuing_latency.observe(microseconds, BATCH_THREADS)
        for rows in sizes:
            self.input_batch_size.observe(rows)
        self.processed_batch_size.observe(processed)
        self.padding_size.observe(processed - size, str(processed))

    def value(self, name: str) -> int | None:
        """The sum of a counter or gauge over its labels, 0 of a histogram; None of a name that is not known.

        Names are written as in the original's source: "/tensorflow/serving/request_count".
        """
        metric = self._all.get(name)
        if metric is None:
            return None
        return metric.value() if isinstance(metric, Counter) else 0

    def latency(self, model: str) -> Latency:
        """Of the requests that a model has answered since the server started."""
        cells = [cell for labels, cell in self.request_latency.cells().items() if labels[0] == model]
        counts = [int(sum(column)) for column in zip(*cells, strict=True)][:-1] or [0] * (len(MICROSECONDS) + 1)
        return Latency(MICROSECONDS, tuple(counts))

    def recent(self, model: str) -> list[int]:
        """How many requests of a model ended in each of the last 60 whole seconds, the oldest first."""
        return self._recent.counts(model)

    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def in_flight(self, model: str) -> int:
        return self.requests_in_flight.cells().get((model,), 0)

    def text(self) -> str:
        """All metrics in Prometheus' text format, as the original exports them: types, but no help."""
        lines = []
        for name in sorted(self._all):
            lines.append(f"# TYPE {_exported(name)} {self._all[name].kind}")
            lines += self._all[name].lines()
        return "\n".join(lines) + "\n"


def _exported(name: str) -> str:
    return name.replace("/", ":")


def _pairs(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    """The original leaves newlines alone; one in a client's name of a model would make the whole text unreadable."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    """Six digits, as the original prints them."""
    return f"{value:.6g}"
