"""Test data in a SavedModel: a request for each signature, and the trained model's outputs for it.

`assets.extra/tf_serving_warmup_requests` holds the requests for TensorFlow Serving's warm-up, which replays them before
it serves a version: one PredictionLog per signature. A `classify` signature is warmed up by Predict too: the Classify
RPC runs the same graph, inputs and outputs.

`assets.extra/golden_answers` holds requests and outputs in a format that TensorFlow alone can read: a TFRecord of
tf.train.Example, one per signature, with the features `signature`, `inputs/NAME` and `outputs/NAME`; tensors are
serialized TensorProtos. `verify` compares with them, on any machine.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

GOLDEN = "golden_answers"
WARMUP = "tf_serving_warmup_requests"
METHODS = {"classify": "tensorflow/serving/classify"}  # those that are not Predict

Requests = Mapping[str, Mapping[str, np.ndarray]]


def record(signatures: Mapping[str, Callable], requests: Requests, extra: Path) -> None:
    """Run the requests {signature: {input: array}} in this process; write them with and without the outputs."""
    with tf.io.TFRecordWriter(str(extra / GOLDEN)) as file:
        for signature, inputs in requests.items():
            outputs = signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
            features = {"signature": signature.encode()}
            for side, tensors in (("inputs", inputs), ("outputs", outputs)):
                for name, value in tensors.items():
                    features[f"{side}/{name}"] = tf.make_tensor_proto(value).SerializeToString()
            file.write(make_example(features).SerializeToString(deterministic=True))
    write_warm_up(requests, extra)


def make_example(features: Mapping[str, bytes]) -> tf.train.Example:
    proto = tf.train.Example()
    for name, value in features.items():
        proto.features.feature[name].bytes_list.value.append(value)
    return proto


def write_warm_up(requests: Requests, extra: Path) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    with tf.io.TFRecordWriter(str(extra / WARMUP)) as file:
        for signature, inputs in requests.items():
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.model_spec.signature_name = signature
            for name, value in inputs.items():
                log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            file.write(log.SerializeToString())


def complete_signatures(path: Path, defaults: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to saved_model.pb the fields that `tf.saved_model.save` cannot set.

    Signatures for the Classify RPC get its method name instead of Predict's. Optional inputs get default values
    (SignatureDef.defaults).

    Args:
        defaults: {signature: {input: array}}.
    """
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for graph in model.meta_graphs:
        for name, definition in graph.signature_def.items():
            definition.method_name = METHODS.get(name, definition.method_name)
            for key, value in defaults.get(name, {}).items():
                definition.defaults[key].CopyFrom(tf.make_tensor_proto(value))
    file.write_bytes(model.SerializeToString(deterministic=True))
    write_fingerprint(str(path))  # fingerprint.pb holds hashes of the file


def signature_table(path: Path) -> dict[str, Any]:
    """-> {signature: {"method", "inputs": {name: {"dtype", "shape"}}, "outputs"}} of a SavedModel; -1 = free."""
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]

    def describe(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {"dtype": tf.as_dtype(info.dtype).name, "shape": [size.size for size in info.tensor_shape.dim]}
            for name, info in sorted(tensors.items())
        }

    return {
        name: {
            "method": definition.method_name,
            "inputs": describe(definition.inputs),
            "outputs": describe(definition.outputs),
        }
        for name, definition in sorted(graph.signature_def.items())
        if name != "__saved_model_init_op"
    }
