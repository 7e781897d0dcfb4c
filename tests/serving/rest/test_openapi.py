"""The OpenAPI description of REST is valid, and servers answer what it says, whatever they are asked."""

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
def test_examples_are_as_their_schemas_say(name):
    content = COMPONENTS["requestBodies"][name]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator(content["schema"] | {"components": COMPONENTS})
    for example in content["examples"].values():
        validator.validate(example["value"])
        assert not validator.is_valid({"signature_name": 7} | example["value"] | {"signature_name": 7})
        assert not validator.is_valid({})


def test_errors_are_those_that_statuses_become():
    _, _, predict = OPERATIONS["predict"]
    described = set()
    for status, response in predict["responses"].items():
        name = response["$ref"].rpartition("/")[2]
        codes = COMPONENTS["responses"][name]["description"].partition(":")[0]
        described |= {(code, status) for code in re.findall("[A-Z_]{5,}", codes)}
    expected = {(code, str(number)) for code, number in HTTP_STATUSES.items() if code != "OK"}
    # 413 is for one request, where 429 is for many; 421 is for the wrong host, where 403 is for the wrong deed.
    assert described == expected | {("RESOURCE_EXHAUSTED", "413"), ("PERMISSION_DENIED", "421")}


KNOWN = {"Model": ["example", "number", "missing"], "Version": [1, 2, 2**63 - 1], "Label": ["stable", "gone"]}
SIGNATURES = ["serving_default", "matrix", "text", "pair", "total", "uneven", "check", "classify", "regress", "stream"]


def an_object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def a_list(items: dict[str, Any], least: int = 1, most: int = 5) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def fitting_bodies() -> dict[str, list[dict[str, Any]]]:
    """{body: schemas of what signatures of the server can answer}."""
    number, text = {"type": "number", "minimum": -1e30, "maximum": 1e30}, {"$ref": "#/components/schemas/Base64"}
    fitting = {
        "Predict": [
            ("serving_default", "instances", a_list(number)),
            ("serving_default", "inputs", a_list(number)),
            ("matrix", "instances", a_list(a_list(number, 2, 2))),
            ("pair", "instances", a_list(an_object({"a": number, "b": {"type": "integer", "maximum": 9}}))),
            ("text", "inputs", an_object({"text": a_list(text)})),
        ],
        "Classify": [("classify", "examples", a_list(an_object({"x": a_list(number, 2, 2), "word": text})))],
        "Regress": [("regress", "examples", a_list(an_object({"x": a_list(number, 2, 2)})))],
        "Stream": [("stream", "inputs", an_object({"word": a_list(text, 1, 1), "step": a_list(number, 1, 1)}))],
    }
    return {
        name: [an_object({"signature_name": {"const": signature}, key: value}) for signature, key, value in bodies]
        for name, bodies in fitting.items()
    }


def biased() -> dict[str, Any]:
    """The description, where names and bodies are often some that the servers know."""
    description = copy.deepcopy(DESCRIPTION)
    components = description["components"]
    for name, choices in KNOWN.items():
        parameter = components["parameters"][name]
        parameter |= {"schema": {"anyOf": [{"enum": choices}, parameter["schema"]]}, "example": choices[0]}
    for schema in components["schemas"].values():
        if "signature_name" in schema.get("properties", {}):
            schema["properties"]["signature_name"] = {"anyOf": [{"enum": SIGNATURES}, {"type": "string"}]}
    for name, schemas in fitting_bodies().items():
        content = components["requestBodies"][name]["content"]["application/json"]
        content["schema"] = {"anyOf": [*schemas, content["schema"]]}
    components["schemas"]["StreamRequest"]["properties"]["steps"]["maximum"] = 20  # more take longer and tell no more
    predict = components["requestBodies"]["Predict"]["content"]["application/json"]
    predict["examples"] |= {"known": {"value": {"instances": [1.0, -2.5]}}}
    return description


api = schemathesis.openapi.from_dict(biased())


def check(case: schemathesis.Case, address: str) -> None:
    """One request: answered in time, as described, and not with a fault of the server."""
    response = case.call(base_url=address, timeout=SECONDS)
    is_json = not re.search(r"\b(?:NaN|Infinity)\b", response.text)  # these are described, but are no JSON
    checks = [check for check in CONFORMANCE if is_json or check.__name__ != "response_schema_conformance"]
    case.validate_response(response, checks=checks)
    assert response.status_code != 500, response.text


@api.exclude(tag="extensions").exclude(tag="metrics").parametrize()
@fuzzing
def test_the_server_answers_as_described(case, server: Server):
    check(case, server.rest)


@pytest.fixture(scope="module")
def extended(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with all that flags switch on."""
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
def test_extensions_are_answered_as_described(case, extended: str):
    check(case, extended)


def get(address: str, path: str) -> tuple[int, str]:
    """Status and media type."""
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
def test_extensions_are_there_when_flags_say_so(server: Server, extended: str, path: str, media_type: str):
    assert get(extended, path) == (200, media_type)
    without = (400, "application/json") if path.startswith("/v1/") else (404, "text/html")
    assert get(server.rest, path) == without
    (described,) = [operation for method, url, operation in OPERATIONS.values() if url == path]
    assert {"200", str(without[0])} <= set(described["responses"])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_described_url_is_known(extended: str, operation: str):
    """A URL that the server does not know is a malformed request."""
    method, url, _ = OPERATIONS[operation]
    address = extended + url.format(model="example", version=1, label="stable")
    response = urllib3.request(method.upper(), address, body=b"{}" if method == "post" else None, timeout=SECONDS)
    assert b"Malformed request" not in response.data and b"404 Not Found" not in response.data
    assert response.status == (400 if method == "post" else 200), response.data
