"""SIGTERM and SIGKILL: under load, while loading, and while a request does not end."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from serving_helpers import START_SECONDS, Server, Store, add_warmup, wait_until
from survival_helpers import (
    ANSWER_SECONDS,
    GOOD_PATH,
    assert_answers,
    assert_clean_log,
    connect,
    exchange,
    publish,
    read_answer,
    read_to_end,
    request_bytes,
    rest_port,
    running,
    start,
    stop,
    wait_until_ready,
)
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client import Client, ServingError


@pytest.fixture
def models(store: Store, tmp_path):
    publish(store, tmp_path)
    return tmp_path


CLIENTS = 4  # of each protocol


class Load:
    """Clients that ask all the time; answers and errors by protocol."""

    def __init__(self, server: Server, clients: int = CLIENTS) -> None:
        self.stopped = threading.Event()
        self.answers: dict[str, list[list[float]]] = {"grpc": [], "rest": []}
        self.errors: dict[str, list[ServingError]] = {"grpc": [], "rest": []}
        addresses = {"grpc": server.grpc, "rest": server.rest}
        self.threads = [
            threading.Thread(target=self._ask, args=(name, address))
            for name, address in addresses.items()
            for _ in range(clients)
        ]
        for thread in self.threads:
            thread.start()

    def _ask(self, name: str, address: str) -> None:
        with Client(address, retries=0) as client:
            while not self.stopped.is_set():
                try:
                    answer = client.predict("example", {"x": np.array([1.0, 2.0], np.float32)})
                    self.answers[name].append(answer["y"].tolist())
                except ServingError as error:
                    self.errors[name].append(error)
                    self.stopped.wait(0.01)

    def count(self) -> int:
        return min(map(len, self.answers.values()))

    def end(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(ANSWER_SECONDS)
            assert not thread.is_alive(), "a client hangs"


def test_sigterm_under_load(models):
    """Everybody gets an answer or is refused; nobody gets half of one."""
    with running(models) as server:
        load = under_load(server, lambda: stop(server))
        assert server.process.returncode == 0
        assert_clean_log(server)
    # What gRPC has received and not yet handed over when it shuts down, it cancels: one request of each client.
    cancelled = [error for error in load.errors["grpc"] if error.code == "CANCELLED"]
    assert len(cancelled) <= CLIENTS
    load.errors["grpc"] = [error for error in load.errors["grpc"] if error.code != "CANCELLED"]
    assert_refused_or_answered(load)


def test_sigkill_under_load(models):
    """Clients learn at once that nobody is there; a new server gets the same ports at once, and they go on."""
    with running(models) as server:
        load = under_load(server, lambda: kill(server))
        assert_refused_or_answered(load)
        ports = int(server.grpc.rpartition(":")[2]), rest_port(server)
    with running(models, ports=ports) as server:
        assert_answers(server)
        assert_answers_over_grpc(server)
        assert stop(server) == 0
    with running(models, ports=ports) as server:
        assert_answers(server)


def under_load(server: Server, end: Callable[[], object]) -> Load:
    load = Load(server)
    try:
        wait_until(lambda: load.count() > 50)
        assert not any(load.errors.values()), load.errors
        end()
        wait_until(lambda: all(load.errors.values()))
    finally:
        load.end()
    return load


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait(30)


def assert_refused_or_answered(load: Load) -> None:
    assert all(answer == [2.5, 3.0] for answers in load.answers.values() for answer in answers)
    for errors in load.errors.values():
        assert {error.code for error in errors} == {"UNAVAILABLE"}, errors


def assert_answers_over_grpc(server: Server) -> None:
    with Client(server.grpc) as client:
        assert client.predict("example", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]


@dataclass
class Takes:
    """Two requests that wait for those of the signature `put`, and what becomes of them."""

    rest: socket.socket
    grpc: grpc.Future


@contextmanager
def waiting_requests(server: Server) -> Iterator[Takes]:
    """Both are in flight."""
    rest = connect(server)
    channel = grpc.insecure_channel(server.grpc)
    try:
        body = json.dumps({"signature_name": "take", "instances": [1.0]}).encode()
        rest.sendall(request_bytes("POST", GOOD_PATH, body))
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "example", "take"
        request.inputs["x"].dtype, request.inputs["x"].float_val[:] = types_pb2.DT_FLOAT, [1.0]
        request.inputs["x"].tensor_shape.dim.add(size=1)
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        future = predict.future(request, timeout=ANSWER_SECONDS)
        wait_until(lambda: b'requests_in_flight{model_name="example"} 2' in exchange(server, METRICS)[2])
        yield Takes(rest, future)
    finally:
        rest.close()
        channel.close()


METRICS = request_bytes("GET", "/metrics")


@pytest.fixture
def monitoring(models) -> str:
    path = models / "monitoring.config"
    path.write_text('prometheus_config { enable: true path: "/metrics" }')
    return f"--monitoring_config_file={path}"


def half_sent(server: Server) -> tuple[socket.socket, bytes]:
    """A connection on which a request of `put` has begun, and the rest of that request."""
    body = json.dumps({"signature_name": "put", "instances": [40.0]}).encode()
    request = request_bytes("POST", GOOD_PATH, body)
    connection = connect(server)
    connection.sendall(request[:-10])
    return connection, request[-10:]


def test_requests_in_flight_end_before_the_server(models, monitoring):
    """One that has been sent half counts too; it brings here what the others wait for."""
    with running(models, monitoring, "--drain_seconds=600") as server, waiting_requests(server) as takes:
        puts = [half_sent(server), half_sent(server)]
        with puts[0][0], puts[1][0], connect(server) as idle:
            for _ in range(3):  # the server handles connections in turn: those before have been read then
                exchange(server, METRICS)
            server.process.send_signal(signal.SIGTERM)
            assert read_to_end(idle) == b""
            wait_until(lambda: refused(server))
            with pytest.raises(ServingError) as caught, Client(server.grpc, retries=0) as client:
                client.predict("example", {"x": np.ones(1, np.float32)}, timeout=ANSWER_SECONDS)
            assert caught.value.code == "UNAVAILABLE"
            assert server.process.poll() is None
            for put, rest in puts:
                put.sendall(rest)
                status, headers, _ = read_answer(put)
                assert (status, headers["connection"]) == (200, "close")
        answers = [
            json.loads(read_answer(takes.rest)[2])["predictions"],
            list(takes.grpc.result(ANSWER_SECONDS).outputs["y"].float_val),
        ]
        assert answers == [[41.0], [41.0]]
        assert server.process.wait(ANSWER_SECONDS) == 0
        assert_clean_log(server)


def refused(server: Server) -> bool:
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False


def test_requests_without_end_do_not_hold_the_server_up(models, monitoring):
    with running(models, monitoring, "--drain_seconds=0.5") as server, waiting_requests(server) as takes:
        assert stop(server) == 0
        assert read_to_end(takes.rest) == b""
        assert takes.grpc.exception(ANSWER_SECONDS).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert_clean_log(server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_server_at_once(models, monitoring, number):
    with running(models, monitoring, "--drain_seconds=600") as server, waiting_requests(server):
        server.process.send_signal(number)
        wait_until(lambda: "Stopping; 600.0 seconds for 2 requests" in server.log.read_text())
        server.process.send_signal(number)
        assert server.process.wait(ANSWER_SECONDS) == -number


def test_sigterm_while_loading(models):
    """The model's warm-up does not end."""
    shutil.rmtree(models / "example" / "1" / "assets.extra")
    add_warmup(models / "example" / "1", "take", x=np.ones(1, np.float32))
    server = start(models)
    try:
        wait_until(lambda: "Loading servable version" in server.log.read_text(), START_SECONDS)
        assert refused(server), "the ports are closed while models are loaded"
        assert stop(server) == 0
        assert_clean_log(server)
    finally:
        kill(server)


@pytest.mark.slow
def test_sigterm_at_any_time_of_the_start(models):
    """Also while Python imports: nothing may swallow the signal."""
    server = start(models)
    begun = time.monotonic()
    wait_until_ready(server)
    seconds = time.monotonic() - begun
    assert stop(server) == 0
    for part in range(1, 10):
        server = start(models)
        try:
            time.sleep(seconds * part / 10)
            assert stop(server) in (0, -signal.SIGTERM), server.log.read_text()  # Python itself has not begun before
            assert_clean_log(server)
        finally:
            kill(server)
