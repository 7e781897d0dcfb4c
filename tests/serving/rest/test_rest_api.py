"""RestApi before and after a model runs: access, limits, threads, errors and logging. No server."""

import asyncio
import gc
import gzip
import json
import weakref

import numpy as np
import pytest
from rest_helpers import FakeBackend, api_of, in_main_thread, request, signature_of
from tensorflow.core.framework import types_pb2

from serving.rest import api as rest_api

FLOAT = types_pb2.DT_FLOAT
TOKEN = "open-sesame"
PREDICT = "/v1/models/m:predict"


def doubling_backend():
    signature = signature_of("serving_default", {"x": FLOAT}, {"y": FLOAT})
    return FakeBackend(signature, lambda feeds: [2 * feeds["x:0"]])


def reply_to(api, *arguments, **headers):
    return asyncio.run(api.handle(request(*arguments, **headers)))


@pytest.mark.parametrize("cors", [False, True])
@pytest.mark.parametrize("authorization", [{}, {"authorization": "Bearer other"}])
def test_unauthenticated_requests_get_instructions(authorization, cors):
    api, log = api_of(doubling_backend(), (TOKEN,), cors)
    body = {"instances": [1]}
    before = api.refusal(request("POST", PREDICT, **authorization), 5)
    for reply in (before, reply_to(api, "POST", PREDICT, body, **authorization)):
        headers = dict(reply.headers)
        assert (reply.status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert ("Access-Control-Allow-Origin" in headers) == cors
        assert "This server requires a token" in json.loads(reply.body)["error"]
    assert log.ended == [("POST", "UNAUTHENTICATED", len(before.body))] * 2


def test_authorized_requests_are_not_refused_early():
    api, log = api_of(doubling_backend(), (TOKEN,))
    incoming = request("POST", PREDICT, authorization=f"Bearer {TOKEN}")
    assert api.refusal(incoming, 0) is None
    assert api.refusal(incoming, 10_000_000) is None
    assert log.ended == []
    assert api.refusal(incoming, 10_000_001).status == 413
    assert [code for _, code, _ in log.ended] == ["RESOURCE_EXHAUSTED"]
    reply = reply_to(api, "POST", PREDICT, {"instances": [1]}, authorization=f"Bearer {TOKEN}")
    assert (reply.status, reply.headers) == (200, ())


@pytest.mark.parametrize(("method", "target"), [("OPTIONS", PREDICT), ("GET", "/healthz"), ("GET", "/readyz")])
def test_public_requests_may_have_a_body(method, target):
    api, _ = api_of(doubling_backend(), (TOKEN,), max_requests=1)
    assert api.refusal(request(method, target), 5) is None
    assert api.refusal(request(method, target), 10_000_001).status == 413
    assert reply_to(api, method, target, origin="http://page").status != 401


def test_requests_beyond_the_limit_are_refused_before_their_body():
    refused = []

    def compute(feeds):
        refused.append(api.refusal(request("POST", PREDICT), 5).status)
        return [feeds["x:0"]]

    backend = doubling_backend()
    backend.compute = compute
    api, _ = api_of(backend, max_requests=1)
    assert api.refusal(request("POST", PREDICT), 5) is None
    assert reply_to(api, "POST", PREDICT, {"instances": [1]}).status == 200
    assert refused == [429]


@pytest.mark.parametrize("path", ["/versions/3", "/labels/x", "/versions/3/metadata"])
def test_a_version_or_label_without_a_model_is_an_error(path):
    api, _ = api_of(doubling_backend())
    reply = reply_to(api, "GET", "/v1/models" + path)
    assert (reply.status, json.loads(reply.body)) == (400, {"error": "Missing model name in request."})
    assert json.loads(reply_to(api, "GET", "/v1/models").body)["models"][0]["name"] == "m"


@pytest.mark.parametrize(("count", "on_loop"), [(1, True), (2000, False)])
@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_many_examples_are_read_by_a_thread(monkeypatch, verb, count, on_loop):
    """Reading them takes longest, with or without a model."""
    calls, original = [], rest_api.read_examples

    def recording(document):
        calls.append(in_main_thread())
        return original(document)

    monkeypatch.setattr(rest_api, "read_examples", recording)
    api, _ = api_of(doubling_backend())
    reply_to(api, "POST", f"/v1/models/m:{verb}", {"examples": [{"x": 0.5}] * count})
    assert calls == [on_loop]


def test_the_error_for_an_invalid_signature_name_is_short():
    api, _ = api_of(doubling_backend())
    body = {"signature_name": 5, "instances": np.zeros(100_000).tolist()}
    text = json.loads(reply_to(api, "POST", PREDICT, body).body)["error"]
    assert "'signature_name' key must be a string value." in text
    assert len(text) < 400


def test_metrics_of_directory_names_that_are_not_utf8():
    api, _ = api_of(doubling_backend())
    api._observers.metrics.record_load("/models/caf\udce9/1", "OK", 5.0)
    reply = reply_to(api, "GET", "/metrics")
    assert reply.status == 200
    assert 'model_path="/models/caf?/1"' in reply.body.decode()


def test_failed_requests_free_their_memory(monkeypatch):
    """Also without garbage collection, which runs only now and then."""

    class Document(dict):
        """A dict that supports weak references."""

    references = []

    def parse(body, max_values):
        document = Document(inputs=["wrong"])
        references.append(weakref.ref(document))
        return document

    monkeypatch.setattr(rest_api, "parse", parse)
    api, _ = api_of(doubling_backend())
    gc.disable()
    try:
        reply = reply_to(api, "POST", PREDICT, {})
        assert (reply.status, references[0]()) == (400, None)
    finally:
        gc.enable()


@pytest.mark.parametrize(("headers", "compress"), [({}, bytes), ({"content-encoding": "gzip"}, gzip.compress)])
def test_json_of_too_many_values(headers, compress):
    api, log = api_of(doubling_backend(), max_values=100)
    for count, status in ((97, 200), (100, 413)):
        body = compress(json.dumps({"inputs": [1.5] * count}).encode())
        assert asyncio.run(api.handle(request("POST", PREDICT, body, **headers))).status == status
    assert [code for _, code, _ in log.ended] == ["OK", "RESOURCE_EXHAUSTED"]
