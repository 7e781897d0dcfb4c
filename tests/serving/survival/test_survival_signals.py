"""SIGTERM and SIGKILL: under load, while loading, and during an endless request."""

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


class LoadGenerator:
    """Clients that send requests all the time; collects answers and errors by protocol."""

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
    """Every request is answered completely or refused."""
    with running(models) as server:
        load = under_load(server, lambda: stop(server))
        assert server.process.returncode == 0
        assert_clean_log(server)
    # At shutdown gRPC cancels calls that it has received but not yet passed on: at most one of each client.
    cancelled = [error for error in load.errors["grpc"] if error.code == "CANCELLED"]
    assert len(cancelled) <= CLIENTS
    load.errors["grpc"] = [error for error in load.errors["grpc"] if error.code != "CANCELLED"]
    assert_refused_or_answered(load)


def test_sigkill_under_load(models):
    """Clients get errors at once, and a new server can use the same ports at once."""
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


def under_load(server: Server, end: Callable[[], object]) -> LoadGenerator:
    load = LoadGenerator(server)
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


def assert_refused_or_answered(load: LoadGenerator) -> None:
    assert all(answer == [2.5, 3.0] for answers in load.answers.values() for answer in answers)
    for errors in load.errors.values():
        assert {error.code for error in errors} == {"UNAVAILABLE"}, errors


def assert_answers_over_grpc(server: Server) -> None:
    with Client(server.grpc) as client:
        assert client.predict("example", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]


@dataclass
class WaitingRequests:
    """Two requests in flight that wait for requests of the signature `put`."""

    rest: socket.socket
    grpc: grpc.Future


@contextmanager
def waiting_requests(server: Server) -> Iterator[WaitingRequests]:
    """Send two requests; yield them when both are in flight."""
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
        yield WaitingRequests(rest, future)
    finally:
        rest.close()
        channel.close()


METRICS = request_bytes("GET", "/metrics")


@pytest.fixture
def monitoring(models) -> str:
    path = models / "monitoring.config"
    path.write_text('prometheus_config { enable: true path: "/metrics" }')
    return f"--monitoring_config_file={path}"


def send_half(server: Server) -> tuple[socket.socket, bytes]:
    """Send half of a request of `put`; return its connection and its rest."""
    body = json.dumps({"signature_name": "put", "instances": [40.0]}).encode()
    request = request_bytes("POST", GOOD_PATH, body)
    connection = connect(server)
    connection.sendall(request[:-10])
    return connection, request[-10:]


def test_requests_in_flight_complete_before_the_exit(models, monitoring):
    """A half-sent request is in flight too; here the others wait for it."""
    with running(models, monitoring, "--drain_seconds=600") as server, waiting_requests(server) as waiting:
        puts = [send_half(server), send_half(server)]
        with puts[0][0], puts[1][0], connect(server) as idle:
            for _ in range(3):  # connections take turns: the half-sent requests have been read then
                exchange(server, METRICS)
            server.process.send_signal(signal.SIGTERM)
            assert read_to_end(idle) == b""
            wait_until(lambda: is_refused(server))
            with pytest.raises(ServingError) as caught, Client(server.grpc, retries=0) as client:
                client.predict("example", {"x": np.ones(1, np.float32)}, timeout=ANSWER_SECONDS)
            assert caught.value.code == "UNAVAILABLE"
            assert server.process.poll() is None
            for put, rest in puts:
                put.sendall(rest)
                status, headers, _ = read_answer(put)
                assert (status, headers["connection"]) == (200, "close")
        answers = [
            json.loads(read_answer(waiting.rest)[2])["predictions"],
            list(waiting.grpc.result(ANSWER_SECONDS).outputs["y"].float_val),
        ]
        assert answers == [[41.0], [41.0]]
        assert server.process.wait(ANSWER_SECONDS) == 0
        assert_clean_log(server)


def is_refused(server: Server) -> bool:
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False


def test_endless_requests_do_not_block_the_exit(models, monitoring):
    with running(models, monitoring, "--drain_seconds=0.5") as server, waiting_requests(server) as waiting:
        assert stop(server) == 0
        assert read_to_end(waiting.rest) == b""
        assert waiting.grpc.exception(ANSWER_SECONDS).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert_clean_log(server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_server_at_once(models, monitoring, number):
    with running(models, monitoring, "--drain_seconds=600") as server, waiting_requests(server):
        server.process.send_signal(number)
        wait_until(lambda: "Stopping; 600.0 seconds for 2 requests" in server.log.read_text())
        server.process.send_signal(number)
        assert server.process.wait(ANSWER_SECONDS) == -number


def test_sigterm_while_loading(models):
    """The warm-up of the model never ends."""
    shutil.rmtree(models / "example" / "1" / "assets.extra")
    add_warmup(models / "example" / "1", "take", x=np.ones(1, np.float32))
    server = start(models)
    try:
        wait_until(lambda: "Loading servable version" in server.log.read_text(), START_SECONDS)
        assert is_refused(server), "the ports are closed while models load"
        assert stop(server) == 0
        assert_clean_log(server)
    finally:
        kill(server)


@pytest.mark.slow
def test_sigterm_at_any_time_during_the_start(models):
    """Also during imports: nothing may swallow the signal."""
    server = start(models)
    start_time = time.monotonic()
    wait_until_ready(server)
    seconds = time.monotonic() - start_time
    assert stop(server) == 0
    for part in range(1, 10):
        server = start(models)
        try:
            time.sleep(seconds * part / 10)
            # -SIGTERM: Python has not begun to handle signals.
            assert stop(server) in (0, -signal.SIGTERM), server.log.read_text()
            assert_clean_log(server)
        finally:
            kill(server)
