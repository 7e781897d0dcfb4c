"""Checks an exported SavedModel as a stranger would: with TensorFlow and nothing else.

    python verify.py SAVED_MODEL [--json]

`python -m kerasnets.export` runs this file in a process of its own. It runs on any machine that has TensorFlow 2.20 or
newer, with the list of operations beside it. It loads the model, runs the requests that lie in the SavedModel, compares
the answers with those of the trained model, takes the time of each signature, and looks for operations that TensorFlow
2.20 does not have, the newest release that TensorFlow Serving's image is built on. It prints a table, or with --json
the report as one JSON object; exit status 1 if anything is wrong.

The report:
    tensorflow: version; cpus: how many the machine has.
    signatures: {name: {"examples": rows of the recorded request, "difference": {output: a number (`difference`) or what
        else differs}, "latency": of requests of one row {"calls", "p50", "p99"}, milliseconds}}.
    batches: of `serving_default`, by rows a request: [{"rows", "calls", "p50", "p99"}].
    unknown_operations, failures: what is wrong, a sentence each.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TOLERANCE = 1e-4  # of float answers; strings and integers must be equal
OPERATIONS = Path(__file__).with_name("tensorflow_2_20_operations.txt")
GOLDEN = Path("assets.extra", "golden_answers")
# What a measurement of latency may take: about 2 s of an export's time for a model of five signatures that are fast.
SECONDS, FEWEST_CALLS, MOST_CALLS = 0.25, 3, 300
ROWS = (1, 2, 4, 8, 16, 32, 64)
LONGEST_BATCH = 1.0  # seconds; larger ones are not tried

Tensors = dict[str, Any]


def main(arguments: list[str]) -> int:
    paths = [argument for argument in arguments if argument != "--json"]
    if len(paths) != 1 or not Path(paths[0], GOLDEN).exists():
        print(
            f"usage: python verify.py SAVED_MODEL [--json]; SAVED_MODEL is a directory with {GOLDEN}", file=sys.stderr
        )
        return 2
    if not OPERATIONS.exists():
        print(f"there is no {OPERATIONS}; put it there, from where this program comes", file=sys.stderr)
        return 2
    # Whoever tries to import them gets an ImportError. TensorFlow does without Keras, and is imported in half the time.
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
        answers = {key: value.numpy() for key, value in call(signatures[name], inputs).items()}
        report["signatures"][name] = {
            "examples": len(next(iter(inputs.values()))),
            "difference": differences(recorded, answers),
            "latency": latency(signatures[name], take(inputs, 1)),
        }
        if name == "serving_default":
            report["batches"] = batches(signatures[name], inputs)
    report["unknown_operations"] = unknown_operations(path)
    report["failures"] = failures(report, signatures)
    return report


def golden_answers(path: Path) -> list[tuple[str, Tensors, Tensors]]:
    """-> of each signature its name, the recorded inputs and the answers to them (written by `recording.py`)."""
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    found = []
    for record in tf.data.TFRecordDataset(str(path / GOLDEN)).as_numpy_iterator():
        features = {k: v.bytes_list.value[0] for k, v in tf.train.Example.FromString(record).features.feature.items()}
        sides: dict[str, Tensors] = {"inputs": {}, "outputs": {}}
        name = features.pop("signature").decode()
        for key, value in features.items():
            side, _, tensor = key.partition("/")
            sides[side][tensor] = tf.make_ndarray(tensor_pb2.TensorProto.FromString(value))
        found.append((name, sides["inputs"], sides["outputs"]))
    return found


def call(signature: Any, inputs: Tensors) -> Tensors:
    import tensorflow as tf

    return signature(**{name: tf.constant(value) for name, value in inputs.items()})


def take(inputs: Tensors, rows: int) -> Tensors:
    """-> inputs of so many rows: the recorded ones, over and over."""
    return {name: value[[n % len(value) for n in range(rows)]] for name, value in inputs.items()}


def latency(signature: Any, inputs: Tensors) -> dict[str, float]:
    """-> how many calls were timed; their median and 99th percentile in milliseconds (of less than 100 calls, the
    slowest). The first call is not counted."""
    call(signature, inputs)
    seconds: list[float] = []
    while len(seconds) < FEWEST_CALLS or (sum(seconds) < SECONDS and len(seconds) < MOST_CALLS):
        began = time.perf_counter()
        call(signature, inputs)
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    p50, p99 = (round(1000 * seconds[int(len(seconds) * share)], 3) for share in (0.5, 0.99))
    return {"calls": len(seconds), "p50": p50, "p99": p99}


def batches(signature: Any, inputs: Tensors) -> list[dict[str, float]]:
    """-> the latency of requests of more and more rows."""
    measured: list[dict[str, float]] = []
    for rows in ROWS:
        if not measured or 2 * measured[-1]["p50"] < 1000 * LONGEST_BATCH:
            measured.append({"rows": rows, **latency(signature, take(inputs, rows))})
    return measured


def differences(recorded: Tensors, answers: Tensors) -> dict[str, float | str]:
    """-> the difference of each output."""
    return {
        key: difference(recorded[key], answers[key]) if key in recorded and key in answers else "being there or not"
        for key in sorted(recorded.keys() | answers.keys())
    }


def difference(recorded: Any, answer: Any) -> float | str:
    """-> of floats the largest |a - b| / max(1, |a|); of others how many elements are not equal."""
    if recorded.shape != answer.shape:
        return f"shape {list(answer.shape)} instead of {list(recorded.shape)}"
    if answer.dtype.kind in "fc":
        return float((abs(recorded - answer) / abs(recorded).clip(1)).max(initial=0))
    return int((recorded != answer).sum())


def unknown_operations(path: Path) -> list[str]:
    """-> the operations of the graph, its functions included, that TensorFlow 2.20 does not have."""
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
    """-> what is wrong, a sentence each."""
    found = [f"operation {name} is not in TensorFlow 2.20" for name in report["unknown_operations"]]
    for name in sorted(set(signatures) - set(report["signatures"]) - {"__saved_model_init_op"}):
        found.append(f"signature {name} has no recorded request")
    for name, result in report["signatures"].items():
        for output, value in result["difference"].items():
            if isinstance(value, str) or not value <= (TOLERANCE if isinstance(value, float) else 0):  # NaN too
                found.append(f"{name}: {output} differs from the answer at the export by {value}")
    return found


def table(report: dict[str, Any]) -> str:
    """-> the report for a reader."""
    lines = [f"TensorFlow {report['tensorflow']}, {report['cpus']} CPUs; one row a request, in milliseconds"]
    lines.append(f"  {'signature':18}{'examples':>9}{'differs by':>12}{'p50':>10}{'p99':>10}{'calls':>7}")
    for name, result in report["signatures"].items():
        numbers = [value for value in result["difference"].values() if not isinstance(value, str)]
        differs = f"{max(numbers, default=0):.1e}" if len(numbers) == len(result["difference"]) else "shape"
        time = result["latency"]
        lines.append(
            f"  {name:18}{result['examples']:>9}{differs:>12}{time['p50']:>10.2f}{time['p99']:>10.2f}{time['calls']:>7}"
        )
    rows = "  ".join(f"{batch['rows']}: {batch['p50']:.2f}" for batch in report["batches"])
    return "\n".join([*lines, f"  serving_default by rows a request: {rows}", *report["failures"]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
