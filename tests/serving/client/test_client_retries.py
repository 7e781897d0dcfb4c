"""Errors of the client over gRPC and REST: retries, deadlines, exceptions."""

import random
import socket
import ssl
import threading
from itertools import count
from types import SimpleNamespace

import grpc
import pytest
from client_helpers import (
    CODES,
    STATUS_JSON,
    BlockingClient,
    Certificates,
    Failure,
    grpc_server,
    http_server,
    reply,
    status_message,
    status_server,
)
from serving_helpers import free_port

from serving.client import Client, Tls
from serving.client.calls import MAX_BACKOFF, Calls, Send, Sleep
from serving.client.errors import (
    ERRORS,
    DeadlineExceeded,
    InvalidArgument,
    ServingError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from serving.client.rest import RestFormat
from serving.client.types import ModelSpec
from serving.protocol import HTTP_STATUSES

AVAILABLE = [(1, "AVAILABLE")]


@pytest.fixture(params=[Client, BlockingClient], ids=["sync", "async"])
def client_class(request):
    return request.param


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


def states(client, **options):
    return [(version.version, version.state) for version in client.status("m", **options)]


def fail_first(times, code="UNAVAILABLE"):
    """Return a `decide` whose first `times` calls raise Failure, and the list of its calls."""
    calls = []

    def decide(headers):
        calls.append(headers)
        if len(calls) <= times:
            raise Failure(code, "the queue is full")

    return decide, calls


def test_requests_to_an_unavailable_server_are_retried(client_class, protocol):
    decide, calls = fail_first(2)
    with status_server(protocol, decide) as address, client_class(address) as client:
        assert states(client) == AVAILABLE
    assert len(calls) == 3


def test_the_last_retry_raises_the_servers_message(client_class, protocol):
    decide, calls = fail_first(1000)
    with status_server(protocol, decide) as address, client_class(address, retries=1) as client:
        with pytest.raises(Unavailable) as caught:
            client.status("m")
        assert len(calls) == 2
    assert (caught.value.code, caught.value.message) == ("UNAVAILABLE", "the queue is full")


@pytest.mark.parametrize("code", [code for code in CODES if code != "UNAVAILABLE"])
def test_other_codes_are_raised_as_their_class_without_retry(protocol, code):
    decide, calls = fail_first(1000, code)
    with status_server(protocol, decide) as address, Client(address) as client:
        with pytest.raises(ServingError) as caught:
            client.status("m")
        assert len(calls) == 1
    raised = caught.value
    assert type(raised) is ERRORS[raised.code]
    assert raised.message == "the queue is full"
    # Several codes share one HTTP status.
    assert raised.code == code if protocol == "grpc" else HTTP_STATUSES[raised.code] == HTTP_STATUSES[code]


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_an_exception_class_that_can_be_pickled(code):
    import pickle

    error = pickle.loads(pickle.dumps(ERRORS[code](code, "text")))
    assert (type(error), error.code, error.message, str(error)) == (ERRORS[code], code, "text", f"{code}: text")
    assert issubclass(ERRORS[code], ServingError)


def test_the_timeout_covers_all_tries(client_class, protocol, monkeypatch):
    """On the clock of this test each try takes 33.3 s: a fourth would start after the deadline."""
    decide, calls = fail_first(10**9)
    clock = SimpleNamespace(monotonic=lambda: 33.3 * len(calls))
    monkeypatch.setattr("serving.client.calls.time", clock)
    with status_server(protocol, decide) as address, client_class(address, retries=10**6) as client:
        with pytest.raises(Unavailable):
            client.status("m", timeout=100.0)
        assert len(calls) == 3


def backoffs(monkeypatch, retries, timeout=1e9):
    """Return the waits between the tries of a request that always fails, on a clock that only waits advance."""
    now = [0.0]
    monkeypatch.setattr("serving.client.calls.time", SimpleNamespace(monotonic=lambda: now[0]))
    steps = Calls(RestFormat("http://nowhere"), retries).status(ModelSpec("m"), timeout)
    seconds, step = [], next(steps)
    while True:
        if isinstance(step, Sleep):
            seconds.append(step.seconds)
            now[0] += step.seconds
            step = next(steps)
            continue
        assert isinstance(step, Send)
        try:
            step = steps.throw(Unavailable("UNAVAILABLE", "no"))
        except Unavailable:
            return seconds


def test_backoff_doubles_up_to_a_maximum_with_jitter(monkeypatch):
    random.seed(1)
    for number, wait in enumerate(backoffs(monkeypatch, 20)):
        full = min(0.1 * 2**number, MAX_BACKOFF)
        assert full / 2 <= wait <= full
    assert backoffs(monkeypatch, 3) != backoffs(monkeypatch, 3)
    assert backoffs(monkeypatch, 0) == []


def test_backoff_ends_before_the_timeout(monkeypatch):
    assert 1 < sum(backoffs(monkeypatch, 10**6, timeout=20)) < 20


def test_a_server_that_never_responds_exceeds_the_deadline(client_class, protocol):
    ended = threading.Event()
    with (
        status_server(protocol, lambda headers: ended.wait(30)) as address,
        client_class(address) as client,
    ):
        with pytest.raises(DeadlineExceeded):
            client.status("m", timeout=0.2)
        ended.set()


def test_a_response_sent_byte_by_byte_exceeds_the_deadline(client_class):
    """No single read takes too long, but all of them together do."""
    stop, sent = threading.Event(), count()

    def drip(handler, body):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not stop.wait(0.05) and next(sent) < 2000:
            handler.wfile.write(b" ")

    with http_server(drip) as address, client_class(address, retries=0) as client:
        with pytest.raises(DeadlineExceeded, match=r"no response within 0.4 s"):
            client.status("m", timeout=0.4)
        stop.set()
        assert next(sent) < 2000


def test_a_keepalive_connection_closed_by_the_server_is_replaced(client_class):
    """The server closes instead of responding to the second request, as on an idle timeout that has just expired."""
    requests = count()

    def answer(handler, body):
        if next(requests) == 1:
            handler.close_connection = True
        else:
            reply(handler, STATUS_JSON)

    with http_server(answer) as address, client_class(address, retries=0) as client:
        assert states(client) == states(client) == AVAILABLE
        assert next(requests) == 3


def test_a_new_connection_closed_without_a_response_is_an_error(client_class):
    requests = count()

    def answer(handler, body):
        next(requests)
        handler.close_connection = True

    with http_server(answer) as address, client_class(address, retries=0) as client:
        with pytest.raises(Unavailable):
            client.status("m")
        assert next(requests) == 1


def test_a_request_with_a_truncated_response_is_not_repeated(client_class):
    requests = count()

    def answer(handler, body):
        if next(requests) == 0:
            reply(handler, STATUS_JSON)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"{")
        handler.close_connection = True

    with http_server(answer) as address, client_class(address, retries=0) as client:
        assert states(client) == AVAILABLE
        with pytest.raises(Unavailable):
            client.status("m")
        assert next(requests) == 2


def test_a_client_reconnects_to_a_restarted_server(client_class):
    port = free_port()
    with client_class(f"127.0.0.1:{port}", retries=30) as client:
        for _ in range(2):
            with grpc_server(lambda *call: status_message(), port=port):
                assert states(client) == AVAILABLE
            with pytest.raises(Unavailable, match="no model server answers"):
                client.status("m", timeout=2.0)


def test_the_error_without_a_server_says_how_to_start_one(client_class, protocol):
    address = f"{'' if protocol == 'grpc' else 'http://'}127.0.0.1:{free_port()}"
    with client_class(address) as client:
        with pytest.raises(Unavailable, match="python -m serving") as caught:
            client.status("m", timeout=10.0)
        assert f"no model server answers at {address}" in caught.value.message
        assert client.ready() is False


@pytest.mark.parametrize(
    ("status", "kind"), [(200, Unknown), (404, Unknown), (500, Unknown), (503, Unavailable), (401, Unauthenticated)]
)
def test_the_error_for_a_body_that_is_not_json_quotes_its_beginning(client_class, status, kind):
    page = "<html>" + "x" * 1000

    def answer(handler, body):
        reply(handler, page, status, "text/html")

    with http_server(answer) as address, client_class(address, retries=0) as client:
        with pytest.raises(kind) as caught:
            client.status("m")
        assert "<html>xxx" in caught.value.message and address in caught.value.message
        assert len(caught.value.message) < 400


@pytest.mark.parametrize("content", ["[1]", '"text"', "null", "{}"])
def test_unexpected_json_is_an_error(client_class, content):
    with http_server(lambda handler, body: reply(handler, content)) as address:  # noqa: SIM117
        with client_class(address) as client, pytest.raises(ServingError):
            client.status("m")


def test_a_server_that_does_not_speak_http_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(address, retries=0) as client, pytest.raises(ServingError):
            client.status("m", timeout=10)
        thread.join(30)


@pytest.mark.parametrize("address", ["ftp://host:1", "http:///x", "http://host:port", "http://a b:1", "grpc://"])
def test_invalid_addresses_are_errors(address):
    with pytest.raises(ServingError), Client(address, retries=0) as client:
        client.status("m", timeout=5)


def test_a_token_is_sent_with_every_request(client_class, protocol):
    def decide(headers):
        if headers.get("authorization") != "Bearer open-sesame":
            raise Failure("UNAUTHENTICATED", "a token is needed")

    with status_server(protocol, decide) as address:
        with client_class(address, token="open-sesame") as client:
            assert states(client) == AVAILABLE
        for token in (None, "other"):
            with (
                client_class(address, token=token) as client,
                pytest.raises(Unauthenticated, match="a token is needed"),
            ):
                client.status("m")


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_token_that_is_invalid_in_a_header_is_rejected(token):
    with pytest.raises(InvalidArgument, match="token"):
        Client("localhost:1", token=token)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure_address(protocol, certificates):
    """Return the address of a server that requires a client certificate."""
    if protocol == "rest":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.path("server.pem"), certificates.path("server.key"))
        context.load_verify_locations(certificates.path("ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        with status_server("rest", lambda headers: None, tls=context) as address:
            yield address
        return
    pair = (certificates.path("server.key").read_bytes(), certificates.path("server.pem").read_bytes())
    authority = certificates.path("ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=True)
    with status_server("grpc", lambda headers: None, credentials=credentials) as address:
        yield f"grpcs://{address}"


def test_mutual_tls_with_a_private_authority(client_class, secure_address, certificates):
    files = Tls(certificates.path("ca.pem"), certificates.path("client.pem"), certificates.path("client.key"))
    with client_class(secure_address, tls=files) as client:
        assert states(client) == AVAILABLE


@pytest.mark.parametrize("missing", ["authority", "certificate", "tls"])
def test_tls_fails_unless_both_sides_trust_each_other(client_class, secure_address, certificates, missing):
    files = {
        "authority": Tls(None, certificates.path("client.pem"), certificates.path("client.key")),
        "certificate": Tls(certificates.path("ca.pem")),
        "tls": None,
    }[missing]
    address = secure_address.replace("s://", "://", 1) if missing == "tls" else secure_address
    with client_class(address, tls=files, retries=0) as client, pytest.raises(ServingError):
        client.status("m", timeout=10)


@pytest.mark.parametrize("address", ["localhost:1", "grpc://localhost:1", "http://localhost:1"])
def test_certificates_for_an_address_without_tls_are_rejected(address):
    with pytest.raises(InvalidArgument, match=r"use (grpcs|https)://localhost:1"):
        Client(address, tls=Tls("ca.pem"))


def test_missing_certificate_files_raise_os_error(tmp_path):
    for address in ("grpcs://localhost:1", "https://localhost:1"):
        with pytest.raises(OSError):
            Client(address, tls=Tls(tmp_path / "ca.pem"))


def test_a_large_request_is_sent_completely(client_class):
    """The request exceeds the buffers of a connection, and the server reads it in pieces."""
    import numpy as np

    received = []

    def answer(handler, body):
        received.append(len(body))
        reply(handler, {"error": "enough"}, 400)

    array = np.zeros(3_000_000, np.float32)
    with (
        http_server(answer) as address,
        client_class(address) as client,
        pytest.raises(InvalidArgument, match="enough"),
    ):
        client.predict("m", {"x": array})
    assert received[0] > 5 * len(array)


def test_threads_share_a_client(protocol):
    from concurrent.futures import ThreadPoolExecutor

    decide, calls = fail_first(5)
    with (
        status_server(protocol, decide) as address,
        Client(address, retries=10) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        assert list(pool.map(lambda _: states(client), range(200))) == [AVAILABLE] * 200
    assert len(calls) == 205


def test_models_is_unimplemented_over_grpc(client_class):
    with client_class("localhost:1") as client, pytest.raises(Unimplemented, match="http://"):
        client.models()
