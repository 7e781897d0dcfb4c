"""Clients that send invalid data, too much, too slowly or nothing are refused or disconnected."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_helpers import Server, Store, wait_until
from survival_helpers import (
    ANSWER_SECONDS,
    GOOD_ANSWER,
    GOOD_BODY,
    GOOD_PATH,
    GOOD_REQUEST,
    assert_answers,
    assert_clean_log,
    connect,
    exchange,
    open_files,
    publish,
    read_answer,
    read_to_end,
    request_bytes,
    resident_bytes,
    rest_port,
    running,
)

MAX_BYTES = 1 << 20
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("sockets")
    publish(store, models)
    flags = (f"--max_request_bytes={MAX_BYTES}", "--rest_api_timeout_in_ms=4000", "--rest_api_extensions")
    with running(models, *flags) as server:
        assert_answers(server)
        yield server


@pytest.fixture(autouse=True)
def check_server_afterwards(server: Server) -> Iterator[None]:
    """After every test, the server must answer and have closed its files."""
    before = open_files(server)
    yield
    assert_answers(server)
    wait_until(lambda: open_files(server) <= before, 30)
    assert_clean_log(server)


def closed_by_server(connection: socket.socket) -> bool:
    connection.settimeout(ANSWER_SECONDS)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "start", [b"GET /", b"POST / HTTP/1.1\r\n", request_bytes("POST", GOOD_PATH, b"", "Content-Length: 1000")]
)
def test_slow_senders_are_cut_off(server, start):
    """Endless headers or a body, byte by byte."""
    with connect(server) as connection:
        connection.sendall(start)
        stopped = threading.Event()

        def drip() -> None:
            while not stopped.wait(0.2):
                try:
                    connection.send(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert_answers(server)
            assert closed_by_server(connection)
        finally:
            stopped.set()
            thread.join()


def test_a_request_in_single_bytes_is_answered(server):
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GOOD_REQUEST:
            connection.send(bytes([byte]))
        status, _, body = read_answer(connection)
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)


def test_half_closed_clients_get_their_answer(server):
    with connect(server) as connection:
        connection.sendall(GOOD_REQUEST)
        connection.shutdown(socket.SHUT_WR)
        status, _, body = read_answer(connection)
        assert (status, json.loads(body)) == (200, GOOD_ANSWER)
        assert closed_by_server(connection)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/mod", GOOD_REQUEST[:-3]])
def test_connections_half_closed_within_a_request(server, sent):
    with connect(server) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert closed_by_server(connection)


def test_idle_connections_are_closed(server):
    """Before a first request and after a request."""
    connections = []
    try:
        for number in range(100):
            connections.append(connect(server))
            if number % 2:
                connections[-1].sendall(GOOD_REQUEST)
                assert read_answer(connections[-1])[0] == 200
        for connection in connections:
            assert closed_by_server(connection)
    finally:
        for connection in connections:
            connection.close()


def test_a_large_content_length_is_refused_before_the_body(server):
    for length in (MAX_BYTES + 1, 2 << 30, 2**63):
        status, headers, body = exchange(server, request_bytes("POST", GOOD_PATH, b"", f"Content-Length: {length}"))
        assert (status, headers["connection"]) == (413, "close")
        assert f"Received message larger than max ({length} vs. {MAX_BYTES})" in json.loads(body)["error"]
    assert exchange(server, request_bytes("POST", GOOD_PATH, b"", f"Content-Length: {2**64}"))[0] == 400


def test_clients_that_send_a_large_body_receive_the_refusal(server):
    """A reset must not drop the answer while the client is still sending."""
    with connect(server) as connection:
        connection.sendall(request_bytes("POST", GOOD_PATH, b"", f"Content-Length: {20 * MEGABYTE}"))
        for _ in range(20):
            connection.sendall(bytes(MEGABYTE))
        assert read_answer(connection)[0] == 413


def test_connections_close_if_the_body_never_comes(server):
    with connect(server) as connection:
        connection.sendall(request_bytes("POST", GOOD_PATH, b"", f"Content-Length: {MAX_BYTES}") + b"{")
        assert closed_by_server(connection)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED = request_bytes("POST", GOOD_PATH, b"", "Transfer-Encoding: chunked")


def test_chunks(server):
    data = CHUNKED + chunk(GOOD_BODY[:5]) + chunk(GOOD_BODY[5:]) + b"0\r\n\r\n"
    status, _, body = exchange(server, data)
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)


def test_endless_chunks_are_refused(server):
    before = resident_bytes(server)
    with connect(server) as connection:
        connection.sendall(CHUNKED)
        sent = 0
        try:
            while sent < 64 * MEGABYTE:
                connection.sendall(chunk(b" " * 65536))
                sent += 65536
        except ConnectionError:
            pass
        else:
            assert read_answer(connection)[0] == 413
    assert resident_bytes(server) - before < 30 * MEGABYTE


@pytest.mark.parametrize("tail", [b"zz\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"-1\r\n", b"f" * 17 + b"\r\n", b"\r\n\r\n"])
def test_broken_chunks(server, tail):
    with connect(server) as connection:
        connection.sendall(CHUNKED + tail)
        assert read_answer(connection)[0] == 400


@pytest.mark.parametrize(
    "part",
    [b"X-%d: " + b"a" * 1000 + b"\r\n", b"X-%d: \r\n", b"aaaaaaaaaaaaaaaa", b""],
    ids=["many", "empty", "one name", "one value"],
)
def test_endless_headers_are_refused(server, part):
    """Many headers, or one with an endless name or value."""
    before = resident_bytes(server)
    with connect(server) as connection:
        connection.sendall(b"POST /v1/models/example:predict HTTP/1.1\r\n" + (b"" if part else b"X: "))
        sent = 0
        try:
            while sent < 64 * MEGABYTE:
                block = b"".join(part % n if b"%d" in part else part for n in range(500)) or b"a" * 65536
                connection.sendall(block)
                sent += len(block)
        except ConnectionError:
            pass
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 431 ") or not answer
    assert resident_bytes(server) - before < 30 * MEGABYTE


def test_an_endless_url_is_refused(server):
    assert exchange(server, b"GET /" + b"a" * 100_000)[0] == 431


@pytest.mark.parametrize(
    "headers",
    [
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5, 5",),
        ("Content-Length: +5",),
        ("Content-Length: -5",),
        ("Content-Length: 0x5",),
        ("Content-Length:",),
        ("Transfer-Encoding: identity, chunked, identity",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding : chunked",),
        ("Content-Length : 5",),
        ("X: a\rContent-Length: 5",),
        ("X: a\nContent-Length: 5",),
        ("X: a\x00b",),
        (" folded: 1",),
    ],
)
def test_ambiguous_lengths_are_refused(server, headers):
    """Two parsers of such a request could disagree about where the next one begins."""
    hidden = request_bytes("GET", "/v1/models/number")
    with connect(server) as connection:
        connection.sendall(request_bytes("POST", GOOD_PATH, b"", *headers) + b"0\r\n\r\n" + hidden)
        answers = read_to_end(connection)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1") == 1
    assert b"model_version_status" not in answers


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n",
        b"GET / HTTP/1.1\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"G@T / HTTP/1.1\r\n\r\n",
        b"\x00" * 1000,
        bytes(range(256)) * 10,
    ],
)
def test_invalid_http_is_refused(server, data):
    with connect(server) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = read_to_end(connection)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ")) or not answer


def test_pipelined_requests_are_answered_in_order(server):
    requests = [request_bytes("POST", GOOD_PATH, b'{"instances": [%d]}' % n) for n in range(100)]
    with connect(server) as connection:
        connection.sendall(b"".join(requests))
        answers = [json.loads(read_answer(connection)[2])["predictions"] for _ in requests]
    assert answers == [[n / 2 + 2] for n in range(100)]


def test_valid_requests_before_an_invalid_one_are_answered_first(server):
    with connect(server) as connection:
        connection.sendall(GOOD_REQUEST * 3 + b"no HTTP\r\n\r\n")
        statuses = [read_answer(connection)[0] for _ in range(4)]
        assert statuses == [200, 200, 200, 400]
        assert closed_by_server(connection)


def test_a_client_that_never_reads_does_not_fill_the_memory(server):
    """It keeps requesting large answers."""
    before = resident_bytes(server)
    pipelined = request_bytes("GET", "/v1/models/example/metadata") * 100
    with connect(server) as connection:
        connection.settimeout(2.0)
        end = time.monotonic() + 3
        try:
            while time.monotonic() < end:
                connection.sendall(pipelined)
        except (TimeoutError, ConnectionError):
            pass  # the server no longer reads
        assert_answers(server)
        assert resident_bytes(server) - before < 50 * MEGABYTE
        wait_until(lambda: sockets_of(server, connection) == 0, 30)


def sockets_of(server: Server, connection: socket.socket) -> int:
    """Return the number of sockets of the server that are connected to `connection`."""
    own = connection.getsockname()[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # A socket without an inode belongs to no process.
    ends = [[int(end.partition(":")[2], 16) for end in line[1:3]] for line in rows if line[9] != "0"]
    return ends.count([rest_port(server), own])


def test_clients_that_do_not_read_their_stream_are_disconnected(server):
    body = {"inputs": {"word": ["a" * 4000], "step": [1.0]}, "steps": 10_000}
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request_bytes("POST", "/v1/models/example:stream", json.dumps(body).encode()))
        wait_until(lambda: sockets_of(server, connection) == 1)
        wait_until(lambda: sockets_of(server, connection) == 0)


def test_http_1_0(server):
    """The server closes after the answer unless the client sends keep-alive."""
    with connect(server) as connection:
        connection.sendall(request_bytes("POST", GOOD_PATH, GOOD_BODY, version="1.0"))
        status, headers, body = read_answer(connection)
        assert (status, json.loads(body), headers["connection"]) == (200, GOOD_ANSWER, "close")
        assert closed_by_server(connection)
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(request_bytes("POST", GOOD_PATH, GOOD_BODY, "Connection: keep-alive", version="1.0"))
            assert read_answer(connection)[0] == 200


def test_head_replies_have_no_body(server):
    with connect(server) as connection:
        connection.sendall(request_bytes("HEAD", "/v1/models/example"))
        status, headers, _ = read_answer(connection, head=True)
        assert status == 400
        assert int(headers["content-length"]) > 0
        connection.sendall(GOOD_REQUEST)  # its answer follows the headers directly
        assert read_answer(connection)[0] == 200


def test_expect_100_continue(server):
    head = request_bytes("POST", GOOD_PATH, b"", f"Content-Length: {len(GOOD_BODY)}", "Expect: 100-continue")
    with connect(server) as connection:
        connection.sendall(head)
        assert read_answer(connection)[0] == 100
        connection.sendall(GOOD_BODY)
        assert read_answer(connection)[0] == 200
    large = request_bytes("POST", GOOD_PATH, b"", f"Content-Length: {2 << 30}", "Expect: 100-continue")
    assert exchange(server, large)[0] == 413


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
def test_offers_of_another_protocol_are_ignored(server, upgrade):
    """curl --http2 sends one: the request itself is answered."""
    headers = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABk")
    request = request_bytes("POST", GOOD_PATH, GOOD_BODY, *headers)
    with connect(server) as connection:
        connection.sendall(request * 500)
        for _ in range(500):
            status, _, body = read_answer(connection)
            assert (status, json.loads(body)) == (200, GOOD_ANSWER)


def test_connect_opens_no_tunnel(server):
    with connect(server) as connection:
        connection.sendall(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n" + GOOD_REQUEST)
        answers = read_to_end(connection)
    assert answers.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))


@pytest.mark.parametrize("size", [200 * MEGABYTE, 50 * MEGABYTE])
def test_gzip_bombs_are_refused(server, size):
    before = resident_bytes(server)
    bomb = gzip.compress(b"[" + b" " * size, 9)
    assert len(bomb) < MAX_BYTES
    request = request_bytes("POST", GOOD_PATH, bomb, "Content-Encoding: gzip")
    status, _, body = exchange(server, request)
    assert status == 413, body
    wait_until(lambda: resident_bytes(server) - before < 30 * MEGABYTE)


def test_gzip(server):
    request = request_bytes("POST", GOOD_PATH, gzip.compress(GOOD_BODY), "Content-Encoding: gzip")
    status, _, body = exchange(server, request)
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)
