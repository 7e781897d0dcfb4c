"""Small SavedModels for the tests of serving/, and helpers to start and await servers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 300.0  # importing TensorFlow is slow on a busy machine
IDENTITIES = ("float64", "int8", "int16", "int32", "uint8", "uint32", "uint64", "bool", "float16")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until a condition becomes true, through other threads or processes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.02)


def build_example(path: Path) -> None:
    """Export a SavedModel with many kinds of signatures."""
    import tensorflow as tf

    def spec(dtype: str, name: str, shape: tuple[int | None, ...] = (None,)) -> tf.TensorSpec:
        return tf.TensorSpec(shape, dtype, name)

    weights = tf.constant([[0.1, 1.0, -2.0], [3.0, 1e-7, 12345678.0]])
    functions = {
        "serving_default": (lambda x: {"y": x / 2 + 2}, [spec("float32", "x")]),
        "matrix": (lambda x: {"y": x @ weights}, [spec("float32", "x", (None, 2))]),
        "text": (
            lambda text: {"upper": tf.strings.upper(text), "raw_bytes": tf.strings.join([text, b"\xff\x00"])},
            [spec("string", "text")],
        ),
        "upper": (lambda text: {"upper": tf.strings.upper(text)}, [spec("string", "text")]),
        "pair": (
            lambda a, b: {"sum": a + tf.cast(b, "float32"), "product": a * tf.cast(b, "float32")},
            [spec("float32", "a"), spec("int32", "b")],
        ),
        "doubled": (lambda n: {"doubled": n * 2}, [spec("int64", "n")]),
        "total": (lambda x: {"total": tf.reduce_sum(x)}, [spec("float32", "x")]),
        "uneven": (lambda x: {"p": x, "q": x[:1]}, [spec("float32", "x")]),
        "empty": (lambda x: {"y": tf.zeros([tf.size(x) - 1, 3])}, [spec("float32", "x")]),
        "put": (_enqueue, [spec("float32", "x")]),
        "take": (_dequeue, [spec("float32", "x")]),
        "check": (_check_length, [spec("string", "text")]),
        "classify": (_classify, [spec("string", "inputs")]),
        "regress": (_regress, [spec("string", "inputs")]),
        "stream": (
            _count_calls,
            [spec("string", "word"), spec("float32", "step"), spec("float32", "state", (None, 2))],
        ),
    }
    for dtype in IDENTITIES:
        functions[f"identity_{dtype}"] = (lambda x: {"y": tf.identity(x)}, [spec(dtype, "x", (None, 2))])
    module = tf.Module()
    signatures = {name: tf.function(f, input_signature=specs) for name, (f, specs) in functions.items()}
    tf.saved_model.save(module, str(path), signatures=signatures)


def _queue():
    import tensorflow as tf

    return tf.raw_ops.FIFOQueueV2(component_types=[tf.float32], shared_name="between_requests")


def _enqueue(x):
    import tensorflow as tf

    with tf.control_dependencies([tf.raw_ops.QueueEnqueueV2(handle=_queue(), components=[x])]):
        return {"y": tf.identity(x)}


def _dequeue(x):
    """Wait until another request puts a value into the queue."""
    import tensorflow as tf

    return {"y": x + tf.raw_ops.QueueDequeueV2(handle=_queue(), component_types=[tf.float32])[0]}


def _check_length(text):
    import tensorflow as tf

    valid = tf.reduce_all(tf.strings.length(text) > 0)
    with tf.control_dependencies([tf.debugging.Assert(valid, ["empty text is not allowed"])]):
        return {"length": tf.strings.length(text)}


def _parse(examples):
    """Parse the features x (two numbers), n (default: 0) and word (default: "none")."""
    import tensorflow as tf

    features = {
        "x": tf.io.FixedLenFeature([2], tf.float32),
        "n": tf.io.FixedLenFeature([], tf.int64, 0),
        "word": tf.io.FixedLenFeature([], tf.string, "none"),
    }
    parsed = tf.io.parse_example(examples, features)
    return parsed["x"], parsed["n"], parsed["word"]


def _classify(inputs):
    """Return the classes `word` and "other" with the scores x."""
    import tensorflow as tf

    x, _, word = _parse(inputs)
    return {"classes": tf.stack([word, tf.fill(tf.shape(word), "other")], axis=1), "scores": x}


def _regress(inputs):
    """Return x[0] + x[1] + n."""
    import tensorflow as tf

    x, n, _ = _parse(inputs)
    return {"outputs": tf.reduce_sum(x, axis=1) + tf.cast(n, "float32")}


def _count_calls(word, step, state):
    """Append the number of the call to the word, and sum `step` over the previous calls; state is [calls, sum]."""
    import tensorflow as tf

    calls = tf.strings.as_string(tf.cast(state[:, 0], "int32"))
    new_state = state + tf.stack([tf.ones_like(step), step], axis=1)
    return {"text": tf.strings.join([word, calls]), "total": state[:, 1], "state": new_state}


def build_number(path: Path, number: float) -> None:
    """Export a SavedModel that returns `number`, which shows the version that ran."""
    import tensorflow as tf

    function = tf.function(lambda x: {"y": x * 0 + number}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(tf.Module(), str(path), signatures={"serving_default": function})


def add_warmup(path: Path, signature: str, **inputs: object) -> None:
    """Add one PredictRequest to the warm-up records of a SavedModel."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    record = prediction_log_pb2.PredictionLog()
    record.predict_log.request.model_spec.name = "example"
    record.predict_log.request.model_spec.signature_name = signature
    for name, value in inputs.items():
        record.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    extra = path / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        writer.write(record.SerializeToString())


@dataclass(frozen=True)
class Store:
    """SavedModels of which tests copy versions."""

    path: Path

    @property
    def example(self) -> Path:
        return self.path / "example"

    def number(self, number: int) -> Path:
        return self.path / f"number_{number}"

    def publish(self, source: Path, base_path: Path, version: int) -> Path:
        """Copy a version into a base path by a rename, so that a server never sees an incomplete version."""
        base_path.mkdir(parents=True, exist_ok=True)
        temporary = base_path / f"temporary-{version}"
        shutil.copytree(source, temporary)
        return temporary.rename(base_path / str(version))


@dataclass(frozen=True)
class Server:
    """A running server process."""

    process: subprocess.Popen
    grpc: str
    rest: str
    models: Path
    log: Path


CONFIG = """
model_config_list {{
  config {{
    name: "example" base_path: "{models}/example" model_platform: "tensorflow" model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "gone" value: 9 }}
  }}
  config {{ name: "number" base_path: "{models}/number" model_platform: "tensorflow" }}
}}
"""


def build_heads(path: Path) -> None:
    """Export a SavedModel like TensorFlow 1: signatures for Classify, Regress and Predict on one graph.

    An example has the feature `x`, a number; the classes are "low" and "high", with scores -x and x.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], "examples")
        others = v1.placeholder(tf.string, [None], "others")
        number = v1.placeholder(tf.float32, [None], "number")
        x = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        y = tf.io.parse_example(others, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        scores = tf.stack([-x, x], axis=1)
        classes = tf.tile([["low", "high"]], [tf.size(x), 1])
        heads: dict[str, tuple[str, dict, dict]] = {
            "serving_default": ("classify", {"inputs": examples}, {"classes": classes, "scores": scores}),
            "labels": ("classify", {"inputs": examples}, {"classes": classes}),
            "scores": ("classify", {"inputs": examples}, {"scores": scores}),
            "value": ("regress", {"inputs": examples}, {"outputs": x}),
            "column": ("regress", {"inputs": examples}, {"outputs": tf.expand_dims(2 * x, 1)}),
            "other": ("regress", {"inputs": others}, {"outputs": 10 * y}),
            "number": ("predict", {"number": number}, {"half": number / 2}),
            "two_inputs": ("classify", {"inputs": examples, "more": others}, {"scores": scores}),
            "three_outputs": ("classify", {"inputs": examples}, {"classes": classes, "scores": scores, "x": x}),
            "misnamed_input": ("classify", {"texts": examples}, {"scores": scores}),
            "misnamed_output": ("classify", {"inputs": examples}, {"probabilities": scores}),
            "no_strings": ("classify", {"inputs": number}, {"scores": tf.expand_dims(number, 1)}),
            "flat": ("classify", {"inputs": examples}, {"scores": x}),
            "number_classes": ("classify", {"inputs": examples}, {"classes": scores}),
            "double_scores": ("classify", {"inputs": examples}, {"scores": tf.cast(scores, tf.float64)}),
            "short": ("classify", {"inputs": examples}, {"scores": scores[1:]}),
            "uneven": ("classify", {"inputs": examples}, {"classes": classes, "scores": scores[:, 1:]}),
            "wide": ("regress", {"inputs": examples}, {"outputs": scores}),
            "short_value": ("regress", {"inputs": examples}, {"outputs": x[1:]}),
            "integer_value": ("regress", {"inputs": examples}, {"outputs": tf.cast(x, tf.int32)}),
        }
        signatures = {
            name: v1.saved_model.signature_def_utils.build_signature_def(
                {alias: v1.saved_model.build_tensor_info(tensor) for alias, tensor in inputs.items()},
                {alias: v1.saved_model.build_tensor_info(tensor) for alias, tensor in outputs.items()},
                f"tensorflow/serving/{method}",
            )
            for name, (method, inputs, outputs) in heads.items()
        }
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def example_of(**features: float | int | bytes) -> object:
    """Return a tf.Example with one value per feature."""
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.float_list.value.append(value)
    return example


def run_call(servable: object, call: object) -> object:
    """Run a call in this thread and return its response."""
    return call.finish(servable.run(call.feeds, call.fetches))
