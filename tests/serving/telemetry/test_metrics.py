"""Metrics of the server, and their text for Prometheus."""

from __future__ import annotations

import re
import sys
import threading
from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.telemetry.instruments import MAX_CELLS, MAX_LABEL_LENGTH, OTHER_LABEL, Counter, Histogram
from serving.telemetry.metrics import Metrics
from serving.telemetry.traffic import Latency

# The upper bounds in microseconds, as TensorFlow Serving prints them.
LIMITS = """
10 18 32.4 58.32 104.976 188.957 340.122 612.22 1102 1983.59 3570.47 6426.84 11568.3 20823 37481.3 67466.4 121440 218591
393464 708235 1.27482e+06 2.29468e+06 4.13043e+06 7.43477e+06 1.33826e+07 2.40887e+07 4.33596e+07 7.80473e+07
1.40485e+08 2.52873e+08 4.55172e+08 8.19309e+08 1.47476e+09 +Inf
"""
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\} (\S+)')
PAIR = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Parse a text in Prometheus' format, in which every line must be valid, to {(name, labels): value}."""
    assert text.endswith("\n")
    found, types = {}, {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("#"):
            _, word, name, kind = line.split(" ")
            assert word == "TYPE" and kind in ("counter", "gauge", "histogram") and name not in types
            types[name] = kind
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name, labels, value = match.groups()
        family = name if name in types else re.sub("_(bucket|sum|count)$", "", name)
        assert family == list(types)[-1], "samples follow the type of their metric"
        pairs = PAIR.findall(labels)
        key = name, tuple((label, re.sub(r"\\.", lambda m: ESCAPES[m[0]], text)) for label, text in pairs)
        assert key not in found
        found[key] = float(value)
    return found


def value_of(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics.text()).get((name, tuple(labels.items())))


def test_text_has_tensorflow_servings_format():
    metrics = Metrics()
    metrics.record_request("half", "Predict", "GRPC", "OK", 1102.3)
    metrics.record_request("half", "Predict", "GRPC", "OK", 1234567)
    lines = metrics.text().splitlines()
    name, labels = ":tensorflow:serving:request_latency", 'model_name="half",API="Predict",entrypoint="GRPC"'
    start = lines.index(f"# TYPE {name} histogram")
    counts = [0] * 9 + [1] * 11 + [2] * 14
    expected = [f'{name}_bucket{{{labels},le="{limit}"}} {n}' for limit, n in zip(LIMITS.split(), counts, strict=True)]
    expected += [f"{name}_sum{{{labels}}} 1.23567e+06", f"{name}_count{{{labels}}} 2"]
    assert lines[start + 1 : start + 37] == expected
    assert lines[start + 37].startswith("# TYPE")
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"} 2' in lines
    assert not any(line.startswith("# HELP") for line in lines)


def test_empty_metrics_have_only_a_type():
    lines = Metrics().text().splitlines()
    assert lines == sorted(lines) and all(line.startswith("# TYPE ") for line in lines)
    assert "# TYPE :tensorflow:serving:batching_session:wrapped_run_count counter" in lines
    assert "# TYPE :tensorflow:cc:saved_model:load_attempt_count counter" in lines


def test_latency_covers_successes_and_count_covers_all():
    metrics = Metrics()
    for code, entrypoint in [("OK", "REST"), ("OK", "GRPC"), ("NOT_FOUND", "REST"), ("INTERNAL", "GRPC")]:
        metrics.record_request("m", "Classify", entrypoint, code, 50)
    for code in ("OK", "NOT_FOUND", "INTERNAL"):
        expected = 2 if code == "OK" else 1
        assert value_of(metrics, ":tensorflow:serving:request_count", model_name="m", status=code) == expected
    count = ":tensorflow:serving:request_latency_count"
    assert value_of(metrics, count, model_name="m", API="classify", entrypoint="REST") == 1
    assert value_of(metrics, count, model_name="m", API="Classify", entrypoint="GRPC") == 1
    assert metrics.latency("m").count == 2 and metrics.latency("other").count == 0


@pytest.mark.parametrize(
    ("api", "load"), [("MultiInference", 1), ("stream", 1), ("GetModelMetadata", 0), ("GetModelStatus", 0)]
)
def test_uncounted_methods_may_be_load(api, load):
    now = [100.0]
    metrics = Metrics(lambda: now[0])
    metrics.record_request("m", api, "GRPC", "OK", 50)
    now[0] += 1
    assert metrics.recent_counts("m")[-1] == load
    assert not samples(metrics.text())


def test_other_metrics_of_tensorflow_serving():
    metrics = Metrics()
    metrics.record_run("m", "Predict", 90)
    metrics.record_graph_run(90)
    metrics.record_examples("m", 3)
    metrics.record_examples("m", 1)
    metrics.record_warmup("/m/1", "OK", 5000, 2)
    metrics.record_load("/m/1", "OK", 7000.9)
    metrics.record_load("/m/1", "NOT_FOUND: no such file", 10)
    metrics.record_batch([150, 90], 3, 4, [1, 2])
    expected = {
        ("serving:runtime_latency_count", "m", "Predict", "TF1"): 1,
        ("core:graph_runs",): 1,
        ("core:direct_session_runs",): 1,
        ("core:graph_run_time_usecs",): 90,
        ("core:graph_run_time_usecs_histogram_count",): 1,
        ("serving:request_example_count_total", "m"): 4,
        ("serving:request_example_counts_count", "m"): 2,
        ("serving:request_example_counts_bucket", "m", "1"): 0,  # TensorFlow counts a bound in the bucket above it
        ("serving:request_example_counts_bucket", "m", "2"): 1,
        ("serving:request_example_counts_bucket", "m", "16384"): 2,
        ("serving:model_warmup_latency_count", "/m/1", "OK"): 1,
        ("serving:model_warmup_records_read", "/m/1"): 2,
        ("cc:saved_model:load_attempt_count", "/m/1", "success"): 1,
        ("cc:saved_model:load_attempt_count", "/m/1", "fail"): 1,
        ("cc:saved_model:load_latency", "/m/1"): 7010,
        ("serving:batching_session:queuing_latency_count", "batch_threads"): 2,
        ("serving:batching_session:queuing_latency_bucket", "batch_threads", "100"): 1,
        ("serving:batching_session:wrapped_run_count",): 1,
        ("serving:batching_session:input_batch_size_sum",): 3,
        ("serving:batching_session:input_batch_size_count",): 2,
        ("serving:batching_session:processed_batch_size_sum",): 4,
        ("serving:batching_session:padding_size_sum", "4"): 1,
    }
    found = {
        (name.removeprefix(":tensorflow:"), *(v for _, v in labels)): n
        for (name, labels), n in samples(metrics.text()).items()
    }
    assert {key: found.get(key) for key in expected} == expected


def test_warm_up_without_records_is_not_recorded():
    metrics = Metrics()
    metrics.record_warmup("/m/1", "OK", 20, 0)
    assert not samples(metrics.text())
    metrics.record_warmup("/m/1", "DATA_LOSS: damaged", 20, 0)
    labels = {"model_path": "/m/1", "status": "DATA_LOSS: damaged"}
    assert value_of(metrics, ":tensorflow:serving:model_warmup_latency_count", **labels) == 1


@given(st.lists(st.floats(0, 1e12), max_size=40))
def test_buckets_count_values_below_their_bound(values):
    histogram = Histogram("/a", (1.0, 10.0, 1e6))
    for value in values:
        histogram.observe(value)
    lines = list(histogram.lines())
    if not values:
        assert not lines
        return
    counts = [int(line.rpartition(" ")[2]) for line in lines[:4]]
    assert counts == [sum(value < bound for value in values) for bound in (1, 10, 1e6)] + [len(values)]
    assert float(lines[4].rpartition(" ")[2]) == pytest.approx(sum(values), rel=1e-5)


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_name_can_be_read_back(name):
    metrics = Metrics()
    metrics.record_request(name, "Predict", "REST", "NOT_FOUND", 1)
    text = metrics.text()
    [((_, labels), value)] = samples(text.encode().decode()).items()
    assert value == 1
    assert dict(labels)["model_name"] == name.encode("utf-8", "replace").decode()


def test_names_with_the_same_export_share_a_cell():
    metrics = Metrics()
    for name in ("?", "\ud800", "\udfff"):
        metrics.record_request(name, "Predict", "REST", "OK", 1)
    assert value_of(metrics, ":tensorflow:serving:request_count", model_name="?", status="OK") == 3


def test_client_chosen_names_use_bounded_memory():
    metrics = Metrics()
    for number in range(MAX_CELLS + 50):
        metrics.record_request(f"{number:06}" + "x" * 1000, "Predict", "REST", "NOT_FOUND", 1)
    cells = metrics.request_count.cells()
    assert len(cells) == MAX_CELLS + 1
    assert cells[OTHER_LABEL, OTHER_LABEL] == 50
    assert max(len(label) for labels in cells for label in labels) == MAX_LABEL_LENGTH
    assert metrics.value("/tensorflow/serving/request_count") == MAX_CELLS + 50
    metrics.record_request(f"{7:06}" + "x" * 1000, "Predict", "REST", "NOT_FOUND", 1)
    assert metrics.request_count.cells()[OTHER_LABEL, OTHER_LABEL] == 50, "existing names are still counted"


class Interruptible(str):
    """A label whose hash is a Python function, so that Python may switch threads during a dictionary look-up."""

    def __hash__(self) -> int:
        return hash(str(self))


def test_no_count_is_lost_between_threads():
    counter, histogram = Counter("/a", "label"), Histogram("/b", (1.0, 2.0), "label")

    def work(label: str) -> None:
        for _ in range(5_000):
            counter.add(1, Interruptible(label))
            histogram.observe(1.5, label)

    threads = [threading.Thread(target=work, args=(label,)) for label in "aabb"]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counter.cells() == {("a",): 10_000, ("b",): 10_000}
    assert histogram.cells() == {(label,): [0, 10_000, 0, 15_000.0] for label in "ab"}


def test_value_sums_over_labels():
    metrics = Metrics()
    metrics.record_request("a", "Predict", "REST", "OK", 1)
    metrics.record_request("b", "Predict", "REST", "NOT_FOUND", 1)
    assert metrics.value("/tensorflow/serving/request_count") == 2
    assert metrics.value("/tensorflow/serving/request_latency") == 0, "a histogram has no single value"
    assert metrics.value("/tensorflow/serving/unknown") is None


def test_requests_in_flight():
    metrics = Metrics()
    metrics.request_started("a")
    metrics.request_started("a")
    metrics.request_finished("a")
    assert metrics.in_flight("a") == 1 and metrics.in_flight("b") == 0
    assert value_of(metrics, ":serving:requests_in_flight", model_name="a") == 1
    assert "# TYPE :serving:requests_in_flight gauge" in metrics.text()


def test_recent_counts_cover_the_last_minute():
    now = [1000.0]
    metrics = Metrics(lambda: now[0])
    for second, count in [(1000, 1), (1001, 2), (1030, 4), (1059, 8), (1060, 16)]:
        now[0] = second + 0.5
        for _ in range(count):
            metrics.record_request("m", "Predict", "REST", "OK", 1)
    recent = metrics.recent_counts("m")
    assert len(recent) == 60
    assert (recent[0], recent[1], recent[30], recent[59]) == (1, 2, 4, 8), "the current second has not ended"
    assert sum(recent) == 15
    now[0] = 1062
    assert sum(metrics.recent_counts("m")) == 4 + 8 + 16
    now[0] = 2000
    assert sum(metrics.recent_counts("m")) == 0
    assert metrics.recent_counts("unknown") == [0] * 60


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 1e9), min_size=1, max_size=60), st.floats(0.01, 1))
def test_quantile_lies_in_the_bucket_of_the_exact_value(values, fraction):
    metrics = Metrics()
    for value in values:
        metrics.record_request("m", "Predict", "GRPC", "OK", value)
    latency = metrics.latency("m")
    estimate = latency.quantile(fraction)
    # The smallest value that is not less than this fraction of the values.
    exact = next(v for n, v in enumerate(sorted(values), 1) if n >= fraction * len(values))
    index = bisect_right(latency.bounds, exact)
    low = latency.bounds[index - 1] if index else 0
    assert low <= estimate <= latency.bounds[index]


def test_quantiles_without_requests_and_above_all_bounds():
    assert Latency((10.0,), (0, 0)).quantile(0.5) is None
    assert Latency((10.0,), (0, 3)).quantile(0.5) == 10.0
