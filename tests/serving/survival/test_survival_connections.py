"""Many connections, more than the system allows, and invalid data at the gRPC port."""

from __future__ import annotations

import random
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from serving_helpers import Server, Store, wait_until
from survival_helpers import (
    ANSWER_SECONDS,
    GOOD_REQUEST,
    assert_answers,
    assert_clean_log,
    connect,
    open_files,
    publish,
    read_answer,
    read_to_end,
    running,
)

from serving.client import Client

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("connections")
    publish(store, models)
    with running(models, "--rest_api_timeout_in_ms=600000") as server:  # idle connections stay open
        yield server
        assert_clean_log(server)


def connect_grpc(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.grpc.rpartition(":")[2])), ANSWER_SECONDS)


def assert_answers_over_grpc(server: Server) -> None:
    with Client(server.grpc, retries=0) as client:
        assert client.predict("example", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]


@contextmanager
def many_connections(open_connection: Callable[[], socket.socket], count: int) -> Iterator[list[socket.socket]]:
    """Open `count` connections, or as many as this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections: list[socket.socket] = []
    try:
        while len(connections) < min(count, hard - 200):
            connections.append(open_connection())
        yield connections
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections(server):
    """The server answers other clients, and idle ones when they send a request."""
    before = open_files(server)
    with many_connections(lambda: connect(server), 10_000) as connections:
        assert_answers(server)
        for connection in connections[::1000]:
            connection.sendall(GOOD_REQUEST)
            assert read_answer(connection)[0] == 200
        wait_until(lambda: open_files(server) >= before + len(connections))
    wait_until(lambda: open_files(server) <= before + 5)
    assert_answers(server)


@pytest.mark.parametrize("start", [b"", PREFACE, PREFACE + SETTINGS])
def test_idle_grpc_connections(server, start):
    before = open_files(server)
    with many_connections(lambda: connect_grpc(server), 2000) as connections:
        for connection in connections:
            connection.sendall(start)
        assert_answers_over_grpc(server)
        assert_answers(server)
    wait_until(lambda: open_files(server) <= before + 5)
    assert_answers_over_grpc(server)


def test_invalid_data_at_the_grpc_port(server):
    """Random bytes, HTTP/1.1, TLS, and inconsistent HTTP/2 frames."""
    rng = random.Random(1)
    for number in range(300):
        data = rng.choice([b"", PREFACE, PREFACE + SETTINGS, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
        frames = b"".join(
            len(payload).to_bytes(3, "big") + rng.randbytes(2) + rng.choice([0, 1, 2, 3]).to_bytes(4, "big") + payload
            for payload in (rng.randbytes(rng.randint(0, 40)) for _ in range(rng.randint(0, 5)))
        )
        with connect_grpc(server) as connection:
            try:
                connection.sendall(data + (frames if number % 2 else rng.randbytes(rng.randint(1, 200))))
                connection.shutdown(socket.SHUT_WR)
            except ConnectionError:
                continue
            read_to_end(connection)
    assert server.process.poll() is None
    assert_answers_over_grpc(server)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can limit another process")
def test_limit_of_file_descriptors(store, tmp_path):
    """Connected clients are still served; new ones too, once others have disconnected."""
    publish(store, tmp_path)
    with running(tmp_path, "--rest_api_timeout_in_ms=600000") as server:
        before = open_files(server)
        with connect(server) as early, Client(server.grpc, retries=0) as client:
            early.sendall(GOOD_REQUEST)
            assert read_answer(early)[0] == 200
            client.predict("example", {"x": np.ones(1, np.float32)})
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (before + 50, before + 50))
            connections = [connect(server) for _ in range(200)] + [connect_grpc(server) for _ in range(200)]
            wait_until(lambda: open_files(server) >= before + 45)
            for _ in range(10):
                early.sendall(GOOD_REQUEST)
                assert read_answer(early)[0] == 200
                assert client.predict("example", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]
            for connection in connections:
                connection.close()
        wait_until(lambda: open_files(server) <= before + 5, 60)
        assert_answers(server)
        assert_answers_over_grpc(server)
        assert server.process.poll() is None
        assert server.log.stat().st_size < 100_000, "the log must not fill the disk"
