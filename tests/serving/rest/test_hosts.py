"""Hosts of requests, and whether they are allowed: host names, targets, and a running server."""

import asyncio
import json

import pytest
from rest_helpers import FakeBackend, api_of, request, signature_of
from serving_helpers import Server
from survival_helpers import GOOD_ANSWER, GOOD_BODY, connect, exchange, read_answer, request_bytes
from tensorflow.core.framework import types_pb2

from serving.client.errors import PermissionDenied
from serving.client.rest import HttpRequest, parse_response
from serving.errors import StatusError, UsageError
from serving.rest.http.hosts import Misdirected, resolve
from serving.settings.hosts import allowed_hosts

LOCAL = allowed_hosts("127.0.0.1", "")


@pytest.mark.parametrize(
    ("address", "listed", "expected"),
    [
        ("127.0.0.1", "", {"localhost", "127.0.0.1", "::1"}),
        ("::1", "", {"localhost", "127.0.0.1", "::1"}),
        ("localhost", "", {"localhost", "127.0.0.1", "::1"}),
        ("127.0.0.5", "", {"localhost", "127.0.0.1", "::1", "127.0.0.5"}),
        ("0.0.0.0", "", None),
        ("::", "", None),
        ("192.0.2.1", "", None),
        ("0.0.0.0", "Models.Example., [0:0::1],192.0.2.1,::2", {"models.example", "::1", "192.0.2.1", "::2"}),
        ("127.0.0.1", "models.example", {"models.example"}),
        ("127.0.0.1", "*", None),
    ],
)
def test_allowed_hosts(address, listed, expected):
    assert allowed_hosts(address, listed) == expected


@pytest.mark.parametrize(
    "listed", ["a,,b", " ", "models.example:8501", "[::1]:8501", "http://models.example", "a b", "*.example"]
)
def test_invalid_host_lists_are_refused(listed):
    with pytest.raises(UsageError, match="it must be a comma-separated list of host names or addresses without ports"):
        allowed_hosts("127.0.0.1", listed)


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8501", "localhost.", "localhost.:1", "127.0.0.1:8501", "[::1]", "[0::1]:"]
)
def test_local_hosts_are_allowed(host):
    assert resolve(request("GET", "/", host=host), LOCAL).target == "/"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8501",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "127.0.0.2",
        "2130706433",
        "[::2]",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_hosts_are_refused(host, method):
    incoming = request(method, "/v1/models", host=host)
    with pytest.raises(Misdirected, match="The host .* is not allowed: .*--rest_api_allowed_hosts"):
        resolve(incoming, LOCAL)
    assert resolve(incoming, None) == incoming  # as TensorFlow Serving does


@pytest.mark.parametrize(
    "host", ["localhost, localhost", "a b", "localhost/", "me@localhost", "[::1", "[localhost]", "::1"]
)
@pytest.mark.parametrize("allowed", [LOCAL, None])
def test_invalid_hosts_are_refused(host, allowed):
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: The host of the request is .*; it must be one host"):
        resolve(request("GET", "/", host=host), allowed)


def test_requests_without_a_host():
    """HTTP/1.1 forbids them; in HTTP/1.0 they are usual, and no browser sends them."""
    incoming = request("GET", "/")
    incoming.headers.clear()
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: The request has no Host header"):
        resolve(incoming, None)
    assert resolve(incoming._replace(version="1.0"), LOCAL).target == "/"


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("POST", "http://127.0.0.1:8501/v1/models/m:predict", "/v1/models/m:predict"),
        ("GET", "HTTP://localhost", "/"),
        ("GET", "http://localhost?a=http://b", "/?a=http://b"),
        ("GET", "http://[::1]:8501/a?b", "/a?b"),
        ("OPTIONS", "http://localhost", "*"),
        ("OPTIONS", "http://localhost/", "/"),
        ("OPTIONS", "*", "*"),
        ("GET", "//evil.example/a", "//evil.example/a"),
    ],
)
def test_target_forms(method, target, expected):
    assert resolve(request(method, target, host="localhost"), LOCAL).target == expected


def test_a_host_in_the_target_replaces_the_header():
    with pytest.raises(Misdirected):
        resolve(request("GET", "http://evil.example/"), LOCAL)
    assert resolve(request("GET", "http://localhost/", host="evil.example"), LOCAL).target == "/"


def test_https_needs_tls():
    incoming = request("GET", "https://localhost/a")
    with pytest.raises(Misdirected, match="does not use TLS"):
        resolve(incoming, LOCAL)
    assert resolve(incoming._replace(secured=True), LOCAL).target == "/a"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("CONNECT", "localhost:1"),
        ("CONNECT", "/"),
        ("GET", "*"),
        ("GET", "ftp://localhost/"),
        ("GET", "http://"),
        ("GET", "http:///a"),
        ("GET", "localhost:8501"),
        ("OPTIONS", "*a"),
    ],
)
def test_invalid_targets_are_refused(method, target):
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: Malformed request: "):
        resolve(request(method, target), None)


def make_backend() -> FakeBackend:
    signature = signature_of("serving_default", {"x": types_pb2.DT_FLOAT}, {"y": types_pb2.DT_FLOAT})
    return FakeBackend(signature, lambda feeds: [feeds["x:0"]])


TARGETS = ["/", "/v1/models", "/v1/models/m/metadata", "/healthz", "/readyz", "/metrics", "/v1/models/m:predict"]


@pytest.mark.parametrize("cors", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("target", TARGETS)
def test_dns_rebinding_is_refused(method, target, cors):
    """Before the body is read and after; without a token too, the error is about the host."""
    api, log = api_of(make_backend(), ("token",), cors, hosts=LOCAL)
    incoming = request(method, target, host="evil.example", origin="http://evil.example")
    for reply in (api.refusal(incoming, 5), asyncio.run(api.handle(incoming))):
        assert reply.status == 421
        assert "The host 'evil.example' is not allowed" in json.loads(reply.body)["error"]
    assert [code for _, code, _ in log.ended] == ["PERMISSION_DENIED"] * 2


def test_the_client_raises_the_message_of_the_server():
    with pytest.raises(PermissionDenied, match="The host is not allowed"):
        parse_response("a", HttpRequest("/v1/models"), 421, b'{"error": "The host is not allowed"}')


def test_targets_with_a_host_get_the_same_replies():
    api, _ = api_of(make_backend(), hosts=LOCAL)
    bodies = []
    for host in ("", "http://127.0.0.1:8501"):
        reply = asyncio.run(api.handle(request("POST", host + "/v1/models/m:predict", {"instances": [1.0]})))
        assert reply.status == 200
        bodies.append(reply.body)
        assert asyncio.run(api.handle(request("GET", host + "/healthz"))).body == b"ok\n"
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("host", ["", "http://127.0.0.1:8501", "http://localhost"])
def test_a_running_server_accepts_targets_with_its_host(server: Server, host: str):
    status, _, body = exchange(server, request_bytes("POST", f"{host}/v1/models/example/versions/1:predict", GOOD_BODY))
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET /v1/models/example HTTP/1.1\r\nHost: evil.example\r\n", 421),
        (b"OPTIONS /v1/models/example HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n", 421),
        (b"GET http://evil.example/v1/models/example HTTP/1.1\r\nHost: localhost\r\n", 421),
        (b"GET https://localhost/v1/models/example HTTP/1.1\r\nHost: localhost\r\n", 421),
        (b"POST /v1/models/example:predict HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000\r\n", 421),
        (b"GET /v1/models/example HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        (b"GET /v1/models/example HTTP/1.1\r\nHost: evil.example\r\nX: y\r\nhost: localhost\r\n", 400),
        (b"GET /v1/models/example HTTP/1.1\r\n", 400),
        (b"GET /v1/models/example HTTP/1.0\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n", 200),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n", 400),
        (b"CONNECT evil.example:1 HTTP/1.1\r\nHost: evil.example:1\r\n", 400),
    ],
)
def test_a_running_server_checks_hosts(server: Server, head: bytes, expected: int):
    with connect(server) as connection:
        connection.sendall(head + b"\r\n")
        status, headers, body = read_answer(connection)
    assert status == expected, body
    assert (status == 200) or len(json.loads(body)["error"]) > 20
    assert not head.startswith(b"OPTIONS *") or headers["allow"] == "GET, POST, OPTIONS"
