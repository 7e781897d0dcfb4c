"""What REST decides before and after a model runs: who may ask, where work is done, what is told. No server."""

import asyncio
import gc
import gzip
import json
import weakref

import numpy as np
import pytest
from rest_helpers import Model, api_of, in_main_thread, request, signature_of
from tensorflow.core.framework import types_pb2

from serving.rest import api as rest_api

FLOAT = types_pb2.DT_FLOAT
TOKEN = "open-sesame"
PREDICT = "/v1/models/m:predict"


def doubling():
    signature = signature_of("serving_default", {"x": FLOAT}, {"y": FLOAT})
    return Model(signature, lambda feeds: [2 * feeds["x:0"]])


def answer(api, *arguments, **headers):
    return asyncio.run(api.handle(request(*arguments, **headers)))


@pytest.mark.parametrize("cors", [False, True])
@pytest.mark.parametrize("authorization", [{}, {"authorization": "Bearer other"}])
def test_strangers_are_told_how_to_ask(authorization, cors):
    api, log = api_of(doubling(), (TOKEN,), cors)
    body = {"instances": [1]}
    before = api.refuse(request("POST", PREDICT, **authorization), 5)
    for reply in (before, answer(api, "POST", PREDICT, body, **authorization)):
        headers = dict(reply.headers)
        assert (reply.status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert ("Access-Control-Allow-Origin" in headers) == cors
        assert "This server requires a token" in json.loads(reply.body)["error"]
    assert log.ended == [("POST", "UNAUTHENTICATED", len(before.body))] * 2


def test_whoever_may_ask_is_not_refused_before_the_body_comes():
    api, log = api_of(doubling(), (TOKEN,))
    asked = request("POST", PREDICT, authorization=f"Bearer {TOKEN}")
    assert api.refuse(asked, 0) is None
    assert api.refuse(asked, 10_000_000) is None
    assert log.ended == []
    assert api.refuse(asked, 10_000_001).status == 413
    assert [code for _, code, _ in log.ended] == ["RESOURCE_EXHAUSTED"]
    reply = answer(api, "POST", PREDICT, {"instances": [1]}, authorization=f"Bearer {TOKEN}")
    assert (reply.status, reply.headers) == (200, ())


@pytest.mark.parametrize(("method", "target"), [("OPTIONS", PREDICT), ("GET", "/healthz"), ("GET", "/readyz")])
def test_what_is_open_to_all_may_have_a_body(method, target):
    api, _ = api_of(doubling(), (TOKEN,), max_requests=1)
    assert api.refuse(request(method, target), 5) is None
    assert api.refuse(request(method, target), 10_000_001).status == 413
    assert answer(api, method, target, origin="http://page").status != 401


def test_bodies_do_not_come_where_there_is_no_room_for_their_requests():
    refused = []

    def answers(feeds):
        refused.append(api.refuse(request("POST", PREDICT), 5).status)
        return [feeds["x:0"]]

    model = doubling()
    model.answers = answers
    api, _ = api_of(model, max_requests=1)
    assert api.refuse(request("POST", PREDICT), 5) is None
    assert answer(api, "POST", PREDICT, {"instances": [1]}).status == 200
    assert refused == [429]


@pytest.mark.parametrize("path", ["/versions/3", "/labels/x", "/versions/3/metadata"])
def test_a_choice_without_a_model_is_no_question(path):
    api, _ = api_of(doubling())
    reply = answer(api, "GET", "/v1/models" + path)
    assert (reply.status, json.loads(reply.body)) == (400, {"error": "Missing model name in request."})
    assert json.loads(answer(api, "GET", "/v1/models").body)["models"][0]["name"] == "m"


@pytest.mark.parametrize(("count", "on_loop"), [(1, True), (2000, False)])
@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_many_examples_are_read_by_a_thread(monkeypatch, verb, count, on_loop):
    """They take longest of all that a request needs, model or not."""
    where, read = [], rest_api.read_examples

    def noting(document):
        where.append(in_main_thread())
        return read(document)

    monkeypatch.setattr(rest_api, "read_examples", noting)
    api, _ = api_of(doubling())
    answer(api, "POST", f"/v1/models/m:{verb}", {"examples": [{"x": 0.5}] * count})
    assert where == [on_loop]


def test_signature_names_that_are_none_are_refused_without_printing_all_of_a_body():
    api, _ = api_of(doubling())
    body = {"signature_name": 5, "instances": np.zeros(100_000).tolist()}
    text = json.loads(answer(api, "POST", PREDICT, body).body)["error"]
    assert "'signature_name' key must be a string value." in text
    assert len(text) < 400


def test_metrics_of_directories_whose_names_are_no_text():
    api, _ = api_of(doubling())
    api._observers.metrics.record_load("/models/caf\udce9/1", "OK", 5.0)
    reply = answer(api, "GET", "/metrics")
    assert reply.status == 200
    assert 'model_path="/models/caf?/1"' in reply.body.decode()


def test_a_request_that_fails_keeps_no_memory(monkeypatch):
    """Without a search for garbage, which comes by only now and then."""

    class Document(dict):
        """What is in it can be asked for as long as something refers to it."""

    known = []

    def reading(body, most_values):
        document = Document(inputs=["wrong"])
        known.append(weakref.ref(document))
        return document

    monkeypatch.setattr(rest_api, "parse", reading)
    api, _ = api_of(doubling())
    gc.disable()
    try:
        reply = answer(api, "POST", PREDICT, {})
        assert (reply.status, known[0]()) == (400, None)
    finally:
        gc.enable()


@pytest.mark.parametrize(("headers", "pack"), [({}, bytes), ({"content-encoding": "gzip"}, gzip.compress)])
def test_json_of_too_many_values(headers, pack):
    api, log = api_of(doubling(), most_values=100)
    for count, status in ((97, 200), (100, 413)):
        body = pack(json.dumps({"inputs": [1.5] * count}).encode())
        assert asyncio.run(api.handle(request("POST", PREDICT, body, **headers))).status == status
    assert [code for _, code, _ in log.ended] == ["OK", "RESOURCE_EXHAUSTED"]
