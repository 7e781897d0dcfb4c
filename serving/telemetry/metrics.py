"""The server's metrics, and their text format for Prometheus. Does not import TensorFlow.

Names, labels and buckets are those of TensorFlow Serving, so that its dashboards and alerts work unchanged.
Additional metrics have names in /serving/. All methods are thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from serving.telemetry.instruments import (
    Counter,
    DerivedCounter,
    Gauge,
    Histogram,
    Metric,
    count_of,
    exponential_bounds,
    prometheus_name,
    sum_of,
)
from serving.telemetry.traffic import Latency, RecentRequests

# TensorFlow Serving counts only COUNTED_METHODS. LOAD_METHODS are all methods that run a model.
COUNTED_METHODS = frozenset({"Predict", "Classify", "Regress"})
LOAD_METHODS = COUNTED_METHODS | {"MultiInference", "stream"}
BATCH_THREADS = "batch_threads"  # the name of the pool in TensorFlow Serving


MICROSECONDS = exponential_bounds(10, 1.8, 33)  # up to about 25 minutes
SIZES = exponential_bounds(1, 2, 14)


class Metrics:
    """All metrics of a server. Times are in microseconds.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        serving, core, saved_model = "/tensorflow/serving/", "/tensorflow/core/", "/tensorflow/cc/saved_model/"
        batching = serving + "batching_session/"
        self.request_count = Counter(serving + "request_count", "model_name", "status")
        self.request_latency = Histogram(serving + "request_latency", MICROSECONDS, "model_name", "API", "entrypoint")
        self.runtime_latency = Histogram(serving + "runtime_latency", MICROSECONDS, "model_name", "API", "runtime")
        self.request_example_counts = Histogram(
            serving + "request_example_counts", exponential_bounds(1, 2, 15), "model"
        )
        self.request_example_count_total = DerivedCounter(
            serving + "request_example_count_total", self.request_example_counts, sum_of
        )
        self.request_log_count = Counter(serving + "request_log_count", "model_name", "status_code")
        self.model_warmup_latency = Histogram(serving + "model_warmup_latency", MICROSECONDS, "model_path", "status")
        self.model_warmup_records_read = Counter(serving + "model_warmup_records_read", "model_path")
        self.queuing_latency = Histogram(
            batching + "queuing_latency", exponential_bounds(100, 1.2, 52), "thread_pool_name"
        )
        self.input_batch_size = Histogram(batching + "input_batch_size", SIZES)
        self.processed_batch_size = Histogram(batching + "processed_batch_size", SIZES)
        self.padding_size = Histogram(batching + "padding_size", SIZES, "execution_batch_size")
        self.wrapped_run_count = DerivedCounter(batching + "wrapped_run_count", self.processed_batch_size, count_of)
        self.load_attempt_count = Counter(saved_model + "load_attempt_count", "model_path", "status")
        self.load_latency = Counter(saved_model + "load_latency", "model_path")
        self.graph_run_time = Histogram(core + "graph_run_time_usecs_histogram", exponential_bounds(1000, 2, 20))
        self.graph_runs = DerivedCounter(core + "graph_runs", self.graph_run_time, count_of)
        self.direct_session_runs = DerivedCounter(core + "direct_session_runs", self.graph_run_time, count_of)
        self.graph_run_microseconds = DerivedCounter(core + "graph_run_time_usecs", self.graph_run_time, sum_of)
        self.requests_in_flight = Gauge("/serving/requests_in_flight", "model_name")
        self.access_log_lines_lost = Counter("/serving/access_log_lines_lost")
        self._recent, self._clock, self._start = RecentRequests(clock), clock, clock()
        self._all = {metric.name: metric for metric in vars(self).values() if isinstance(metric, Metric)}

    def record_request(self, model: str, api: str, entrypoint: str, code: str, microseconds: float) -> None:
        """Record a request that has ended.

        Args:
            api: "Predict", "GetModelStatus" or another method; those that do not run a model are not counted.
            entrypoint: "GRPC" or "REST".
            code: name of the status code, such as "OK".
        """
        if api in LOAD_METHODS:
            self._recent.add(model)
        if api in COUNTED_METHODS:
            self.request_count.add(1, model, code)
            if code == "OK":
                self.request_latency.observe(
                    microseconds, model, api.lower() if entrypoint == "REST" else api, entrypoint
                )

    def request_started(self, model: str) -> None:
        """Record the start of a request; `request_finished` must follow."""
        self.requests_in_flight.add(1, model)

    def request_finished(self, model: str) -> None:
        self.requests_in_flight.add(-1, model)

    def record_run(self, model: str, api: str, microseconds: float) -> None:
        """Record the time from feeding a model to receiving its results, for one request."""
        self.runtime_latency.observe(microseconds, model, api, "TF1")

    def record_graph_run(self, microseconds: float) -> None:
        """Record a run of a graph, for one request or a batch."""
        self.graph_run_time.observe(microseconds)

    def record_examples(self, model: str, count: int) -> None:
        """Record the number of tf.Examples in a request."""
        self.request_example_counts.observe(count, model)

    def record_warmup(self, path: str, status: str, microseconds: float, records: int) -> None:
        """Record the warm-up of a version, if it had records; `status` is "OK" or "CODE: message"."""
        if not records and status == "OK":
            return
        self.model_warmup_latency.observe(microseconds, path, status)
        self.model_warmup_records_read.add(records, path)

    def record_load(self, path: str, status: str, microseconds: float) -> None:
        """Record an attempt to load a SavedModel; it failed if `status` is not "OK"."""
        self.load_attempt_count.add(1, path, "success" if status == "OK" else "fail")
        self.load_latency.add(int(microseconds), path)

    def record_batch(self, queuing: Iterable[float], size: int, processed: int, sizes: Iterable[int]) -> None:
        """Record a batch: waiting times of its tasks, size without and with padding, and sizes of its tasks."""
        for microseconds in queuing:
            self.queuing_latency.observe(microseconds, BATCH_THREADS)
        for rows in sizes:
            self.input_batch_size.observe(rows)
        self.processed_batch_size.observe(processed)
        self.padding_size.observe(processed - size, str(processed))

    def value(self, name: str) -> int | None:
        """Return the sum of a counter or gauge over its labels; 0 for a histogram, None for an unknown name.

        Names are those in TensorFlow Serving's source, such as "/tensorflow/serving/request_count".
        """
        metric = self._all.get(name)
        if metric is None:
            return None
        return metric.value() if isinstance(metric, Counter) else 0

    def latency(self, model: str) -> Latency:
        """Return the latencies of a model's successful requests since the server started."""
        cells = [cell for labels, cell in self.request_latency.cells().items() if labels[0] == model]
        counts = [int(sum(column)) for column in zip(*cells, strict=True)][:-1] or [0] * (len(MICROSECONDS) + 1)
        return Latency(MICROSECONDS, tuple(counts))

    def recent_counts(self, model: str) -> list[int]:
        """Return the number of a model's requests that ended in each of the last 60 whole seconds, oldest first."""
        return self._recent.counts(model)

    def uptime(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._start

    def in_flight(self, model: str) -> int:
        return self.requests_in_flight.cells().get((model,), 0)

    def text(self) -> str:
        """Return all metrics in Prometheus' text format; like TensorFlow Serving, with types but without help texts."""
        lines = []
        for name in sorted(self._all):
            lines.append(f"# TYPE {prometheus_name(name)} {self._all[name].kind}")
            lines += self._all[name].lines()
        return "\n".join(lines) + "\n"
