"""Check an exported SavedModel with TensorFlow alone, as on a machine without kerasnets.

    python verify.py SAVED_MODEL [--json]

`python -m kerasnets.export` runs this file in a separate process. It needs TensorFlow 2.20 or newer and the list of
operations in its own directory. It loads the model, runs the requests that are stored in the SavedModel, compares the
outputs with those of the trained model, measures the latency of each signature, and looks for operations that are
missing in TensorFlow 2.20, the newest release that TensorFlow Serving's image is built on. It prints a table, or with
--json the report as one JSON object; the exit status is 1 if a check fails.

The report:
    tensorflow: version; cpus: number of CPUs.
    signatures: {name: {"examples": rows of the recorded request, "difference": {output: a number or a text, see
        `difference`}, "latency": of requests of one row {"calls", "p50", "p99"}, milliseconds}}.
    batches: latency of `serving_default` by rows per request: [{"rows", "calls", "p50", "p99"}].
    unknown_operations: names of operations; failures: a sentence for each.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TOLERANCE = 1e-4  # for float outputs; strings and integers must be equal
OPERATIONS = Path(__file__).with_name("tensorflow_2_20_operations.txt")
GOLDEN = Path("assets.extra", "golden_answers")
# Bounds of one latency measurement: about 2 s of an export for a model with five fast signatures.
SECONDS, MIN_CALLS, MAX_CALLS = 0.25, 3, 300
ROWS = (1, 2, 4, 8, 16, 32, 64)
MAX_BATCH_SECONDS = 1.0  # slower batches are not measured

Tensors = dict[str, Any]


def main(arguments: list[str]) -> int:
    paths = [argument for argument in arguments if argument != "--json"]
    if len(paths) != 1 or not Path(paths[0], GOLDEN).exists():
        print(
            f"usage: python verify.py SAVED_MODEL [--json]; SAVED_MODEL is a directory with {GOLDEN}", file=sys.stderr
        )
        return 2
    if not OPERATIONS.exists():
        print(f"{OPERATIONS} is missing; copy it from kerasnets, as this program", file=sys.stderr)
        return 2
    # Importing these raises an ImportError. TensorFlow works without Keras, and its import takes half the time.
    for package in ("kerasnets", "tensorflow_serving", "keras"):
        sys.modules[package] = None  # type: ignore[assignment]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    report = verify(Path(paths[0]))
    print(json.dumps(report) if "--json" in arguments else table(report))
    return 1 if report["failures"] else 0


def verify(path: Path) -> dict[str, Any]:
    import tensorflow as tf

    report: dict[str, Any] = {"tensorflow": tf.__version__, "cpus": os.cpu_count(), "signatures": {}, "batches": []}
    signatures = tf.saved_model.load(str(path)).signatures
    for name, inputs, recorded in golden_answers(path):
        outputs = {key: value.numpy() for key, value in call(signatures[name], inputs).items()}
        report["signatures"][name] = {
            "examples": len(next(iter(inputs.values()))),
            "difference": differences(recorded, outputs),
            "latency": latency(signatures[name], with_rows(inputs, 1)),
        }
        if name == "serving_default":
            report["batches"] = batches(signatures[name], inputs)
    report["unknown_operations"] = unknown_operations(path)
    report["failures"] = failures(report, signatures)
    return report


def golden_answers(path: Path) -> list[tuple[str, Tensors, Tensors]]:
    """-> for each signature its name, the recorded inputs and the recorded outputs (written by `recording.py`)."""
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    answers = []
    for record in tf.data.TFRecordDataset(str(path / GOLDEN)).as_numpy_iterator():
        features = {k: v.bytes_list.value[0] for k, v in tf.train.Example.FromString(record).features.feature.items()}
        tensors: dict[str, Tensors] = {"inputs": {}, "outputs": {}}
        name = features.pop("signature").decode()
        for key, value in features.items():
            side, _, tensor_name = key.partition("/")
            tensors[side][tensor_name] = tf.make_ndarray(tensor_pb2.TensorProto.FromString(value))
        answers.append((name, tensors["inputs"], tensors["outputs"]))
    return answers


def call(signature: Any, inputs: Tensors) -> Tensors:
    import tensorflow as tf

    return signature(**{name: tf.constant(value) for name, value in inputs.items()})


def with_rows(inputs: Tensors, rows: int) -> Tensors:
    """-> inputs of `rows` rows: the recorded ones, repeated as needed."""
    return {name: value[[n % len(value) for n in range(rows)]] for name, value in inputs.items()}


def latency(signature: Any, inputs: Tensors) -> dict[str, float]:
    """-> the number of timed calls, their median and their 99th percentile (the slowest of fewer than 100 calls), in
    milliseconds. The first call is not counted."""
    call(signature, inputs)
    seconds: list[float] = []
    while len(seconds) < MIN_CALLS or (sum(seconds) < SECONDS and len(seconds) < MAX_CALLS):
        start = time.perf_counter()
        call(signature, inputs)
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    p50, p99 = (round(1000 * seconds[int(len(seconds) * fraction)], 3) for fraction in (0.5, 0.99))
    return {"calls": len(seconds), "p50": p50, "p99": p99}


def batches(signature: Any, inputs: Tensors) -> list[dict[str, float]]:
    """-> the latency of requests with increasing numbers of rows."""
    measured: list[dict[str, float]] = []
    for rows in ROWS:
        if not measured or 2 * measured[-1]["p50"] < 1000 * MAX_BATCH_SECONDS:
            measured.append({"rows": rows, **latency(signature, with_rows(inputs, rows))})
    return measured


def differences(recorded: Tensors, outputs: Tensors) -> dict[str, float | str]:
    """-> the difference of each output."""
    return {
        key: difference(recorded[key], outputs[key]) if key in recorded and key in outputs else "missing or unexpected"
        for key in sorted(recorded.keys() | outputs.keys())
    }


def difference(recorded: Any, output: Any) -> float | str:
    """-> for floats the largest |a - b| / max(1, |a|); for others the number of unequal elements; a text if the shapes
    differ."""
    if recorded.shape != output.shape:
        return f"shape {list(output.shape)} instead of {list(recorded.shape)}"
    if output.dtype.kind in "fc":
        return float((abs(recorded - output) / abs(recorded).clip(1)).max(initial=0))
    return int((recorded != output).sum())


def unknown_operations(path: Path) -> list[str]:
    """-> operations of the graph and its functions that are missing in TensorFlow 2.20."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    used: set[str] = set()
    functions: set[str] = set()
    for graph in model.meta_graphs:
        used |= {node.op for node in graph.graph_def.node}
        for function in graph.graph_def.library.function:
            functions.add(function.signature.name)
            used |= {node.op for node in function.node_def}
    return sorted(used - functions - set(OPERATIONS.read_text("utf-8").split()))


def failures(report: dict[str, Any], signatures: Any) -> list[str]:
    """-> a sentence for each failed check."""
    sentences = [f"operation {name} is not in TensorFlow 2.20" for name in report["unknown_operations"]]
    for name in sorted(set(signatures) - set(report["signatures"]) - {"__saved_model_init_op"}):
        sentences.append(f"signature {name} has no recorded request")
    for name, result in report["signatures"].items():
        for output, value in result["difference"].items():
            if isinstance(value, str) or not value <= (TOLERANCE if isinstance(value, float) else 0):  # NaN too
                sentences.append(f"{name}: {output} differs from the recorded output: {value}")
    return sentences


def table(report: dict[str, Any]) -> str:
    """-> the report as text."""
    lines = [f"TensorFlow {report['tensorflow']}, {report['cpus']} CPUs; one row per request, in milliseconds"]
    lines.append(f"  {'signature':18}{'examples':>9}{'difference':>12}{'p50':>10}{'p99':>10}{'calls':>7}")
    for name, result in report["signatures"].items():
        numbers = [value for value in result["difference"].values() if not isinstance(value, str)]
        largest = f"{max(numbers, default=0):.1e}" if len(numbers) == len(result["difference"]) else "shape"
        time = result["latency"]
        lines.append(
            f"  {name:18}{result['examples']:>9}{largest:>12}{time['p50']:>10.2f}{time['p99']:>10.2f}{time['calls']:>7}"
        )
    rows = "  ".join(f"{batch['rows']}: {batch['p50']:.2f}" for batch in report["batches"])
    return "\n".join([*lines, f"  serving_default by rows per request: {rows}", *report["failures"]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
