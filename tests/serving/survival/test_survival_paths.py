"""No name of a model or label leads out of the model directories; an audit hook records the files that are opened."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_helpers import Server, Store, wait_until
from survival_helpers import (
    GOOD_BODY,
    assert_answers,
    assert_clean_log,
    connect,
    publish,
    read_answer,
    request_bytes,
    running,
)
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

HOOK = """
import os, runpy, sys, threading

paths = open({record!r}, "a", buffering=1)
writing = threading.local()

def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and not getattr(writing, "now", False):
        writing.now = True
        paths.write(repr(os.fspath(arguments[0]) if not isinstance(arguments[0], int) else "") + "\\n")
        writing.now = False

sys.addaudithook(note)
sys.argv[0] = "serving"
runpy.run_module("serving", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def recorded_server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server, and the file that records every path that it opens or lists."""
    models = tmp_path_factory.mktemp("watched")
    publish(store, models)
    (models / "secret.txt").write_text("secret")
    store.publish(store.number(3), models / "secret", 1)
    record, program = models / "paths", models / "watched.py"
    record.touch()
    program.write_text(HOOK.format(record=str(record)))
    with running(models, "--rest_api_extensions", program=(str(program),)) as server:
        wait_until(lambda: server.log.read_text().count("Successfully loaded") == 2)
        yield server, record


TRAVERSALS = [
    "..",
    "%2e%2e",
    "%2E.",
    "..%2f",
    "..%5c",
    "%252e%252e",
    "..;",
    ".",
    "%00",
    "\xc0\xae",
    "%c0%ae%c0%ae",
    "~",
    "*",
]
NAMES = [
    "secret",
    "secret.txt",
    "example",
    "number",
    "1",
    "etc/passwd",
    "etc%2fpasswd",
    "%2fetc%2fpasswd",
    "models.config",
]
parts = st.lists(st.sampled_from([*TRAVERSALS, *NAMES]), min_size=1, max_size=8)
names = st.builds(
    lambda parts, separator: separator.join(parts), parts, st.sampled_from(["/", "%2f", "%2F", "\\", "%5c", "//"])
)
forms = st.sampled_from(
    [
        ("GET", "/v1/models/{0}"),
        ("GET", "/v1/models/{0}/metadata"),
        ("GET", "/v1/models/example/labels/{0}"),
        ("GET", "/v1/models/example/labels/{0}/metadata"),
        ("GET", "/v1/models/example/versions/{0}"),
        ("POST", "/v1/models/{0}:predict"),
        ("POST", "/v1/models/{0}/versions/1:predict"),
        ("POST", "/v1/models/example/labels/{0}:classify"),
        ("POST", "/v1/models/example/labels/{0}:stream"),
        ("GET", "/{0}"),
        ("GET", "/v1/{0}"),
    ]
)


def is_allowed(path: str, models: Path) -> bool:
    """Return whether the server may open a path: its own files and versions of its models."""
    if not path.startswith(str(models)):
        return "passwd" not in path and ".." not in path
    return path == str(models) or path.startswith((f"{models}/example", f"{models}/number", f"{models}/models.config"))


def test_names_do_not_lead_out_of_the_model_directories(recorded_server):
    server, record = recorded_server
    models = server.models
    before = len(record.read_text().splitlines())

    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(name=names, form=forms)
    def ask(name: str, form: tuple[str, str]) -> None:
        method, path = form
        with connect(server) as connection:
            connection.sendall(request_bytes(method, path.format(name), GOOD_BODY if method == "POST" else b""))
            status, _, body = read_answer(connection)
        assert status in (200, 400, 404)
        assert b"secret\n" not in body
        if status == 200:  # GetModelStatus does not look at labels
            assert name in ("example", "number", "1") or "/labels/" in path
        assert_grpc_refuses(urllib.parse.unquote(name))

    def assert_grpc_refuses(name: str) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name.encode("utf-8", "replace").decode()
        for label in ("", name):
            if label:
                request.model_spec.name, request.model_spec.version_label = "example", request.model_spec.name
            if request.model_spec.name in ("example", "number") and not label:
                continue
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(request, timeout=60)
            assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)

    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        ask()
    assert_answers(server)
    # The record works: it contains the next scan of the model directory.
    wait_until(lambda: any(f"{models}/example" in line for line in record.read_text().splitlines()[before:]))
    opened = {line.strip("'\"b") for line in record.read_text().splitlines()}
    assert not [path for path in opened if not is_allowed(path, models)]
    assert_clean_log(server)
