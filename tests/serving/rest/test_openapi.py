"""The OpenAPI description of REST is valid, and servers conform to it for random requests."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
import schemathesis
import urllib3
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks
from serving_helpers import CONFIG, ROOT, START_SECONDS, Server, Store, free_port, wait_until

from serving.protocol import HTTP_STATUSES

DESCRIPTION = json.loads((ROOT / "serving" / "rest" / "openapi.json").read_text("utf-8"))
COMPONENTS = DESCRIPTION["components"]
OPERATIONS = {
    operation["operationId"]: (method, url, operation)
    for url, item in DESCRIPTION["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
}
SECONDS = 60.0  # a request that takes longer hangs

load_all_checks()
CONFORMANCE = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
fuzzing = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # the first failure is small enough to read
    suppress_health_check=list(HealthCheck),
)


def test_the_description_is_valid():
    openapi_spec_validator.validate(DESCRIPTION)
    assert len(OPERATIONS) == 23


@pytest.mark.parametrize("name", COMPONENTS["requestBodies"])
def test_examples_match_their_schemas(name):
    content = COMPONENTS["requestBodies"][name]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator(content["schema"] | {"components": COMPONENTS})
    for example in content["examples"].values():
        validator.validate(example["value"])
        assert not validator.is_valid({"signature_name": 7} | example["value"] | {"signature_name": 7})
        assert not validator.is_valid({})


def test_every_error_status_is_described():
    _, _, predict = OPERATIONS["predict"]
    described = set()
    for status, response in predict["responses"].items():
        name = response["$ref"].rpartition("/")[2]
        codes = COMPONENTS["responses"][name]["description"].partition(":")[0]
        described |= {(code, status) for code in re.findall("[A-Z_]{5,}", codes)}
    expected = {(code, str(number)) for code, number in HTTP_STATUSES.items() if code != "OK"}
    # 413: one request is too large, 429: too many requests. 421: the host is not allowed, 403: the operation is not.
    assert described == expected | {("RESOURCE_EXHAUSTED", "413"), ("PERMISSION_DENIED", "421")}


PARAMETER_VALUES = {
    "Model": ["example", "number", "missing"],
    "Version": [1, 2, 2**63 - 1],
    "Label": ["stable", "gone"],
}
SIGNATURES = ["serving_default", "matrix", "text", "pair", "total", "uneven", "check", "classify", "regress", "stream"]


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def list_schema(items: dict[str, Any], min_items: int = 1, max_items: int = 5) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": min_items, "maxItems": max_items}


def valid_body_schemas() -> dict[str, list[dict[str, Any]]]:
    """Return {request body: schemas of bodies that are valid for a signature of the server}."""
    number, text = {"type": "number", "minimum": -1e30, "maximum": 1e30}, {"$ref": "#/components/schemas/Base64"}
    bodies = {
        "Predict": [
            ("serving_default", "instances", list_schema(number)),
            ("serving_default", "inputs", list_schema(number)),
            ("matrix", "instances", list_schema(list_schema(number, 2, 2))),
            ("pair", "instances", list_schema(object_schema({"a": number, "b": {"type": "integer", "maximum": 9}}))),
            ("text", "inputs", object_schema({"text": list_schema(text)})),
        ],
        "Classify": [
            ("classify", "examples", list_schema(object_schema({"x": list_schema(number, 2, 2), "word": text})))
        ],
        "Regress": [("regress", "examples", list_schema(object_schema({"x": list_schema(number, 2, 2)})))],
        "Stream": [
            ("stream", "inputs", object_schema({"word": list_schema(text, 1, 1), "step": list_schema(number, 1, 1)}))
        ],
    }
    return {
        name: [
            object_schema({"signature_name": {"const": signature}, key: value}) for signature, key, value in requests
        ]
        for name, requests in bodies.items()
    }


def biased_description() -> dict[str, Any]:
    """Return the description, changed so that names and bodies are often valid for the servers."""
    description = copy.deepcopy(DESCRIPTION)
    components = description["components"]
    for name, choices in PARAMETER_VALUES.items():
        parameter = components["parameters"][name]
        parameter |= {"schema": {"anyOf": [{"enum": choices}, parameter["schema"]]}, "example": choices[0]}
    for schema in components["schemas"].values():
        if "signature_name" in schema.get("properties", {}):
            schema["properties"]["signature_name"] = {"anyOf": [{"enum": SIGNATURES}, {"type": "string"}]}
    for name, schemas in valid_body_schemas().items():
        content = components["requestBodies"][name]["content"]["application/json"]
        content["schema"] = {"anyOf": [*schemas, content["schema"]]}
    components["schemas"]["StreamRequest"]["properties"]["steps"]["maximum"] = 20  # more only take longer
    predict = components["requestBodies"]["Predict"]["content"]["application/json"]
    predict["examples"] |= {"valid": {"value": {"instances": [1.0, -2.5]}}}
    return description


api = schemathesis.openapi.from_dict(biased_description())


def check(case: schemathesis.Case, address: str) -> None:
    """Send one request; its response must come in time, conform to the description and not be an internal error."""
    response = case.call(base_url=address, timeout=SECONDS)
    # As in TensorFlow Serving, NaN, Infinity and labels that are not UTF-8 are allowed; such responses are not JSON.
    text = response.content.decode("utf-8", "surrogateescape")
    is_json = not re.search("\\b(?:NaN|Infinity)\\b|[\udc80-\udcff]", text)
    checks = [check for check in CONFORMANCE if is_json or check.__name__ != "response_schema_conformance"]
    case.validate_response(response, checks=checks)
    assert response.status_code != 500, text


@api.exclude(tag="extensions").exclude(tag="metrics").parametrize()
@fuzzing
def test_the_server_conforms_to_the_description(case, server: Server):
    check(case, server.rest)


@pytest.fixture(scope="module")
def extended(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server with all extensions enabled."""
    models = tmp_path_factory.mktemp("extended")
    store.publish(store.example, models / "example", 1)
    store.publish(store.number(1), models / "number", 1)
    (models / "models.config").write_text(CONFIG.format(models=models))
    port, log = free_port(), models / "server.log"
    command = [sys.executable, "-m", "serving", f"--model_config_file={models}/models.config"]
    command += ["--allow_version_labels_for_unavailable_models", f"--port={free_port()}", f"--rest_api_port={port}"]
    command += [f"--monitoring_config_file={ROOT}/serving/config/monitoring.config", "--rest_api_extensions"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Exporting HTTP/REST API" in log.read_text() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(30)


@api.include(tag=["extensions", "metrics"]).parametrize()
@fuzzing
def test_extensions_conform_to_the_description(case, extended: str):
    check(case, extended)


def get(address: str, path: str) -> tuple[int, str]:
    """Return status and media type."""
    response = urllib3.request("GET", address + path, timeout=SECONDS)
    return response.status, response.headers["Content-Type"].partition(";")[0]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/v1/models", "application/json"),
        ("/healthz", "text/plain"),
        ("/readyz", "text/plain"),
        ("/", "text/html"),
        ("/monitoring/prometheus/metrics", "text/plain"),
    ],
)
def test_flags_enable_extensions(server: Server, extended: str, path: str, media_type: str):
    assert get(extended, path) == (200, media_type)
    without = (400, "application/json") if path.startswith("/v1/") else (404, "text/html")
    assert get(server.rest, path) == without
    (described,) = [operation for method, url, operation in OPERATIONS.values() if url == path]
    assert {"200", str(without[0])} <= set(described["responses"])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_described_url_exists(extended: str, operation: str):
    """For the server, an unknown URL is a malformed request."""
    method, url, _ = OPERATIONS[operation]
    address = extended + url.format(model="example", version=1, label="stable")
    response = urllib3.request(method.upper(), address, body=b"{}" if method == "post" else None, timeout=SECONDS)
    assert b"Malformed request" not in response.data and b"404 Not Found" not in response.data
    assert response.status == (400 if method == "post" else 200), response.data
