"""Failures of the client's requests: what is tried again, how long, and what is raised; over gRPC and REST."""

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
from serving.client.calls import MOST_BACKOFF, Calls, Send, Sleep
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
def make(request):
    return request.param


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


def states(client, **options):
    return [(version.version, version.state) for version in client.status("m", **options)]


def failing(times, code="UNAVAILABLE"):
    """Fails so often -> what decides, and the calls so far."""
    calls = []

    def decide(headers):
        calls.append(headers)
        if len(calls) <= times:
            raise Failure(code, "the queue is full")

    return decide, calls


def test_an_unavailable_server_is_asked_again(make, protocol):
    decide, calls = failing(2)
    with status_server(protocol, decide) as address, make(address) as client:
        assert states(client) == AVAILABLE
    assert len(calls) == 3


def test_retries_have_an_end_and_the_text_is_the_servers(make, protocol):
    decide, calls = failing(1000)
    with status_server(protocol, decide) as address, make(address, retries=1) as client:
        with pytest.raises(Unavailable) as caught:
            client.status("m")
        assert len(calls) == 2
    assert (caught.value.code, caught.value.message) == ("UNAVAILABLE", "the queue is full")


@pytest.mark.parametrize("code", [code for code in CODES if code != "UNAVAILABLE"])
def test_other_failures_are_raised_at_once_as_their_class(protocol, code):
    decide, calls = failing(1000, code)
    with status_server(protocol, decide) as address, Client(address) as client:
        with pytest.raises(ServingError) as caught:
            client.status("m")
        assert len(calls) == 1
    raised = caught.value
    assert type(raised) is ERRORS[raised.code]
    assert raised.message == "the queue is full"
    # REST tells numbers, and several codes share one.
    assert raised.code == code if protocol == "grpc" else HTTP_STATUSES[raised.code] == HTTP_STATUSES[code]


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_class_that_survives_pickling(code):
    import pickle

    error = pickle.loads(pickle.dumps(ERRORS[code](code, "text")))
    assert (type(error), error.code, error.message, str(error)) == (ERRORS[code], code, "text", f"{code}: text")
    assert issubclass(ERRORS[code], ServingError)


def test_the_timeout_covers_all_tries(make, protocol, monkeypatch):
    """By a clock on which each try takes 33.3 s and nothing else takes time: a fourth would begin too late."""
    decide, calls = failing(10**9)
    clock = SimpleNamespace(monotonic=lambda: 33.3 * len(calls))
    monkeypatch.setattr("serving.client.calls.time", clock)
    with status_server(protocol, decide) as address, make(address, retries=10**6) as client:
        with pytest.raises(Unavailable):
            client.status("m", timeout=100.0)
        assert len(calls) == 3


def waits(monkeypatch, retries, timeout=1e9):
    """The waits between the tries of a request that always fails, where nothing else takes time."""
    now = [0.0]
    monkeypatch.setattr("serving.client.calls.time", SimpleNamespace(monotonic=lambda: now[0]))
    steps = Calls(RestFormat("http://nowhere"), retries).status(ModelSpec("m"), timeout)
    slept, step = [], next(steps)
    while True:
        if isinstance(step, Sleep):
            slept.append(step.seconds)
            now[0] += step.seconds
            step = next(steps)
            continue
        assert isinstance(step, Send)
        try:
            step = steps.throw(Unavailable("UNAVAILABLE", "no"))
        except Unavailable:
            return slept


def test_waits_double_up_to_a_bound_and_differ_by_chance(monkeypatch):
    random.seed(1)
    for number, wait in enumerate(waits(monkeypatch, 20)):
        full = min(0.1 * 2**number, MOST_BACKOFF)
        assert full / 2 <= wait <= full
    assert waits(monkeypatch, 3) != waits(monkeypatch, 3)
    assert waits(monkeypatch, 0) == []


def test_no_wait_outlasts_the_timeout(monkeypatch):
    assert 1 < sum(waits(monkeypatch, 10**6, timeout=20)) < 20


def test_a_server_that_never_answers_is_late(make, protocol):
    ended = threading.Event()
    with (
        status_server(protocol, lambda headers: ended.wait(30)) as address,
        make(address) as client,
    ):
        with pytest.raises(DeadlineExceeded):
            client.status("m", timeout=0.2)
        ended.set()


def test_an_answer_that_comes_byte_by_byte_is_late(make):
    """No single read is late; together they are."""
    stop, sent = threading.Event(), count()

    def drip(handler, body):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not stop.wait(0.05) and next(sent) < 2000:
            handler.wfile.write(b" ")

    with http_server(drip) as address, make(address, retries=0) as client:
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0.4 s"):
            client.status("m", timeout=0.4)
        stop.set()
        assert next(sent) < 2000


def test_a_kept_connection_that_the_server_closed_is_no_failure(make):
    """It takes the second request and closes without an answer, as a server does whose patience has just ended."""
    requests = count()

    def answer(handler, body):
        if next(requests) == 1:
            handler.close_connection = True
        else:
            reply(handler, STATUS_JSON)

    with http_server(answer) as address, make(address, retries=0) as client:
        assert states(client) == states(client) == AVAILABLE
        assert next(requests) == 3


def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure(make):
    requests = count()

    def answer(handler, body):
        next(requests)
        handler.close_connection = True

    with http_server(answer) as address, make(address, retries=0) as client:
        with pytest.raises(Unavailable):
            client.status("m")
        assert next(requests) == 1


def test_an_answer_that_breaks_off_is_not_asked_for_again(make):
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

    with http_server(answer) as address, make(address, retries=0) as client:
        assert states(client) == AVAILABLE
        with pytest.raises(Unavailable):
            client.status("m")
        assert next(requests) == 2


def test_a_client_finds_a_server_that_comes_back(make):
    port = free_port()
    with make(f"127.0.0.1:{port}", retries=30) as client:
        for _ in range(2):
            with grpc_server(lambda *call: status_message(), port=port):
                assert states(client) == AVAILABLE
            with pytest.raises(Unavailable, match="no model server answers"):
                client.status("m", timeout=2.0)


def test_an_absent_server_is_a_sentence_that_says_what_to_do(make, protocol):
    address = f"{'' if protocol == 'grpc' else 'http://'}127.0.0.1:{free_port()}"
    with make(address) as client:
        with pytest.raises(Unavailable, match="python -m serving") as caught:
            client.status("m", timeout=10.0)
        assert f"no model server answers at {address}" in caught.value.message
        assert client.ready() is False


@pytest.mark.parametrize(
    ("status", "kind"), [(200, Unknown), (404, Unknown), (500, Unknown), (503, Unavailable), (401, Unauthenticated)]
)
def test_a_body_that_is_no_json_is_told_with_its_beginning(make, status, kind):
    page = "<html>" + "x" * 1000

    def answer(handler, body):
        reply(handler, page, status, "text/html")

    with http_server(answer) as address, make(address, retries=0) as client:
        with pytest.raises(kind) as caught:
            client.status("m")
        assert "<html>xxx" in caught.value.message and address in caught.value.message
        assert len(caught.value.message) < 400


@pytest.mark.parametrize("content", ["[1]", '"text"', "null", "{}"])
def test_json_of_something_else_is_a_failure(make, content):
    with http_server(lambda handler, body: reply(handler, content)) as address:  # noqa: SIM117
        with make(address) as client, pytest.raises(ServingError):
            client.status("m")


def test_a_server_that_speaks_no_http_is_a_failure():
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
def test_addresses_that_make_no_sense(address):
    with pytest.raises(ServingError), Client(address, retries=0) as client:
        client.status("m", timeout=5)


def test_a_token_is_sent_with_every_request(make, protocol):
    def decide(headers):
        if headers.get("authorization") != "Bearer open-sesame":
            raise Failure("UNAUTHENTICATED", "a token is needed")

    with status_server(protocol, decide) as address:
        with make(address, token="open-sesame") as client:
            assert states(client) == AVAILABLE
        for token in (None, "other"):
            with make(address, token=token) as client, pytest.raises(Unauthenticated, match="a token is needed"):
                client.status("m")


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_token_that_no_header_can_hold_is_refused(token):
    with pytest.raises(InvalidArgument, match="token"):
        Client("localhost:1", token=token)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(protocol, certificates):
    """The address of a server that asks for a certificate of the client too."""
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


def test_tls_with_an_own_authority_and_a_certificate_of_the_client(make, secure, certificates):
    files = Tls(certificates.path("ca.pem"), certificates.path("client.pem"), certificates.path("client.key"))
    with make(secure, tls=files) as client:
        assert states(client) == AVAILABLE


@pytest.mark.parametrize("lacks", ["authority", "certificate", "tls"])
def test_no_tls_without_trust_on_both_sides(make, secure, certificates, lacks):
    files = {
        "authority": Tls(None, certificates.path("client.pem"), certificates.path("client.key")),
        "certificate": Tls(certificates.path("ca.pem")),
        "tls": None,
    }[lacks]
    address = secure.replace("s://", "://", 1) if lacks == "tls" else secure
    with make(address, tls=files, retries=0) as client, pytest.raises(ServingError):
        client.status("m", timeout=10)


@pytest.mark.parametrize("address", ["localhost:1", "grpc://localhost:1", "http://localhost:1"])
def test_certificates_for_an_address_without_tls_are_refused(address):
    with pytest.raises(InvalidArgument, match=r"use (grpcs|https)://localhost:1"):
        Client(address, tls=Tls("ca.pem"))


def test_files_that_are_not_there_are_named(tmp_path):
    for address in ("grpcs://localhost:1", "https://localhost:1"):
        with pytest.raises(OSError):
            Client(address, tls=Tls(tmp_path / "ca.pem"))


def test_a_large_request_is_sent_whole_to_a_slow_reader(make):
    """More than the buffers of a connection hold, read in pieces."""
    import numpy as np

    got = []

    def answer(handler, body):
        got.append(len(body))
        reply(handler, {"error": "enough"}, 400)

    array = np.zeros(3_000_000, np.float32)
    with http_server(answer) as address, make(address) as client, pytest.raises(InvalidArgument, match="enough"):
        client.predict("m", {"x": array})
    assert got[0] > 5 * len(array)


def test_threads_share_a_client(protocol):
    from concurrent.futures import ThreadPoolExecutor

    decide, calls = failing(5)
    with (
        status_server(protocol, decide) as address,
        Client(address, retries=10) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        assert list(pool.map(lambda _: states(client), range(200))) == [AVAILABLE] * 200
    assert len(calls) == 205


def test_no_list_of_models_over_grpc(make):
    with make("localhost:1") as client, pytest.raises(Unimplemented, match="http://"):
        client.models()
