"""Classify, Regress, MultiInference, warm-up and TFLite models through a running server, over gRPC and REST."""

import json
import shutil
import signal
import subprocess
import sys

import grpc
import pytest
import tensorflow as tf
import urllib3
from serving_helpers import (
    ROOT,
    START_SECONDS,
    Server,
    add_warmup,
    build_heads,
    example_of,
    free_port,
    wait_until,
)
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

POOL = urllib3.PoolManager(retries=False)
CONFIG = """
model_config_list {{
  config {{ name: "heads" base_path: "{models}/heads" model_platform: "tensorflow" }}
  config {{ name: "lite" base_path: "{models}/lite" model_platform: "tensorflow" }}
}}
"""


def build_lite(path):
    """Write a directory with only a TFLite model, y = 3 x."""
    module = tf.Module()
    module.function = tf.function(lambda x: {"y": 3 * x}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    concrete = module.function.get_concrete_function()
    path.mkdir(parents=True)
    (path / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of version 7 of `heads` and version 3 of `lite`."""
    models = tmp_path_factory.mktemp("models")
    build_heads(models / "heads" / "7")
    add_warmup(models / "heads" / "7", "number", number=[1.0])
    build_lite(models / "lite" / "3")
    config = models / "models.config"
    config.write_text(CONFIG.format(models=models))
    grpc_port, rest_port = free_port(), free_port()
    log = models / "server.log"
    command = [sys.executable, "-m", "serving", f"--model_config_file={config}", f"--port={grpc_port}"]
    command += [f"--rest_api_port={rest_port}", "--prefer_tflite_model", "--max_num_load_retries=0"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Exporting HTTP/REST API" in log.read_text() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        yield Server(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}", models, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def post(server):
    """post(path below /v1/models/, body) -> (HTTP status, text)."""

    def post(path, body):
        response = POOL.request("POST", f"{server.rest}/v1/models/{path}", body=json.dumps(body).encode(), timeout=60)
        return response.status, response.data.decode()

    return post


def failure(method, request):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=60)
    return caught.value.code().name, caught.value.details()


def example_request(request, signature, *examples):
    request.model_spec.name, request.model_spec.signature_name = "heads", signature
    request.input.example_list.examples.extend(examples)
    return request


def multi_inference_request(*tasks):
    request = inference_pb2.MultiInferenceRequest()
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = name, signature
    request.input.example_list.examples.append(example_of(x=1.5))
    return request


def test_classify(stub):
    response = stub.Classify(
        example_request(classification_pb2.ClassificationRequest(), "", example_of(x=1.5)), timeout=60
    )
    (row,) = response.result.classifications
    assert [(each.label, each.score) for each in row.classes] == [("low", -1.5), ("high", 1.5)]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (7, "serving_default")


def test_regress(stub):
    response = stub.Regress(example_request(regression_pb2.RegressionRequest(), "value", example_of(x=1.5)), timeout=60)
    assert [each.value for each in response.result.regressions] == [1.5]


def test_multi_inference(stub):
    request = multi_inference_request(("heads", "other", "regress"), ("heads", "", "classify"))
    request.tasks[1].model_spec.version.value = 99  # only the first task selects the version
    regression, classification = stub.MultiInference(request, timeout=60).results
    assert regression.regression_result.regressions[0].value == 15
    assert classification.classification_result.classifications[0].classes[1].score == 1.5
    assert classification.model_spec.version.value == 7


def test_errors_over_grpc(stub):
    classify, regress = classification_pb2.ClassificationRequest, regression_pb2.RegressionRequest
    assert failure(stub.Classify, classify()) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert failure(stub.Regress, regress()) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert failure(stub.Regress, example_request(regress(), "value")) == ("INVALID_ARGUMENT", "Input is empty.")
    code, text = failure(stub.Classify, example_request(classify(), "", example_of()))
    assert (code, text.startswith("Name: <unknown>, Feature: x")) == ("INVALID_ARGUMENT", True)
    code, text = failure(stub.Classify, example_request(classify(), "misnamed_input", example_of(x=1.5)))
    assert (code, text[:48]) == ("INVALID_ARGUMENT", "No classification inputs found in SignatureDef: ")


def test_first_task_selects_the_model(stub):
    no_name = ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
    assert failure(stub.MultiInference, inference_pb2.MultiInferenceRequest()) == no_name
    assert failure(stub.MultiInference, multi_inference_request(("", "value", "regress"))) == no_name
    assert failure(stub.MultiInference, multi_inference_request(("nope", "value", "regress"))) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(nope)",
    )
    request = multi_inference_request(("heads", "value", "regress"))
    request.tasks[0].model_spec.version.value = 8
    assert failure(stub.MultiInference, request) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(heads, 8)",
    )
    assert failure(stub.MultiInference, multi_inference_request(("heads", "number", "predict"))) == (
        "UNIMPLEMENTED",
        "Unsupported signature method_name: tensorflow/serving/predict",
    )


def test_rest(post):
    body = {"context": {"x": 1.5}, "examples": [{}, {"x": -2.0}]}
    assert post("heads:classify", body) == (
        200,
        '{\n    "results": [[["low", -1.5], ["high", 1.5]], [["low", 2.0], ["high", -2.0]]\n    ]\n}',
    )
    assert post("heads/versions/7:regress", {"signature_name": "value", **body}) == (
        200,
        '{\n    "results": [1.5, -2.0]\n}',
    )


def test_errors_over_rest(post):
    def error(path, body):
        status, text = post(path, body)
        return status, json.loads(text)["error"]

    assert error("heads:classify", {"examples": []}) == (
        400,
        "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
    )
    assert error("heads:regress", {"examples": [{"x": 1.5}]}) == (400, "Expected one output Tensor.")
    assert error("nope:classify", {"examples": [{}]}) == (404, "Servable not found for request: Latest(nope)")
    status, text = error("heads:classify", {"examples": [{"x": 2}]})
    assert (status, "Data types don't match" in text) == (400, True)


def test_tflite_model_is_served_like_a_saved_model(stub, post, server):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "lite"
    request.inputs["serving_default_x"].CopyFrom(tf.make_tensor_proto([1.0, 2.5]))
    response = stub.Predict(request, timeout=60)
    (output,) = response.outputs.values()
    assert tf.make_ndarray(output).tolist() == [3.0, 7.5]
    assert response.model_spec.version.value == 3
    status, text = post("lite:predict", {"instances": [1.0, 2.5, 0.0]})
    assert (status, json.loads(text)) == (200, {"predictions": [3.0, 7.5, 0.0]})
    metadata = POOL.request("GET", f"{server.rest}/v1/models/lite/metadata", timeout=60)
    signatures = json.loads(metadata.data)["metadata"]["signature_def"]["signature_def"]
    assert list(signatures["serving_default"]["inputs"]) == ["serving_default_x"]


def test_version_with_failing_warmup_is_not_served(server, channel, stub):
    """The previous version stays available."""
    temporary = server.models / "temporary"
    shutil.copytree(server.models / "heads" / "7", temporary)
    shutil.rmtree(temporary / "assets.extra")
    add_warmup(temporary, "nope", number=[1.0])
    temporary.rename(server.models / "heads" / "8")
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "heads"
    statuses = model_service_pb2_grpc.ModelServiceStub(channel)

    def status():
        listed = statuses.GetModelStatus(request, timeout=60).model_version_status
        return {each.version: each for each in listed}

    wait_until(lambda: 8 in status() and status()[8].state == get_model_status_pb2.ModelVersionStatus.END)
    assert status()[8].status.error_message == 'Serving signature key "nope" not found.'
    response = stub.Regress(example_request(regression_pb2.RegressionRequest(), "value", example_of(x=1.5)), timeout=60)
    assert response.model_spec.version.value == 7
