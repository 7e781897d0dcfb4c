"""Inputs and outputs that a TensorProto cannot represent: only their signatures are rejected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from page_helpers import Manager, Servable, visible_text
from serving_helpers import CONFIG, Server, example_of
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.client import Client, InvalidArgument
from serving.compare.__main__ import main as compare
from serving.engine.servable import Signature
from serving.status.page import page
from serving.telemetry.metrics import Metrics

TEXT = "a b"


def build(path: Path) -> None:
    """Export a SavedModel with composite inputs and outputs, and add signatures that only other tools write."""
    import tensorflow as tf

    def spec(dtype: str, name: str, shape: tuple[int | None, ...] = (None,)) -> tf.TensorSpec:
        return tf.TensorSpec(shape, dtype, name)

    functions = {
        "serving_default": (lambda text: {"words": tf.strings.split(text)}, [spec("string", "text")]),
        "count": (lambda text: {"n": tf.strings.length(text)}, [spec("string", "text")]),
        "both": (
            lambda text: {"words": tf.strings.split(text), "n": tf.strings.length(text)},
            [spec("string", "text")],
        ),
        "sparse": (lambda x: {"s": tf.sparse.from_dense(x)}, [spec("int32", "x", (None, None))]),
        "ragged_input": (
            lambda r: {"sums": tf.reduce_sum(r, axis=-1)},
            [tf.RaggedTensorSpec([None, None], tf.float32)],
        ),
        "no_input": (lambda: {"y": tf.constant([1.0, 2.0])}, []),
        "no_output": (lambda x: {}, [spec("float32", "x")]),
        "classify": (lambda inputs: {"scores": tf.sparse.from_dense([[1.0]])}, [spec("string", "inputs")]),
        "regress": (lambda inputs: {"outputs": tf.strings.split(inputs)}, [spec("string", "inputs")]),
        "stream": (
            lambda word, state: {"words": tf.strings.split(word), "state": state},
            [spec("string", "word"), spec("float32", "state")],
        ),
    }
    signatures = {name: tf.function(f, input_signature=specs) for name, (f, specs) in functions.items()}
    tf.saved_model.save(tf.Module(), str(path), signatures=signatures)
    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    add_unsendable_signatures(model.meta_graphs[0].signature_def)
    file.write_bytes(model.SerializeToString())


def add_unsendable_signatures(signatures: dict[str, meta_graph_pb2.SignatureDef]) -> None:
    """Add signatures that differ from `count` in one unsendable input or output."""
    names = "sparse_input variant_input unknown_input variant resource unknown nameless dangling odd"
    for name in names.split():
        signatures[name].CopyFrom(signatures["count"])
    signatures["sparse_input"].inputs["text"].coo_sparse.values_tensor_name = signatures["count"].inputs["text"].name
    signatures["sparse_input"].inputs["text"].dtype = types_pb2.DT_FLOAT
    signatures["variant_input"].inputs["text"].dtype = types_pb2.DT_VARIANT
    signatures["unknown_input"].inputs["text"].dtype = 999
    signatures["variant"].outputs["n"].dtype = types_pb2.DT_VARIANT
    signatures["resource"].outputs["n"].dtype = types_pb2.DT_RESOURCE
    signatures["unknown"].outputs["n"].dtype = 999
    signatures["nameless"].outputs["n"].name = ""
    signatures["dangling"].outputs["n"].name = "gone:0"
    signatures["odd"].outputs["n"].composite_tensor.type_spec.type_spec_class_name = "HandleSpec"


@pytest.fixture(scope="module")
def composite(server: Server) -> Iterator[Server]:
    """The shared server, which serves the model `composite` during these tests."""
    build(server.models / "composite" / "1")

    def reload(text: str) -> None:
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(text, request.config)
        with grpc.insecure_channel(server.grpc) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            stub.HandleReloadConfigRequest(request, timeout=300)

    config = CONFIG.format(models=server.models)
    entry = f'config {{ name: "composite" base_path: "{server.models}/composite" model_platform: "tensorflow" }} }}'
    reload(config.strip().removesuffix("}") + entry)
    yield server
    reload(config)
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(params=["grpc", "rest"])
def client(composite: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(getattr(composite, request.param)) as client:
        yield client


def test_sendable_signatures_work(client):
    np.testing.assert_equal(client.predict("composite", {"text": [TEXT, "c"]}, "count"), {"n": np.array([3, 1])})
    if not client.address.startswith("http"):  # TensorFlow Serving's REST API requires inputs
        np.testing.assert_equal(client.predict("composite", {}, "no_input"), {"y": np.array([1.0, 2.0])})


@pytest.mark.parametrize(
    ("signature", "alias", "reason"),
    [
        ("serving_default", "words", "a ragged tensor"),
        ("both", "words", "a ragged tensor"),
        ("variant", "n", "of type variant"),
        ("resource", "n", "of type resource"),
        ("unknown", "n", "of the unknown type 999"),
        ("nameless", "n", "without a tensor in the graph"),
        ("odd", "n", r"a composite tensor \(HandleSpec\)"),
    ],
)
def test_unsendable_outputs_are_rejected(client, signature, alias, reason):
    with pytest.raises(
        InvalidArgument, match=f'Output "{alias}" of signature "{signature}" is {reason}, which responses'
    ):
        client.predict("composite", {"text": [TEXT]}, signature)


def test_sparse_output_is_rejected(client):
    with pytest.raises(InvalidArgument, match='Output "s" of signature "sparse" is a sparse tensor'):
        client.predict("composite", {"x": [[0, 1]]}, "sparse")


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("sparse_input", "a sparse tensor"),
        ("variant_input", "of type variant"),
        ("unknown_input", "of the unknown type 999"),
    ],
)
def test_unsendable_inputs_are_rejected(client, signature, reason):
    with pytest.raises(InvalidArgument, match=f'Input "text" of signature "{signature}" is {reason}, which requests'):
        client.predict("composite", {"text": np.array([TEXT], object)}, signature)


def test_components_of_a_ragged_input_are_inputs(client):
    """TensorFlow exports a ragged input as its components."""
    inputs = {"r": [1.0, 2.0, 3.0], "r_1": [0, 2, 3]}
    np.testing.assert_equal(client.predict("composite", inputs, "ragged_input"), {"sums": np.array([3.0, 3.0])})


@pytest.mark.parametrize(("signature", "inputs"), [("dangling", {"text": [TEXT]}), ("no_output", {"x": [1.0]})])
def test_missing_outputs_are_rejected(client, signature, inputs):
    with pytest.raises(InvalidArgument, match="."):
        client.predict("composite", inputs, signature)


def test_metadata_names_composite_types(composite):
    found = []
    for address in (composite.grpc, composite.rest):
        with Client(address) as client:
            metadata = client.metadata("composite")
        found.append({name: metadata[name] for name in ("serving_default", "sparse", "ragged_input", "both", "odd")})
    assert found[0] == found[1]
    assert found[0]["serving_default"]["outputs"] == {"words": {"dtype": "RaggedTensorSpec", "shape": None}}
    assert found[0]["sparse"]["outputs"] == {"s": {"dtype": "SparseTensorSpec", "shape": [-1, -1]}}
    assert found[0]["odd"]["outputs"] == {"n": {"dtype": "HandleSpec", "shape": None}}


def predict_request(signature: str, *output_filter: str) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    request.model_spec.name, request.model_spec.signature_name = "composite", signature
    request.inputs["text"].dtype = types_pb2.DT_STRING
    request.inputs["text"].tensor_shape.dim.add(size=1)
    request.inputs["text"].string_val.append(TEXT.encode())
    return request


def test_output_filter_excludes_unsendable_outputs(composite):
    with grpc.insecure_channel(composite.grpc) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        response = predict(predict_request("both", "n"), timeout=60)
        assert (list(response.outputs), response.outputs["n"].int_val) == (["n"], [3])
        with pytest.raises(grpc.RpcError) as caught:
            predict(predict_request("both", "n", "words"), timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def example_request(request, signature: str):
    request.model_spec.name, request.model_spec.signature_name = "composite", signature
    request.input.example_list.examples.append(example_of(x=1.0))
    return request


def multi_inference() -> inference_pb2.MultiInferenceRequest:
    request = inference_pb2.MultiInferenceRequest()
    request.input.example_list.examples.append(example_of(x=1.0))
    task = request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "composite", "regress"
    return request


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("Classify", example_request(classification_pb2.ClassificationRequest(), "classify"), "scores"),
        ("Regress", example_request(regression_pb2.RegressionRequest(), "regress"), "outputs"),
        ("MultiInference", multi_inference(), "outputs"),
    ],
)
def test_unsendable_results_of_examples_are_rejected(composite, method, request_, reason):
    with grpc.insecure_channel(composite.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        getattr(prediction_service_pb2_grpc.PredictionServiceStub(channel), method)(request_, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f'Output "{reason}" of signature "' in caught.value.details()


@pytest.mark.parametrize(("verb", "signature"), [("classify", "classify"), ("regress", "regress")])
def test_unsendable_results_of_examples_are_rejected_over_rest(composite, verb, signature):
    import urllib3

    body = json.dumps({"signature_name": signature, "examples": [{"x": 1.0}]})
    response = urllib3.request("POST", f"{composite.rest}/v1/models/composite:{verb}", body=body, timeout=60)
    assert (response.status, "which responses cannot represent" in response.json()["error"]) == (400, True)


def test_compare_uses_a_sendable_signature(composite, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text(TEXT)
    command = ["composite:1", "composite", str(tmp_path / "lines.txt"), "--server", composite.rest]
    assert compare([*command, "--signature", "count"]) == 0
    assert compare(command) == 1
    assert "composite:1 rejects 'a b': Output" in capsys.readouterr().err


def test_status_page_shows_composite_types():
    definition = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    definition.outputs["words"].composite_tensor.type_spec.type_spec_class_name = "RaggedTensorSpec"
    definition.inputs["s"].coo_sparse.values_tensor_name = "s/values:0"
    definition.inputs["s"].dtype = types_pb2.DT_FLOAT
    manager = Manager(ragged=[(1, "AVAILABLE", None)])
    manager.servables["ragged"] = Servable(serving_default=definition)
    shown = visible_text(page(manager, Metrics()))
    assert "Input s SparseTensorSpec [] Output words RaggedTensorSpec any" in shown
    assert "A client cannot send inputs of these types." in shown


def test_stream_with_an_unsendable_output_is_rejected():
    from serving.rest.stream import _signature

    definition = meta_graph_pb2.SignatureDef()
    for infos in (definition.inputs, definition.outputs):
        infos["state"].name, infos["state"].dtype = "state:0", types_pb2.DT_FLOAT
    definition.outputs["words"].composite_tensor.type_spec.type_spec_class_name = "RaggedTensorSpec"
    with pytest.raises(Exception, match='Output "words" of signature "stream" is a ragged tensor'):
        _signature({"stream": Signature("stream", definition)}, "stream")
