"""Very many connections, more than the system allows, and what is no gRPC at the port of gRPC."""

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
    with running(models, "--rest_api_timeout_in_ms=600000") as server:  # no connection is idle for too long
        yield server
        assert_clean_log(server)


def connect_grpc(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.grpc.rpartition(":")[2])), ANSWER_SECONDS)


def assert_answers_over_grpc(server: Server) -> None:
    with Client(server.grpc, retries=0) as client:
        assert client.predict("example", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]


@contextmanager
def many_connections(connect_one: Callable[[], socket.socket], most: int) -> Iterator[list[socket.socket]]:
    """As many, or as many as this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections: list[socket.socket] = []
    try:
        while len(connections) < min(most, hard - 200):
            connections.append(connect_one())
        yield connections
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections(server):
    """However many there are, the server answers, and whoever wakes up is served."""
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


def test_what_is_no_grpc(server):
    """Bytes at random, HTTP/1.1, TLS, and frames of HTTP/2 that contradict themselves."""
    dice = random.Random(1)
    for number in range(300):
        data = dice.choice([b"", PREFACE, PREFACE + SETTINGS, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
        frames = b"".join(
            len(payload).to_bytes(3, "big") + dice.randbytes(2) + dice.choice([0, 1, 2, 3]).to_bytes(4, "big") + payload
            for payload in (dice.randbytes(dice.randint(0, 40)) for _ in range(dice.randint(0, 5)))
        )
        with connect_grpc(server) as connection:
            try:
                connection.sendall(data + (frames if number % 2 else dice.randbytes(dice.randint(1, 200))))
                connection.shutdown(socket.SHUT_WR)
            except ConnectionError:
                continue
            read_to_end(connection)
    assert server.process.poll() is None
    assert_answers_over_grpc(server)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux' own")
def test_no_more_file_descriptors(store, tmp_path):
    """Who is connected is served on; who comes is, too, as soon as others have gone."""
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
        assert server.log.stat().st_size < 100_000, "the log does not fill the disk"
