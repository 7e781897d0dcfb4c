"""Checks an exported SavedModel as a stranger would: without kerasnets.

Run as a file (`python kerasnets/verify.py SAVED_MODEL`) by `python -m kerasnets.export`, in a process of its own: it
loads the model with TensorFlow alone, replays the recorded requests, compares the answers with those recorded at the
export, and looks for operations that TensorFlow 2.20 does not have, the newest release that TensorFlow Serving's image
is built on. Prints one JSON object; exit status 1 if anything differs.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TOLERANCE = 1e-4  # of float answers; strings and integers must be equal
REPEATS = 5
OPERATIONS = Path(__file__).with_name("tensorflow_2_20_operations.txt")
WARMUP = Path("assets.extra", "tf_serving_warmup_requests")


def main(path: Path) -> int:
    sys.modules["kerasnets"] = None  # type: ignore[assignment]  # whoever tries to import it gets an ImportError
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    report: dict[str, Any] = {"signatures": {}, "unknown_operations": unknown_operations(path)}
    for request, recorded in requests(path):
        name = request.model_spec.signature_name
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        answers, seconds = call(loaded.signatures[name], inputs)
        report["signatures"][name] = {
            "difference": differences({k: tf.make_ndarray(v) for k, v in recorded.outputs.items()}, answers),
            "milliseconds": round(1000 * sorted(seconds)[len(seconds) // 2], 2),
            "examples": int(next(iter(inputs.values())).shape[0]),
        }
    report["failures"] = failures(report, loaded.signatures)
    print(json.dumps(report))
    return 1 if report["failures"] else 0


def requests(path: Path) -> list[tuple[Any, Any]]:
    """-> the recorded requests and their answers."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    records = tf.data.TFRecordDataset(str(path / WARMUP)).as_numpy_iterator()
    logs = [prediction_log_pb2.PredictionLog.FromString(record).predict_log for record in records]
    return [(log.request, log.response) for log in logs]


def call(signature: Any, inputs: dict) -> tuple[dict, list[float]]:
    """-> the answers of the first call, and how long each of the later ones took."""
    answers, seconds = {key: value.numpy() for key, value in signature(**inputs).items()}, []
    for _ in range(REPEATS):
        began = time.perf_counter()
        signature(**inputs)
        seconds.append(time.perf_counter() - began)
    return answers, seconds


def differences(recorded: dict, answers: dict) -> dict[str, float | str]:
    """-> the difference of each output."""
    return {
        key: difference(recorded[key], answers[key]) if key in recorded and key in answers else "being there or not"
        for key in sorted(recorded.keys() | answers.keys())
    }


def difference(recorded: Any, answer: Any) -> float | str:
    """-> the largest difference of two arrays; strings differ by how many elements are not equal."""
    if recorded.shape != answer.shape:
        return f"shape {list(answer.shape)} instead of {list(recorded.shape)}"
    if answer.dtype.kind in "fc":
        return float(abs(recorded - answer).max(initial=0))
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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
