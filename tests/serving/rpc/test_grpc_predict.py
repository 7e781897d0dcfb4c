"""gRPC Predict: TensorFlow Serving's codes and texts, and the fields of its responses."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(inputs, signature="", version=1, outputs=(), name="example"):
    message = predict_pb2.PredictRequest(output_filter=outputs)
    message.model_spec.name = name
    message.model_spec.signature_name = signature
    if version:
        message.model_spec.version.value = version
    for alias, value in inputs.items():
        message.inputs[alias].CopyFrom(value if isinstance(value, TensorProto) else tf.make_tensor_proto(value))
    return message


FLOATS = tf.make_tensor_proto([1.0], tf.float32)
INTS = tf.make_tensor_proto([1], tf.int32)
PAIR = {"a": FLOATS, "b": INTS}
ERRORS = [
    (
        request({"x": FLOATS}, "nope"),
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    ),
    (
        request({"x": FLOATS, "z": FLOATS}),
        "INVALID_ARGUMENT",
        (
            "input size does not match signature: 2!=1 len({x,z}) != len({x}). "
            "Sent extra: {z}. Missing but required: {}."
        ),
    ),
    (
        request({"a": FLOATS}, "pair"),
        "INVALID_ARGUMENT",
        (
            "input size does not match signature: 1!=2 len({a}) != len({a,b}). "
            "Sent extra: {}. Missing but required: {b}."
        ),
    ),
    (
        request({"z": FLOATS}),
        "INVALID_ARGUMENT",
        (
            "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value "
            "provided. Inputs expected to be in the request {z}, or default input alias set: "
        ),
    ),
    (request({"x": TensorProto(dtype=0)}), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (
        request({"x": TensorProto(dtype=1, tensor_shape=FLOATS.tensor_shape, tensor_content=b"abc")}),
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
    (
        request({"x": FLOATS}, outputs=["q"]),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: q Outputs expected to be in the set {y}.",
    ),
    (
        request(PAIR, "pair", outputs=["sum", "sum"]),
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: sum",
    ),
    (request({"x": INTS}), "INVALID_ARGUMENT", "Expects arg[0] to be float but int32 is provided"),
    (
        request({"a": FLOATS, "b": FLOATS}, "pair"),
        "INVALID_ARGUMENT",
        "Expects arg[1] to be int32 but float is provided",
    ),
    (request({"x": FLOATS}, name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (
        request({"x": FLOATS}, name="nothing", version=None),
        "NOT_FOUND",
        "Servable not found for request: Latest(nothing)",
    ),
    (request({"x": FLOATS}, version=7), "NOT_FOUND", "Servable not found for request: Specific(example, 7)"),
    (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
]


@pytest.mark.parametrize(("message", "code", "text"), ERRORS, ids=lambda value: str(value)[:40])
def test_codes_and_texts(stub, message, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message, timeout=60)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


@pytest.mark.parametrize(
    ("label", "code", "text"),
    [
        ("unknown", "INVALID_ARGUMENT", "Unrecognized servable version label: unknown"),
        ("gone", "NOT_FOUND", "Servable not found for request: Specific(example, 9)"),
    ],
)
def test_invalid_labels(stub, label, code, text):
    message = request({"x": FLOATS}, version=None)
    message.model_spec.version_label = label
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message, timeout=60)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


def test_graph_errors_are_returned(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request({"text": ["a", ""]}, "check"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("assertion failed: [empty text is not allowed]")


def test_shapes_are_checked_by_the_graph(stub):
    """They are not checked against the signature: [-1] accepts a scalar, and a wrong matrix fails in MatMul."""
    response = stub.Predict(request({"x": tf.make_tensor_proto(np.float32(1))}), timeout=60)
    assert tf.make_ndarray(response.outputs["y"]) == np.float32(2.5)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request({"x": np.ones((1, 3), np.float32)}, "matrix"), timeout=60)
    assert "Matrix size-incompatible" in caught.value.details()


def test_long_errors_are_cut(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request({"x": FLOATS}, "s" * 2000), timeout=60)
    assert caught.value.details().endswith("...TRUNCATED")


def test_fields_of_the_response(stub):
    message = request({"x": FLOATS}, version=None)
    message.model_spec.version_label = "stable"
    response = stub.Predict(message, timeout=60)
    assert response.outputs["y"].float_val == [2.5]
    assert response.outputs["y"].tensor_content == b""
    assert response.model_spec.name == "example"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version_label == ""


def test_output_filter(stub):
    response = stub.Predict(request(PAIR, "pair", outputs=["product"]), timeout=60)
    assert list(response.outputs) == ["product"]


def test_short_value_lists_repeat_their_last_value(stub):
    shape = tf.TensorShape([3]).as_proto()
    response = stub.Predict(request({"x": TensorProto(dtype=1, tensor_shape=shape, float_val=[2, 4])}), timeout=60)
    assert response.outputs["y"].float_val == [3.0, 4.0, 4.0]
