"""Metadata and status: JSON compared with a golden file, and gRPC messages."""

import json
from pathlib import Path

import grpc
import pytest
import urllib3
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

GOLDEN = Path(__file__).with_name("number_metadata.json")


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.mark.parametrize("choice", ["versions/2", "VERSIONS/2"])
def test_metadata_json(server, choice):
    response = urllib3.request("GET", f"{server.rest}/v1/models/example/{choice}/metadata", timeout=60)
    assert response.status == 200
    assert json.loads(response.data) == json.loads(GOLDEN.read_text())
    assert response.data.startswith(b'{\n"model_spec":{\n "name": "example",')


def test_status_json(server):
    response = urllib3.request("GET", f"{server.rest}/v1/models/example/versions/1", timeout=60)
    assert response.data.decode() == (
        '{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n   "status": {\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )


def test_status_ignores_labels(server):
    response = urllib3.request("GET", f"{server.rest}/v1/models/example/labels/unknown", timeout=60)
    assert [status["version"] for status in response.json()["model_version_status"]] == ["2", "1"]


def status_request(name, number=None, label=None):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if number is not None:
        request.model_spec.version.value = number
    if label is not None:
        request.model_spec.version_label = label
    return request


def test_status_messages(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    for request, numbers in (
        (status_request("example"), [2, 1]),
        (status_request("example", 1), [1]),
        (status_request("example", label="unknown"), [2, 1]),  # a label is ignored
    ):
        statuses = stub.GetModelStatus(request, timeout=60).model_version_status
        assert [(s.version, s.state, s.status.error_code) for s in statuses] == [(n, 30, 0) for n in numbers]


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (get_model_status_pb2.GetModelStatusRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (status_request("example", 7), "NOT_FOUND", "Could not find version 7 of model example"),
        (status_request("nothing"), "NOT_FOUND", "Could not find any versions of model nothing"),
        (status_request("../example"), "NOT_FOUND", "Could not find any versions of model ../example"),
        (status_request(""), "NOT_FOUND", "Could not find any versions of model "),
    ],
)
def test_status_errors(channel, request_, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request_, timeout=60)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


def metadata_request(name, fields, number=None, label=None):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.CopyFrom(status_request(name, number, label).model_spec)
    return request


def test_metadata_message(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.GetModelMetadata(metadata_request("example", ["signature_def"]), timeout=60)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) == {"serving_default", "__saved_model_init_op"}
    assert (response.model_spec.name, response.model_spec.version.value) == ("example", 2)
    assert response.model_spec.signature_name == ""


def test_metadata_of_a_selected_version(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    for choice, number in (({"number": 1}, 1), ({"label": "stable"}, 1), ({}, 2)):
        response = stub.GetModelMetadata(metadata_request("example", ["signature_def"], **choice), timeout=60)
        assert (response.model_spec.version.value, response.model_spec.version_label) == (number, "")


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (get_model_metadata_pb2.GetModelMetadataRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (
            metadata_request("nothing", []),
            "INVALID_ARGUMENT",
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (metadata_request("nothing", ["x"]), "INVALID_ARGUMENT", "Metadata field x is not supported"),
        (
            metadata_request("nothing", ["signature_def"]),
            "NOT_FOUND",
            "Servable not found for request: Latest(nothing)",
        ),
        (
            metadata_request("example", ["signature_def"], number=7),
            "NOT_FOUND",
            "Servable not found for request: Specific(example, 7)",
        ),
        (
            metadata_request("example", ["signature_def"], label="gone"),
            "NOT_FOUND",
            "Servable not found for request: Specific(example, 9)",
        ),
        (
            metadata_request("example", ["signature_def"], label="nope"),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: nope",
        ),
        (metadata_request("", ["signature_def"]), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    ],
)
def test_metadata_errors(channel, request_, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request_, timeout=60)
    assert (caught.value.code().name, caught.value.details()) == (code, text)
