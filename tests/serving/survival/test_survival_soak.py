"""All kinds of clients send requests for minutes while versions change: no failed request, wrong answer or leak.

The run takes KERASNETS_SOAK_SECONDS, the one with batching a third of it; `make soak` sets 600 s, CI 240 s;
`make test` takes 45 s.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from serving_helpers import Server, Store, wait_until
from survival_helpers import (
    GOOD_ANSWER,
    GOOD_PATH,
    GOOD_REQUEST,
    assert_clean_log,
    connect,
    open_files,
    publish,
    read_answer,
    request_bytes,
    resident_bytes,
    running,
    stop,
    threads,
)
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client import Client, ServingError

SECONDS = float(os.environ.get("KERASNETS_SOAK_SECONDS", "45"))
SWAP_SECONDS = 2.0
PAUSE_SECONDS = 0.02  # between the requests of a client, so that the server gets CPU time
BAD_CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}


def build_version(store: Store, path: Path, number: int) -> None:
    """Copy the model that returns 1 and make it return `number`."""
    shutil.copytree(store.number(1), path)
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    constants = [
        node.attr["value"].tensor
        for function in model.meta_graphs[0].graph_def.library.function
        for node in function.node_def
        if node.op == "Const" and node.attr["value"].tensor.float_val[:] == [1.0]
    ]
    assert len(constants) == 1
    constants[0].float_val[:] = [number]
    (path / "saved_model.pb").write_bytes(model.SerializeToString())


class Soak:
    """Runs the clients; collects their problems and the resources of the server."""

    def __init__(self, server: Server, store: Store) -> None:
        self.server, self.store = server, store
        self.stopped = threading.Event()
        self.newest = 1
        self.problems: list[str] = []
        self.counts: dict[str, int] = {}
        kinds: list[tuple[Callable[[], Iterator[None]], int]] = [
            (self.number_over_grpc, 8),
            (self.number_over_rest, 8),
            (self.example_over_grpc, 3),
            (self.example_over_rest, 3),
            (self.bad_over_grpc, 4),
            (self.bad_over_rest, 4),
            (self.disconnecting, 2),
        ]
        assert sum(count for _, count in kinds) == 32
        self.clients = [threading.Thread(target=self._run, args=(kind,)) for kind, count in kinds for _ in range(count)]
        self.clients.append(threading.Thread(target=self._run, args=(self.swaps,)))

    def _run(self, kind: Callable[[], Iterator[None]]) -> None:
        name = kind.__name__
        try:
            for _ in kind():
                self.counts[name] = self.counts.get(name, 0) + 1
                if self.stopped.wait(0 if kind == self.swaps else PAUSE_SECONDS):
                    return
        except Exception as error:
            self.problems.append(f"{name}: {type(error).__name__}: {error}")
            self.stopped.set()

    def expect(self, holds: bool, what: object) -> None:
        if not holds:
            raise AssertionError(what)

    def swaps(self) -> Iterator[None]:
        """Add a new version and remove the second last."""
        base = self.server.models / "number"
        while not self.stopped.wait(SWAP_SECONDS):
            number = self.newest + 1
            build_version(self.store, base / f"temporary-{number}", number)
            (base / f"temporary-{number}").rename(base / str(number))
            self.newest = number
            shutil.rmtree(base / str(number - 2), ignore_errors=True)
            yield

    def number_over_grpc(self) -> Iterator[None]:
        """The version in an answer must match the output of the graph; versions never decrease."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "number"
        request.inputs["x"].dtype, request.inputs["x"].float_val[:] = types_pb2.DT_FLOAT, [0.0, 5.0]
        request.inputs["x"].tensor_shape.dim.add(size=2)
        last = 1
        with grpc.insecure_channel(self.server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while True:
                answer = stub.Predict(request, timeout=60)
                version = answer.model_spec.version.value
                self.expect(answer.outputs["y"].float_val[:] == [version, version], answer)
                self.expect(last <= version <= self.newest, f"{version} after {last}, newest {self.newest}")
                last = version
                yield

    def number_over_rest(self) -> Iterator[None]:
        request = request_bytes("POST", "/v1/models/number:predict", b'{"instances": [0.0, 5.0]}')
        last = 1.0
        with connect(self.server) as connection:
            while True:
                connection.sendall(request)
                status, _, body = read_answer(connection)
                self.expect(status == 200, body)
                one, other = json.loads(body)["predictions"]
                self.expect(one == other and last <= one <= self.newest, f"{one}, {other} after {last}")
                last = one
                yield

    def example_over_grpc(self) -> Iterator[None]:
        with Client(self.server.grpc, retries=0) as client:
            while True:
                value = random.random()
                rows = random.randint(1, 5)
                y = client.predict("example", {"x": np.full(rows, value, np.float32)})["y"]
                self.expect(np.allclose(y, value / 2 + 2) and y.shape == (rows,), y)
                text = client.predict("example", {"text": [b"ab\xff"] * rows}, signature="upper")["upper"].tolist()
                self.expect(text == [b"AB\xff"] * rows, text)
                classes = client.classify("example", [{"x": [value, 1.0], "word": "a"}], signature="classify")
                self.expect([each.label for each in classes[0]] == ["a", "other"], classes)
                client.metadata("example")
                yield

    def example_over_rest(self) -> Iterator[None]:
        with Client(self.server.rest, retries=0) as client:
            while True:
                value = random.random()
                y = client.predict("example", {"x": np.full(3, value, np.float32)})["y"]
                self.expect(np.allclose(y, value / 2 + 2), y)
                regression = client.regress("example", [{"x": [value, 1.0]}], signature="regress")
                self.expect(np.allclose(regression, value + 1), regression)
                steps = [
                    step["text"].tolist() for step in client.stream("example", {"word": ["a"], "step": [1.0]}, steps=3)
                ]
                self.expect(steps == [[b"a0"], [b"a1"], [b"a2"]], steps)
                yield

    def bad_over_grpc(self) -> Iterator[None]:
        """Invalid requests are refused with their codes; their names differ every time."""
        bad: list[Callable[[Client], object]] = [
            lambda client: client.predict(f"m{random.random()}", {"x": np.ones(1, np.float32)}),
            lambda client: client.predict("number", {"x": np.ones(1, np.int32)}),
            lambda client: client.predict("number", {f"x{random.random()}": np.ones(1, np.float32)}),
            lambda client: client.predict("example", {"x": np.ones((2, 3), np.float32)}, signature="matrix"),
            lambda client: client.predict("example", {"x": np.ones(1, np.float32)}, signature=f"s{random.random()}"),
            lambda client: client.predict("example", {"text": [b""]}, signature="check"),
            lambda client: client.predict("number", {"x": np.ones(1, np.float32)}, version=10**9),
            lambda client: client.predict("number", {"x": np.ones(1, np.float32)}, label="none"),
            lambda client: client.classify("example", [{"nothing": 1}], signature="classify"),
        ]
        with Client(self.server.grpc, retries=0) as client:
            while True:
                try:
                    answer = random.choice(bad)(client)
                except ServingError as error:
                    self.expect(error.code in BAD_CODES, error)
                else:
                    self.expect(False, answer)
                yield

    def bad_over_rest(self) -> Iterator[None]:
        good = b'{"instances": [1.0]}'
        while True:
            bad = random.choice(
                [
                    request_bytes("POST", GOOD_PATH, good[: random.randrange(1, len(good))]),
                    request_bytes("POST", GOOD_PATH, b'{"instances": ["a"]}'),
                    request_bytes("POST", GOOD_PATH, random.randbytes(100)),
                    request_bytes("POST", GOOD_PATH, b'{"signature_name": "matrix", "instances": [[1.0]]}'),
                    request_bytes("POST", f"/v1/models/m{random.random()}:predict", good),
                    request_bytes("GET", f"/v1/models/m{random.random()}"),
                    request_bytes("GET", f"/{random.random()}"),
                    random.randbytes(100) + b"\r\n\r\n",
                ]
            )
            with connect(self.server) as connection:
                connection.sendall(bad)
                status, _, body = read_answer(connection)
                self.expect(status in (400, 404), (bad, status, body))
            yield

    def disconnecting(self) -> Iterator[None]:
        """Disconnect in the middle of requests and answers."""
        while True:
            with connect(self.server) as connection:
                connection.sendall((GOOD_REQUEST * 3)[: random.randrange(1, 3 * len(GOOD_REQUEST))])
            with connect(self.server) as connection:
                connection.sendall(GOOD_REQUEST)
                status, _, body = read_answer(connection)
                self.expect((status, json.loads(body)) == (200, GOOD_ANSWER), body)
            with Client(self.server.grpc, retries=0) as client:
                try:
                    client.predict("example", {"x": np.ones(1, np.float32)}, timeout=random.choice([0.0005, 60.0]))
                except ServingError as error:
                    self.expect(error.code == "DEADLINE_EXCEEDED", error)
            yield

    def measure(self, seconds: float) -> tuple[float, int, int]:
        """Return the median of resident bytes and the minimum of open files and threads over some seconds."""
        samples, end = [], time.monotonic() + seconds
        while time.monotonic() < end and not self.stopped.is_set():
            samples.append((resident_bytes(self.server), open_files(self.server), threads(self.server)))
            self.stopped.wait(0.25)
        memory, files, tasks = zip(*samples, strict=True)
        return statistics.median(memory), min(files), min(tasks)


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "part"), [((), 1.0), (("--enable_batching",), 1 / 3)], ids=["plain", "batching"])
def test_soak(store, tmp_path, flags, part):
    publish(store, tmp_path)
    seconds = SECONDS * part
    with running(tmp_path, "--rest_api_extensions", "--max_num_load_retries=0", *flags) as server:
        wait_until(lambda: server.log.read_text().count("Successfully loaded") == 2)
        soak = Soak(server, store)
        for client in soak.clients:
            client.start()
        try:
            soak.stopped.wait(seconds / 2)
            before = soak.measure(seconds / 8)
            soak.stopped.wait(seconds / 4)
            after = soak.measure(seconds / 8)
        finally:
            soak.stopped.set()
            for client in soak.clients:
                client.join(90)
        assert not soak.problems
        assert not any(client.is_alive() for client in soak.clients), "a client hangs"
        print(f"requests {soak.counts}, newest version {soak.newest}")
        print(f"resident MB, files, threads: {before[0] / 1e6:.0f}, {before[1:]} -> {after[0] / 1e6:.0f}, {after[1:]}")
        assert soak.newest > seconds / SWAP_SECONDS / 3
        assert len(soak.counts) == 8, soak.counts
        assert after[0] < 1.05 * before[0]
        assert after[1] <= before[1] + 5
        assert after[2] <= before[2] + 5
        assert stop(server) == 0
        assert_clean_log(server)
